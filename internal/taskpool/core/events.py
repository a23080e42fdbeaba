"""What happened. Messages of generators and workers are events as they are; these are the others."""

from __future__ import annotations

from msgspec import Struct

from taskpool.core.entries import BatchRecord, JobCounts, JobRecord, Traits
from taskpool.messages import (
    Ack,
    Bye,
    Close,
    Command,
    Hello,
    Incarnation,
    JobSpec,
    Outcome,
    Ping,
    Progress,
    Ready,
    Report,
)


class CheckedJob(Struct, frozen=True):
    """A submitted job whose payload its kind has accepted."""

    spec: JobSpec
    traits: Traits
    digest: bytes  # of what the job does: kind and payload, not limits, label or priority


class Submitted(Struct, frozen=True):
    """A Submit that passed the input checks."""

    client: int
    batch: str
    first_seq: int
    jobs: list[CheckedJob]


class Spawned(Struct, frozen=True):
    incarnation: Incarnation
    pid: int


class SpawnFailed(Struct, frozen=True):
    incarnation: Incarnation
    text: str


class Exited(Struct, frozen=True):
    """A worker is gone, its reports were drained and none of its descendants is alive."""

    incarnation: Incarnation
    status: int | None
    signal: int | None
    seen_mono_ns: int  # when its death was first seen; recovery is measured from here
    cpu_ns: int = 0
    max_rss_bytes: int = 0
    stderr_tail: str | None = None


class TakenBack(Struct, frozen=True):
    """Frames a worker had not received, by the number of their first attempt."""

    incarnation: Incarnation
    # Garbage that others wrote into the queue is left out; a frame is known by its first attempt.
    first_ns: tuple[int, ...]


class StoredJob(Struct, frozen=True):
    """A job without an outcome of its present run, as the store gives it back."""

    record: JobRecord
    counts: JobCounts
    corrupt: bool = False  # its checksum does not match: not to be run


class InFlight(Struct, frozen=True):
    """An attempt that had no report when its dealer ended."""

    epoch: int
    n: int
    job: StoredJob


class Restored(Struct, frozen=True):
    """What an earlier life of the dealer left in the store. The first event of a life, if any."""

    unclean_exit: bool  # that life did not end by its own choice
    ordinal: int  # of the last job accepted
    batches: list[BatchRecord]  # with open jobs, or with jobs in quarantine
    in_flight: list[InFlight]
    quarantined: list[StoredJob]
    late: list[tuple[int, Report]]  # (epoch, report) found in the events queue


class Committed(Struct, frozen=True):
    number: int


class CommitFailed(Struct, frozen=True):
    """What of it is stored is unknown. Fatal."""

    number: int
    text: str


class DiskFull(Struct, frozen=True):
    """One of the pool's places has no room, or has room again. What had to be stored all the same is stored."""

    full: bool
    text: str
    where: str = "journal"  # or "spool"


class Loaded(Struct, frozen=True):
    """Queued jobs behind the backlog's horizon, in order."""

    jobs: list[StoredJob]
    more: bool


class OutcomesLoaded(Struct, frozen=True):
    batch: str
    items: list[Outcome]
    reader: int = 0  # the client that asked by a command; 0: the batch's own reader


class BatchFound(Struct, frozen=True):
    """The answer to FindBatch. None: the store knows no such batch."""

    name: str
    batch: BatchRecord | None


class DigestsLoaded(Struct, frozen=True):
    """The digests of jobs first_seq, first_seq+1, ... as accepted."""

    batch: str
    first_seq: int
    digests: list[bytes]


class ClientLost(Struct, frozen=True):
    """A generator's reply queue cannot be written any more."""

    client: int


class Signalled(Struct, frozen=True):
    """A signal for the dealer, by its name without SIG."""

    name: str


class Reconfigured(Struct, frozen=True):
    """What of the configuration can change while the pool runs, read again."""

    workers: int
    drain_timeout_ns: int


class LifelineClosed(Struct, frozen=True):
    """The generator that started this private dealer is gone."""


class Stalled(Struct, frozen=True):
    """The loop did not turn for this long: no silence in that time counts."""

    gap_ns: int


class Tick(Struct, frozen=True):
    """The end of a turn: dispatch, look at deadlines, hand over what is to be stored."""


# What a store answers; `core.effects` says which request each belongs to.
StoreEvent = Committed | CommitFailed | DiskFull | Loaded | OutcomesLoaded | BatchFound | DigestsLoaded

Event = (
    Hello
    | Submitted
    | Close
    | Ack
    | Ping
    | Bye
    | Command
    | Ready
    | Progress
    | Spawned
    | SpawnFailed
    | Exited
    | TakenBack
    | StoreEvent
    | Restored
    | ClientLost
    | Signalled
    | Reconfigured
    | LifelineClosed
    | Stalled
    | Tick
)
