"""The state that the parts of the core share: plain data, and the list of effects of the present step."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from taskpool import limits
from taskpool.core.backlog import Backlog
from taskpool.core.batch import Batch, Client
from taskpool.core.commits import Commits
from taskpool.core.counters import Counters
from taskpool.core.effects import Effect, Level, Note, Topic
from taskpool.core.job import Job
from taskpool.core.worker import Attempt


class PoolConfig(Struct, frozen=True):
    """What a pool is told when it starts."""

    name: str
    epoch: int
    workers: int
    spares: int = 1
    workers_max: int = limits.WORKERS_MAX  # what it can be scaled to ...
    workers_limit: str = ""  # ... and what on this machine keeps it there
    private: bool = False  # serves one batch and ends with it
    journaled: bool = False  # what is accepted survives the dealer
    verbose: bool = False  # notes for every job
    frame_bytes: int = 1024  # what the request queue of a worker takes
    drain_timeout_ns: int = limits.DRAIN_TIMEOUT_NS
    pid: int = 0
    version: str = ""
    kinds: tuple[str, ...] = ()  # what every worker must be able to run
    spool: str = ""
    pending_max: int = limits.PENDING_JOBS_MAX
    seed: int = 0


class PoolState:
    """Everything the dealer knows about jobs and their readers. Workers are the supervisor's."""

    def __init__(self, config: PoolConfig) -> None:
        self.config = config
        self.out: list[Effect] = []
        self.counters = Counters(config.kinds, journaled=config.journaled)
        self.commits = Commits()
        self.backlog = Backlog()
        self.batches: dict[str, Batch] = {}
        self.clients: dict[int, Client] = {}
        self.jobs: dict[int, Job] = {}  # by ordinal: stored, without an outcome, and in memory
        self.attempts: dict[int, Attempt] = {}  # by number: sent and without a report
        self.delayed: list[tuple[int, int, Job]] = []  # a heap of (due, ordinal, job); cancelled ones linger
        self.quarantine: dict[tuple[str, int], Job] = {}
        self.ordinal = 0  # of the last job accepted
        self.attempt_n = 0  # of the last attempt
        self.pending = 0  # jobs taken and without an outcome, wherever they are
        self.paused = False
        self.draining = False
        self.drain_timeout_ns = config.drain_timeout_ns
        self.full: dict[str, str] = {}  # places without room, and what to say of each
        self.last_finished_wall_ns = 0

    @property
    def disk_full(self) -> str:
        """Why no more jobs are taken, and none is sent; else empty."""
        return next(iter(self.full.values()), "")

    def emit(self, effect: Effect) -> None:
        self.out.append(effect)

    def note(self, level: Level, topic: Topic, **fields: Any) -> None:
        """Say something for a person. What happens to single jobs is said only when asked for."""
        if level > Level.DEBUG or self.config.verbose:
            self.out.append(Note(level, topic, fields))

    def congested(self) -> bool:
        """Without a journal, outcomes live in memory: stop making more while a reader lags far behind."""
        if self.config.journaled:
            return False
        return any(
            batch.unread > limits.OUTCOMES_UNREAD_MAX or batch.unread_bytes_guess > limits.OUTCOMES_UNREAD_BYTES_MAX
            for batch in self.batches.values()
            if batch.client is not None
        )

    def find_job(self, batch: str, seq: int) -> Job | None:
        """A job in memory or in quarantine, by its id. A scan: for a person's question only."""
        parked = self.quarantine.get((batch, seq))
        if parked is not None:
            return parked
        return next((job for job in self.jobs.values() if job.seq == seq and job.batch.name == batch), None)
