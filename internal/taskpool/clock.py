"""Read the machine's clocks, and convert what they tell.

The core does not read a clock: it is handed an `Instant`, so that a simulation can hand it any. Deadlines are taken
from `mono` only; `wall` is for people and may jump. Integers: a float loses nanoseconds of a wall clock's reading.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
STANDSTILL_NS_MIN = 200 * MILLISECOND  # a wait that ends so much too late: the process was stopped, not just unlucky
NEVER = 2**63  # a deadline on the monotonic clock that does not come: beyond what the kernel's clock can count


class Instant(NamedTuple):
    """One moment on both clocks, in integer nanoseconds."""

    mono: int
    wall: int


class Clock(Protocol):
    """What hands out instants: the machine's clocks, or a simulated one."""

    def now(self) -> Instant: ...


class SystemClock:
    """The machine's clocks: CLOCK_MONOTONIC and CLOCK_REALTIME."""

    def now(self) -> Instant:
        return Instant(time.monotonic_ns(), time.time_ns())


class AwakeClock:
    """A clock whose monotonic time stands still while its process does: stopped by a signal, or frozen with its control
    group. The kernel's goes on then (and stands only while the host is suspended), so that every deadline would be
    over on waking.

    A standstill shows as a wait that ended too late, by that much. What it hides in a wait of its own length it hides
    for good, so who judges a deadline by this clock waits in short steps.
    """

    def __init__(self, machine: Clock) -> None:
        self.machine = machine
        self._stood_ns = 0

    def now(self) -> Instant:
        mono, wall = self.machine.now()
        return Instant(mono - self._stood_ns, wall)

    def skip(self, gap_ns: int) -> None:
        """Leave out so long, which has just passed and is not to count."""
        self._stood_ns += gap_ns

    def woke(self, due_ns: int) -> None:
        """A wait that was to end at `due_ns`, by this clock, has ended: leave out a standstill."""
        late_ns = self.now().mono - due_ns
        if late_ns > STANDSTILL_NS_MIN:
            self.skip(late_ns)


def seconds(duration_ns: int) -> float:
    """Convert a duration to seconds, for people and for JSON."""
    return duration_ns / SECOND


def rfc3339(wall_ns: int) -> str:
    """Format a wall-clock time as RFC 3339 in UTC with microseconds: `2026-01-31T09:30:00.000001Z`."""
    # Not by datetime, which every worker would import for this.
    moment = time.gmtime(wall_ns // SECOND)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{wall_ns % SECOND // MICROSECOND:06d}Z"
