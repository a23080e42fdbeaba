"""The state that the parts of the core share: plain data, and the list of effects of the present step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from taskpool import limits
from taskpool.core.attempt import Attempt
from taskpool.core.backlog import Backlog
from taskpool.core.batch import Batch, Client
from taskpool.core.commits import Commits
from taskpool.core.counters import Counters
from taskpool.core.effects import Effect, Level, Note, Reply, Topic
from taskpool.core.job import Job
from taskpool.messages import Answer, Command, JobSpec, Refused

JobTitles = Callable[[JobSpec], str]
"""Says in one short line what a job is. Pure, and handed in, because payloads are opaque to the core."""


class PoolConfig(Struct, frozen=True):
    """What a pool is told when it starts."""

    name: str
    epoch: int
    workers: int
    spares: int = 1
    workers_max: int = limits.WORKERS_MAX  # what it can be scaled to ...
    workers_limit: str = ""  # ... and what on this machine keeps it there
    connections_max: int = limits.CONNECTIONS_MAX
    private: bool = False  # serves one batch and ends with it
    journaled: bool = False  # what is accepted survives the dealer
    verbose: bool = False  # notes for every job
    frame_bytes: int = 1024  # what the request queue of a worker takes
    drain_timeout_ns: int = limits.DRAIN_TIMEOUT_NS
    delay_ns: int = 0  # between the starts of two attempts
    pid: int = 0
    version: str = ""
    kinds: tuple[str, ...] = ()  # what every worker must be able to run
    spool: str = ""
    pending_max: int = limits.PENDING_JOBS_MAX
    seed: int = 0


class PoolState:
    """Everything the dealer knows about jobs and their readers. Workers are the supervisor's."""

    def __init__(self, config: PoolConfig, title: JobTitles) -> None:
        self.config = config
        self.title = title
        self.counters = Counters(config.kinds, journaled=config.journaled)
        self.commits = Commits()
        self.backlog = Backlog()
        self.batches: dict[str, Batch] = {}
        self.clients: dict[int, Client] = {}
        self.jobs: dict[int, Job] = {}  # by ordinal: stored, without an outcome, and in memory
        # Also what tells a stale report: an attempt that is not in here has ended, or was never made.
        self.attempts: dict[int, Attempt] = {}  # by number: sent and without a report
        # Cancelling a delayed job leaves its entry in the heap, where it is passed over when it is due.
        self.delayed: list[tuple[int, int, Job]] = []  # a heap of (due, ordinal, job); cancelled ones linger
        self.quarantine: dict[tuple[str, int], Job] = {}
        self.ordinal = 0  # of the last job accepted
        self.attempt_n = 0  # of the last attempt
        self.paused = False
        self.draining = False
        self.drain_timeout_ns = config.drain_timeout_ns
        # Journal and spool may lie on two disks, and each must have room before work goes on.
        self.full: dict[str, str] = {}  # places without room, and the text for each
        self.last_finished_wall_ns = 0
        self.payload_bytes = 0  # without a journal: of all jobs that have no outcome
        self._effects: list[Effect] = []

    # --- what follows from the rest ---

    @property
    def pending(self) -> int:
        """Jobs taken and without an outcome, wherever they are."""
        return sum(batch.open for batch in list(self.batches.values()))  # a copy: page threads ask as well

    @property
    def disk_full(self) -> str:
        """Why no more jobs are taken, and none is sent; else empty."""
        return next(iter(self.full.values()), "")

    @property
    def spool_full(self) -> bool:
        """Whether what a worker has to say may wait for room, because it is too long for its queue."""
        return "spool" in self.full

    @property
    def congested(self) -> bool:
        """Outcomes live in memory until they are stored, and without a journal until they are read: make no more of
        them while the store or a reader lags far behind."""
        if self.commits.bytes > limits.UNSTORED_BYTES_MAX:
            return True
        if self.config.journaled:
            return False
        return any(batch.congested for batch in self.batches.values() if batch.client is not None)

    def find_job(self, batch: str, seq: int) -> Job | None:
        """A job in memory or in quarantine, by its id. A scan: for a person's question only."""
        parked = self.quarantine.get((batch, seq))
        if parked is not None:
            return parked
        # No index by name: it would cost memory for each of ten thousand jobs, for a question that a person asks now
        # and then.
        return next((job for job in self.jobs.values() if job.seq == seq and job.batch.name == batch), None)

    def has_quarantined(self, batch: Batch) -> bool:
        return any(job.batch is batch for job in self.quarantine.values())

    def batch_held_by(self, client: int, name: str) -> Batch | None:
        """The batch, if this generator holds it: no other may add to it or acknowledge its outcomes."""
        batch = self.batches.get(name)
        return batch if batch is not None and batch.client is not None and batch.client.id == client else None

    # --- what changes in it ---

    def next_ordinal(self) -> int:
        self.ordinal += 1
        return self.ordinal

    def continue_after(self, ordinal: int) -> None:
        """Continue the ordinals after the last one that an earlier dealer accepted."""
        self.ordinal = ordinal

    def next_attempt(self) -> int:
        """Return a number never used before in this epoch: it tells a stale report from a current one."""
        self.attempt_n += 1
        return self.attempt_n

    def set_paused(self, paused: bool) -> None:
        self.paused = paused
        self.note(Level.INFO, Topic.PAUSED, paused=paused)

    def begin_drain(self) -> None:
        self.draining = True

    def set_drain_timeout(self, timeout_ns: int) -> None:
        self.drain_timeout_ns = timeout_ns

    def count_payload(self, size: int) -> None:
        if not self.config.journaled:
            self.payload_bytes += size

    def set_full(self, where: str, text: str) -> None:
        self.full[where] = text

    def set_roomy(self, where: str) -> None:
        self.full.pop(where, None)

    def job_finished(self, wall_ns: int) -> None:
        self.last_finished_wall_ns = wall_ns

    # --- effects ---

    def emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """What was emitted since the last call, in that order."""
        effects, self._effects = self._effects, []
        return effects

    def note(self, level: Level, topic: Topic, **fields: Any) -> None:
        """Tell a person. What happens to single jobs is told only when asked for."""
        # Asked before the note is made: most pools never want those for single jobs.
        if level > Level.DEBUG or self.config.verbose:
            self._effects.append(Note(level, topic, fields))

    def answer(self, command: Command, body: dict[str, Any], *, ok: bool) -> None:
        """Answer a command in JSON, if its client is still connected: it may have left since it asked."""
        if command.client in self.clients:
            self.emit(Reply(command.client, Answer(command.client, command.verb, ok, msgspec.json.encode(body))))

    def refuse(self, refused: Refused) -> None:
        """Tell a generator why something it sent was not taken."""
        self.counters.refusals[refused.reason] += 1
        self.emit(Reply(refused.client, refused))
        if refused.reason not in ("full", "gap"):  # those two are flow control, and the generator copes with them
            self.note(
                Level.WARNING,
                Topic.SUBMISSION_REFUSED,
                batch=refused.batch,
                reason=refused.reason,
                text=refused.text,
            )
