"""What must hold after every step: one function, called by the tests and the simulator after each event."""

from __future__ import annotations

from taskpool import limits
from taskpool.core.batch import outcome_bytes
from taskpool.core.reactor import Reactor
from taskpool.core.worker import WorkerState
from taskpool.messages import TERMINAL, State


def check(reactor: Reactor) -> None:
    """Raise AssertionError naming the first thing that does not add up."""
    _jobs(reactor)
    _attempts(reactor)
    _workers(reactor)
    _batches(reactor)


def _jobs(reactor: Reactor) -> None:
    pool = reactor.pool
    waiting = {job.ordinal for job in pool.backlog}
    delayed = {job.ordinal for _, _, job in pool.delayed}
    for ordinal, job in pool.jobs.items():
        assert ordinal == job.ordinal
        assert job.state not in TERMINAL, f"job {job.seq} is {job.state} and still held"
        assert (ordinal in waiting) == (job.state is State.QUEUED), f"job {job.seq} is {job.state}, in backlog or not"
        assert ordinal in delayed or job.state is not State.DELAYED, f"job {job.seq} will never be due"
        assert (job.attempt_n in pool.attempts) == (job.state is State.RUNNING), f"job {job.seq} is {job.state}"
    assert waiting <= pool.jobs.keys()
    assert len(waiting) == len(pool.backlog), "a job waits twice"
    for job in pool.quarantine.values():
        assert job.state is State.QUARANTINED


def _attempts(reactor: Reactor) -> None:
    pool = reactor.pool
    # Walked from the workers' side, since an attempt that no frame holds could never end.
    held = {
        n: job
        for worker in reactor.supervisor.workers.values()
        for frame in worker.frames
        for n, job in frame.jobs.items()
    }
    assert held == {n: attempt.job for n, attempt in pool.attempts.items()}, (
        "an attempt without its frame, or the other way round"
    )
    for n, attempt in pool.attempts.items():
        assert attempt.n == n
        assert attempt.job.attempt_n == n
        assert attempt.frame in attempt.worker.frames
        assert n <= pool.attempt_n


def _workers(reactor: Reactor) -> None:
    supervisor = reactor.supervisor
    slots = [worker.slot for worker in supervisor.workers.values() if worker.slot is not None]
    assert len(slots) == len(set(slots)), "two workers in one slot"
    assert not supervisor.free_slots & set(slots), "a slot that is held is free as well"
    # A worker that is stopping keeps its frames: they are ended with its process.
    for worker in supervisor.workers.values():
        if worker.state is WorkerState.BUSY:
            assert worker.frames, f"worker {worker.incarnation} is busy with nothing"
        elif worker.state is not WorkerState.STOPPING:
            assert not worker.frames, f"worker {worker.incarnation} is {worker.state} and holds frames"
        assert all(not frame.started for frame in list(worker.frames)[1:]), "a frame started behind the head"
        assert all(frame.jobs for frame in worker.frames), "an empty frame is held"


def _batches(reactor: Reactor) -> None:
    pool = reactor.pool
    assert len(pool.clients) <= pool.config.connections_max, "more generators than connections"
    holders = sum(client.batch is not None for client in pool.clients.values())
    assert holders <= pool.config.connections_max - limits.CONNECTIONS_TO_ASK_MIN, "no connection is kept for questions"
    for batch in pool.batches.values():
        assert batch.accepted <= batch.received
        assert batch.acknowledged <= batch.sent <= batch.recorded <= batch.numbered
        assert batch.open >= 0
        assert len(batch.sent_sizes) == batch.sent - batch.acknowledged
        assert batch.unsent_bytes == sum(map(outcome_bytes, batch.unsent))
        if batch.client is not None:
            assert pool.clients.get(batch.client.id) is batch.client
            assert batch.client.batch is batch
