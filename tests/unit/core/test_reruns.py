"""New runs for jobs that have ended badly, which the store looks up."""

from __future__ import annotations

import json

import pytest

from support.builders import World, work
from taskpool.core import reruns
from taskpool.core.backlog import Backlog
from taskpool.core.entries import BatchRecord, JobCounts, JobReturned, OutcomeRecorded
from taskpool.core.storage import EndedLoaded, LoadEnded, StoredJob
from taskpool.journal.memory import MemoryStore
from taskpool.messages import DEFAULT_LIMITS, Ack, Command, End, State


class KeepingStore(MemoryStore):
    """Keeps what has ended badly, as a journal does."""

    def __init__(self, *, corrupt: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self.ended: dict[int, StoredJob] = {}
        self.questions: list[LoadEnded] = []
        self._corrupt = corrupt
        self._requests[LoadEnded] = self._load_ended

    def _load_ended(self, request: LoadEnded) -> EndedLoaded:
        self.questions.append(request)
        return EndedLoaded(
            [
                StoredJob(job.record, job.counts, job.record.seq in self._corrupt)
                for job in self.ended.values()
                if any(first <= job.record.seq <= last for first, last in request.ranges)
                if job.record.seq > request.after and request.run in (0, job.counts.run)
            ][: request.limit]
        )

    def _record(self, entry: OutcomeRecorded) -> None:
        job = self._jobs[entry.ordinal]
        super()._record(entry)
        if entry.outcome.state not in (State.SUCCEEDED, State.QUARANTINED):
            self.ended[entry.ordinal] = StoredJob(job.record, JobCounts(entry.outcome.run, 1, 1))

    def _return(self, entry: JobReturned) -> None:
        if entry.ordinal in self.ended:
            self._jobs[entry.ordinal] = self.ended.pop(entry.ordinal)
        super()._return(entry)


def failed(jobs: int = 3, **how: object) -> World:
    """A journaled pool with batch b, whose jobs have all failed."""
    world = World(journaled=True, store=KeepingStore(**how))  # type: ignore[arg-type]
    world.batch(*[work("command") for _ in range(jobs)])
    for _ in range(jobs):
        world.run(end=End.FAILED, exit_status=3)
    assert [state for _, state in world.ends()] == [State.FAILED] * jobs
    world.forget()
    return world


def rerun(world: World, run: int = 0, *ranges: tuple[int, int]) -> object:
    if 9 not in world.core.pool.clients:
        world.hello(None, 9)
    world.do(Command(9, "rerun", "b", 0, run, ranges))
    return json.loads(world.told(9)[-1].body)


def test_a_failed_job_gets_a_new_run_with_clean_counts_and_one_outcome() -> None:
    world = failed()
    assert rerun(world, 1, (2, 2)) == {"requeued": 1}
    assert JobReturned(2, JobCounts(2, 0, 0, 0, 0)) in world.entries
    world.run()
    (outcome,) = world.outcomes()
    assert (outcome.no, outcome.seq, outcome.run, outcome.attempts, outcome.state) == (4, 2, 2, 1, State.SUCCEEDED)
    assert rerun(world, 1, (2, 2)) == {"requeued": 0}, "it has succeeded"


def test_a_request_that_is_said_again_finds_nothing_anew() -> None:
    world = failed(1)
    assert rerun(world, 1) == {"requeued": 1}
    assert rerun(world, 1) == {"requeued": 0}, "it waits"
    world.run(end=End.FAILED, exit_status=1)
    assert rerun(world, 1) == {"requeued": 0}, "its second run has ended"
    assert rerun(world, 2) == {"requeued": 1}


def test_two_requests_at_once_find_each_job_once() -> None:
    world = failed(2)
    world.slow_store = True
    for client in (1, 1):
        world.do(Command(client, "rerun", "b"))
    while world.unanswered:
        world.answer(1)
    assert len([entry for entry in world.entries if isinstance(entry, JobReturned)]) == 2
    assert world.core.pool.pending == 2


def test_many_are_found_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    world = failed(5)
    questions = world.store.questions  # type: ignore[attr-defined]
    monkeypatch.setattr(reruns, "JOBS_PER_QUESTION", 2)
    assert rerun(world) == {"requeued": 5}
    assert [question.after for question in questions] == [0, 2, 4, 5]


def test_the_quarantine_is_part_of_it_and_requeue_takes_any_that_ended_badly() -> None:
    world = World(journaled=True, store=KeepingStore())
    world.batch(work("command", crash_limit=1), work("command"), work("command"))
    world.run(end=End.CRASHED, signal=11)
    world.run(end=End.FAILED, exit_status=1)
    world.run()
    assert world.command("requeue", "b", 2) == {"requeued": 1}
    assert "has not ended badly" in world.command("requeue", "b", 3)["error"]
    assert rerun(world, 1) == {"requeued": 1}
    assert not world.core.pool.quarantine
    assert world.core.pool.pending == 2


def test_a_job_whose_record_is_damaged_is_left_as_it_is() -> None:
    world = failed(3, corrupt=frozenset({2}))
    assert rerun(world) == {"requeued": 2}


def test_a_private_dealer_does_not_leave_while_jobs_are_looked_up() -> None:
    world = World(journaled=True, private=True, store=KeepingStore())
    world.batch(work("command"))
    world.run(end=End.FAILED, exit_status=1)
    world.slow_store = True
    world.do(Command(1, "rerun", "b", 0, 1))
    world.do(Ack(1, "b", 1))
    world.slow_store = False
    world.answer()
    assert not world.core.shutdown.exiting and world.core.pool.pending == 1
    world.run()
    world.ack(2)
    assert world.core.shutdown.exiting


def test_a_batch_that_is_not_in_memory_is_looked_up_first() -> None:
    world = failed(1)
    world.kept["b"] = BatchRecord("b", DEFAULT_LIMITS, 1, 1, 1, 1)
    world.ack(1)
    world.bye()
    assert "b" not in world.core.pool.batches
    assert world.command("requeue", "b", 1) == {"requeued": 1}
    assert world.core.pool.batches["b"].open == 1
    assert "no batch" in world.command("rerun", "other")["error"]


def test_without_a_journal_only_the_quarantine_is_kept() -> None:
    world = World()
    world.batch(work("command", crash_limit=1), work("command"))
    world.run(end=End.CRASHED, signal=11)
    world.run(end=End.FAILED, exit_status=1)
    assert "without a journal, only jobs in quarantine" in world.command("requeue", "b", 2)["error"]
    assert rerun(world) == {"requeued": 1}


def test_jobs_of_a_cancelled_batch_run_again_also_those_that_wait_in_the_store() -> None:
    world = World(journaled=True, store=KeepingStore(), backlog=Backlog(1, 1000))
    world.batch(*[work("command") for _ in range(4)])
    world.start()
    world.command("cancel", "b")
    world.die(signal=9)
    assert world.core.pool.pending == 0
    world.forget()
    assert rerun(world, 1) == {"requeued": 4}
    for _ in range(4):
        world.run(2)
    assert sorted(world.ends()) == [(seq, State.SUCCEEDED) for seq in (1, 2, 3, 4)]
