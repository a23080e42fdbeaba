"""Warnings are passed on sparingly."""

from __future__ import annotations

from taskpool.clock import Instant
from taskpool.dealer.sparing import PERIOD_NS, WARNINGS_PER_PERIOD_MAX, WarningLimit


class Clock:
    def __init__(self) -> None:
        self.mono = 5

    def now(self) -> Instant:
        return Instant(self.mono, 0)


def test_the_first_are_passed_on_and_the_others_counted() -> None:
    said: list[str] = []
    clock = Clock()
    warn = WarningLimit(said.append, clock)
    for number in range(1000):
        warn(f"bad message {number}")
    assert said == [f"bad message {number}" for number in range(WARNINGS_PER_PERIOD_MAX)]
    said.clear()
    clock.mono += PERIOD_NS
    warn("another")
    assert said == [f"{1000 - WARNINGS_PER_PERIOD_MAX} warnings like the next one were kept back", "another"]
    said.clear()
    clock.mono += PERIOD_NS
    warn("a third")
    assert said == ["a third"], "nothing was kept back meanwhile"
