"""Write a worker's lines for people, on a descriptor that its dealer has given it."""

from __future__ import annotations

import os

from taskpool.log import Format, Level, render


class Log:
    """Writes `[Worker PID] text`. Never raises: a line that cannot be written must not fail a job."""

    def __init__(self, fd: int | None, fmt: Format = "text", *, verbose: bool = False) -> None:
        self._fd = fd
        self._file = None if fd is None else _file(fd)  # to see later whether the number still means the same file
        self._format: Format = fmt
        self._verbose = verbose

    def info(self, text: str) -> None:
        """Write what only --verbose shows."""
        if self._verbose:
            self._write(text, "info")

    def warning(self, text: str) -> None:
        """Write what should not happen."""
        self._write(text, "warning")

    def _write(self, text: str, level: Level) -> None:
        if self._fd is None:
            return
        pid = os.getpid()
        line = render(self._format, f"Worker {pid}", text, {"pid": pid}, level)
        try:
            if _file(self._fd) != self._file:
                # Job code has closed it and opened a file of its own, which must get no lines of the log.
                self._fd = None
                return
            os.write(self._fd, line.encode())  # one write: lines of many processes share the file
        except OSError:  # its reader is gone, its disk is full, or job code closed it
            self._fd = None


def _file(fd: int) -> tuple[int, int]:
    """Identify the file that the descriptor stands for. Raises OSError."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
