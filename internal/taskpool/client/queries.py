"""Questions about batches, which may be asked as often as it takes: they change nothing.

So a dealer that restarts in between is waited for and asked again. A command that changes something must not be: a
`scale +1` that was carried out and not answered would count twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from taskpool.client.connection import NO_HANDLER, Connection, TurnHandler
from taskpool.clock import Clock
from taskpool.errors import DealerUnreachable
from taskpool.messages import Answer, Outcome


class BatchStatus(msgspec.Struct):
    """Where a batch stands: the answer to `batch`."""

    accepted: int
    recorded: int  # outcomes
    acknowledged: int
    open: int  # jobs without an outcome of their present run
    total: int | None = None  # None: more jobs may come
    cancelled: bool = False

    @property
    def finished(self) -> bool:
        """Whether no job of it can get another outcome by itself."""
        return self.total is not None and self.accepted >= self.total and self.open == 0


class _Batch(msgspec.Struct):
    batch: str


class _Status(msgspec.Struct):
    """What is used of the answer to `status`."""

    batches: list[_Batch] = []


class BatchQueries:
    """Asks over a connection of its own, whose session collects pages."""

    def __init__(self, connection: Connection, clock: Clock, handler: TurnHandler = NO_HANDLER) -> None:
        self._connection = connection
        self._session = connection.session
        self._clock = clock
        self._handler = handler
        self.body = b"{}"  # the last answer to `batch`, as it came

    @property
    def pool(self) -> str:
        """The pool that is asked."""
        return self._session.pool

    def batch(self, name: str) -> BatchStatus | None:
        """Return where the batch stands; None when the dealer knows no such batch.

        Raises DealerUnreachable, and what the handler raises.
        """
        self._session.query("batch", name)
        answers = self._session.answers
        self._run_until_answered(lambda: any(each.verb == "batch" for each in answers))
        answer = next(each for each in answers if each.verb == "batch")
        self.body = answer.body
        if not answer.ok:
            return None
        try:
            return msgspec.json.decode(self.body, type=BatchStatus)
        except msgspec.MsgspecError as error:
            raise DealerUnreachable(f"pool {self._session.pool!r}: the dealer's answer is no batch: {error}") from error

    def job(self, name: str, seq: int) -> Answer:
        """Return the dealer's answer to `show`. Raises DealerUnreachable, and what the handler raises."""
        self._session.query("show", name, seq)
        answers = self._session.answers
        self._run_until_answered(lambda: any(each.verb == "show" for each in answers))
        return next(each for each in answers if each.verb == "show")

    def status(self) -> bytes:
        """Return the dealer's answer to `status`: JSON. Raises DealerUnreachable, and what the handler raises."""
        self._session.query("status")
        answers = self._session.answers
        self._run_until_answered(lambda: any(each.verb == "status" for each in answers))
        return next(each.body for each in answers if each.verb == "status")

    def batches(self) -> list[str]:
        """Return the names of the batches that the dealer has in memory. Raises DealerUnreachable."""
        body = self.status()
        try:
            return [each.batch for each in msgspec.json.decode(body, type=_Status).batches]
        except msgspec.MsgspecError:
            return []

    def outcomes(self, name: str, after: int, upto: int) -> Iterator[Outcome]:
        """Yield those recorded with numbers above `after` and up to `upto`, read page by page.

        Raises DealerUnreachable, and what the handler raises; what was yielded until then stands.
        """
        while after < upto:
            for outcome in (page := self._page(name, after, upto)):
                if outcome.no > upto:
                    return
                yield outcome
            if not page:
                return
            after = page[-1].no

    def command(self, request: tuple[str, str | None, int], deadline: int) -> Answer | None:
        """Ask once for something to be done: a verb, a batch and a job. None: no answer came in time.

        A new connection ends the wait too: what the dealer did before it went is not known. Raises DealerUnreachable.
        """
        session = self._session
        verb, batch, seq = request
        session.answers.clear()
        session.command(verb, batch, seq)

        def answer() -> Answer | None:
            return next((each for each in session.answers if each.verb == verb), None)

        self._connection.run_until(lambda: answer() is not None or session.connecting, self._handler, deadline)
        return answer()

    def sleep(self, duration_ns: int) -> None:
        """Let time pass while the connection stays alive. Raises DealerUnreachable, and what the handler raises."""
        self._connection.run_until(lambda: False, self._handler, self._clock.now().mono + duration_ns)

    def close(self, *, goodbye: bool = True) -> None:
        """Close the queues; without a goodbye another connection of the same client goes on."""
        if goodbye:
            self._connection.leave()
        self._connection.close()

    def _page(self, name: str, after: int, upto: int) -> list[Outcome]:
        """Return the next page; an empty one when there are no more."""
        self._session.query("outcomes", name, after)

        def found() -> list[Outcome] | None:
            pages = [page.items for page in self._session.pages if page.batch == name]
            # New outcomes are delivered to the client that holds the batch at any time, in the same kind of message.
            # They begin beyond what is asked for.
            return next((items for items in pages if not items or after < items[0].no <= upto), None)

        self._run_until_answered(lambda: found() is not None)
        return found() or []

    def _run_until_answered(self, condition: Callable[[], bool]) -> None:
        """Serve the connection until the answer is there. Raises DealerUnreachable, and what the handler raises."""
        self._connection.run_until(condition, self._handler)
        self._session.end_query()
