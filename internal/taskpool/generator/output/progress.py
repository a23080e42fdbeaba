"""`--progress`: how far a batch is, as a bar on a terminal, as lines of a log, or as JSON for programs."""

from __future__ import annotations

import os
from typing import Literal

import msgspec

from taskpool.clock import MILLISECOND, SECOND, SystemClock, rfc3339, seconds
from taskpool.durations import human
from taskpool.errors import counted
from taskpool.generator.output.console import Console
from taskpool.generator.pace import Pace
from taskpool.generator.totals import Totals
from taskpool.messages import State

ProgressMode = Literal["bar", "plain", "json", "none"]

_PERIOD_NS: dict[ProgressMode, int] = {"bar": 100 * MILLISECOND, "plain": 5 * SECOND, "json": SECOND, "none": 0}
_BAR_WIDTH_MIN, _BAR_WIDTH_MAX = 10, 30  # characters


class Progress:
    """Shows from time to time what the totals and the pace say. Never on a pipe unless asked for."""

    def __init__(self, mode: ProgressMode, console: Console, totals: Totals, started: int) -> None:
        self._mode: ProgressMode = mode
        self._console = console
        self._totals = totals
        self._started = started
        self.pace = Pace(started)
        self.running: int | None = None  # jobs of the batch that run; None: the pool was not asked, or did not say
        self._period = _PERIOD_NS[mode]
        self._due = started + self._period
        # What was shown last: the same line again would only fill a log.
        self._drawn: tuple[int, int | None] = (-1, None)

    @property
    def is_shown(self) -> bool:
        """Whether there is anything to show it for."""
        return self._period > 0

    @property
    def due(self) -> int | None:
        """When to call `show` next, on the monotonic clock; None: no need."""
        return self._due if self._period else None

    def show(self, total: int | None, now: int, *, last: bool = False) -> None:
        """Draw if it is time. `total`: jobs of the batch; None while that is not known."""
        if not self._period or (now < self._due and not last):
            return
        self._due = now + self._period  # from now: after a stall, one line and not one for each period missed
        if last:
            self.running = None
        if self._mode == "bar":
            self._draw_bar(total, now, last=last)
        elif (self._totals.finished, self.running) != self._drawn or last:
            self._drawn = (self._totals.finished, self.running)
            as_json = self._mode == "json"
            self._console.raw(self._json(total, now) if as_json else f"{self._facts(total, now)}\n".encode())

    def _draw_bar(self, total: int | None, now: int, *, last: bool) -> None:
        if not last:
            self._console.bar(self._bar(total, now))
            return
        self._console.bar("")
        # A bar that was on its way stays where it has got to its end; of what was stopped, other lines tell.
        if total and self._totals.finished >= total:
            self._console.raw(f"{self._bar(total, now)}\n".encode())

    def _bar(self, total: int | None, now: int) -> str:
        facts, width = self._facts(total, now), _terminal_width()
        room = min(width - len(facts) - 4, _BAR_WIDTH_MAX)
        if not total or room < _BAR_WIDTH_MIN:
            return facts[:width]
        full = room * min(self._totals.finished, total) // total
        return f"[{'#' * full}{'.' * (room - full)}] {facts}"

    def _facts(self, total: int | None, now: int) -> str:
        totals = self._totals
        text = f"{totals.finished}/{'?' if total is None else total} done"
        if total:
            text += f" ({100 * totals.finished // total} %)"
        if self.running is not None:
            text += f", {self.running} running"
        if totals.failed:
            text += f", {totals.failed} failed"
        if totals.crashes:
            text += f", {counted(totals.crashes, 'crash', 'crashes')}"
        if parked := totals.by_state[State.QUARANTINED]:
            text += f", {parked} quarantined"
        text += f", {_per_second(self.pace.rate(now))}, {human(max(now - self._started, 1))}"
        if (left_ns := self._left_ns(total, now)) is not None:
            text += f", {human(left_ns)} left"
        return text

    def _left_ns(self, total: int | None, now: int) -> int | None:
        return None if total is None else self.pace.left_ns(total - self._totals.finished, now)

    def _json(self, total: int | None, now: int) -> bytes:
        totals, left_ns = self._totals, self._left_ns(total, now)
        record = {
            "type": "progress",
            "ts": rfc3339(SystemClock().now().wall),
            "finished": totals.finished,
            "total": total,
            "running": self.running,
            "failed": totals.failed,
            "states": {str(state): count for state, count in totals.by_state.items() if count},
            "crashes": totals.crashes,
            "jobs_per_second": round(self.pace.rate(now), 3),
            "elapsed_seconds": seconds(now - self._started),
            "left_seconds": None if left_ns is None else seconds(left_ns),
        }
        return msgspec.json.encode(record) + b"\n"


def _per_second(rate: float) -> str:
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 0.1 or not rate else f"{rate * 60:.1f}/min"


def _terminal_width() -> int:
    # One column less than a line of the terminal: what wraps into a second line cannot be erased by a carriage return.
    # Asked each time: a person may resize the window.
    try:
        width = os.get_terminal_size(2).columns or 80  # 0: a terminal that was never told its size
    except OSError:
        width = 80
    return max(width - 1, 10)


def choose_mode(wanted: str, *, quiet: bool, verbose: bool) -> ProgressMode:
    """Return the mode wanted; `auto` draws a bar on a terminal that nothing else scrolls."""
    match wanted:
        case "bar" | "plain" | "json" | "none":
            return wanted
        case _:
            return "bar" if os.isatty(2) and not quiet and not verbose else "none"
