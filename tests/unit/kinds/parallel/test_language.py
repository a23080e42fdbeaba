"""From a command line to commands: what GNU parallel itself is not asked (see tests/e2e/test_like_parallel.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskpool import limits
from taskpool.errors import UsageError
from taskpool.generator.parser import build_parser
from taskpool.kinds.command import COMMAND
from taskpool.kinds.parallel.language import Language
from taskpool.kinds.parallel.options import unescaped
from taskpool.messages import JobSpec


def jobs(*words: str, lines: tuple[bytes, ...] = ()) -> list[JobSpec]:
    source = COMMAND.source(build_parser().parse_args(["command", *words]))
    try:
        return [job for job in source.make_jobs(iter(lines)) if job is not None]
    finally:
        if source.fd:
            os.close(source.fd)


def commands(*words: str, lines: tuple[bytes, ...] = ()) -> list[str]:
    return [COMMAND.command_line(job.payload) for job in jobs(*words, lines=lines)]


# --- streams --------------------------------------------------------------------------------------------------


def test_none_comes_before_each_line_that_is_taken() -> None:
    taken: list[bytes] = []

    def lines() -> Iterator[bytes]:
        for line in (b"1", b"2", b"3"):
            taken.append(line)
            yield line

    source = COMMAND.source(build_parser().parse_args(["command", "-N2", "--", "echo", "::::", "-", ":::", "a", "b"]))
    assert source.expands
    items = source.make_jobs(lines())
    assert [(None if item is None else COMMAND.command_line(item.payload), len(taken)) for item in items] == [
        (None, 0),
        ("echo 1 a 1 b", 1),
        (None, 1),
        ("echo 2 a 2 b", 2),
        (None, 2),
        ("echo 3 a 3 b", 3),
        (None, 3),
    ]


def test_combinations_are_not_stored() -> None:
    many = ["x"] * 1000
    rendered = Language(build_parser().parse_args(["command", "--", "echo", *[":::", *many] * 4])).render(iter(()))
    for _ in range(1000):
        next(rendered)  # of a million million


def test_jobs_can_be_made_again(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    reader, writer = os.pipe()
    os.write(writer, b"1\n2\n")
    os.close(writer)
    fifo.symlink_to(f"/proc/self/fd/{reader}")
    source = COMMAND.source(build_parser().parse_args(["command", "--", "echo", ":::", "a", "::::", str(fifo)]))
    os.close(reader)
    assert list(source.make_jobs(iter(()))) == list(source.make_jobs(iter(())))


def test_arguments_are_bytes() -> None:
    assert [COMMAND.decode(job.payload).argv for job in jobs("-C,", "--", "echo", "{2}", lines=(b"a,\xff",))] == [
        (b"echo", b"\xff")
    ]


def test_a_negative_number_is_still_a_value() -> None:
    args = build_parser().parse_args(["command", "-0", "--priority", "-5", "echo", "-7"])
    assert (args.null, args.priority, args.template) == (True, -5, ["echo", "-7"])


def test_a_header_without_a_name_or_a_line() -> None:
    assert commands("--header", ":", "echo", "{}", "{x}") == []
    assert commands("--header", ":", "echo", "{}", lines=(b"", b"1")) == ["echo 1"]


def test_a_line_that_is_to_be_a_program() -> None:
    with pytest.raises(UsageError, match="'echo a' is a line for a shell, not the name of a program: did you mean"):
        commands("--", "{}", lines=(b"true", b"echo a"))
    assert commands("--no-shell", "--", "{}", lines=(b"echo a",)) == ["'echo a'"]
    assert commands("--", "{}", lines=(b"./a program",)) == ["'./a program'"]


def test_a_terminal_is_not_waited_for() -> None:
    keyboard, terminal = os.openpty()
    with pytest.raises(UsageError, match="which is a terminal"):
        jobs("echo", ":::", "a", "::::", os.ttyname(terminal))
    os.close(terminal)
    os.close(keyboard)


# --- shuffled -------------------------------------------------------------------------------------------------


def test_the_order_of_shuf_depends_on_the_batch_alone() -> None:
    def order(batch: str) -> list[str]:
        return commands("--batch", batch, "--shuf", "--", "echo", ":::", *map(str, range(30)))

    assert order("a") == order("a") != order("b")
    assert sorted(order("a")) == sorted(order("b")) == sorted(f"echo {number}" for number in range(30))


# --- as many as fit -------------------------------------------------------------------------------------------


def test_as_many_as_fit_fill_a_command_line() -> None:
    words = [f"{number:099}" for number in range(5000)]
    found = [
        COMMAND.decode(job.payload).argv for job in jobs("-j1", "-X", "--", "echo", lines=tuple(map(str.encode, words)))
    ]
    assert [word for argv in found for word in argv[1:]] == [word.encode() for word in words]
    assert len(found) == 5
    assert all(sum(map(len, argv)) <= limits.COMMAND_BYTES_MAX for argv in found)


def test_what_fits_no_command_line() -> None:
    with pytest.raises(UsageError, match="an argument takes 109 bytes of a command line, which has room for 87"):
        commands("-X", "-s", "100", "--", "echo", ":::", "x" * 100)


def test_the_last_ones_are_dealt_out_only_where_the_workers_are_known() -> None:
    assert len(commands("-m", "-j3", "--", "echo", ":::", *"abcdef")) == 3
    assert len(commands("-m", "--pool", "p", "--", "echo", ":::", *"abcdef")) == 1
    assert len(commands("-m", "-j50%", "--", "echo", ":::", *"abcdef")) == 1


# --- tags -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "argument", "label"),
    [
        ([], "a", None),
        (["--tag"], "a", "a"),
        (["--tag", "-I", "@"], "a", "a"),
        (["--tagstring", r"{#}\t{.}"], "a.b", "1\ta"),
        (["--tag"], "x" * 300, "x" * 255 + "…"),
        (["--tag"], "\udcff", r"\xff"),
    ],
)
def test_a_tag_is_the_jobs_label(options: list[str], argument: str, label: str | None) -> None:
    (job,) = jobs(*options, "--", "echo", ":::", argument)
    assert job.label == label


# --- mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        # options
        (["-n", "-1", "echo"], "--max-args: expected 0 or more, got -1"),
        (["-L", "0", "echo"], "--max-lines: expected 1 or more, got 0"),
        (["-d", "", "echo"], "-d: expected one or more characters"),
        (["-C", "(", "echo"], "--colsep: expected a regular expression (of Python), got '('"),
        (["-C", "x*", "echo"], "--colsep: expected what does not match nothing"),
        (["--header", "2", "echo"], "--header: expected : (the first line of each input), got '2'"),
        (["-s", "0", "echo"], "--max-chars: expected 1 to 131071, got 0"),
        (["-I", "", "echo"], "-I: expected what stands for the argument"),
        (["--tagstring", "{%}", "echo"], "--tagstring: {%} is not known before a job runs"),
        (["-a", "-", "echo", "::::", "-"], "command: standard input is named twice"),
        # words
        (["--no such option"], "command: '--no such option' looks like an option and is none"),
        (["echo a"], "command: 'echo a' is a line for a shell, not the name of a program: did you mean --shell?"),
        (["A=1", "env"], "command: 'A=1' is a line for a shell"),
        (["$x"], "command: '$x' is a line for a shell"),
        (["echo", "{}", "|", "wc"], "command: '|' behind '{}' is for a shell: did you mean --shell?"),
        (["echo", "{}", "&&", "true"], "command: '&&' behind '{}' is for a shell"),
        (["echo", ">", "x"], "command: '>' behind 'echo' is for a shell"),
        (["echo", ">{}.out"], "command: '>{}.out' behind 'echo' is for a shell"),
        (["echo", "2>/dev/null"], "command: '2>/dev/null' behind 'echo' is for a shell"),
        (["echo", "2>&1"], "command: '2>&1' behind 'echo' is for a shell"),
        (["echo", "x", ";", "ls"], "command: ';' behind 'x' is for a shell"),
        # strings
        (["echo", "{= s/a/b/ =}"], "command: '{= s/a/b/ =}': there is no Perl here"),
        (["echo", "{=", "uc", "=}"], "command: '{= uc =}': there is no Perl here"),
        (["echo", "{..}"], "command: '{..}' needs --plus"),
        (["echo", "{2+/}"], "command: '{2+/}' needs --plus"),
        (["echo", "{##}"], "command: '{##}' is not supported"),
        (["echo", "{1#}"], "command: '{1#}' is not supported"),
        (["--plus", "echo", "{%.gz}"], "command: '{%.gz}' is not supported; in a --shell line"),
        (["--plus", "echo", "{:2}"], "command: '{:2}' is not supported"),
        (["echo", "{2}"], "command: {2}: a job has 1 argument; for more, give more inputs, -N or --colsep"),
        (["echo", "{-3}", ":::", "a", ":::", "b"], "command: {-3}: a job has 2 arguments"),
        (["--tagstring", "{=x=}", "echo"], "command: '{=x=}': there is no Perl here"),
        (["--header", ":", "echo", "{y}", ":::", "x", "1"], "command: '{y}': no input has such a column; there are x."),
    ],
)
def test_what_would_be_passed_on_in_silence_is_refused(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        jobs(*words)
    assert str(refused.value).startswith(text)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--no-shell", "--", "tr", "|", ","], "tr '|' ',' a"),
        (["--", "find", "{}", "-exec", "ls", "{}", ";"], "find a -exec ls a ';'"),
        (["--", "sh", "-c", "echo $1 | wc"], "sh -c 'echo $1 | wc' a"),
        (["--", "awk", "{print $1}", "{}"], "awk '{print $1}' a"),
        (["--", "-x", "-y"], "-x -y a"),
        (["--", "pip", "download", ">=1.0", "<b>", "->x"], "pip download '>=1.0' '<b>' '->x' a"),
        (["-I", "@", "--", "echo", "@", "{..}", "{2}"], "echo a '{..}' '{2}'"),
        (["--shell", "--", "echo {..5} | wc", "{}"], "echo {..5} | wc a"),
        (["--", "echo", "[{}]", "{x}", "{a..c}"], "echo '[a]' '{x}' '{a..c}'"),
    ],
)
def test_what_is_meant_as_it_is(words: list[str], line: str) -> None:
    assert commands(*words, ":::", "a") == [line]


@pytest.mark.parametrize(
    ("text", "meant"),
    [(r"\t", b"\t"), (r"\n\r", b"\n\r"), (r"\0", b"\0"), (r"\054", b","), (r"\x\\", rb"\x\\"), ("é", "é".encode())],
)
def test_escapes(text: str, meant: bytes) -> None:
    assert unescaped(text.encode()) == meant
