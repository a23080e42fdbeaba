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


def seconds(duration_ns: int) -> float:
    """Convert a duration to seconds, for people and for JSON."""
    return duration_ns / SECOND


def rfc3339(wall_ns: int) -> str:
    """Format a wall-clock time as RFC 3339 in UTC with microseconds: `2026-01-31T09:30:00.000001Z`."""
    # Not by datetime, which every worker would import for this.
    moment = time.gmtime(wall_ns // SECOND)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{wall_ns % SECOND // MICROSECOND:06d}Z"
