"""Questions about batches, which may be asked as often as it takes: they change nothing.

So a dealer that restarts in between is waited for and asked again, which `remote.ask` must not do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import msgspec

from taskpool.client.connection import Connection
from taskpool.clock import Clock
from taskpool.errors import DealerUnreachable
from taskpool.messages import Outcome
from taskpool.procs.signals import Wakeup

_T = TypeVar("_T")


class BatchFacts(msgspec.Struct):
    """Where a batch stands: the answer to `batch`."""

    accepted: int
    recorded: int  # outcomes
    acknowledged: int
    open: int  # jobs without an outcome of their present run
    total: int | None = None  # None: more jobs may come
    cancelled: bool = False

    @property
    def finished(self) -> bool:
        return self.total is not None and self.accepted >= self.total and self.open == 0


class Dealer(Protocol):
    """A dealer of one's own, which is started again when it is killed."""

    @property
    def pidfd(self) -> int: ...

    def look(self) -> object | None:
        """How it ended; None while it lives."""

    def revive(self) -> bool:
        """Start it again, unless it chose to end; whether it lives."""


class BatchQueries:
    """Asks over a connection of its own, whose session collects outcomes."""

    def __init__(self, connection: Connection, clock: Clock, wakeup: Wakeup, private: Dealer | None = None) -> None:
        self._connection = connection
        self._session = connection.session
        self._clock = clock
        self._wakeup = wakeup
        self._private = private
        self.body = b"{}"  # the last answer to `batch`, as it came

    def batch(self, name: str) -> BatchFacts | None:
        """None: the dealer knows no such batch. Raises DealerUnreachable, Interrupted."""
        self._session.answers.clear()

        def found() -> tuple[bool, bytes] | None:
            return next(((each.ok, each.body) for each in self._session.answers if each.verb == "batch"), None)

        ok, self.body = self._ask("batch", name, 0, found)
        if not ok:
            return None
        try:
            return msgspec.json.decode(self.body, type=BatchFacts)
        except msgspec.MsgspecError as error:
            raise DealerUnreachable(f"pool {self._session.pool!r}: the dealer's answer is no batch: {error}") from error

    def outcomes(self, name: str, after: int, upto: int) -> Iterator[Outcome]:
        """Those recorded with numbers above `after` and up to `upto`, read page by page."""
        while after < upto:
            for outcome in (page := self._page(name, after, upto)):
                if outcome.no > upto:
                    return
                yield outcome
            if not page:
                return
            after = page[-1].no

    def _page(self, name: str, after: int, upto: int) -> list[Outcome]:
        self._session.pages.clear()

        def found() -> list[Outcome] | None:
            pages = [page.items for page in self._session.pages if page.batch == name]
            # What is delivered to whoever holds the batch comes in between; it begins beyond what is asked for.
            return next((items for items in pages if not items or after < items[0].no <= upto), None)

        return self._ask("outcomes", name, after, found)

    def rest(self, duration_ns: int) -> None:
        """Lets time pass; the connection goes on. Raises DealerUnreachable, Interrupted."""
        until = self._clock.now().mono + duration_ns
        while (now := self._clock.now().mono) < until:
            self._connection.receive(now)
            self._connection.send(now)
            self._wait(min(until, self._connection.next_deadline()) - now)

    def close(self, *, goodbye: bool = True) -> None:
        """Lets go of the queues; without a goodbye another connection of the same client goes on."""
        if goodbye and not self._session.connecting:
            self._session.leave()
            self._connection.send(self._clock.now().mono)
        self._connection.close()

    def _ask(self, verb: str, name: str, seq: int, found: Callable[[], _T | None]) -> _T:
        asked_in = 0  # which connection: in a new one the question is new
        while True:
            now = self._clock.now().mono
            self._look_after_private(now)
            self._connection.receive(now)
            if (answer := found()) is not None:
                return answer
            if not self._session.connecting and self._session.generation != asked_in:
                asked_in = self._session.generation
                self._session.command(verb, name, seq)
            self._connection.send(now)
            self._wait(self._connection.next_deadline() - now)

    def _look_after_private(self, now: int) -> None:
        private = self._private
        if private is None or private.look() is None:
            return
        if not private.revive():
            raise PrivateEnded("the private dealer ended before it was asked")
        self._session.reconnect(now)

    def _wait(self, duration_ns: int) -> None:
        private = self._private
        also = [] if private is None or private.look() is not None else [private.pidfd]
        self._connection.wait(self._wakeup, duration_ns, *also)


class PrivateEnded(DealerUnreachable):
    """The private dealer is gone, and is not started again. It has said why, or its end will be told."""
