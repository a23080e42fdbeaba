"""What comes too late or too early changes nothing; and the small parts that have no scenario of their own."""

from __future__ import annotations

import pytest

from support.builders import EPOCH, START, World, record, work
from taskpool.core.batch import Batch
from taskpool.core.entries import JobCounts
from taskpool.core.job import Job, retry_delay_ns
from taskpool.core.metric import Histogram
from taskpool.core.respawn import Respawn
from taskpool.core.worker import Worker, WorkerEvent, WorkerState
from taskpool.identifiers import Incarnation
from taskpool.limits import RESPAWN_DELAY_NS_MIN
from taskpool.messages import DEFAULT_LIMITS, TERMINAL, End, Limits, Progress, Report, State

# --- the stale cells, from outside ----------------------------------------------------------------


def job_in(state: State) -> World:
    """A pool whose job b/1 is in this state. Its attempt, if it ever had one, was number 1."""
    world = World()
    if state is State.QUEUED:
        world.command("pause")
    world.batch(work("command", retries=int(state is State.DELAYED), backoff_min_ns=1, crash_limit=1))
    ends = {
        State.DELAYED: End.FAILED,
        State.SUCCEEDED: End.SUCCEEDED,
        State.FAILED: End.FAILED,
        State.TIMED_OUT: End.TIMED_OUT,
        State.QUARANTINED: End.CRASHED,
    }
    if state is State.CANCELLED:
        world.start()
        world.command("cancel", "b", 1)
        world.die(signal=9)
    elif state is State.RUNNING:
        world.start()
    elif state in ends:
        world.run(end=ends[state])
    world.forget()
    return world


@pytest.mark.parametrize("end", [End.SUCCEEDED, End.FAILED, End.TIMED_OUT, End.CRASHED])
@pytest.mark.parametrize("state", [state for state in State if state is not State.RUNNING])
def test_a_report_for_a_job_that_does_not_run_changes_nothing(state: State, end: End) -> None:
    world = job_in(state)
    worker = min(world.workers)
    world.do(Progress(worker, EPOCH, [Report(1, end)]))
    assert world.core.pool.counters.stale_reports == 1
    assert world.outcomes() == []
    assert world.entries == []


@pytest.mark.parametrize("state", sorted(TERMINAL - {State.QUARANTINED}))
@pytest.mark.parametrize("verb", ["cancel", "requeue", "show"])
def test_a_command_for_a_finished_job_is_an_error(state: State, verb: str) -> None:
    assert "error" in job_in(state).command(verb, "b", 1)


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.DELAYED])
def test_a_job_that_has_not_ended_cannot_be_requeued(state: State) -> None:
    assert "has not ended badly" in job_in(state).command("requeue", "b", 1)["error"]


def test_a_job_in_quarantine_cannot_be_cancelled() -> None:
    world = job_in(State.QUARANTINED)
    assert world.command("cancel", "b", 1) == {"cancelled": 0, "stopping": 0}


def test_what_a_worker_says_while_it_is_to_go() -> None:
    """Reports count, ready and done do not."""
    world = World()
    world.batch(work())
    world.start()
    world.command("cancel", "b", 1)
    world.ready(1)
    world.report()
    assert world.ends() == [(1, State.SUCCEEDED)]
    assert world.core.supervisor.workers[Incarnation(1)].state is WorkerState.STOPPING
    world.settle()


@pytest.mark.parametrize("event", [WorkerEvent.ASSIGN, WorkerEvent.DONE])
def test_a_worker_that_is_not_ready_stays_as_it_is(event: WorkerEvent) -> None:
    worker = Worker(Incarnation(1), START)
    assert not worker.take(event)
    assert worker.state is WorkerState.STARTING
    with pytest.raises(AssertionError, match=r"worker 1 is .*STARTING and gets work"):
        worker.assign({0})


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.DELAYED, State.QUARANTINED])
def test_a_queued_job_takes_no_other_way(state: State) -> None:
    job = Job(record(work()), Batch("b", DEFAULT_LIMITS))
    with pytest.raises(AssertionError, match="b/1: queued -> "):
        job.move(state)


# --- small parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "failures", "expected"),
    [(0, 0, 1, 0), (1, 60, 1, 1), (1, 60, 3, 4), (1, 60, 7, 60), (5, 0, 9, 5), (1, 10**18, 1_000_000, 2**40)],
)
def test_the_delay_before_a_retry(least: int, most: int, failures: int, expected: int) -> None:
    batch = Batch("b", Limits(backoff_min_ns=least, backoff_max_ns=most))
    job = Job(record(work()), batch, JobCounts(failures=failures))
    assert retry_delay_ns(job) == expected


def test_pools_that_failed_together_do_not_try_again_together() -> None:
    def first_delay(seed: int) -> int:
        respawn = Respawn(seed)
        respawn.boot_death(0, cannot_boot=False)
        at = respawn.next_ns(0)
        assert at is not None
        return at

    delays = {first_delay(seed) for seed in range(100)}
    assert len(delays) > 50
    assert min(delays) >= RESPAWN_DELAY_NS_MIN
    assert max(delays) <= RESPAWN_DELAY_NS_MIN * 1.25


def test_a_histogram_counts_up_to_and_including_its_bounds() -> None:
    histogram = Histogram((10, 20))
    for value in (0, 10, 11, 20, 21, 10**9):
        histogram.add(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.total == 62 + 10**9
