"""The command kind: its payloads, its words and its command line. How programs run: test_execute.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from support.attempts import context
from taskpool.errors import MessageError, UsageError
from taskpool.generator.parser import build_parser
from taskpool.kinds.command import COMMAND

# --- checked on arrival ----------------------------------------------------------------------------------


def test_a_current_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    COMMAND.parse({"argv": ["ls"], "cwd": "/tmp"}, "line 1")
    jobs: list[dict[str, object]] = [{"argv": ["ls"]}, {"argv": ["ls"], "cwd": "sub"}]
    for job in jobs:
        with pytest.raises(UsageError, match="the current directory is gone"):
            COMMAND.parse(job, "line 1")


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({}, "field 'argv' is missing: expected a list of one or more texts without NUL"),
        ({"argv": []}, "field 'argv': expected a list of one or more texts without NUL, got []"),
        ({"argv": "ls -l"}, "field 'argv': expected a list of one or more texts without NUL, got 'ls -l'"),
        ({"argv": ["a\0b"]}, "field 'argv'"),
        ({"argv": ["\ud800"]}, "field 'argv'"),
        ({"argv": [""]}, "field 'argv': expected the name of a program first, got ''"),
        ({"argv": ["ls"], "cwd": ""}, "field 'cwd': expected the path of a directory, got ''"),
        ({"argv": ["ls"], "stdin": 1}, "field 'stdin': expected text, got 1"),
        ({"argv": ["ls"], "shell": 1}, "field 'shell': expected true or false, got 1"),
        ({"argv": ["ls"], "env": {"A": 1}}, "field 'env': expected an object of names and texts without NUL"),
        ({"argv": ["ls"], "env": {"A=B": "1"}}, "field 'env': expected names that are not empty and hold neither ="),
        ({"argv": ["ls"], "env": {"TP_WORKER": ""}}, "field 'env': expected only names that the pool does not set"),
    ],
)
def test_parse_names_what_is_wrong(job: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        COMMAND.parse(job, "line 1")
    assert str(refused.value).startswith(f"line 1: {text}")


@pytest.mark.parametrize(
    "payload",
    [
        [[]],
        [[b""]],
        [["text"]],
        [[b"ls"], b"relative"],
        [[b"ls"], b"/a\0b"],
        [[b"ls"], None, {b"": b""}],
        [[b"ls"], None, {b"A=": b""}],
        [[b"ls"], None, {b"A": b"\0"}],
        [[b"ls"], None, {b"TP_WORKER": b"other/1/1"}],
        [[b"ls", b"-l"], None, {}, None, True],
        [[b"ls"], None, {}, None, False, 0],
    ],
)
def test_check_refuses_what_parse_would_not_make(payload: list[object]) -> None:
    with pytest.raises(MessageError, match="command: "):
        COMMAND.check(msgspec.msgpack.encode(payload))


def test_words_for_people() -> None:
    payload = COMMAND.parse({"argv": ["sha256sum", "a b"]}, "line 1")
    assert COMMAND.describe(payload) == "command(sha256sum 'a b')"
    assert COMMAND.command_line(payload) == "sha256sum 'a b'"
    line = COMMAND.parse({"argv": ["echo", "$HOME;ls"], "shell": True}, "line 1")
    assert COMMAND.command_line(line) == "echo $HOME;ls"
    hostile = COMMAND.parse({"argv": ["x\x1b[2J\n" + "y" * 100]}, "line 1")
    assert COMMAND.describe(hostile).startswith("command('x\\x1b[2J\\nyyy")
    assert len(COMMAND.describe(hostile)) < 100
    raw = msgspec.msgpack.encode([[b"cat", b"\xff"]])
    assert os.fsencode(COMMAND.command_line(raw)) == b"cat '\xff'"


# --- the command line -----------------------------------------------------------------------------


def payloads(*words: str, lines: list[bytes] | None = None) -> Iterator[bytes]:
    args = build_parser().parse_args(["command", *words])
    return COMMAND.jobs(args, iter(lines or ()))


def commands(*words: str, lines: list[bytes] | None = None) -> list[str]:
    return [COMMAND.command_line(payload) for payload in payloads(*words, lines=lines)]


def test_arguments_behind_the_colons_or_one_a_line() -> None:
    assert commands("--", "cat", "-n", ":::", "a", "", "b c") == ["cat -n a", "cat -n ''", "cat -n 'b c'"]
    assert commands("cat", "--", "-n", lines=[b"a", b""]) == ["cat -- -n a", "cat -- -n ''"]
    assert commands("--", "cat", ":::", lines=[b"not read"]) == []
    assert commands("--", "echo", "{#}", "{%}", ":::", "a", "b") == ["echo 1 '{%}'", "echo 2 '{%}'"]


def test_a_slot_is_put_in_by_the_worker_and_only_where_it_was_asked_for(tmp_path: Path) -> None:
    (payload,) = payloads("--", "echo", "{%}", "{}", "x{%}", ":::", "{%}")
    COMMAND.check(payload)
    assert COMMAND.run(payload, context(tmp_path, slot=2)).output.stdout == "3 {%} x3\n"


def test_the_shell(tmp_path: Path) -> None:
    (payload,) = payloads("--shell", "--", "echo", "{}", "|", "tr a-z A-Z", ":::", "it's; ls")
    assert COMMAND.run(payload, context(tmp_path)).output.stdout == "IT'S; LS\n"
    assert commands("--shell", lines=[b"echo a | wc"]) == ["echo a | wc"]


def test_directory_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (payload,) = payloads(
        "--cwd", "d", "--env", "A=1", "--env", "B=x=y", "--shell", "--", "pwd; echo $A $B #{}", ":::", ""
    )
    assert COMMAND.run(payload, context(tmp_path)).output.stdout == f"{tmp_path}/d\n1 x=y\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--", "echo", "::::", "/does/not/exist"], "cannot read /does/not/exist: No such file"),
        (["-a", "/does/not/exist", "--", "echo", ":::", "a"], "cannot read /does/not/exist: No such file"),
        (["--", ":::", "a"], "command: expected a program behind --, got nothing"),
        (["--env", "A", "--", "echo", ":::", "a"], "--env: expected NAME=VALUE, got 'A'"),
        (["--env", "TP_SLOT=1", "--", "echo", ":::", "a"], "--env: expected only names that the pool does not set"),
        (["--", "{}", ":::", "ls", ""], "command: argument 2 makes the name of the program empty"),
    ],
)
def test_usage_errors_name_the_cure(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        commands(*words)
    assert str(refused.value).startswith(text)


def test_a_line_with_a_nul_byte_is_refused_by_its_number() -> None:
    with pytest.raises(UsageError, match="command: argument 2 holds a NUL byte"):
        commands("--", "echo", lines=[b"a", b"b\0c"])
