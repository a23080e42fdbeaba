"""What others hold that a connection needs: bytes for queues, a name, one of the dealer's connections, its batch.

It is waited for, told once, and at last an error. Decisions only, as in `session`.
"""

from __future__ import annotations

from taskpool import limits
from taskpool.clock import MILLISECOND, SECOND
from taskpool.durations import human
from taskpool.errors import TaskpoolError, UsageError

RETRY_NS = 500 * MILLISECOND  # a hundred generators that wait their turn cost the dealer little
HOLDER_RETRY_NS = 1_000 * MILLISECOND
# The dealer takes a holder that is silent for REPLY_OVERDUE_NS for dead; twice that leaves room for a loaded machine.
HOLDER_NS_MAX = 2 * limits.REPLY_OVERDUE_NS

GONE_TOLD_NS = 1 * SECOND  # a dealer that is only started again is back by then


class Turn:
    """Whether it is a connection's turn, from its first hello to its welcome."""

    def __init__(self, patience_ns: int, deadline: int) -> None:
        self._patience_ns = patience_ns
        self.deadline = deadline  # of the connection, whatever it waits for
        self.error: TaskpoolError | None = None  # what is raised then; None: others hold nothing that it needs
        self.news = ""  # what a person has not been told yet
        self._met: set[type] = set()
        self._gone = ""  # what a person is told at `_gone_due`, while no dealer answers
        self._gone_due: int | None = None
        self._told_gone = False

    def next_deadline(self) -> int:
        """Return when `tick` has something to do, or the wait is over."""
        return self.deadline if self._gone_due is None else min(self._gone_due, self.deadline)

    def tell_later(self, text: str, now: int) -> None:
        """Tell a person this, unless a dealer answers soon."""
        self._gone, self._gone_due = text, now + GONE_TOLD_NS

    def tick(self, now: int) -> None:
        """Tell what is due."""
        if self._gone_due is not None and now >= self._gone_due:
            self.news, self._gone_due, self._told_gone = self._gone, None, True

    def answered(self, text: str) -> None:
        """Take note of the welcome; tell of it those who were told to wait."""
        self._gone_due = None
        if self._told_gone:
            self.news, self._told_gone = text, False

    def await_room(self, kind: type[TaskpoolError], until: str, text: str, now: int) -> int:
        """Wait until others go; return when to try again. Longer than for a dealer, which may not be there at all."""
        patience = human(self._patience_ns)
        error = kind(f"{text}. So it was for {patience}; --dealer-timeout waits longer")
        news = f"Waiting up to {patience} (--dealer-timeout) until {until}: {text}"
        self._meet(error, news, now + self._patience_ns)
        return now + RETRY_NS

    def await_holder(self, refusal: str, text: str, now: int) -> int:
        """Wait until the dealer takes the generator that was killed, and holds the batch, for dead; return as above."""
        self._meet(UsageError(refusal), f"Waiting: {text}", now + HOLDER_NS_MAX)
        return now + HOLDER_RETRY_NS

    def _meet(self, error: TaskpoolError, news: str, deadline: int) -> None:
        # Once for each reason: two that alternate must not prolong the wait without end.
        if type(error) not in self._met:
            self._met.add(type(error))
            self.deadline, self.news = deadline, news
        self.error = error
