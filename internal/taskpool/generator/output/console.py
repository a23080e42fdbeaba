"""What the human reads: standard error, line by line, with at most one progress bar below."""

from __future__ import annotations

import os
from collections.abc import Mapping

from taskpool.log import Fact, Format, Level, render

WHO = "TaskGenerator"


class Console:
    """Standard error. A closed or full one is nobody's reason to lose a job: failures are swallowed here."""

    def __init__(self, *, verbosity: int = 0, fmt: Format = "text", fd: int = 2) -> None:
        self.verbosity = verbosity  # -1 quiet, 0, 1 verbose
        self._fmt: Format = fmt
        self._fd = fd
        self._bar = ""

    def detail(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        """Only with -v."""
        if self.verbosity > 0:
            self._say(text, fields, "debug")

    def info(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        """Not with -q."""
        if self.verbosity >= 0:
            self._say(text, fields, "info")

    def notice(self, text: str) -> None:
        """Always: somebody has to act on it."""
        self._say(text, None, "info")

    def warning(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        """Not with -q."""
        if self.verbosity >= 0:
            self._say(text, fields, "warning")

    def error(self, text: str) -> None:
        """Always. As command-line programs say it: the program's name, then the text."""
        if self._fmt == "text":
            self.raw(f"tp-generator: {text}\n".encode(errors="backslashreplace"))
        else:
            self._say(text, None, "error")

    def raw(self, data: bytes) -> None:
        """Whole lines as they are."""
        self._write(self._erased() + data + self._bar.encode())

    def bar(self, text: str) -> None:
        """Draws the bar anew; empty text takes it away."""
        erased = self._erased()
        self._bar = text
        self._write(erased + text.encode())

    def hide_bar(self) -> None:
        """Until it is next drawn: somebody else writes to the terminal."""
        if self._bar:
            self.bar("")

    def _say(self, text: str, fields: Mapping[str, Fact] | None, level: Level) -> None:
        self.raw(render(self._fmt, WHO, text, fields, level).encode(errors="backslashreplace"))

    def _erased(self) -> bytes:
        return b"\r\x1b[K" if self._bar else b""

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            pass  # nobody reads; the outcome of the batch does not depend on it
