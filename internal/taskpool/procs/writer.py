"""Write to a descriptor whose reader may be slow, stopped or gone, without ever waiting for it.

A full pipe, a stopped terminal and a hung reader of a socket block write(2), even after poll(2) has said that there is
room, because other processes share that room. O_NONBLOCK is no way out: it belongs to the open file, so it would change
the file for them too. So a thread of its own does each write that could block.

`LineWriter` is for lines that a person may read: what does not fit is dropped and counted. Output that must arrive has
a writer of its own in `generator/output/stream.py`.

Threads are made by `_thread`: `threading` would have to be loaded by each program at its start. They are daemons: an
exit does not wait for a write that never ends.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import stat
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, TextIO, cast

from taskpool.clock import MILLISECOND, SECOND, SystemClock
from taskpool.log import Format, render
from taskpool.procs.wait import wait_ready

# How many bytes of lines wait for a reader that reads, if not as fast, and for one that is stuck.
LINES_BYTES_MAX = 1024 * 1024
LINES_BYTES_STUCK_MAX = 64 * 1024
RELAY_BYTES = 64 * 1024
STUCK_NS = 1 * SECOND  # a reader that takes nothing for so long is stuck
END_NS_MAX = 100 * MILLISECOND  # how long a thread takes to end that is not stuck
FLUSH_NS_MAX = 5 * SECOND  # how long an end waits for one that is slow
_ERASE = b"\r\x1b[K"


class _Item(NamedTuple):
    """A line that waits, or a note about lines that were dropped before."""

    data: bytes
    dropped: int = 0  # how many lines the note stands for; 0: it is a line


class LineWriter:
    """Writes lines, and keeps one progress bar below them. Any thread may call it, and none ever waits, but in `flush`.

    As a context it is the program's standard error: what Python itself has to say goes through it too.
    """

    def __init__(self, fd: int, who: str) -> None:
        self.dropped = 0  # lines that were not written, since the start
        self._fd = fd
        self._who = who
        self._format: Format = "text"
        self._at_once = never_blocks(fd)
        # Reentrant: a warning of the interpreter, which writes a line, may come anywhere.
        self._lock = _thread.RLock()
        self._items: deque[_Item] = deque()
        self._waiting = 0  # bytes, those under way included
        self._gap = 0  # lines dropped since the last note about such
        self._cause = ""  # why writes have failed since; empty: they have not
        self._failed = False  # the last write has; the next is tried with the next line
        self._writing = False
        self._bar = self._drawn = b""
        self._moved_ns = 0  # when the reader last took something, or was first asked to
        self._flushes: list[_thread.LockType] = []  # held by those who wait until all is written
        self._wake = -1  # for the thread; -1: it is not started
        self._relay = -1
        self._relay_rest = b""
        self._closed = False
        self._ended = _thread.allocate_lock()  # held while the thread runs
        self._stderr = sys.stderr

    def use_format(self, fmt: Format) -> None:
        """Set the format of the notes about dropped lines."""
        self._format = fmt

    def put(self, data: bytes) -> None:
        """Write a line, or several, with their ends; drop them when the reader is far behind."""
        with self._lock:
            self._take_relayed()
            self._add(data)
            self._go()

    def show_bar(self, text: str) -> None:
        """Draw the bar anew; empty text takes it away. Only the newest is drawn once there is room."""
        with self._lock:
            self._begin()
            self._bar = text.encode(errors="backslashreplace")
            self._go()

    def relay(self) -> int:
        """Return a descriptor for lines of other processes: a pipe that drops what does not fit, and never blocks.

        Their lines come before those put here after them. It is non-blocking, which nothing else is harmed by, since
        only those processes share it. Whole lines of at most PIPE_BUF bytes are written to it (pipe(7)).
        """
        self._relay, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with self._lock:
            self._start()
        return writer

    def flush(self, stuck_ns: int = STUCK_NS, slow_ns: int = FLUSH_NS_MAX) -> bool:
        """Wait until all is written; return whether it is. Two limits: on the time since the reader has last taken
        something, and on the whole."""
        deadline = _now() + slow_ns
        with self._lock:
            self._take_relayed()
            self._go()
            if not self._work and not self._writing:
                return True
            all_written = _thread.allocate_lock()
            all_written.acquire()
            self._flushes.append(all_written)
        while (left_ns := min(deadline, self._moved_ns + stuck_ns) - _now()) > 0:
            if all_written.acquire(timeout=left_ns / SECOND):
                return True
        return False

    def close(self) -> None:
        """Flush, and end the thread, unless it is stuck in a write. May be called twice."""
        self.flush()
        with self._lock:
            self._closed = True
            running = self._wake >= 0
            self._ring()
        if running and self._ended.acquire(timeout=END_NS_MAX / SECOND):
            self._ended.release()

    def __enter__(self) -> LineWriter:
        stream = _Stream(self._fd, self.put, self.flush)
        self._stderr, sys.stderr = sys.stderr, cast("TextIO", stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The interpreter prints the traceback of an error behind this, and by itself it would wait for the reader.
        if error is None or isinstance(error, SystemExit):
            sys.stderr = self._stderr
            self.close()

    # --- under the lock ---

    @property
    def _work(self) -> bool:
        return bool(self._items or (self._gap and not self._failed) or self._bar != self._drawn)

    def _begin(self) -> None:
        if not self._work and not self._writing:
            self._moved_ns = _now()

    def _add(self, data: bytes) -> None:
        # From the first line that does not fit until all before it is written: then the note stands where the gap is,
        # and there is one for the whole gap.
        if (self._gap and not self._failed) or not self._has_room(len(data)):
            self._count_dropped(1)
            return
        self._begin()
        self._note_gap()
        self._append(_Item(data))

    def _has_room(self, count: int) -> bool:
        total = self._waiting + count
        if not self._waiting or total <= LINES_BYTES_STUCK_MAX:
            return True
        return total <= LINES_BYTES_MAX and _now() - self._moved_ns < STUCK_NS

    def _note_gap(self) -> None:
        if self._gap:
            why = f"standard error cannot be written: {self._cause}" if self._cause else "standard error was not read"
            text = f"{self._gap} lines were dropped here: {why}"
            note = render(self._format, self._who, text, {"dropped": self._gap}, "warning")
            self._append(_Item(note.encode(), self._gap))
        self._gap, self._cause, self._failed = 0, "", False

    def _append(self, item: _Item) -> None:
        self._items.append(item)
        self._waiting += len(item.data)

    def _count_dropped(self, lines: int) -> None:
        self._gap += lines
        self.dropped += lines

    def _take_relayed(self) -> None:
        if self._relay < 0:
            return
        try:
            data = self._relay_rest + os.read(self._relay, RELAY_BYTES)
        except BlockingIOError:
            return
        *lines, rest = data.split(b"\n")
        # A job that writes there itself may write what has no end.
        self._relay_rest, cut = (rest, []) if len(rest) < RELAY_BYTES else (b"", [rest])
        for line in (*lines, *cut):
            self._add(line + b"\n")

    def _go(self) -> None:
        """Have written what there is."""
        if self._at_once:
            self._write_ready()
        elif self._work:
            self._start()
            self._ring()
            if self._wake < 0:
                self._write_ready()

    def _ring(self) -> None:
        """Wake the thread, if there is one."""
        if self._wake >= 0:
            with suppress(OSError):  # a log stops no program, whatever the kernel says: the next line wakes it too
                os.eventfd_write(self._wake, 1)

    def _start(self) -> None:
        if self._wake < 0 and not self._closed:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._ended.acquire()
            if not start_thread(self._run):
                self._ended.release()
                os.close(self._wake)
                self._wake = -1

    def _write_ready(self) -> None:
        # Also where the system gives no thread: not as safe, but a program that cannot start must be able to say so.
        while self._work and (self._at_once or wait_ready((), (self._fd,), 0)):
            self._write()

    def _take(self) -> list[_Item]:
        """Return what one write is to hold: what a pipe takes as a whole, so that no other line comes in between."""
        taken: list[_Item] = []
        room = select.PIPE_BUF - len(_ERASE) - len(self._bar)
        while True:
            if not self._items and not self._failed:
                self._note_gap()
            if not self._items or (taken and len(self._items[0].data) > room):
                return taken
            taken.append(self._items.popleft())
            room -= len(taken[-1].data)

    def _done(self, taken: list[_Item], error: OSError | None) -> None:
        self._writing = False
        self._failed = error is not None
        self._waiting -= sum(len(item.data) for item in taken)
        if error is None:
            self._moved_ns = _now()
        else:
            self._count_dropped(sum(not item.dropped for item in taken))
            self._gap += sum(item.dropped for item in taken)
            self._cause = os.strerror(error.errno or 0)
            self._drawn = self._bar  # it is drawn no more until it changes
        if not self._work:
            for each in self._flushes:
                each.release()
            self._flushes.clear()

    # --- the thread ---

    def _run(self) -> None:
        wake = self._wake
        while True:
            with self._lock:
                self._take_relayed()
                work = self._work
            readable = (wake,) if self._relay < 0 else (wake, self._relay)
            ready = wait_ready(readable, (self._fd,) if work else ())
            if wake in ready:
                os.eventfd_read(wake)
            if self._closed:
                break
            if work and self._fd in ready:
                self._write()
        with self._lock:
            os.close(wake)
            self._wake = -1
        self._ended.release()

    def _write(self) -> None:
        with self._lock:
            self._writing = True
            drawn, self._drawn = self._drawn, self._bar
            taken = self._take()
            data = b"".join([_ERASE if drawn else b"", *(item.data for item in taken), self._drawn])
            if self._at_once:  # under the lock: two threads write, and what is taken first must be written first
                self._done(taken, write_all(self._fd, data))
                return
        error = write_all(self._fd, data)
        with self._lock:
            self._done(taken, error)


class _Stream:
    """Text for a LineWriter, line by line: what Python writes to `sys.stderr`. No io.TextIOBase, which flushes when it
    is deleted, after the end of threads."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, fd: int, put: Callable[[bytes], None], flush: Callable[[], object]) -> None:
        self._fd = fd
        self._put = put
        self._flush = flush
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._put(line.encode(self.encoding, self.errors) + b"\n")
        return len(text)

    def flush(self) -> None:
        # At its end the interpreter has stopped the thread, perhaps while that held the lock.
        if not sys.is_finalizing():
            self._flush()

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)


def never_blocks(fd: int) -> bool:
    """Say whether a write takes no longer than the disk: to a file, or to a device such as /dev/null."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return True  # it fails at once
    return stat.S_ISREG(mode) or (stat.S_ISCHR(mode) and not os.isatty(fd))


def start_thread(run: Callable[[], None]) -> bool:
    """Start a thread that handles no signal; return whether the system gives one."""
    # Signals must interrupt the main thread's waits. But a terminal may stop a program in the background that writes
    # to it (`stty tostop`).
    wanted = signal.valid_signals() - {signal.SIGTTOU}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return True


def write_all(fd: int, data: bytes) -> OSError | None:
    """Write all, however long it takes; return the error that ends it early."""
    try:
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:  # another program has made it non-blocking
                wait_ready((), (fd,))
    except OSError as error:
        return error
    return None


def _now() -> int:
    return SystemClock().now().mono
