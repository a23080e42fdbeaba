"""Lines of a file or a pipe, as they come: reading never waits for more than one chunk that is there."""

from __future__ import annotations

import os
import stat
from collections import deque

from taskpool import limits
from taskpool.errors import UsageError
from taskpool.kinds.source import Cutter

CHUNK_BYTES = 64 * 1024
LINE_BYTES_MAX = 4 * limits.PAYLOAD_BYTES_MAX  # JSON escapes may take several bytes for one


class Lines:
    """Iterate over the complete lines read so far, without the newlines, or what else delimits them.

    `ready` says whether the next one is there; `fill` reads more. The last line needs no newline.
    """

    def __init__(self, fd: int, name: str, delimiter: bytes = b"\n", cutter: Cutter | None = None) -> None:
        """With a `cutter`, what it makes are the lines."""
        self._cutter = cutter
        self.fd = fd
        self.name = name
        self._delimiter = delimiter
        self.ended = False  # everything was read, though perhaps not taken
        self._complete: deque[bytes] = deque()
        self._tail = b""
        self._number = 0

    @property
    def ready(self) -> bool:
        """Whether `next` knows its answer: a line, or the end."""
        return bool(self._complete) or self.ended

    def fill(self) -> None:
        """Reads one chunk. Only when the descriptor is readable, unless it is a regular file's.

        Raises UsageError when it cannot be read, or a line is longer than any job.
        """
        try:
            chunk = os.read(self.fd, CHUNK_BYTES)
        except BlockingIOError:
            return  # another process that shares the pipe was faster
        except OSError as error:
            raise UsageError(f"cannot read {self.name}: {error.strerror}") from error
        self.ended = not chunk
        if self._cutter is not None:
            self._complete.extend(self._cutter.feed(chunk) if chunk else self._cutter.end())
        elif chunk:
            self._take(chunk)
        elif self._tail:
            self._complete.append(self._tail)
            self._tail = b""

    def _take(self, chunk: bytes) -> None:
        # The tail is copied for each chunk that does not end it: LINE_BYTES_MAX keeps that from growing without end.
        *complete, self._tail = (self._tail + chunk).split(self._delimiter)
        self._number += len(complete)
        self._complete.extend(complete)
        if len(self._tail) > LINE_BYTES_MAX:
            raise UsageError(f"{self.name}:{self._number + 1}: a line longer than {LINE_BYTES_MAX} bytes")

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> bytes:
        if self._complete:
            return self._complete.popleft()
        assert self.ended, "asked for a line that is not there yet"
        raise StopIteration


def is_regular(fd: int) -> bool:
    """Whether the descriptor is a file that can be read twice, and never makes a reader wait."""
    return stat.S_ISREG(os.fstat(fd).st_mode)
