"""Bytes on their way to a descriptor whose reader may be slow, or gone.

Standard output is shared with other programs, so it is not made non-blocking. Instead no more is written
at once than a pipe is sure to take when `poll` says that it has room.
"""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from pathlib import Path
from typing import NamedTuple

from taskpool.errors import ConfigurationError, TaskpoolError

PENDING_BYTES_MAX = 1024 * 1024  # beyond this, no more outcomes are read
FILE_CHUNK_BYTES = 64 * 1024


class OutputClosed(TaskpoolError):
    """The reader of standard output has gone, as `head` does when it has seen enough."""


class Piece(NamedTuple):
    """Something to write: bytes, or the content of a file."""

    stream: int  # 1: standard output, 2: standard error
    content: bytes | Path


class _File:
    """A file whose content is to follow, opened when its turn comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def read(self) -> bytes:
        """The next chunk, empty at the end. Raises ConfigurationError."""
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                    raise ConfigurationError(f"a job's output {self._path} is not a regular file")
            chunk = os.read(self._fd, FILE_CHUNK_BYTES)
        except OSError as error:
            raise ConfigurationError(
                f"a job's output lies in {self._path}, which cannot be read here: {error.strerror}; "
                "when the dealer runs in another container, share its state directory"
            ) from error
        if not chunk:
            os.close(self._fd)
        return chunk


class OutputStream:
    """What is still to be written to one descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.terminal = os.isatty(fd)
        self._parts: deque[bytearray | _File] = deque()
        self._pending = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._at_once = _bytes_at_once(fd)

    @property
    def idle(self) -> bool:
        """Everything is written."""
        return not self._parts

    @property
    def congested(self) -> bool:
        return self._pending > PENDING_BYTES_MAX

    def put(self, content: bytes | Path) -> None:
        """A file is read only when its turn comes, and then whole."""
        if isinstance(content, Path):
            self._parts.append(_File(content))
            return
        self._pending += len(content)
        if self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += content
        else:
            self._parts.append(bytearray(content))

    def pump(self) -> None:
        """Writes what can be written without waiting. Raises OutputClosed and ConfigurationError."""
        while (head := self._head()) is not None and self._poll.poll(0):
            try:
                written = os.write(self.fd, head[: self._at_once])
            except BrokenPipeError:
                raise OutputClosed("nobody reads the output any more") from None
            except BlockingIOError:
                return  # somebody else made it non-blocking, and was faster
            except OSError as error:
                raise ConfigurationError(f"cannot write the output: {error.strerror}") from error
            self._pending -= written
            del head[:written]

    def _head(self) -> bytearray | None:
        while self._parts:
            head = self._parts[0]
            if isinstance(head, _File):
                if not (chunk := head.read()):
                    self._parts.popleft()
                    continue
                head = bytearray(chunk)
                self._pending += len(chunk)
                self._parts.appendleft(head)
            if head:
                return head
            self._parts.popleft()
        return None


def _bytes_at_once(fd: int) -> int:
    """How much `write` takes without waiting, once `poll` has said yes."""
    return 1024 * 1024 if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
