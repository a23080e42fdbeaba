"""Answers, and what follows from one after the other: speed, time left, deaths."""

from __future__ import annotations

import json
from typing import Any

import pytest

from taskpool.clock import SECOND
from taskpool.generator.top.answers import (
    PoolStatus,
    Unreadable,
    deaths_of_job,
    deaths_of_outcome,
    is_failure,
    read_status,
)
from taskpool.generator.top.history import DEATHS_KEPT, RATES_KEPT, PoolHistory, Use
from taskpool.generator.top.model import Death, PoolRow
from taskpool.messages import End, Outcome, State, Try, Usage


def a_status(done: int = 0, accepted: int = 100, **fields: Any) -> PoolStatus:
    body = {
        "pool": "night",
        "state": "running",
        "pid": 7,
        "workers_wanted": 2,
        "spares": 1,
        "workers": {"busy": 2, "spare": 1},
        "jobs": {"queued": 4, "delayed": 0, "running": 1},
        "finished": {"succeeded": done},
        "attempts": {},
        "quarantined": 0,
        "batches": [{"batch": "b", "accepted": accepted, "total": accepted, "open": accepted - done}],
        "running": [{"slot": 1, "pid": 9, "job": "b/1", "kind": "fib", "started": True, "seconds": 1.5}],
        "of a newer version": [1, 2],
        **fields,
    }
    return read_status(json.dumps(body).encode())


def at(seconds: float) -> int:
    return int(seconds * SECOND)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"state": 5}', b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_status_is_told(body: bytes) -> None:
    with pytest.raises(Unreadable):
        read_status(body)


def test_an_answer_becomes_rows() -> None:
    row = PoolHistory("night").take(a_status(done=3), {9: Use(50.0, 1024)}, at(1))
    (job,) = row.jobs
    assert (job.slot, job.pid, job.job, job.cpu_percent, job.rss_bytes) == (1, 9, "b/1", 50.0, 1024)
    assert (row.workers, row.spares, row.queued) == (2, 1, 4)
    (batch,) = row.batches
    assert (batch.done, batch.total, batch.rate, batch.left_seconds) == (3, 100, None, None)


def test_speed_and_time_left() -> None:
    history = PoolHistory("night")
    history.take(a_status(done=0), {}, at(0))
    row = history.take(a_status(done=20), {}, at(2))
    assert row.rates == (10.0,)
    assert row.batches[0].rate == 10.0
    assert row.batches[0].left_seconds == 8.0


def test_a_dealer_that_was_started_again_has_no_negative_speed() -> None:
    history = PoolHistory("night")
    rows = [history.take(a_status(done=done), {}, at(second)) for second, done in enumerate((50, 60, 0, 5))]
    row = rows[-1]
    assert row.rates == (10.0, 5.0)
    assert row.batches[0].rate == 5.0


def test_a_batch_that_may_grow_has_no_end() -> None:
    history = PoolHistory("night")
    batch = {"batch": "b", "accepted": 9, "total": None, "open": 5}
    history.take(a_status(batches=[batch]), {}, at(0))
    row = history.take(a_status(batches=[batch | {"open": 4}]), {}, at(1))
    assert row.batches[0].left_seconds is None
    assert row.batches[0].rate == 1.0


def test_what_is_kept_is_bounded() -> None:
    history = PoolHistory("night")
    row = PoolRow("night")
    for second in range(1_000):
        history.note_deaths([Death("", "night", f"b/{second}", 1, "x")])
        row = history.take(
            a_status(batches=[{"batch": f"b{second}", "accepted": 1, "total": 1, "open": 1}]), {}, at(second)
        )
    assert len(row.rates) == RATES_KEPT
    assert len(row.deaths) == DEATHS_KEPT
    assert row.deaths[0].job == "b/999"
    assert len(history._batches) == 1


def test_failures_of_a_batch_add_up() -> None:
    history = PoolHistory("night")
    history.note_failures("b", 2, whole=True)
    history.note_failures("b", 1, whole=True)
    assert history.take(a_status(), {}, 0).batches[0].failed == 3
    history.note_failures("b", 0, whole=False)
    assert not history.take(a_status(), {}, 1).batches[0].all_looked_at


def test_a_death_is_told_once() -> None:
    history = PoolHistory("night")
    history.note_deaths([Death("", "night", "b/1", 1, "killed by SIGSEGV")])
    history.note_deaths([Death("later", "night", "b/1", 1, "killed by SIGSEGV"), Death("", "night", "b/1", 2, "x")])
    assert [death.attempt for death in history.take(a_status(), {}, 0).deaths] == [2, 1]


@pytest.mark.parametrize(
    ("tried", "cause"),
    [
        (Try(1, End.CRASHED, signal=11, core_dumped=True, error="SIGSEGV: x"), "killed by SIGSEGV, core dumped"),
        (Try(1, End.CRASHED, signal=6, stderr_tail="heap\ncorrupt\n"), "killed by SIGABRT: corrupt"),
        (Try(1, End.CRASHED, signal=9, out_of_memory=True), "out of memory"),
        (Try(1, End.TIMED_OUT, signal=15, usage=Usage(started_wall_ns=1, run_ns=2 * SECOND)), "timed out after 2.0 s"),
        (Try(1, End.FAILED, exit_status=3, stderr_tail="a\nno such file"), "exit status 3: no such file"),
        (Try(1, End.FAILED, error="ValueError: 5"), "failed: ValueError: 5"),
    ],
)
def test_causes(tried: Try, cause: str) -> None:
    outcome = Outcome(1, 4, 1, "fib", None, State.FAILED, 1, 1, tries=(tried,))
    (death,) = deaths_of_outcome("night", "b", outcome)
    assert (death.job, death.attempt, death.cause) == ("b/4", 1, cause)
    assert death.ended_at.startswith("1970-01-01T00:00:0"), "no time is missing: it is sorted by"
    assert is_failure(outcome)


def test_tries_of_a_job_that_runs_again() -> None:
    tries = [{"attempt": 1, "end": "crashed", "signal_name": "SIGKILL"}, {"attempt": 2, "end": "lost"}, {"end": 5}]
    (death,) = deaths_of_job("night", "b/1", json.dumps({"tries": tries}).encode(), "now")
    assert (death.cause, death.ended_at) == ("killed by SIGKILL", "")
    (death,) = deaths_of_job("night", "b/1", json.dumps({"tries": tries[:1]}).encode(), "now")
    assert death.ended_at == "now"
    assert deaths_of_job("night", "b/1", b'{"error": "it is not here"}', "now") == []
    assert deaths_of_job("night", "b/1", b'{"tries": [5]}', "now") == []
    assert deaths_of_job("night", "b/1", b"\x00", "now") == []
