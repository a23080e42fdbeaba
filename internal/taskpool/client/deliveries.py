"""Outcomes from the dealer until they are acknowledged: in order, without a gap, each delivered once.

An outcome passes three marks. `cursor`: received without a gap. `delivered`: handed to the caller. `store`: the caller
has it safely, so it may be acknowledged. Pure: no queue, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from taskpool.messages import Outcome


class Deliveries:
    """Counts by the number the dealer gives an outcome within its batch, from 1."""

    def __init__(self, cursor: int) -> None:
        """`cursor`: the last outcome that an earlier client of the batch acknowledged."""
        self.cursor = cursor
        # One less than what is known: a private dealer leaves once all is acknowledged in the present connection
        # (docs/protocol.md, 6.8), and this one may still have something to ask.
        self.stored = max(0, cursor - 1)
        self.gaps = 0  # and jobs unknown, in a row, without one outcome in between
        self._held_back: deque[Outcome] = deque()  # of jobs not yet compared, and those behind them
        self._acknowledged = self.stored
        self._repeat_due = False

    @property
    def delivered(self) -> int:
        """The last outcome that `take_due` returned."""
        return self.cursor - len(self._held_back)

    def receive(self, items: Iterable[Outcome], seq_max: int) -> int | None:
        """Take outcomes up to the first gap or job beyond `seq_max`; return the number of that one, None without it.

        A job beyond `seq_max` is one that this client does not know the dealer to have. The next welcome says how many
        it has; a number out of nowhere is never taken, since the totals have a byte for each job.
        """
        for outcome in items:
            if outcome.no <= self.cursor:
                continue  # sent again after a hello
            if outcome.no > self.cursor + 1 or outcome.seq > seq_max:
                self.gaps += 1
                return outcome.no
            self.cursor = outcome.no
            self.gaps = 0
            self._held_back.append(outcome)
        return None

    def take_due(self, seq_max: int) -> list[Outcome]:
        """Return, once, the outcomes up to the first one of a job beyond `seq_max`."""
        due: list[Outcome] = []
        while self._held_back and self._held_back[0].seq <= seq_max:
            due.append(self._held_back.popleft())
        return due

    def store(self, upto: int) -> None:
        """Allow the acknowledgement of outcomes up to this number: the caller has them safely."""
        # Never beyond what was delivered: the dealer forgets what is acknowledged.
        self.stored = max(self.stored, min(upto, self.delivered))

    def repeat_acknowledgement(self) -> None:
        """Acknowledge once more what was acknowledged: the last message may have been lost with a dealer."""
        self._repeat_due = self.stored > 0

    def next_acknowledgement(self) -> int | None:
        """Return the number to acknowledge now, once; None when there is no need."""
        if self._acknowledged >= self.stored and not self._repeat_due:
            return None
        self._acknowledged, self._repeat_due = self.stored, False
        return self.stored
