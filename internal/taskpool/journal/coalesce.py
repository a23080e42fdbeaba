"""What a run of entries comes to, so that each job is written once however often it changed hands.

A short job is sent and recorded within one commit; three statements for it become two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

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
    """What becomes of a batch's counts. Levels only rise, whatever order entries come in; `open` and `quarantined` are
    how many more there are, or fewer."""

    __slots__ = ("accepted", "acknowledged", "cancelled", "open", "quarantined", "recorded", "total")

    def __init__(self) -> None:
        self.accepted = 0
        self.recorded = 0
        self.acknowledged = 0
        self.total: int | None = None
        self.open = 0
        self.quarantined = 0
        self.cancelled = False

    @property
    def only_marks(self) -> bool:
        """Nothing in it is lost with a batch that retention has let go of."""
        more = self.accepted or self.recorded or self.open or self.quarantined
        return not more and self.total is None

    def accept(self, seq: int) -> None:
        self.accepted = max(self.accepted, seq)
        self.open += 1

    def record(self, no: int, *, quarantined: bool) -> None:
        self.recorded = max(self.recorded, no)
        self.open -= 1
        self.quarantined += quarantined

    def acknowledge(self, upto: int) -> None:
        self.acknowledged = max(self.acknowledged, upto)

    def leave_quarantine(self) -> None:
        self.quarantined -= 1

    def reopen(self, *, quarantined: bool) -> None:
        self.quarantined -= quarantined
        self.open += 1

    def close(self, total: int) -> None:
        self.total = total

    def cancel(self) -> None:
        self.cancelled = True


class Changes:
    """Entries without a BatchForgotten among them; that one ends a run and stands in `forgotten`."""

    def __init__(self) -> None:
        self.opened: list[BatchOpened] = []
        self.accepted: list[JobAccepted] = []
        self.outcomes: list[OutcomeRecorded] = []
        self.batches: dict[str, BatchChange] = {}
        self.last: dict[int, AttemptMade | JobReturned | OutcomeRecorded | QuarantineDropped] = {}  # of each job
        self.returned: dict[int, JobReturned] = {}  # the last of each job, unless its outcome followed
        self.dropped: list[int] = []
        self.again: list[tuple[int, int]] = []  # (job, its new run or 0: none) if it had ended before these entries
        self.forgotten: str | None = None

    def add(self, entry: Entry) -> None:
        """Raises JournalError for an entry that contradicts those before it."""
        _ADD[type(entry)](self, entry)

    def end_with(self, forgotten: str) -> None:
        self.forgotten = forgotten

    def _batch(self, name: str) -> BatchChange:
        change = self.batches.get(name)
        if change is None:
            change = self.batches[name] = BatchChange()
        return change

    def _open(self, entry: BatchOpened) -> None:
        self.opened.append(entry)
        self._batch(entry.batch)

    def _accept(self, entry: JobAccepted) -> None:
        self.accepted.append(entry)
        self._batch(entry.job.batch).accept(entry.job.seq)

    def _attempt(self, entry: AttemptMade) -> None:
        self.last[entry.ordinal] = entry

    def _return(self, entry: JobReturned) -> None:
        before = self.last.get(entry.ordinal)
        if isinstance(before, OutcomeRecorded):  # a person wants it to run again
            # A new run is the only way back, and none for what has succeeded.
            if before.outcome.state is State.SUCCEEDED or entry.counts.run <= before.outcome.run:
                raise JournalError(f"job {before.batch}/{before.outcome.seq} came back after its outcome")
            self._batch(before.batch).reopen(quarantined=before.outcome.state is State.QUARANTINED)
        # Nothing in this run of entries ended it, so it may have ended in the tables.
        elif before is None and entry.counts.run > 1:
            self.again.append((entry.ordinal, entry.counts.run))
        self.last[entry.ordinal] = self.returned[entry.ordinal] = entry

    def _drop(self, entry: QuarantineDropped) -> None:
        before = self.last.get(entry.ordinal)
        if isinstance(before, OutcomeRecorded):
            self._batch(before.batch).leave_quarantine()
        else:
            self.again.append((entry.ordinal, 0))
        self.last[entry.ordinal] = entry
        self.dropped.append(entry.ordinal)

    def _record(self, entry: OutcomeRecorded) -> None:
        if isinstance(self.last.get(entry.ordinal), OutcomeRecorded):
            raise JournalError(f"job {entry.batch}/{entry.outcome.seq} has a second outcome of one run")
        self.outcomes.append(entry)
        self.last[entry.ordinal] = entry
        # The job's end says all there is to say of its run; the counts it came back with need not be written.
        self.returned.pop(entry.ordinal, None)
        quarantined = entry.outcome.state is State.QUARANTINED
        self._batch(entry.batch).record(entry.outcome.no, quarantined=quarantined)


# Not of each object, which would then refer to itself: what is to go with it, megabytes, would wait for the collector.
_ADD: dict[type, Callable[[Changes, Any], None]] = {
    BatchOpened: Changes._open,
    BatchClosed: lambda changes, entry: changes._batch(entry.batch).close(entry.total),
    BatchCancelled: lambda changes, entry: changes._batch(entry.batch).cancel(),
    JobAccepted: Changes._accept,
    AttemptMade: Changes._attempt,
    JobReturned: Changes._return,
    QuarantineDropped: Changes._drop,
    OutcomeRecorded: Changes._record,
    Acknowledged: lambda changes, entry: changes._batch(entry.batch).acknowledge(entry.upto),
}


def coalesce(entries: Iterable[Entry]) -> Iterator[Changes]:
    """The entries as runs to be stored one after the other. Raises JournalError for entries that contradict another."""
    changes = Changes()
    for entry in entries:
        if isinstance(entry, BatchForgotten):
            # The name is free for a new batch, whose rows must not be mixed with those of the old one.
            changes.end_with(entry.batch)
            yield changes
            changes = Changes()
        else:
            changes.add(entry)
    yield changes
