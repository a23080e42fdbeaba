"""What is kept of an attempt that did not succeed (certificate.py)."""

from __future__ import annotations

from signal import Signals
from typing import Any

import pytest

from taskpool import limits
from taskpool.certificate import as_fields, certificate, remembered, tail
from taskpool.clock import SECOND
from taskpool.messages import End, JobError, Output, Report, Try, Usage

MOMENT = 1_700_000_000 * SECOND


def name(number: int) -> str:
    return Signals(number).name


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"exit_status": 1}, False),
        ({"signal": 11}, False),
        ({"signal": 9}, None),
        ({"signal": 9, "out_of_memory": True}, True),
        ({"signal": 9, "out_of_memory": False}, False),
        ({"error": JobError("OutOfMemory"), "signal": 9}, True),
        ({"error": JobError("MemoryError")}, True),
        ({"error": JobError("ValueError")}, False),
    ],
)
def test_whether_memory_ran_out_is_said_only_where_it_can_be_told(fields: dict[str, Any], verdict: bool | None) -> None:
    assert certificate(1, Report(1, End.FAILED, **fields), 7, 0).out_of_memory is verdict


def test_the_object_field_for_field() -> None:
    usage = Usage(MOMENT, 2 * SECOND, SECOND, 4096)
    report = Report(9, End.CRASHED, signal=11, usage=usage, output=Output(stderr="last\nwords\n"), core_dumped=True)
    assert list(as_fields(certificate(3, report, 7, 1), name).items()) == [
        ("attempt", 3),
        ("end", "crashed"),
        ("exit_status", None),
        ("signal", 11),
        ("signal_name", "SIGSEGV"),
        ("core_dumped", True),
        ("out_of_memory", False),
        ("memory_limit_bytes", None),
        ("started_at", "2023-11-14T22:13:20.000000Z"),
        ("wall_seconds", 2.0),
        ("cpu_seconds", 1.0),
        ("max_rss_bytes", 4096),
        ("pid", 7),
        ("slot", 2),  # as people count
        ("host", None),
        ("error", None),
        ("stderr_tail", "last\nwords"),
    ]


def test_what_is_not_known_is_null() -> None:
    fields = as_fields(certificate(1, Report(1, End.FAILED, error=JobError("E", "m")), 0, None), name)
    known = {"attempt": 1, "end": "failed", "out_of_memory": False, "error": "E: m"}
    assert {name: value for name, value in fields.items() if value is not None} == known


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (None, None),
        ("", None),
        (" \n\n", None),
        ("one\n", "one"),
        ("\n".join(map(str, range(30))), "\n".join(map(str, range(10, 30)))),
        ("x" * 5000, "x" * 2048),
        ("ü" * 2000, "ü" * 1024),
    ],
)
def test_of_standard_error_the_last_lines_are_kept(text: str | None, end: str | None) -> None:
    assert tail(text) == end


def test_a_long_error_is_cut() -> None:
    tried = certificate(1, Report(1, End.FAILED, error=JobError("E", "m" * 1000)), 1, 1)
    assert tried.error is not None and len(tried.error) == limits.TRY_ERROR_CHARS_MAX


def test_the_last_tries_are_remembered() -> None:
    tries: tuple[Try, ...] = ()
    for number in range(1, 8):
        tries = remembered(tries, Try(number, End.FAILED))
    assert [tried.no for tried in tries] == [3, 4, 5, 6, 7]
