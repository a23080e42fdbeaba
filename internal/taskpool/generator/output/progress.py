"""`--progress`: how far the batch is, for a human who waits. Never on a pipe unless asked for."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from taskpool.clock import MILLISECOND, SECOND, seconds
from taskpool.durations import human
from taskpool.generator.output.console import Console
from taskpool.generator.totals import Totals

Mode = Literal["bar", "plain", "json", "none"]

_PERIOD_NS: dict[Mode, int] = {"bar": 100 * MILLISECOND, "plain": 5 * SECOND, "json": SECOND, "none": 0}
_BAR_WIDTH_MAX = 30


class Progress:
    """Draws what the totals say, from time to time."""

    def __init__(self, mode: Mode, console: Console, totals: Totals, started: int) -> None:
        self._mode: Mode = mode
        self._console = console
        self._totals = totals
        self._started = started
        self._period = _PERIOD_NS[mode]
        self._due = started + self._period
        self._drawn = -1

    @property
    def due(self) -> int | None:
        """When to call `show` next; None: no need."""
        return self._due if self._period else None

    def show(self, total: int | None, now: int, *, last: bool = False) -> None:
        """Draws if it is time. `total` is None while it is not known."""
        if not self._period or (now < self._due and not last):
            return
        self._due = now + self._period
        if self._mode == "bar":
            self._console.bar("" if last else self._fit(self._bar(total, now)))
        elif self._totals.finished != self._drawn or last:
            self._drawn = self._totals.finished
            self._console.raw(self._json(total, now) if self._mode == "json" else self._plain(total, now))

    def _plain(self, total: int | None, now: int) -> bytes:
        return f"{self._facts(total, now)}\n".encode()

    def _bar(self, total: int | None, now: int) -> str:
        facts = self._facts(total, now)
        if not total:
            return facts
        full = _BAR_WIDTH_MAX * self._totals.finished // total
        return f"[{'#' * full}{'.' * (_BAR_WIDTH_MAX - full)}] {facts}"

    def _facts(self, total: int | None, now: int) -> str:
        totals, elapsed = self._totals, max(now - self._started, 1)
        text = f"{totals.finished}/{'?' if total is None else total} done"
        if totals.failed:
            text += f", {totals.failed} failed"
        if totals.crashes:
            text += f", {totals.crashes} crashes"
        text += f", {human(elapsed)}"
        if total is not None and 0 < totals.finished < total:
            text += f", {human(elapsed * (total - totals.finished) // totals.finished)} left"
        return text

    def _json(self, total: int | None, now: int) -> bytes:
        record = {
            "type": "progress",
            "finished": self._totals.finished,
            "total": total,
            "failed": self._totals.failed,
            "crashes": self._totals.crashes,
            "elapsed_seconds": seconds(now - self._started),
        }
        return msgspec.json.encode(record) + b"\n"

    @staticmethod
    def _fit(text: str) -> str:
        """One line of the terminal, at most: a longer one could not be erased."""
        try:
            width = os.get_terminal_size(2).columns or 80  # 0: a terminal that was never told its size
        except OSError:
            width = 80
        return text[: max(width - 1, 10)]


def choose_mode(wanted: str, *, quiet: bool, verbose: bool) -> Mode:
    """`auto` draws a bar on a terminal that nothing else scrolls."""
    match wanted:
        case "bar" | "plain" | "json" | "none":
            return wanted
        case _:
            return "bar" if os.isatty(2) and not quiet and not verbose else "none"
