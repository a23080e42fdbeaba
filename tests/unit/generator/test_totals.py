"""What outcomes add up to, and the line that says so."""

from __future__ import annotations

from support.outcomes import outcome
from taskpool.clock import SECOND
from taskpool.generator.totals import PoolFacts, Totals
from taskpool.messages import State

FAILED = (State.FAILED, State.TIMED_OUT, State.QUARANTINED)


def test_the_totals_count_a_job_by_its_last_run() -> None:
    totals = Totals()
    totals.add(outcome(2, State.QUARANTINED, attempts=3, crashes=3))
    totals.add(outcome(1))
    assert (totals.finished, totals.failed) == (2, 1)
    totals.add(outcome(2))
    assert (totals.finished, totals.failed, totals.by_state[State.SUCCEEDED]) == (2, 0, 2)
    assert (totals.attempts, totals.crashes, totals.cpu_ns) == (5, 3, 3 * SECOND)


def test_what_an_earlier_run_has_told_counts_for_the_states_alone() -> None:
    totals = Totals()
    totals.add(outcome(1, State.FAILED, attempts=3, crashes=2), earlier=True)
    totals.add(outcome(2, State.TIMED_OUT), earlier=True)
    totals.add(outcome(3, State.FAILED))
    totals.add(outcome(4))
    assert (totals.finished, totals.failed) == (4, 3)
    assert (totals.finished_now, totals.count_now(FAILED)) == (2, 1)
    assert (totals.attempts, totals.crashes, totals.cpu_ns) == (2, 0, 2 * SECOND)
    totals.add(outcome(1, State.QUARANTINED))  # it was given another run, which is one of this life
    assert (totals.finished, totals.finished_now, totals.count_now(FAILED)) == (4, 3, 2)
    text, fields = totals.summary(5, SECOND, PoolFacts())
    assert text.startswith("5 jobs: 1 succeeded, 1 failed, 1 timed-out, 1 quarantined, 1 not run (1 in earlier runs); ")
    assert fields["earlier"] == 1


def test_the_summary() -> None:
    totals = Totals()
    totals.add(outcome(1))
    totals.add(outcome(2, State.TIMED_OUT, crashes=1))
    text, fields = totals.summary(3, 4 * SECOND, PoolFacts(respawns=1, cpus=2))
    assert text == (
        "3 jobs: 1 succeeded, 1 timed-out, 1 not run; 2 attempts, 1 crash, 1 respawn; 4.0s wall; "
        "CPU 2.0s of 8.0s available (25%)"
    )
    assert fields["timed_out"] == 1 and fields["cpu_available_seconds"] == 8.0
    assert "respawn" not in totals.summary(2, SECOND, PoolFacts())[0]
