"""New runs that were asked for: which of them have no outcome yet."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from taskpool.client.queries import BatchStatus
from taskpool.client.session import Session
from taskpool.clock import MILLISECOND
from taskpool.errors import counted
from taskpool.generator.output.console import Console
from taskpool.generator.selection import requests_for
from taskpool.messages import Answer, Outcome

_LOOK_NS = 100 * MILLISECOND  # between two looks at a batch that may have ended


class _Given(msgspec.Struct):
    """What is used of the answer to `rerun`."""

    requeued: int = 0


class NewRuns:
    """Asks a pool for new runs, once in each connection, and takes note of their outcomes.

    A dealer that was killed may have given runs and not said so, and of some jobs it may not know any more what they
    are. Where its answers do not account for all, the batch has ended when none of its jobs is open.
    """

    def __init__(self, chosen: dict[int, int], session: Session, console: Console) -> None:
        """`chosen`: for each job the run that has ended. Without any, an earlier run of this program has asked, and
        which jobs are open again is not known."""
        self._awaited = dict(chosen)
        self._unknown = not chosen
        self._requests = requests_for(chosen)
        self._session = session
        self._console = console
        self._asked_in = 0  # the connection
        self._unanswered = 0
        self._given = 0
        self._look_at: int | None = None  # when the batch is asked about

    @property
    def complete(self) -> bool:
        return not self._awaited and not self._unknown

    @property
    def next_look(self) -> int | None:
        """When `look` has something to do; None: when something else happens."""
        return self._look_at

    def heard(self, outcomes: Iterable[Outcome]) -> None:
        """Take note of the outcomes of new runs."""
        for outcome in outcomes:
            if outcome.run > self._awaited.get(outcome.seq, outcome.run):
                del self._awaited[outcome.seq]

    def ask(self, now: int) -> None:
        """Ask, in a new connection."""
        session = self._session
        if session.welcome is None or self._asked_in == session.generation:
            return
        again = self._asked_in > 0
        self._asked_in = session.generation
        self._unanswered, self._given = len(self._requests), 0
        self._look_at = None
        session.end_query()
        for request in self._requests:
            session.command("rerun", session.batch, 0, request.run, request.ranges)
        if again or self._unknown:
            self._look_at = now  # answers say only what is given now

    def look(self, now: int) -> None:
        """Ask about the batch where the answers do not account for all."""
        if self._look_at is not None and now >= self._look_at and not self._unanswered:
            self._look_at = None
            self._session.query("batch", self._session.batch)

    def answered(self, answer: Answer, now: int) -> None:
        """Take note of an answer to `rerun` or `batch`."""
        if answer.verb == "rerun":
            self._unanswered -= 1
            self._given += msgspec.json.decode(answer.body, type=_Given).requeued
            if not self._unanswered and self._given < len(self._awaited):
                self._look_at = now
        elif answer.verb == "batch" and answer.ok:
            self._session.end_query()
            status = msgspec.json.decode(answer.body, type=BatchStatus)
            if status.open or self._session.deliveries.cursor < status.recorded:
                self._look_at = now + _LOOK_NS
            else:
                self._end()

    def _end(self) -> None:
        """Await no more: no job of the batch is open."""
        self._unknown = False
        if self._awaited:
            self._console.warning(
                f"{counted(len(self._awaited), 'job')} did not run again: what they were is not kept any more (first: "
                f"job {min(self._awaited)})"
            )
            self._awaited.clear()
