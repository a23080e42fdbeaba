"""What the dealer asks of a store, whoever implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from taskpool.core.events import CommitFailed, Committed, Loaded, OutcomesLoaded
from taskpool.core.rows import Row

StoreEvent = Committed | CommitFailed | Loaded | OutcomesLoaded


class Store(Protocol):
    """Requests return at once; their answers come by `answers`, in the order of the requests.

    A read sees every commit requested before it.
    """

    @property
    def durable(self) -> bool:
        """Whether what was committed survives this process."""

    def commit(self, number: int, rows: Sequence[Row]) -> None: ...

    def load_jobs(self, after: tuple[int, int], limit: int, bytes_max: int) -> None:
        """Queued jobs with a key (-priority, ordinal) above `after`, in that order: up to `limit` of them, or
        as many as `bytes_max` bytes of payload allow, but at least one."""

    def load_outcomes(self, batch: str, after: int, limit: int) -> None:
        """The batch's outcomes numbered above `after`, up to `limit` of them."""

    def answers(self) -> list[StoreEvent]:
        """What was answered since the last call."""

    def fileno(self) -> int:
        """Readable when answers wait; -1 when they are there as soon as a request returns."""

    def close(self) -> None: ...
