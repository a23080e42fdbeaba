"""The python kind: its payloads, its words and its command line. How functions run: test_invoke.py."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pytest

from taskpool.errors import MessageError, UsageError
from taskpool.kinds.python import PYTHON

# --- checked on arrival ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({}, "field 'call' is missing: expected MODULE:FUNCTION, such as math:factorial"),
        ({"call": 5}, "field 'call': expected MODULE:FUNCTION, such as math:factorial, got 5"),
        ({"call": "math"}, "field 'call': expected"),
        ({"call": "math:"}, "field 'call': expected"),
        ({"call": ":f"}, "field 'call': expected"),
        ({"call": "a..b:f"}, "field 'call': expected"),
        ({"call": "a:b:c"}, "field 'call': expected"),
        ({"call": "os:system('ls')"}, "field 'call': expected"),
        ({"call": "m:f", "args": {}}, "field 'args': expected a list of JSON values, got {}"),
        ({"call": "m:f", "args": [float("nan")]}, "field 'args': expected a list of JSON values, got [nan]"),
        ({"call": "m:f", "kwargs": []}, "field 'kwargs': expected an object of JSON values, got []"),
        ({"call": "m:f", "path": "lib"}, "field 'path': expected a list of directories, got 'lib'"),
    ],
)
def test_parse_names_what_is_wrong(job: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        PYTHON.parse(job, "line 1")
    assert str(refused.value).startswith(f"line 1: {text}")


@pytest.mark.parametrize(
    "payload",
    [
        ["os"],
        ["os", "f()"],
        ["os", "f", b"{}"],
        ["os", "f", b"[]", b"[]"],
        ["os", "f", b"[NaN]"],
        ["os", "f", b"["],
        ["os", "f", b"\xff"],
        ["os", "f", b"[" * 100_000],
        ["os", "f", b"[" + b"9" * 10_000 + b"]"],
        ["os", "f", b"[]", b"{}", [b"relative"]],
        ["os", "f", b"[]", b"{}", [b"/a\0"]],
        ["os", "f", b"[]", b"{}", [], 1],
    ],
)
def test_check_refuses_what_parse_would_not_make(payload: list[object]) -> None:
    with pytest.raises(MessageError, match="python: "):
        PYTHON.check(msgspec.msgpack.encode(payload))


def test_words_for_people() -> None:
    payload = PYTHON.parse({"call": "m.n:f", "args": [1, "a b"]}, "line 1")
    assert PYTHON.describe(payload) == "python(m.n:f)"
    assert PYTHON.command_line(payload) == "python m.n:f '[1, \"a b\"]'"
    payload = PYTHON.parse({"call": "m:f", "kwargs": {"x": 1}}, "line 1")
    assert PYTHON.command_line(payload) == "python m:f '[]' '{\"x\": 1}'"


def test_affinity_is_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    affinities = [
        PYTHON.affinity(PYTHON.parse({"call": "m:f", "path": path}, "line 1"))
        for path in ([], ["lib"], ["/usr/lib/"], ["/usr/lib", "/tmp"], ["/tmp", "/usr/lib"])
    ]
    assert affinities == ["", "/usr/lib", "/usr/lib", "/usr/lib:/tmp", "/tmp:/usr/lib"]


# --- the command line -----------------------------------------------------------------------------


def command_lines(*words: str, lines: list[bytes] | None = None) -> list[str]:
    parser = argparse.ArgumentParser()
    PYTHON.add_arguments(parser)
    args = parser.parse_args(words)
    return [PYTHON.command_line(payload) for payload in PYTHON.jobs(args, iter(lines or ()))]


def test_one_job_for_each_line() -> None:
    assert command_lines("math:factorial", lines=[b"[5]", b' {"n": 6}\r', b"[]"]) == [
        "python math:factorial '[5]'",
        "python math:factorial '[]' '{\"n\": 6}'",
        "python math:factorial '[]'",
    ]


def test_path_is_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    PYTHON.add_arguments(parser)
    args = parser.parse_args(["m:f", "--path", "lib", "--path", "/opt"])
    (payload,) = PYTHON.jobs(args, iter([b"[]"]))
    assert PYTHON.affinity(payload) == f"{tmp_path}/lib:/opt"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"5", "python: line 2: expected a JSON array or object, got b'5'"),
        (b"", "python: line 2: expected a JSON array or object: Expecting value"),
        (b"[5", "python: line 2: expected a JSON array or object: "),
        (b"[NaN]", "python: line 2: expected a JSON array or object: NaN is not JSON"),
        (b"\xff", "python: line 2: expected a JSON array or object: "),
    ],
)
def test_a_bad_line_is_named_by_its_number(line: bytes, text: str) -> None:
    with pytest.raises(UsageError) as refused:
        command_lines("m:f", lines=[b"[]", line])
    assert str(refused.value).startswith(text)


def test_a_bad_call() -> None:
    with pytest.raises(UsageError, match=r"python: expected MODULE:FUNCTION, such as math:factorial, got 'math\.f'"):
        command_lines("math.f", lines=[])
