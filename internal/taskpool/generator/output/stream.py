"""Bytes on their way to a descriptor whose reader may be slow, or gone."""

from __future__ import annotations

import os
import select
import stat
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from taskpool.errors import ConfigurationError, TaskpoolError
from taskpool.generator.signals import raise_if_stopped
from taskpool.procs.signals import Wakeup
from taskpool.procs.wait import wait_ready

PENDING_BYTES_MAX = 1024 * 1024  # beyond this, no more outcomes are read
FILE_CHUNK_BYTES = 64 * 1024  # a pipe's capacity on Linux: more could not be handed on at once


class OutputClosed(TaskpoolError):
    """The reader of standard output has gone, as `head` does when it has seen enough."""


class Piece(NamedTuple):
    """Something to write: bytes, or the content of a file."""

    stream: int  # 1: standard output, 2: standard error
    content: bytes | Path


class _File:
    """A file whose content is to be written, opened when its turn comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def read(self) -> bytes:
        """Return the next chunk, empty at the end. Raises ConfigurationError."""
        try:
            if self._fd < 0:
                # The path comes from a message: a link or a FIFO in its place must neither be followed nor waited for.
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
    """What is still to be written to one descriptor.

    Standard output is shared with other programs, so it is not made non-blocking: that would change it for them too.
    Instead no more is written at once than a pipe is sure to take when poll(2) says that it has room.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.terminal = os.isatty(fd)
        self._parts: deque[bytearray | _File] = deque()
        self._pending = 0
        self._at_once = _bytes_at_once(fd)

    @property
    def idle(self) -> bool:
        """Whether everything is written."""
        return not self._parts

    @property
    def congested(self) -> bool:
        """Whether so much waits that no more should be put."""
        return self._pending > PENDING_BYTES_MAX

    @property
    def writable(self) -> list[int]:
        """The descriptor to wait on for room, if anything is to be written."""
        return [] if self.idle else [self.fd]

    def put(self, content: bytes | Path) -> None:
        """Add bytes, or a file's content, behind what is there."""
        # A file is read when its turn comes, chunk by chunk: outputs may be larger than memory.
        if isinstance(content, Path):
            self._parts.append(_File(content))
            return
        self._pending += len(content)
        # Small pieces are joined, or each line of a job would cost a poll and a write.
        if self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += content
        else:
            self._parts.append(bytearray(content))

    def pump(self) -> None:
        """Write what can be written without waiting. Raises OutputClosed and ConfigurationError."""
        while (head := self._head()) is not None and wait_ready((), (self.fd,), 0):
            try:
                written = os.write(self.fd, head[: self._at_once])
            except BrokenPipeError:
                raise OutputClosed("the reader of the output has gone") from None
            except BlockingIOError:
                return  # another program made it non-blocking, and took the room
            except OSError as error:
                raise ConfigurationError(f"cannot write the output: {error.strerror}") from error
            self._pending -= written
            del head[:written]

    def _head(self) -> bytearray | None:
        while self._parts:
            head = self._parts[0]
            # The file stays in its place, behind the chunk just read, until a read finds its end.
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


class Drainable(Protocol):
    """Output that is written as its readers make room."""

    @property
    def idle(self) -> bool: ...

    @property
    def writable(self) -> list[int]: ...

    def pump(self) -> None: ...


def write_out(output: Drainable, wakeup: Wakeup | None = None) -> None:
    """Wait until everything is written, however slowly it is read.

    Raises OutputClosed, ConfigurationError, and, with a `wakeup`, Interrupted when a signal ends the wait.
    """
    output.pump()
    while not output.idle:
        wait_ready(() if wakeup is None else (wakeup,), output.writable)
        if wakeup is not None:
            raise_if_stopped(wakeup)
        output.pump()


def write_pieces(pieces: Iterable[Piece], wakeup: Wakeup | None = None) -> None:
    """Write each piece to its stream, one after the other. Raises what `write_out` raises."""
    for stream, content in pieces:
        output = OutputStream(stream)
        output.put(content)
        write_out(output, wakeup)


def _bytes_at_once(fd: int) -> int:
    """Return how much write(2) takes without waiting, once poll(2) has said that there is room."""
    # A pipe is writable from PIPE_BUF free bytes on; a regular file always takes all. See pipe(7).
    return 1024 * 1024 if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
