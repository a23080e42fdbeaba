"""What an outcome and an answer look like: JSON, job log, words and tables."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.outcomes import outcome
from taskpool.generator.output.formats import JOBLOG_HEADER, exit_value, joblog_line, lay_out, to_json
from taskpool.messages import End, JobError, Output, State, Try, Usage


def test_the_outcome_object_field_for_field() -> None:
    text = to_json("b", outcome(job="fib(9)", value=b"[1,\n2]", output=Output(stdout="hi"), error=JobError("E", "m")))
    assert text.endswith(b"\n") and text.count(b"\n") == 1
    assert list(json.loads(text).items()) == [
        ("batch", "b"),
        ("seq", 1),
        ("run", 1),
        ("kind", "fib"),
        ("label", None),
        ("job", "fib(9)"),
        ("state", "succeeded"),
        ("value", [1, 2]),
        ("exit_status", None),
        ("signal", None),
        ("attempts", 1),
        ("crashes", 0),
        ("slot", None),
        ("pid", None),
        ("queued_at", "2023-11-14T22:13:20.000000Z"),
        ("started_at", "2023-11-14T22:13:21.000000Z"),
        ("finished_at", "2023-11-14T22:13:23.000000Z"),
        ("wait_seconds", 1.0),
        ("run_seconds", 2.0),
        ("cpu_seconds", 1.0),
        ("max_rss_bytes", 4096),
        ("stdout", "hi"),
        ("stderr", None),
        ("stdout_file", None),
        ("stderr_file", None),
        ("error", {"type": "E", "message": "m", "traceback": None}),
        ("tries", []),
    ]


def test_an_outcome_of_an_earlier_version_does_not_say_what_its_job_is() -> None:
    assert json.loads(to_json("b", outcome()))["job"] is None


def test_what_never_ran_has_no_times() -> None:
    record = json.loads(to_json("b", outcome(state=State.CANCELLED, attempts=0, usage=Usage())))
    missing = ("started_at", "wait_seconds", "run_seconds", "cpu_seconds", "max_rss_bytes", "value")
    assert [record[key] for key in missing] == [None] * len(missing)


def test_the_job_log_is_gnu_parallels() -> None:
    assert JOBLOG_HEADER == b"Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
    line = joblog_line(outcome(7, State.FAILED, exit_status=3, output=Output(stdout="abü")), "echo 'a\nb\udcff'")
    assert line == b"7\t:\t1700000001.000\t     2.000\t0\t4\t3\t0\techo 'a\0b\xff'\n"


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({}, 0),
        ({"state": State.FAILED}, 1),
        ({"state": State.FAILED, "exit_status": 9}, 9),
        ({"state": State.TIMED_OUT, "exit_status": 0}, -1),
        ({"state": State.CANCELLED}, -1),
        ({"state": State.QUARANTINED, "signal": 11}, 0),
    ],
)
def test_exit_values(changes: dict[str, Any], value: int) -> None:
    assert exit_value(outcome(**changes)) == value


def test_an_answer_laid_out_for_a_person() -> None:
    body = {
        "pool": "demo",
        "paused": False,
        "jobs": {"queued": 3},
        "running": [{"pid": 1, "job": "a/1"}, {"pid": 20, "seconds": 1.5}],
        "batches": [],
        "evil": "\x1b[2J",
    }
    assert lay_out(body) == (
        "pool    demo\n"
        "paused  no\n"
        "evil    \\x1b[2J\n"
        "jobs:\n"
        "  queued  3\n"
        "running:\n"
        "  pid  job  seconds\n"
        "  1    a/1  -\n"
        "  20   -    1.5\n"
        "batches: none\n"
    )
    assert lay_out([1, None]) == "1\n-\n" and lay_out("x") == "x\n"


def test_slots_count_from_1_where_they_are_shown() -> None:
    """As {%} and TP_SLOT do. In messages they count from 0."""
    tried = Try(1, End.FAILED, usage=Usage(), slot=3)
    record = json.loads(to_json("b", outcome(slot=0, tries=(tried,))))
    assert record["slot"] == 1
    assert [each["slot"] for each in record["tries"]] == [4]
