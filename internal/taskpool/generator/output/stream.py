"""Bytes on their way to a descriptor whose reader may be slow, or gone."""

from __future__ import annotations

import _thread
import os
import re
import select
import stat
from _queue import SimpleQueue
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

from taskpool.errors import ConfigurationError, TaskpoolError
from taskpool.generator.signals import raise_if_stopped
from taskpool.procs.signals import Wakeup
from taskpool.procs.wait import wait_ready
from taskpool.procs.writer import never_blocks, start_thread, write_all

PENDING_BYTES_MAX = 1024 * 1024  # beyond this, no more outcomes are read
FILE_CHUNK_BYTES = 64 * 1024
LINE_ENDS = (b"\n", b"\r")
_LINE_STARTS = re.compile(rb"[\r\n](?!\Z)")
CHUNK_BYTES_AHEAD = 64 * 1024  # a pipe's capacity on Linux; the thread never waits for the loop


class OutputClosed(TaskpoolError):
    """The reader of standard output has gone, as `head` does when it has seen enough."""


class Piece(NamedTuple):
    """Something to write: bytes, or the content of a file."""

    stream: int  # 1: standard output, 2: standard error
    content: bytes | Path
    tag: bytes = b""  # what each line of a file's content is to begin with


def tagged(text: bytes, tag: bytes, *, begun: bool = False) -> bytes:
    r"""Put the tag before each line, one that a \r ends included. `begun`: the first one has its tag already."""
    if not text:
        return text
    return (b"" if begun else tag) + _LINE_STARTS.sub(lambda end: end[0] + tag, text)


class _File:
    """A file whose content is to be written, opened when its turn comes."""

    def __init__(self, path: Path, tag: bytes) -> None:
        self._path = path
        self._tag = tag
        self._at_start = True  # of a line
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
        if not (chunk and self._tag):
            return chunk
        begun, self._at_start = not self._at_start, chunk.endswith(LINE_ENDS)
        return tagged(chunk, self._tag, begun=begun)


class ChunkWriter:
    """Writes chunks in their order, on a thread of its own.

    Its descriptor is readable when there is room for more, or a write has failed.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._chunks: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = _thread.allocate_lock()
        # Two numbers, each counted by one thread: an addition that two threads make is not safe.
        self._taken = self._written = 0
        self._error: OSError | None = None
        self._events = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._running = self._closed = False

    def fileno(self) -> int:
        return self._events

    @property
    def pending(self) -> int:
        """How many bytes are not written yet, those included that never will be."""
        return self._taken - self._written

    def put(self, data: bytes) -> None:
        """Write a chunk behind those that wait."""
        self._taken += len(data)
        self._chunks.put(data)
        if not self._running:
            # Without a thread it is written here. That may block, but a machine short of processes must be told so.
            self._running = True
            if not start_thread(self._run):
                self._running = False
                self._chunks.get()
                self._write(data)

    def check(self) -> None:
        """Raise the OSError with which a write has failed."""
        if self._error is not None:
            raise self._error
        try:
            os.eventfd_read(self._events)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Write no more than what is being written. May be called twice."""
        with self._lock:
            closed, self._closed = self._closed, True
            if not closed and not self._running:
                os.close(self._events)
        self._chunks.put(None)

    def _run(self) -> None:
        while self._error is None and not self._closed and (data := self._chunks.get()) is not None:
            self._write(data)
        with self._lock:
            self._running = False
            if self._closed:
                os.close(self._events)

    def _write(self, data: bytes) -> None:
        self._error = write_all(self._fd, data)
        if self._error is None:
            self._written += len(data)
        with self._lock:
            if not self._closed and (self._error is not None or self.pending <= CHUNK_BYTES_AHEAD // 2):
                os.eventfd_write(self._events, 1)


class OutputStream:
    """What is still to be written to one descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.terminal = os.isatty(fd)
        self._parts: deque[bytearray | _File] = deque()
        self._pending = 0
        # Behind poll(2) alone a write could still block, see procs/writer.py: then no signal would be obeyed.
        self._writer = None if never_blocks(fd) else ChunkWriter(fd)

    @property
    def idle(self) -> bool:
        """Whether everything is written."""
        return not self._parts and (self._writer is None or not self._writer.pending)

    @property
    def pending(self) -> int:
        """How many bytes wait, as far as is known: of a file, what is read of it."""
        return self._pending + (0 if self._writer is None else self._writer.pending)

    @property
    def congested(self) -> bool:
        """Whether so much waits that no more should be put."""
        return self._pending > PENDING_BYTES_MAX

    @property
    def waits_for(self) -> list[int]:
        """The descriptor that is readable when `pump` has something to do, or all is written since the last one."""
        # Whether or not anything waits: the thread may end its last write between a look at `idle` and one at this.
        return [] if self._writer is None else [self._writer.fileno()]

    def put(self, content: bytes | Path, tag: bytes = b"") -> None:
        """Add bytes, or a file's content with `tag` before each line, behind what is there."""
        # A file is read when its turn comes, chunk by chunk: outputs may be larger than memory.
        if isinstance(content, Path):
            self._parts.append(_File(content, tag))
            return
        self._pending += len(content)
        # Small pieces are joined, or each line of a job would cost a poll and a write.
        if self._parts and isinstance(self._parts[-1], bytearray):
            self._parts[-1] += content
        else:
            self._parts.append(bytearray(content))

    def pump(self) -> None:
        """Write what can be written without waiting. Raises OutputClosed and ConfigurationError."""
        try:
            if self._writer is not None:
                self._writer.check()
            while (head := self._head()) is not None and (written := self._write(head)):
                self._pending -= written
                del head[:written]
        except BrokenPipeError:
            raise OutputClosed("the reader of the output has gone") from None
        except OSError as error:
            raise ConfigurationError(f"cannot write the output: {error.strerror}") from error

    def close(self) -> None:
        """Write no more. May be called twice."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, data: bytearray) -> int:
        """Write some of the bytes, or have them written; return how many. Raises OSError."""
        if self._writer is None:
            return os.write(self.fd, data)
        if self._writer.pending > CHUNK_BYTES_AHEAD:
            return 0
        # Whole lines, and no more of them than a pipe takes as a whole: the log may go the same way.
        end = len(data) if len(data) <= select.PIPE_BUF else data.rfind(b"\n", 0, select.PIPE_BUF) + 1
        chunk = bytes(data[: end or select.PIPE_BUF])
        self._writer.put(chunk)
        return len(chunk)

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
    def pending(self) -> int: ...

    @property
    def waits_for(self) -> list[int]: ...

    def pump(self) -> None: ...


def write_out(output: Drainable, wakeup: Wakeup | None = None, stuck_ns: int | None = None) -> None:
    """Wait until everything is written, however slowly it is read; give up when nothing is read for `stuck_ns`.

    Raises OutputClosed, ConfigurationError, and, with a `wakeup`, Interrupted when a signal ends the wait.
    """
    output.pump()
    while not output.idle:
        pending = output.pending
        ready = wait_ready((*output.waits_for, *(() if wakeup is None else (wakeup,))), (), stuck_ns)
        if wakeup is not None:
            raise_if_stopped(wakeup)
        output.pump()
        if not ready and output.pending == pending:
            return


def write_pieces(pieces: Iterable[Piece], wakeup: Wakeup | None = None) -> None:
    """Write each piece to its stream, one after the other. Raises what `write_out` raises."""
    with ExitStack() as cleanup:
        outputs: dict[int, OutputStream] = {}
        for stream, content, tag in pieces:
            if stream not in outputs:
                outputs[stream] = OutputStream(stream)
                cleanup.callback(outputs[stream].close)
            outputs[stream].put(content, tag)
            write_out(outputs[stream], wakeup)
