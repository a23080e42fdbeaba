"""What must be stored before it may be told.

Entries gather during a turn and leave together as one commit; one commit is under way at a time, so that a slow disk
makes larger commits, not a longer line. What hangs on an entry (`accepted`, an outcome) follows when, and only when,
the commit that carries the entry has come back.
"""

from __future__ import annotations

from typing import NamedTuple

from taskpool.core.batch import Batch, outcome_bytes, tries_bytes
from taskpool.core.effects import Effect, SendFrame
from taskpool.core.entries import Entry, JobAccepted, JobReturned, OutcomeRecorded
from taskpool.core.job import Job
from taskpool.core.storage import Commit
from taskpool.messages import Outcome


class JobsStored(NamedTuple):
    batch: Batch
    jobs: list[Job]


class RunStored(NamedTuple):
    job: Job  # that has ended, and begins anew


class CloseStored(NamedTuple):
    batch: Batch


class OutcomeStored(NamedTuple):
    batch: Batch
    outcome: Outcome


class FrameStored(NamedTuple):
    effect: SendFrame


Stored = JobsStored | RunStored | CloseStored | OutcomeStored | FrameStored


class Commits:
    """Entries on their way to the store, and what waits for them."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._waiting: list[Stored] = []  # for the commit that gathers
        self._under_way: list[Stored] | None = None  # what waits for the commit that the store has
        self._number = 0
        self._bytes = 0  # of the entries that gather
        self._bytes_under_way = 0

    @property
    def bytes(self) -> int:
        """About how much memory all that is not stored yet takes."""
        return self._bytes + self._bytes_under_way

    @property
    def handed_over(self) -> bool:
        """No entry waits to be handed over. A read of the store sees everything handed over before it, and only
        that: one that runs ahead of an entry would miss it."""
        return not self._entries

    @property
    def idle(self) -> bool:
        return not self._entries and self._under_way is None

    def add(self, entry: Entry, then: Stored | None = None) -> None:
        """Store the entry; `committed` returns `then` once it is stored."""
        self._entries.append(entry)
        self._bytes += _entry_bytes(entry)
        if then is not None:
            self._waiting.append(then)

    def flush(self) -> Effect | None:
        """Hand over what gathered, unless a commit is under way."""
        # One at a time: what gathers meanwhile shares the next transaction, and its one sync.
        if not self._entries or self._under_way is not None:
            return None
        self._number += 1
        commit = Commit(self._number, self._entries)
        self._under_way = self._waiting
        self._entries, self._waiting = [], []
        self._bytes_under_way, self._bytes = self._bytes, 0
        return commit

    def committed(self, number: int) -> list[Stored]:
        """The commit is durable: what may follow now."""  # R1, R3 (docs/protocol.md, 11): nothing follows earlier
        assert number == self._number, f"commit {number} answered, {self._number} asked"
        assert self._under_way is not None
        stored, self._under_way = self._under_way, None
        self._bytes_under_way = 0
        return stored


def _entry_bytes(entry: Entry) -> int:
    if isinstance(entry, OutcomeRecorded):
        return outcome_bytes(entry.outcome)
    if isinstance(entry, JobReturned):
        return 256 + tries_bytes(entry.counts.told)
    return 256 + (len(entry.job.spec.payload) if isinstance(entry, JobAccepted) else 0)
