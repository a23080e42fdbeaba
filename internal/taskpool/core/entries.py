"""What the store keeps: the records of jobs and batches, and the entries that change them.

A record is declared once, here. A job in memory holds it, an entry carries it, and the store gives it back; nothing
copies it field by field. One commit holds any number of entries and is atomic.
"""

from __future__ import annotations

from msgspec import Struct

from taskpool.certificate import remembered
from taskpool.messages import JobSpec, Limits, Outcome, Try


class Traits(Struct, frozen=True):
    """What the core must know of a job's kind and payload, and cannot read itself: payloads are opaque to it."""

    in_process: bool  # runs inside the worker process, so its crash is the worker's death
    affinity: str  # "" or the user code it loads: a worker that loaded some serves no other


class JobRecord(Struct, frozen=True):
    """A job as it was accepted. Nothing in it ever changes."""

    ordinal: int  # order of acceptance over all batches
    batch: str
    seq: int
    priority: int  # of the job's limits, or of its batch's: the store sorts by it without reading either
    spec: JobSpec
    traits: Traits
    queued_wall_ns: int


class JobCounts(Struct):
    """How often a job's present run was tried, and how the tries ended. Only these methods change it."""

    run: int = 1
    tries: int = 0
    failures: int = 0  # tries that failed or timed out: what --retries is spent on
    crashes: int = 0
    unclean_exits: int = 0  # how many dealers in a row ended without a clean shutdown while it ran
    told: tuple[Try, ...] = ()  # the last of the tries that failed, timed out or crashed

    def begin_try(self) -> None:
        self.tries += 1

    def take_back_try(self) -> None:
        """The try did not happen: its number goes to the next one, so that what `--chaos` decides by it stays."""
        self.tries -= 1

    def add_failure(self, tried: Try) -> None:
        self.failures += 1
        self.told = remembered(self.told, tried)

    def add_crash(self, tried: Try) -> None:
        self.crashes += 1
        self.told = remembered(self.told, tried)

    def add_unclean_exit(self) -> None:
        self.unclean_exits += 1

    def clear_unclean_exits(self) -> None:
        """An attempt ended under a dealer that lives, so the job does not bring dealers down each time."""
        self.unclean_exits = 0

    def begin_run(self) -> None:
        """Start again at zero; the history stays in the outcomes."""
        self.run += 1
        self.tries = self.failures = self.crashes = self.unclean_exits = 0
        self.told = ()

    def copy(self) -> JobCounts:
        """The counts as they are now, for an entry that is stored later than it is made."""
        return JobCounts(self.run, self.tries, self.failures, self.crashes, self.unclean_exits, self.told)


class BatchRecord(Struct):
    """What the store knows of a batch: all of it is durable."""

    name: str
    limits: Limits
    accepted: int = 0
    total: int | None = None  # None: more jobs may come
    recorded: int = 0  # number of the last outcome
    acknowledged: int = 0  # number of the last outcome that a reader has said it holds
    open: int = 0  # jobs without an outcome of their present run
    cancelled: bool = False


class BatchOpened(Struct, frozen=True):
    batch: str
    limits: Limits


class BatchClosed(Struct, frozen=True):
    batch: str
    total: int


class BatchForgotten(Struct, frozen=True):
    """Every outcome was acknowledged and no generator holds the batch any more."""

    batch: str


class BatchCancelled(Struct, frozen=True):
    """Nothing of the batch starts any more, in this life of the dealer or a later one."""

    batch: str


class JobAccepted(Struct, frozen=True):
    job: JobRecord
    digest: bytes  # of what the job does; kept as long as the batch, to tell whether a resubmitted job is the same


class AttemptMade(Struct, frozen=True):
    n: int
    ordinal: int
    try_: int


class JobReturned(Struct, frozen=True):
    """An attempt ended and the job goes on: back in the queue with these counts."""

    ordinal: int
    counts: JobCounts


class QuarantineDropped(Struct, frozen=True):
    """A person gave the job up: it will not be asked for again."""

    ordinal: int


class OutcomeRecorded(Struct, frozen=True):
    ordinal: int
    batch: str
    outcome: Outcome


class Acknowledged(Struct, frozen=True):
    batch: str
    upto: int


Entry = (
    BatchOpened
    | BatchClosed
    | BatchCancelled
    | BatchForgotten
    | JobAccepted
    | AttemptMade
    | JobReturned
    | QuarantineDropped
    | OutcomeRecorded
    | Acknowledged
)
