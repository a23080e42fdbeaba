"""The time by which the journal ages.

Ages outlive the process, so they can only be told by the wall clock, which may be wrong and then be put right. No step
of it within a life makes anything look older than it is: what is used is dated by the later of the wall clock and the
time since this life began, and what is old is judged by the earlier of the two.
"""

from __future__ import annotations

from taskpool.clock import Clock, SystemClock


class Calendar:
    """Begins with a life of the dealer."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._begin = self._clock.now()

    @property
    def begin_wall_ns(self) -> int:
        """What carries an earlier date was not used in this life."""
        return self._begin.wall

    def date_ns(self) -> int:
        """The date of what is used now."""
        return max(self._both())

    def past_ns(self) -> int:
        """A date before this one, by so much as it is before, is surely that old."""
        return min(self._both())

    def _both(self) -> tuple[int, int]:
        now = self._clock.now()
        return now.wall, self._begin.wall + now.mono - self._begin.mono
