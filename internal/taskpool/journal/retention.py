"""What the journal lets go of, so that it stays as large as its use.

A finished batch goes when it has been idle too long, acknowledged or not, or when there are too many: then those
whose outcomes were all acknowledged, oldest first. One in use stays: the core says now and then which are held. A batch
with open jobs stays, and one with jobs in quarantine, which wait for a person. A batch that was never closed
goes only if this life has not seen it: then no generator is at it. It goes in small steps between commits; the pages
it leaves are used again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from taskpool import limits
from taskpool.clock import Clock, SystemClock, seconds

STEP_ROWS = 500
LOOK_SECONDS = 10.0  # how often it looks for batches to let go of
_SHARE = 4  # of the thread's time, one part in so many at most
BATCHES_PER_LOOK_MAX = 100

_OLD = (
    "SELECT id FROM batches WHERE open = 0 AND quarantined = 0 AND name IS NOT NULL AND changed_wall_ns < ? "
    "AND (finished_wall_ns IS NOT NULL OR changed_wall_ns < ?) ORDER BY changed_wall_ns LIMIT ?"
)
_COUNT = "SELECT count(*) FROM batches WHERE open = 0 AND quarantined = 0 AND name IS NOT NULL"
_READ = (
    "SELECT id FROM batches WHERE open = 0 AND quarantined = 0 AND name IS NOT NULL AND changed_wall_ns < ? "
    "AND finished_wall_ns IS NOT NULL AND acknowledged >= recorded ORDER BY changed_wall_ns LIMIT ?"
)
_DROP_OUTCOMES = (
    "DELETE FROM outcomes WHERE batch = ? AND no IN (SELECT no FROM outcomes WHERE batch = ? ORDER BY no LIMIT ?)"
)
_DROP_JOBS = "DELETE FROM jobs WHERE ordinal IN (SELECT ordinal FROM jobs WHERE batch = ? ORDER BY seq LIMIT ?)"


class AgeClock:
    """The time by which the journal ages, which no step of the wall clock makes run backwards.

    Ages outlive the process, so only the wall clock tells them, and that may be wrong and then be put right. Within a
    life of the dealer no step of it makes anything look older than it is: what is used is dated by the later of the
    wall clock and the time since this life began, and what is old is told by the earlier of the two.
    """

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
        """Return the time to measure ages from: what is dated N before it is at least N old."""
        return min(self._both())

    def _both(self) -> tuple[int, int]:
        now = self._clock.now()
        return now.wall, self._begin.wall + now.mono - self._begin.mono


class Retention:
    """Begins to choose when a period of grace is over: generators of the life before may come back first."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        retain_ns: int,
        retain_batches: int,
        *,
        grace_ns: int = limits.RETAIN_GRACE_NS,
        age_clock: AgeClock | None = None,
        on_choice: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._on_choice = on_choice
        self._retain_ns = retain_ns
        self._retain_batches = retain_batches
        self._grace_ns = grace_ns
        self._age_clock = age_clock or AgeClock()
        self._more = False  # the last look found as many as it takes
        self._step_from = 0.0  # monotonic seconds
        # Generators that this dealer's start has cut off get the whole period to say hello again.
        self._look_from = time.monotonic() + seconds(grace_ns)

    def step(self) -> float:
        """Take a step, if it is time for one; return in how many seconds it may be time again. Raises sqlite3.Error."""
        now = time.monotonic()
        # It pauses in proportion to how long a step took, so that retention has at most its share of the thread's time.
        if now < self._step_from:
            return self._step_from - now
        if now >= self._look_from:
            self._look_from = now + LOOK_SECONDS
            self._more = self.choose()
        removed = self.remove()
        after = time.monotonic()
        if self._more and not removed:
            self._look_from = after  # batches may end faster than a few look after a few
        self._step_from = after + (after - now) * (_SHARE - 1) if removed or self._more else self._look_from
        return max(0.0, self._step_from - after)

    def choose(self, *, most: int = BATCHES_PER_LOOK_MAX) -> bool:
        """Choose batches to let go of: from here on no request finds them. Whether there may be more. `on_choice` is
        called before, since what others remember of those batches holds no more."""
        now, begin = self._age_clock.past_ns(), self._age_clock.begin_wall_ns
        unused_ns = max(self._retain_ns, self._grace_ns)
        found = self._connection.execute(_OLD, (now - unused_ns, begin, most)).fetchall()
        (kept,) = self._connection.execute(_COUNT).fetchone()
        # Too many: those that no reader wants any more go first, and only those.
        surplus = min(kept - len(found) - self._retain_batches, most - len(found))
        if surplus > 0:
            found += self._connection.execute(_READ, (now - self._grace_ns, surplus)).fetchall()
        # They lose their name first, all in one short transaction; their rows go later, a few at a time.
        if found:
            self._on_choice()
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("UPDATE batches SET name = NULL WHERE id = ?", found)
            self._connection.execute("COMMIT")
        return len(found) >= most

    def remove(self) -> bool:
        """Remove some rows of a batch that is to go. False: there is none."""
        execute = self._connection.execute
        row = execute("SELECT id FROM batches WHERE name IS NULL LIMIT 1").fetchone()
        if row is None:
            return False
        execute("BEGIN IMMEDIATE")
        # A bounded number of rows: a commit that waits behind this step is told late by no more than that.
        removed = execute(_DROP_OUTCOMES, (row[0], row[0], STEP_ROWS)).rowcount
        removed += execute(_DROP_JOBS, (row[0], STEP_ROWS)).rowcount
        # The batch's own row goes last, since its rows are found through it.
        if removed == 0:
            execute("DELETE FROM batches WHERE id = ?", row)
        execute("COMMIT")
        return True
