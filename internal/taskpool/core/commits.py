"""What must be stored before it may be told.

Rows gather during a turn and leave together as one commit; one commit is under way at a time, so that a slow
disk makes larger commits, not a longer line. What hangs on a row (`accepted`, an outcome) is told when, and
only when, the commit that carries the row has come back.
"""

from __future__ import annotations

from typing import NamedTuple

from taskpool.core.batch import Batch
from taskpool.core.effects import Commit, Effect, SendFrame
from taskpool.core.entries import Entry
from taskpool.core.job import Job
from taskpool.messages import Outcome


class JobsStored(NamedTuple):
    batch: Batch
    jobs: list[Job]


class CloseStored(NamedTuple):
    batch: Batch


class OutcomeStored(NamedTuple):
    batch: Batch
    outcome: Outcome


class FrameStored(NamedTuple):
    effect: SendFrame


Told = JobsStored | CloseStored | OutcomeStored | FrameStored


class Commits:
    """Rows on their way to the store, and what waits for them."""

    def __init__(self) -> None:
        self._rows: list[Entry] = []
        self._told: list[Told] = []
        self._under_way: list[Told] | None = None
        self._number = 0

    @property
    def blank(self) -> bool:
        """No row waits to be handed over. A read of the store sees everything handed over before it."""
        return not self._rows

    @property
    def idle(self) -> bool:
        return not self._rows and self._under_way is None

    def add(self, row: Entry, then: Told | None = None) -> None:
        """Store the row; tell `then` once it is stored."""
        self._rows.append(row)
        if then is not None:
            self._told.append(then)

    def flush(self, out: list[Effect]) -> None:
        """Hand over what gathered, unless a commit is under way."""
        if not self._rows or self._under_way is not None:
            return
        self._number += 1
        out.append(Commit(self._number, self._rows))
        self._under_way = self._told
        self._rows, self._told = [], []

    def committed(self, number: int) -> list[Told]:
        """The commit is durable: what may be told now."""  # R1, R3: nothing is told before this
        assert number == self._number, f"commit {number} answered, {self._number} asked"
        assert self._under_way is not None
        told, self._under_way = self._under_way, None
        return told
