"""Standard error: lines for a person, and how far the batch is below them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal

import msgspec

from taskpool.clock import MILLISECOND, SECOND, seconds
from taskpool.durations import human
from taskpool.errors import counted
from taskpool.generator.totals import Totals
from taskpool.log import Fact, Format, Level, render
from taskpool.procs.writer import LineWriter

WHO = "TaskGenerator"

ProgressMode = Literal["bar", "plain", "json", "none"]

_PERIOD_NS: dict[ProgressMode, int] = {"bar": 100 * MILLISECOND, "plain": 5 * SECOND, "json": SECOND, "none": 0}
_BAR_WIDTH_MAX = 30  # characters
HIDE_NS_MAX = 50 * MILLISECOND


class Console:
    """Writes lines to standard error, and keeps one progress bar below them. Never waits for their reader."""

    def __init__(self, writer: LineWriter, *, verbosity: int = 0, fmt: Format = "text") -> None:
        self.verbosity = verbosity  # -1 quiet, 0, 1 verbose
        self._writer = writer
        self._fmt: Format = fmt
        self._bar = ""
        writer.use_format(fmt)

    def detail(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        """Say something with -v only."""
        if self.verbosity > 0:
            self._say(text, fields, "debug")

    def info(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        """Say something, but not with -q."""
        if self.verbosity >= 0:
            self._say(text, fields, "info")

    def notice(self, text: str) -> None:
        """Say something even with -q: it names what the person can do."""
        self._say(text, None, "info")

    def warning(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        """Warn, but not with -q."""
        if self.verbosity >= 0:
            self._say(text, fields, "warning")

    def error(self, text: str) -> None:
        """Say an error, always, as command-line programs do: the program's name, then the text."""
        if self._fmt == "text":
            self.raw(f"tp-generator: {text}\n".encode(errors="backslashreplace"))
        else:
            self._say(text, None, "error")

    def raw(self, data: bytes) -> None:
        """Write whole lines as they are."""
        self._writer.put(data)

    def bar(self, text: str) -> None:
        """Draw the bar anew; empty text takes it away."""
        self._bar = text
        self._writer.show_bar(text)

    def hide_bar(self) -> None:
        """Take the bar away until it is next drawn, because another line is written to the terminal."""
        if self._bar:
            self.bar("")
            self._writer.flush(HIDE_NS_MAX, HIDE_NS_MAX)  # a terminal that is stopped shows neither

    def _say(self, text: str, fields: Mapping[str, Fact] | None, level: Level) -> None:
        self.raw(render(self._fmt, WHO, text, fields, level).encode(errors="backslashreplace"))


class ProgressBar:
    """`--progress`: shows from time to time what the totals say. Never on a pipe unless asked for."""

    def __init__(self, mode: ProgressMode, console: Console, totals: Totals, started: int) -> None:
        self._mode: ProgressMode = mode
        self._console = console
        self._totals = totals
        self._started = self._counted_from = started
        self._period = _PERIOD_NS[mode]
        self._due = started + self._period
        self._drawn = -1  # jobs finished when last shown: the same line again would only fill a log

    def begin(self, now: int) -> None:
        """Count the speed from now on: the pool is there, and jobs can run."""
        self._counted_from = now

    @property
    def due(self) -> int | None:
        """When to call `show` next, on the monotonic clock; None: no need."""
        return self._due if self._period else None

    def show(self, total: int | None, now: int, *, last: bool = False) -> None:
        """Draw if it is time. `total` is None while it is not known."""
        if not self._period or (now < self._due and not last):
            return
        self._due = now + self._period  # from now: after a stall, one line and not one for each period missed
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
            text += f", {counted(totals.crashes, 'crash', 'crashes')}"
        text += f", {human(elapsed)}"
        # By the mean of this run so far. Before its first job has finished there is nothing to judge by.
        if total is not None and totals.finished < total and (finished := totals.finished_now):
            text += f", {human((now - self._counted_from) * (total - totals.finished) // finished)} left"
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
        # At most one line of the terminal: what wraps into a second one cannot be erased by a carriage return.
        # Asked each time: a person may resize the window.
        try:
            width = os.get_terminal_size(2).columns or 80  # 0: a terminal that was never told its size
        except OSError:
            width = 80
        return text[: max(width - 1, 10)]


def choose_mode(wanted: str, *, quiet: bool, verbose: bool) -> ProgressMode:
    """Return the mode wanted; `auto` draws a bar on a terminal that nothing else scrolls."""
    match wanted:
        case "bar" | "plain" | "json" | "none":
            return wanted
        case _:
            return "bar" if os.isatty(2) and not quiet and not verbose else "none"
