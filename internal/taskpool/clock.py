"""Time, as an argument.

The core never reads a clock: it is handed an `Instant`. Deadlines are taken from `mono` only; `wall` is
for people and may jump.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
NEVER = 2**63  # a deadline on the monotonic clock that does not come


class Instant(NamedTuple):
    """One moment on both clocks, in integer nanoseconds."""

    mono: int
    wall: int


class Clock(Protocol):
    def now(self) -> Instant: ...


class SystemClock:
    """The machine's clocks: CLOCK_MONOTONIC and CLOCK_REALTIME."""

    def now(self) -> Instant:
        return Instant(time.monotonic_ns(), time.time_ns())


def seconds(duration_ns: int) -> float:
    """A duration in seconds, for people and for JSON."""
    return duration_ns / SECOND


def rfc3339(wall_ns: int) -> str:
    """A wall-clock time as RFC 3339 in UTC with microseconds: `2026-01-31T09:30:00.000001Z`."""
    moment = time.gmtime(wall_ns // SECOND)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{wall_ns % SECOND // MICROSECOND:06d}Z"
