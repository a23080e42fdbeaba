"""Write a worker's lines for people, on a descriptor that its dealer has given it.

That is a non-blocking pipe to the dealer, which writes the lines on (`procs/writer.py`). A worker waits for no reader,
and has no thread to wait for one: a job that forks would be warned of it, and could not unshare(2).
"""

from __future__ import annotations

import os
import select

from taskpool.log import Format, Level, render
from taskpool.procs.wait import wait_ready

_CUT_CHARS = 300  # of a text whose line is too long; escaped, none of them takes more than ten bytes


class Log:
    """Writes `[Worker PID] text`. Never raises and never waits: a line that cannot be written must not fail a job."""

    def __init__(self, fd: int | None, fmt: Format = "text", *, verbose: bool = False) -> None:
        self._fd = fd
        self._file = None if fd is None else _file(fd)  # to see later whether the number still means the same file
        self._format: Format = fmt
        self._verbose = verbose
        self._dropped = 0  # lines since the last one that was written

    def info(self, text: str) -> None:
        """Write what only --verbose shows."""
        if self._verbose:
            self._write(text, "info")

    def warning(self, text: str) -> None:
        """Write what should not happen."""
        self._write(text, "warning")

    def _write(self, text: str, level: Level) -> None:
        if self._dropped and self._put(f"{self._dropped} lines were dropped here: the log was not read", "warning"):
            self._dropped = 0
        if self._dropped or not self._put(text, level):
            self._dropped += 1

    def _put(self, text: str, level: Level) -> bool:
        """Write a line, if there is room for it now; return whether it was written."""
        if self._fd is None:
            return False
        try:
            if _file(self._fd) != self._file:
                # Job code has closed it and opened a file of its own, which must get no lines of the log.
                self._fd = None
                return False
            # One write, of no more than a pipe takes as a whole: many processes share it. And not without a look, since
            # a dealer of another version may have given a descriptor that blocks.
            return bool(wait_ready((), (self._fd,), 0)) and os.write(self._fd, self._line(text, level)) > 0
        except OSError:  # full, its reader is gone, or job code closed it
            return False

    def _line(self, text: str, level: Level) -> bytes:
        pid = os.getpid()
        line = render(self._format, f"Worker {pid}", text, {"pid": pid}, level).encode()
        if len(line) <= select.PIPE_BUF:
            return line
        return self._line(f"{text[:_CUT_CHARS]} ... ({len(text)} characters)", level)


def _file(fd: int) -> tuple[int, int]:
    """Identify the file that the descriptor stands for. Raises OSError."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
