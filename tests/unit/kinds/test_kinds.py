"""What holds for every kind of job."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.attempts import context
from taskpool import messages
from taskpool.errors import MessageError, UsageError
from taskpool.generator.parser import build_parser
from taskpool.kinds import KINDS, TYPED_KINDS, Context, Result, TypedKind, job_title, typed_kind
from taskpool.limits import JOB_TEXT_BYTES_MAX
from taskpool.messages import End, JobSpec

GOOD_JOBS: dict[str, dict[str, object]] = {
    "fib": {"n": 1},
    "command": {"argv": ["true"]},
    "python": {"call": "math:factorial", "args": [5]},
}

each_kind = pytest.mark.parametrize("each", TYPED_KINDS.values(), ids=list(TYPED_KINDS))


def test_kinds_are_found_by_name() -> None:
    assert list(KINDS) == ["fib", "command", "python", "call"]
    assert all(typed_kind(name) is module for name, module in TYPED_KINDS.items())
    with pytest.raises(UsageError, match="unknown kind 'shell'; this program knows fib, command, python"):
        typed_kind("shell")
    with pytest.raises(UsageError, match=r"kind 'call' are made by Python programs .* one of fib, command, python"):
        typed_kind("call")


@each_kind
def test_a_parsed_job_passes_the_check_and_is_told_in_one_short_line(each: TypedKind[Any, Any]) -> None:
    payload = each.parse(GOOD_JOBS[each.name], "line 1")
    each.check(payload)
    assert each.describe(payload).startswith(f"{each.name}(")
    assert "\n" not in each.describe(payload)
    assert each.command_line(payload)
    assert each.affinity(payload) == ""
    messages.JobSpec(each.name, payload)
    assert each.summary
    assert "\n" not in each.summary


TITLES: list[tuple[str, dict[str, object], str]] = [
    ("fib", {"n": 40}, "fib(40)"),
    ("command", {"argv": ["convert", "a 57.png", "b57.jpg"]}, "convert 'a 57.png' b57.jpg"),
    ("command", {"argv": ["echo $HOME | cat"], "shell": True}, "echo $HOME | cat"),
    ("command", {"argv": ["printf", "a\nb\u001b[2J"]}, "printf 'a\\nb\\x1b[2J'"),
    ("python", {"call": "math:factorial", "args": [5]}, "math:factorial(5)"),
    ("python", {"call": "m:f"}, "m:f()"),
    ("python", {"call": "m:f", "args": [1, "x"], "kwargs": {"key": None}}, 'm:f(1, "x", **{"key": null})'),
    ("python", {"call": "m:f", "kwargs": {"key": 2}}, 'm:f(**{"key": 2})'),
]


@pytest.mark.parametrize(("name", "job", "title"), TITLES)
def test_a_title_is_the_command_line_or_the_call(name: str, job: dict[str, object], title: str) -> None:
    assert job_title(JobSpec(name, TYPED_KINDS[name].parse(job, "line 1"))) == title


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("command", {"argv": ["echo", *["x"] * 500]}),
        ("command", {"argv": ["echo", "'" * 3_000_000]}),
        ("command", {"argv": ["echo " + "ü" * 300], "shell": True}),
        ("python", {"call": "m:f", "args": ["x" * 3_000_000]}),
        ("python", {"call": f"m:{'f' * 300}", "kwargs": {"k": "v" * 300}}),
    ],
)
def test_a_title_is_bounded(name: str, job: dict[str, object]) -> None:
    title = job_title(JobSpec(name, TYPED_KINDS[name].parse(job, "line 1")))
    assert title.endswith("...") and JOB_TEXT_BYTES_MAX - 4 <= len(title.encode()) <= JOB_TEXT_BYTES_MAX


def test_a_title_has_every_byte_of_an_argument() -> None:
    args = build_parser().parse_args(["command", "--", "cat", ":::", "\udcff"])
    (payload,) = TYPED_KINDS["command"].jobs(args, iter(()))
    assert job_title(JobSpec("command", payload)) == "cat '\\xff'"


def test_a_job_of_another_version_is_told_by_its_kind() -> None:
    assert job_title(JobSpec("render", b"")) == "render(...)"
    assert job_title(JobSpec("python", b"\xc1")) == "python(...)"


@each_kind
def test_parse_leaves_the_job_as_it_was(each: TypedKind[Any, Any]) -> None:
    job = dict(GOOD_JOBS[each.name])
    each.parse(job, "line 1")
    assert job == GOOD_JOBS[each.name]


@each_kind
def test_unknown_fields_are_named(each: TypedKind[Any, Any]) -> None:
    with pytest.raises(UsageError, match="line 9: field 'retires' is unknown: expected "):
        each.parse({**GOOD_JOBS[each.name], "retires": 3}, "line 9")


@each_kind
@given(payload=st.binary(max_size=60))
def test_check_raises_nothing_but_message_errors(each: TypedKind[Any, Any], payload: bytes) -> None:
    survives(each, payload)


@each_kind
@given(data=st.data())
def test_check_stands_a_good_payload_with_bytes_changed(each: TypedKind[Any, Any], data: st.DataObject) -> None:
    payload = bytearray(each.parse(GOOD_JOBS[each.name], "line 1"))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    survives(each, bytes(payload))


@each_kind
@pytest.mark.parametrize("payload", [b"", b"\x91" * 100_000, b"\xdf\xff\xff\xff\xff", b"\xc1", b"\x90", b"\xc0"])
def test_check_refuses_garbage(each: TypedKind[Any, Any], payload: bytes) -> None:
    with pytest.raises(MessageError):
        each.check(payload)


def survives(each: TypedKind[Any, Any], payload: bytes) -> None:
    """Refused with a MessageError, or good enough for everything that follows."""
    try:
        each.check(payload)
    except MessageError:
        return
    each.describe(payload)
    each.command_line(payload)
    each.affinity(payload)


# --- what a new kind has for nothing --------------------------------------------------------------


class ShoutJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(max_length=9, extra={"expected": "a short text"})]
    times: int = 1


class Shout(TypedKind[ShoutJob, ShoutJob]):
    """The least that a kind has to say."""

    name = "shout"
    summary = "a text in capitals"
    object_type = ShoutJob

    def command_line(self, payload: bytes) -> str:
        return f"shout {self.decode(payload).text}"

    def run(self, payload: bytes, context: Context) -> Result:
        job = self.decode(payload)
        return Result(End.SUCCEEDED, value=msgspec.json.encode(job.text.upper() * job.times))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("text")

    def jobs(self, args: argparse.Namespace, lines: Iterator[bytes]) -> Iterator[bytes]:
        return iter([self.encode(ShoutJob(args.text))])


def test_the_struct_of_a_jobs_object_is_its_payload_too(tmp_path: Path) -> None:
    shout = Shout()
    payload = shout.parse({"text": "ab", "times": 2}, "line 1")
    shout.check(payload)
    assert shout.run(payload, context(tmp_path)).value == b'"ABAB"'
    assert shout.describe(payload) == "shout(ab)"
    assert (shout.affinity(payload), shout.notes(), shout.reads_lines(argparse.Namespace())) == ("", [], False)
    assert list(shout.jobs(argparse.Namespace(text="ab"), iter(()))) == [shout.parse({"text": "ab"}, "line 1")]


def test_the_defaults_are_those_of_a_kind_that_may_do_anything() -> None:
    assert Shout.in_process
    assert Shout.runs_user_code


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({}, "field 'text' is missing: expected a short text"),
        ({"text": "x" * 1000}, "field 'text': expected a short text, got 'xxx"),
        ({"text": "a", "times": "2"}, "field 'times': expected another value, got '2'"),
        ({"text": "a", "time": 2}, "field 'time' is unknown: expected text, times or a field that every job may have"),
    ],
)
def test_errors_name_field_value_and_what_was_expected(job: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Shout().parse(job, "line 1")
    assert str(refused.value).startswith(f"line 1: {text}")
    assert len(str(refused.value)) < 130


def test_a_payload_is_read_strictly() -> None:
    for value in ({"text": 1}, {"text": "x" * 10}, {"text": "a", "more": 1}, ["a", 1]):
        with pytest.raises(MessageError, match="shout: "):
            Shout().check(msgspec.msgpack.encode(value))


def test_a_worker_does_not_load_what_only_some_jobs_need() -> None:
    script = "import sys, taskpool.kinds; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True)
    loaded = set(done.stdout.decode().split())
    assert "taskpool.kinds.command" in loaded
    assert not loaded & {"argparse", "json", "logging", "random", "shutil", "subprocess", "tempfile", "traceback"}


# --- bytes on the wire ----------------------------------------------------------------------------
# Journals on disk and the digests of accepted jobs depend on them: a change here is a new protocol version.

PAYLOADS: list[tuple[str, dict[str, object], bytes]] = [
    ("fib", {"n": 0}, b"\x00"),
    ("fib", {"n": 92}, b"\x5c"),
    ("command", {"argv": ["true"]}, b"\x95\x91\xc4\x04true\xc4\x04/usr\x80\xc0\xc2"),
    (
        "command",
        {"argv": ["a b", "ü"], "cwd": "/tmp", "env": {"A": "b", "Ü": "x=y"}, "stdin": "é\n", "shell": False},
        (
            b"\x95\x92\xc4\x03a b\xc4\x02\xc3\xbc\xc4\x04/tmp\x82\xc4\x01A\xc4\x01b\xc4\x02\xc3\x9c\xc4\x03x=y"
            b"\xc4\x03\xc3\xa9\n\xc2"
        ),
    ),
    (
        "command",
        {"argv": ["echo", "$A | wc"], "cwd": "share", "env": None, "stdin": None, "shell": True},
        b"\x95\x91\xc4\x0cecho $A | wc\xc4\n/usr/share\x80\xc0\xc3",
    ),
    ("python", {"call": "math:factorial", "args": [5]}, b"\x95\xa4math\xa9factorial\xc4\x03[5]\xc4\x02{}\x90"),
    ("python", {"call": "m:f", "args": None, "kwargs": None, "path": None}, b"\x95\xa1m\xa1f\xc4\x02[]\xc4\x02{}\x90"),
    (
        "python",
        {"call": "a.b:C.m", "args": [10**30, 1.0, "ü", None], "kwargs": {"x": 1e300}, "path": ["lib", "/opt/../srv/"]},
        (
            b'\x95\xa3a.b\xa3C.m\xc4\x36[1000000000000000000000000000000, 1.0, "\\u00fc", null]\xc4\x0d{"x": 1e+300}'
            b"\x92\xc4\x08/usr/lib\xc4\x04/srv"
        ),
    ),
]


@pytest.mark.parametrize(("name", "job", "payload"), PAYLOADS)
def test_the_bytes_of_a_job_object(
    name: str, job: dict[str, object], payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/usr")
    assert TYPED_KINDS[name].parse(job, "line 1") == payload
    KINDS[name].check(payload)


COMMAND_LINES: list[tuple[list[str], list[bytes], list[bytes]]] = [
    (["fib", "7", "20-21"], [], [b"\x07", b"\x14", b"\x15"]),
    (
        ["command", "--", "echo", "{#}", "{%}", ":::", "a"],
        [],
        [b"\x95\x93\xc4\x04echo\xc4\x011\xc4\x01\x00\xc4\x04/usr\x80\xc0\xc2"],
    ),
    (
        ["command", "--shell", "--cwd", "/tmp", "--env", "A=1", "--", "cat {}"],
        [b"\xff it's"],
        [b"\x95\x91\xc4\x10cat '\xff it'\"'\"'s'\xc4\x04/tmp\x81\xc4\x01A\xc4\x011\xc0\xc3"],
    ),
    (
        ["python", "m:f", "--path", "/opt"],
        [b" [1,  2.50,1e3] ", b'{"x":1,"x":2}\r'],  # as they were written, spaces and repeated names included
        [
            b"\x95\xa1m\xa1f\xc4\x0e[1,  2.50,1e3]\xc4\x02{}\x91\xc4\x04/opt",
            b'\x95\xa1m\xa1f\xc4\x02[]\xc4\r{"x":1,"x":2}\x91\xc4\x04/opt',
        ],
    ),
]


@pytest.mark.parametrize(("words", "lines", "payloads"), COMMAND_LINES)
def test_the_bytes_of_a_command_line(
    words: list[str], lines: list[bytes], payloads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/usr")
    found = TYPED_KINDS[words[0]].jobs(build_parser().parse_args(words), iter(lines))
    assert list(found) == payloads
