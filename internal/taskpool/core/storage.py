"""What the core asks of the store, each request beside the event that answers it.

A new question is a request and an answer here, their places in the two unions at the end, a line in
`journal.memory.MemoryStore` and one in `journal.statements.Statements.answer`; `reactor` hands the answer to the file
of the core that asks.
"""

from __future__ import annotations

from msgspec import Struct

from taskpool.core.entries import BatchRecord, Entry, JobCounts, JobRecord
from taskpool.messages import Outcome, Report


class StoredJob(Struct, frozen=True):
    """A job without an outcome of its present run, or one that has ended badly, as the store gives it back."""

    record: JobRecord
    counts: JobCounts
    corrupt: bool = False  # its checksum does not match: not to be run


class Commit(Struct, frozen=True):
    """Store these entries, all or none; `Committed(number)` follows."""

    number: int
    entries: list[Entry]


class Committed(Struct, frozen=True):
    number: int


class CommitFailed(Struct, frozen=True):
    """What of it is stored is unknown. Fatal."""

    text: str


class DiskFull(Struct, frozen=True):
    """One of the pool's places has no room, or has room again. What had to be stored all the same is stored.

    For the spool it comes again each second, as long as there is none.
    """

    full: bool
    text: str
    where: str = "journal"  # or "spool"


class LoadJobs(Struct, frozen=True):
    """Read queued jobs with a key (-priority, ordinal) above `after`, in that order: up to `limit` of them, or as many
    as `bytes_max` bytes of payload allow, but at least one; `Loaded` follows."""

    after: tuple[int, int]
    limit: int
    bytes_max: int


class Loaded(Struct, frozen=True):
    """Queued jobs behind the backlog's horizon, in order."""

    jobs: list[StoredJob]
    more: bool


class LoadOutcomes(Struct, frozen=True):
    """Read up to `limit` outcomes of the batch numbered above `after`, or as many as take about
    OUTCOMES_IN_FLIGHT_BYTES_MAX, but at least one; `OutcomesLoaded` follows."""

    batch: str
    after: int
    limit: int
    reader: int = 0


class OutcomesLoaded(Struct, frozen=True):
    batch: str
    items: list[Outcome]
    reader: int = 0  # the client that asked by a command; 0: the batch's own reader


class FindBatch(Struct, frozen=True):
    """Look a batch up that is not in memory; `BatchFound` follows."""

    name: str


class BatchFound(Struct, frozen=True):
    """The answer to FindBatch. None: the store knows no such batch."""

    name: str
    batch: BatchRecord | None


class LoadDigests(Struct, frozen=True):
    """Read the digests of accepted jobs; `DigestsLoaded` follows."""

    batch: str
    first_seq: int
    count: int


class DigestsLoaded(Struct, frozen=True):
    """The digests of jobs first_seq, first_seq+1, ... as accepted."""

    batch: str
    first_seq: int
    digests: list[bytes]


class LoadEnded(Struct, frozen=True):
    """Read jobs of the batch that have ended without success and have no open run; `EndedLoaded` follows.

    Up to `limit` of those numbered above `after` within one of the `ranges` (first, last), in that order, or as many as
    BACKLOG_BYTES_MAX bytes of payload allow, but at least one. `run`: only those whose last run this was; 0: whichever.
    """

    batch: str
    ranges: list[tuple[int, int]]
    run: int
    after: int
    limit: int


class EndedLoaded(Struct, frozen=True):
    """Jobs that have ended without success. None of them: there are no more."""

    jobs: list[StoredJob]


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


# A question sees every commit requested before it, and none requested after it.
Question = LoadJobs | LoadOutcomes | FindBatch | LoadDigests | LoadEnded
StoreRequest = Commit | Question
StoreEvent = Committed | CommitFailed | DiskFull | Loaded | OutcomesLoaded | BatchFound | DigestsLoaded | EndedLoaded
