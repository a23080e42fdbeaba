"""What the dealer asks of a store, whichever implements it: the journal (`sqlite`) or plain memory (`memory`)."""

from __future__ import annotations

from typing import Protocol

from taskpool.core.storage import Restored, StoreEvent, StoreRequest


class Store(Protocol):
    """Takes requests and answers each, in the order of the requests. `core.storage` says what answers what."""

    @property
    def durable(self) -> bool:
        """Whether what was committed survives this process."""

    def restore(self) -> Restored | None:
        """What an earlier life left; None: nothing. Once, before any request. The late reports are the caller's to
        add. Does not change what it finds: the core says by entries what becomes of it."""

    def request(self, request: StoreRequest) -> None:
        """Return at once; the answer comes by `answers`. A read sees every commit requested before it, and none
        after."""

    def answers(self) -> list[StoreEvent]:
        """Return what was answered since the last call."""

    def fileno(self) -> int:
        """Readable when answers wait; -1 when they are there as soon as a request returns."""

    def check(self) -> None:
        """Look, about once a second, whether the store is still where it was and has room. What is wrong comes by
        `answers`."""

    def close(self, *, clean: bool, chosen: bool = False) -> None:
        """`clean`: everything that was asked for is stored, and no attempt is under way. `chosen`: the dealer exits
        for a reason of its own, so the end is not held against what is under way."""
