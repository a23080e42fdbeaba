"""What a self-test does follows from its seed, and has one blow of each sort."""

from __future__ import annotations

from signal import Signals

import pytest

from taskpool.generator.input.jobs_file import read_jobs
from taskpool.generator.selftest.plan import ROUNDS_MAX, ROUNDS_MIN, Plan, make_plan
from taskpool.messages import DEFAULT_LIMITS, State
from taskpool.private.process import RESTARTS_MAX

SEEDS = [0, 1, 7, 2**32 - 1, 2**64 - 1]


def a_plan(seed: int = 7, rounds: int = 6) -> Plan:
    return make_plan(seed, rounds, "/records", "/bin/sh")


def test_the_same_seed_makes_the_same_plan() -> None:
    assert a_plan(7) == a_plan(7)
    assert a_plan(7) != a_plan(8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rounds", range(ROUNDS_MIN, ROUNDS_MAX + 1))
def test_both_signals_and_the_dealer_are_in_every_plan(seed: int, rounds: int) -> None:
    blows = [(blow.target, blow.signal) for blow in a_plan(seed, rounds).blows]
    assert len(blows) == rounds
    assert set(blows) == {
        ("dealer", Signals.SIGKILL),
        ("worker", Signals.SIGKILL),
        ("worker", Signals.SIGSEGV),
    }
    assert sum(target == "dealer" for target, _ in blows) <= RESTARTS_MAX, "it would not be started again"


def test_each_blow_has_a_victim_in_its_round() -> None:
    plan = a_plan()
    for each in plan.rounds[:-1]:
        assert each.blow is not None
        assert each.blow.victim in [job.name for job in each.jobs]
    assert plan.rounds[-1].blow is None


def test_jobs_are_such_as_a_person_can_submit() -> None:
    import msgspec

    plan = a_plan()
    lines = (msgspec.json.encode(job.fields) for job in plan.jobs)
    jobs = list(read_jobs(lines, "plan", DEFAULT_LIMITS))
    assert [job.label for job in jobs if job is not None] == [job.name for job in plan.jobs]
    assert len({job.name for job in plan.jobs}) == len(plan.jobs)


def test_every_end_that_a_job_can_have_is_in_it() -> None:
    states = {job.state for job in a_plan().jobs}
    assert states == {State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.QUARANTINED}


def test_without_a_shell_no_job_needs_one() -> None:
    assert {job.fields["kind"] for job in make_plan(1, 3, "/records", None).jobs} == {"fib", "python"}
