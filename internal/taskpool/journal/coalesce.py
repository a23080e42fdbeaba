"""What a run of rows comes to, so that each job is written once however often it changed hands.

A short job is sent and recorded within one commit; three statements for it become two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from taskpool.core.entries import (
    Acknowledged,
    AttemptMade,
    BatchCancelled,
    BatchClosed,
    BatchForgotten,
    BatchOpened,
    Entry,
    JobAccepted,
    JobReturned,
    OutcomeRecorded,
    QuarantineDropped,
)
from taskpool.errors import JournalError
from taskpool.messages import State


class BatchChange:
    """What becomes of a batch's counts."""

    __slots__ = ("accepted", "acknowledged", "cancelled", "open", "quarantined", "recorded", "total")

    def __init__(self) -> None:
        self.accepted = 0
        self.recorded = 0
        self.acknowledged = 0
        self.total: int | None = None
        self.open = 0  # more, or fewer
        self.quarantined = 0  # more, or fewer
        self.cancelled = False

    @property
    def only_marks(self) -> bool:
        """Nothing in it is lost with a batch that retention has let go of."""
        more = self.accepted or self.recorded or self.open or self.quarantined
        return not more and self.total is None


class Changes:
    """Rows without a BatchForgotten among them; that one ends a run and stands in `forgotten`."""

    def __init__(self) -> None:
        self.opened: list[BatchOpened] = []
        self.accepted: list[JobAccepted] = []
        self.outcomes: list[OutcomeRecorded] = []
        self.batches: dict[str, BatchChange] = {}
        self.last: dict[int, AttemptMade | JobReturned | OutcomeRecorded | QuarantineDropped] = {}  # of each job
        self.returned: dict[int, JobReturned] = {}  # the last of each job, unless its outcome followed
        self.dropped: list[int] = []
        self.leaving_quarantine: list[tuple[int, int]] = []  # (1 if it is open again, job) if it was there before
        self.forgotten: str | None = None

    def batch(self, name: str) -> BatchChange:
        change = self.batches.get(name)
        if change is None:
            change = self.batches[name] = BatchChange()
        return change

    def accept(self, row: JobAccepted) -> None:
        self.accepted.append(row)
        change = self.batch(row.batch)
        change.accepted = max(change.accepted, row.seq)
        change.open += 1

    def give_back(self, row: JobReturned) -> None:
        before = self.last.get(row.ordinal)
        if isinstance(before, OutcomeRecorded):  # a person wants it to run again
            if before.outcome.state is not State.QUARANTINED:
                raise JournalError(f"job {before.batch}/{before.outcome.seq} came back after its outcome")
            change = self.batch(before.batch)
            change.open += 1
            change.quarantined -= 1
        elif before is None and row.run > 1:
            self.leaving_quarantine.append((1, row.ordinal))
        self.last[row.ordinal] = self.returned[row.ordinal] = row

    def drop(self, row: QuarantineDropped) -> None:
        before = self.last.get(row.ordinal)
        if isinstance(before, OutcomeRecorded):
            self.batch(before.batch).quarantined -= 1
        else:
            self.leaving_quarantine.append((0, row.ordinal))
        self.last[row.ordinal] = row
        self.dropped.append(row.ordinal)

    def record(self, row: OutcomeRecorded) -> None:
        if isinstance(self.last.get(row.ordinal), OutcomeRecorded):
            raise JournalError(f"job {row.batch}/{row.outcome.seq} has a second outcome of one run")
        self.outcomes.append(row)
        self.last[row.ordinal] = row
        self.returned.pop(row.ordinal, None)
        change = self.batch(row.batch)
        change.recorded = max(change.recorded, row.outcome.no)
        change.open -= 1
        if row.outcome.state is State.QUARANTINED:
            change.quarantined += 1


def fold(rows: Iterable[Entry]) -> Iterator[Changes]:
    """The rows as runs to be stored one after the other."""
    changes = Changes()
    for row in rows:
        if isinstance(row, OutcomeRecorded):
            changes.record(row)
        elif isinstance(row, AttemptMade):
            changes.last[row.ordinal] = row
        elif isinstance(row, JobAccepted):
            changes.accept(row)
        elif isinstance(row, Acknowledged):
            change = changes.batch(row.batch)
            change.acknowledged = max(change.acknowledged, row.upto)
        elif isinstance(row, JobReturned):
            changes.give_back(row)
        elif isinstance(row, BatchOpened):
            changes.opened.append(row)
            changes.batch(row.batch)
        elif isinstance(row, BatchClosed):
            changes.batch(row.batch).total = row.total
        elif isinstance(row, BatchCancelled):
            changes.batch(row.batch).cancelled = True
        elif isinstance(row, QuarantineDropped):
            changes.drop(row)
        elif isinstance(row, BatchForgotten):
            changes.forgotten = row.batch
            yield changes
            changes = Changes()
    yield changes
