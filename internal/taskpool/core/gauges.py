"""What the pool is at one moment: families that are computed when a page is made, not counted.

A page thread makes a `PoolGauges` for each page, while the loop goes on. Its constructor copies what the loop changes;
everything after that reads the copies, so all families of a page tell of the same jobs and workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from taskpool.clock import SECOND
from taskpool.core.metric import computed
from taskpool.core.state import PoolState
from taskpool.core.supervisor import Supervisor
from taskpool.core.worker import WorkerState
from taskpool.messages import State

WORKER_STATES = tuple(state.value for state in WorkerState)
UNFINISHED = (State.QUEUED.value, State.DELAYED.value, State.RUNNING.value)


class PoolGauges:
    """A snapshot of the pool's jobs, workers and readers."""

    def __init__(self, pool: PoolState, supervisor: Supervisor) -> None:
        self._pool = pool
        self._supervisor = supervisor
        # `list` of a dict's values is one step of the interpreter: the loop cannot change the dict meanwhile.
        self._running = list(pool.attempts.values())
        self._delayed = list(pool.delayed)
        self._batches = list(pool.batches.values())
        self._workers = list(supervisor.workers.values())

    # --- the pool ---

    @computed("gauge", "taskpool_build_info", "Build of this program; always 1.", labels={"version": None})
    def build_info(self) -> Mapping[str, int]:
        return {self._pool.config.version: 1}

    @computed(
        "gauge",
        "taskpool_pool_info",
        "The pool, and whether what it accepts outlives its dealer; always 1.",
        labels={"pool": None, "journal": None},
    )
    def pool_info(self) -> Mapping[tuple[str, ...], int]:
        config = self._pool.config
        return {(config.name, "true" if config.journaled else "false"): 1}

    @computed("gauge", "taskpool_dealer_epoch", "Lives of this pool's dealers so far, this one included.")
    def epoch(self) -> int:
        return self._pool.config.epoch

    @computed("gauge", "taskpool_dealer_draining", "1 while the dealer takes and sends no more jobs.")
    def draining(self) -> bool:
        return self._pool.draining

    @computed("gauge", "taskpool_dealer_paused", "1 while a person wants no job to be sent.")
    def paused(self) -> bool:
        return self._pool.paused

    @computed("gauge", "taskpool_disk_full", "1 while journal or spool have no room for more jobs.")
    def disk_full(self) -> bool:
        # Not `pool.disk_full`, which iterates over the places: the loop may add one meanwhile.
        return bool(self._pool.full)

    # --- its jobs ---

    @computed("gauge", "taskpool_jobs", "Jobs without an outcome, by state.", labels={"state": UNFINISHED})
    def jobs(self) -> Mapping[str, int]:
        delayed = sum(job.state is State.DELAYED for _, _, job in self._delayed)  # cancelled ones linger in the heap
        running = len(self._running)
        # `pending` may be newer than the copies by what ended meanwhile.
        queued = max(0, self._pool.pending - running - delayed)
        return {State.QUEUED.value: queued, State.DELAYED.value: delayed, State.RUNNING.value: running}

    @computed("gauge", "taskpool_jobs_quarantined", "Jobs that crashed too often and wait for a person.")
    def quarantined(self) -> int:
        return len(self._pool.quarantine)

    # A point in time is shown as a timestamp, never as an age, which would be wrong by the time it is read. It is
    # absent while there is no such point: a 0 would be an age of half a century to an alert.

    @computed(
        "gauge",
        "taskpool_oldest_queued_job_timestamp_seconds",
        "Unix time at which the oldest queued job was taken in, of those in memory; absent when none is queued.",
        unit=SECOND,
    )
    def oldest_queued_wall_ns(self) -> int | None:
        """What lies beyond the backlog's horizon is in the store, and with one priority it is younger."""
        jobs = list(self._pool.jobs.values())  # copied here and not kept: there may be tens of thousands
        return min((job.record.queued_wall_ns for job in jobs if job.state is State.QUEUED), default=None)

    @computed(
        "gauge",
        "taskpool_oldest_running_job_timestamp_seconds",
        "Unix time at which the attempt that runs longest was begun; absent when none runs.",
        unit=SECOND,
    )
    def oldest_running_wall_ns(self) -> int | None:
        frames = (attempt.frame for attempt in self._running)
        return min((frame.started_wall_ns for frame in frames if frame.started), default=None)

    @computed(
        "gauge",
        "taskpool_last_job_finished_timestamp_seconds",
        "Unix time of the last outcome; absent before the first.",
        unit=SECOND,
    )
    def last_finished_wall_ns(self) -> int | None:
        return self._pool.last_finished_wall_ns or None

    @computed("gauge", "taskpool_unstored_bytes", "About how much of jobs and outcomes waits to be stored.")
    def unstored_bytes(self) -> int:
        return self._pool.commits.bytes

    # --- its workers ---

    @computed("gauge", "taskpool_workers", "Worker processes, by state.", labels={"state": WORKER_STATES})
    def workers(self) -> Mapping[str, int]:
        return Counter(worker.state.value for worker in self._workers)

    @computed("gauge", "taskpool_workers_wanted", "Workers the dealer tries to keep at work, without spares.")
    def workers_wanted(self) -> int:
        return self._supervisor.wanted

    @computed(
        "gauge",
        "taskpool_workers_out_of_service",
        "1 while workers die before they are ready, and are started one at a time and seldom.",
    )
    def out_of_service(self) -> bool:
        return self._supervisor.respawn.out_of_service

    # --- its readers ---

    @computed("gauge", "taskpool_generators", "Generators connected to the dealer.")
    def generators(self) -> int:
        return len(self._pool.clients)

    @computed("gauge", "taskpool_batches", "Batches the dealer holds in memory.")
    def batches(self) -> int:
        return len(self._batches)

    @computed("gauge", "taskpool_outcomes_unread", "Outcomes that their readers have not acknowledged.")
    def outcomes_unread(self) -> int:
        return sum(batch.unread for batch in self._batches)
