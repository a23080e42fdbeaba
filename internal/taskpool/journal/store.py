"""What the dealer asks of a store, whoever implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from taskpool.core.entries import Entry
from taskpool.core.events import (
    BatchFound,
    CommitFailed,
    Committed,
    DigestsLoaded,
    DiskFull,
    Loaded,
    OutcomesLoaded,
    Restored,
)

StoreEvent = Committed | CommitFailed | DiskFull | Loaded | OutcomesLoaded | BatchFound | DigestsLoaded


class Store(Protocol):
    """Requests return at once; their answers come by `answers`, in the order of the requests.

    A read sees every commit requested before it, and none after.
    """

    @property
    def durable(self) -> bool:
        """Whether what was committed survives this process."""

    def restore(self) -> Restored | None:
        """What an earlier life left; None: nothing. Once, before any request. The late reports are the caller's
        to add. Does not change what it finds: the core says by rows what becomes of it."""

    def commit(self, number: int, rows: Sequence[Entry]) -> None: ...

    def load_jobs(self, after: tuple[int, int], limit: int, bytes_max: int) -> None:
        """Queued jobs with a key (-priority, ordinal) above `after`, in that order: up to `limit` of them, or
        as many as `bytes_max` bytes of payload allow, but at least one."""

    def load_outcomes(self, batch: str, after: int, limit: int, reader: int) -> None:
        """The batch's outcomes numbered above `after`: up to `limit` of them, or as many as take about
        OUTCOMES_IN_FLIGHT_BYTES_MAX, but at least one."""

    def find_batch(self, name: str) -> None: ...

    def load_digests(self, batch: str, first_seq: int, count: int) -> None: ...

    def answers(self) -> list[StoreEvent]:
        """What was answered since the last call."""

    def fileno(self) -> int:
        """Readable when answers wait; -1 when they are there as soon as a request returns."""

    def check(self) -> None:
        """Look, about once a second, whether the store is still where it was and has room. What is wrong
        comes by `answers`."""

    def close(self, *, clean: bool, chosen: bool = False) -> None:
        """`clean`: everything that was asked for is stored, and no attempt is under way. `chosen`: the dealer leaves
        for a reason of its own, so the end is not held against what is under way."""
