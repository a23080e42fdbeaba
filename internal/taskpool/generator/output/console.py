"""Standard error: lines for a person, and how far the batch is below them."""

from __future__ import annotations

from collections.abc import Mapping

from taskpool.clock import MILLISECOND
from taskpool.log import Fact, Format, Level, render
from taskpool.procs.writer import LineWriter

WHO = "TaskGenerator"

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
