"""How fast a batch goes, and how long the rest of it takes."""

from __future__ import annotations

import pytest

from support.outcomes import outcome
from taskpool.clock import SECOND
from taskpool.generator.pace import RECENT_NS, Pace
from taskpool.messages import JobSpec, Usage


def ended(pace: Pace, kind: str, seconds: float, count: int = 1) -> None:
    for _ in range(count):
        pace.add(outcome(kind=kind, usage=Usage(run_ns=round(seconds * SECOND))))


def test_nothing_is_said_before_a_job_has_ended() -> None:
    pace = Pace(0)
    assert pace.left_ns(10, SECOND) is None
    ended(pace, "fib", 1)
    assert pace.left_ns(0, SECOND) is None, "nor when nothing is left"


def test_jobs_of_one_kind_are_judged_by_their_number() -> None:
    pace = Pace(0)
    pace.submit([JobSpec("fib", b"")] * 20)
    ended(pace, "fib", 2, count=5)
    assert pace.left_ns(15, 10 * SECOND) == 30 * SECOND


def test_each_kind_lasts_as_long_as_its_jobs_did() -> None:
    pace = Pace(0)
    pace.submit([JobSpec("fib", b"")] * 10 + [JobSpec("command", b"")] * 10)
    ended(pace, "fib", 0.1, count=10)
    ended(pace, "command", 9, count=1)
    # 10 s of work in 5 s: two workers. Nine commands of 9 s are left, and no fib.
    assert pace.left_ns(9, 5 * SECOND) == pytest.approx(9 * 9 * SECOND / 2, rel=1e-6)


def test_jobs_whose_kind_is_not_known_yet_are_as_the_others() -> None:
    pace = Pace(0)
    ended(pace, "fib", 1, count=3)
    ended(pace, "command", 5, count=1)
    assert pace.left_ns(8, 4 * SECOND) == 8 * SECOND, "16 s of work on two workers"


def test_what_was_never_run_took_no_time() -> None:
    pace = Pace(0)
    ended(pace, "fib", 0, count=2)
    assert pace.left_ns(4, 10 * SECOND) == 20 * SECOND


def test_earlier_lives_are_done_and_no_measure() -> None:
    pace = Pace(0)
    pace.submit([JobSpec("fib", b"")] * 10)
    pace.add(outcome(usage=Usage(run_ns=3600 * SECOND)), earlier=True)
    assert pace.left_ns(9, SECOND) is None and pace.rate(SECOND) == 0
    pace.begin(5 * SECOND)
    ended(pace, "fib", 1)
    assert pace.left_ns(8, 6 * SECOND) == 8 * SECOND


def test_the_rate_is_that_of_late() -> None:
    pace = Pace(0)
    ended(pace, "fib", 1, count=1000)
    assert pace.rate(SECOND) == 1000
    rates = []
    for second in range(2, 40):
        ended(pace, "fib", 1)
        rates.append(pace.rate(second * SECOND))
    assert rates[-1] == pytest.approx(1), f"of the last {RECENT_NS // SECOND} seconds"
