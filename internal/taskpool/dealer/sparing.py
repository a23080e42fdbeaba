"""Warnings that anybody can cause, and not as many as he likes: a log is read by people, and its disk is finite."""

from __future__ import annotations

from collections.abc import Callable

from taskpool.clock import SECOND, Clock

PERIOD_NS = 10 * SECOND
WARNINGS_PER_PERIOD_MAX = 10


class WarningLimit:
    """Passes on the first warnings of a period; the others are counted, and told with the next one passed on."""

    def __init__(self, warn: Callable[[str], None], clock: Clock) -> None:
        self._warn = warn
        self._clock = clock
        self._ends_ns = 0
        self._said = 0
        self._kept_back = 0

    def __call__(self, text: str) -> None:
        now = self._clock.now().mono
        if now >= self._ends_ns:
            self._ends_ns = now + PERIOD_NS
            self._said = 0
        if self._said >= WARNINGS_PER_PERIOD_MAX:
            self._kept_back += 1
            return
        self._said += 1
        if self._kept_back:
            self._warn(f"{self._kept_back} warnings like the next one were kept back")
            self._kept_back = 0
        self._warn(text)
