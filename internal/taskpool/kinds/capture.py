"""What a program prints comes through pipes, and waits in memory while it is short, else in a file without a name.

Pipes, because a program may open its output again by name: `> /dev/stderr` truncates a file, and all that was printed
is lost; a pipe opened again is the same pipe. The worker empties them while it waits for the program, so the program
hardly waits. Nothing waits for their end of file, which a grandchild may delay for ever (docs/adr/0016).
A file without a name is gone with the last process that holds it, so that a crash leaves nothing behind.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from taskpool import limits
from taskpool.clock import MILLISECOND, AwakeClock
from taskpool.kinds.base import Context
from taskpool.messages import Output
from taskpool.procs.files import open_unnamed
from taskpool.procs.state_dir import OUTPUT_NAME, open_inside
from taskpool.procs.wait import wait_ready, wait_until

_COPY_BYTES = 16 * 1024 * 1024
_MUCH_BYTES = 32 * 1024  # half of a pipe, see pipe(7)
_WIDE_PIPE_BYTES = 256 * 1024  # for a program that prints long output: both wait half as often
_LULL_NS = 1 * MILLISECOND
_KEPT_NAME = re.compile(r"\d+\.(\d+)-\d+[.-]")


class Stream:
    """One stream of a program, open for as long as the `with` block. Raises OSError without descriptors for it.

    The program gets `writer`, of which this process keeps its end: so the other end is readable only when something
    was printed, and the end of a program wakes this process once, not three times.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)  # this end alone: the program's is another open file
        self._short = bytearray()
        self._file_fd = -1  # of the file that holds it all once it is long
        self._error: OSError | None = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for fd in (self.reader, self.writer, self._file_fd):
            if fd >= 0:
                os.close(fd)

    def take(self) -> int:
        """Take what is in the pipe, all of it unless the program has widened it; return how many bytes it was."""
        try:
            data = os.read(self.reader, _WIDE_PIPE_BYTES)
        except BlockingIOError:
            return 0
        if self._error is None:
            try:
                self._hold(data)
            except OSError as error:
                # From here on it is thrown away: a disk that is full must not stop the program. `result` tells of it.
                self._error = error
        return len(data)

    def result(self, context: Context, suffix: str) -> tuple[str | None, str | None]:
        """Return all that was printed: its text when it is short and UTF-8, else the path of a file that keeps it.

        The processes that write must have ended. Raises OSError when it cannot be kept, or could not be while they ran.
        """
        # Not until it is empty: a process that could not be killed might write for ever.
        left = fcntl.fcntl(self.reader, fcntl.F_GETPIPE_SZ)
        while left > 0 and (count := self.take()):
            left -= count
        if self._error is not None:
            raise self._error
        if self._file_fd < 0:
            try:
                return self._short.decode(), None
            except UnicodeDecodeError:
                self._spill()  # not text: kept byte for byte
        return None, _keep(context, self._file_fd, suffix, reused=False)

    def _hold(self, data: bytes) -> None:
        if self._file_fd < 0 and len(self._short) + len(data) > limits.INLINE_OUTPUT_BYTES_MAX:
            self._spill()
            with suppress(OSError):  # this user has many of them, see pipe(7): it works as it is
                fcntl.fcntl(self.reader, fcntl.F_SETPIPE_SZ, _WIDE_PIPE_BYTES)
        if self._file_fd < 0:
            self._short += data
        else:
            _write(self._file_fd, data)

    def _spill(self) -> None:
        self._file_fd = open_unnamed(self._directory)
        _write(self._file_fd, self._short)


def await_spool(context: Context) -> Context:
    """Wait until the pool's spool takes files; return the context of an attempt that begins then.

    A job must not fail because the pool's own files are in trouble, nor is its time to pass meanwhile. The dealer sees
    it too, says so, and sends no more jobs. What makes the directory anew where it was removed is `open_unnamed`.
    """
    if _can_write(context.spool):
        return context
    pause_ns = limits.SHORTAGE_PAUSE_NS_MIN
    while True:
        with suppress(OSError):
            os.close(open_unnamed(context.spool))
            return context._replace(started_ns=time.monotonic_ns())
        wait_ready((), timeout_ns=pause_ns)
        pause_ns = min(2 * pause_ns, limits.SHORTAGE_PAUSE_NS_MAX)


def _can_write(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK) and os.path.isdir(directory)  # a fraction of the price of a file


class Streams:
    """Both streams of a program, open for as long as the `with` block. Raises OSError without descriptors for them."""

    def __init__(self, directory: str, clock: AwakeClock) -> None:
        self.clock = clock
        self.stdout = Stream(directory)
        try:
            self.stderr = Stream(directory)
        except OSError:
            self.stdout.__exit__(None, None, None)
            raise

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stdout.__exit__(kind, error, tb)
        self.stderr.__exit__(kind, error, tb)

    def wait_until(self, deadline_ns: int | None, fds: list[int]) -> bool:
        """Wait until one of `fds` is readable, as `procs.wait` does, and take what is printed meanwhile.

        False at the deadline, by the clock; None waits without a limit.
        """
        much = False
        while True:
            # A program that prints little by little is looked at once in a while: otherwise each of its lines would
            # wake this process, and so would the only line of a program that ends at once.
            lull_ns = self.clock.now().mono + _LULL_NS
            if not much and wait_until(lull_ns if deadline_ns is None else min(deadline_ns, lull_ns), self.clock, fds):
                return True
            ready = wait_until(deadline_ns, self.clock, [*fds, self.stdout.reader, self.stderr.reader])
            if not ready.isdisjoint(fds):
                return True
            much = max(self.stdout.take(), self.stderr.take()) > _MUCH_BYTES
            if deadline_ns is not None and self.clock.now().mono >= deadline_ns:
                return False

    def collect(self, context: Context) -> Output:
        """Return what was printed. The processes that write must have ended. Raises OSError when it is lost."""
        stdout, stdout_file = self.stdout.result(context, "out")
        stderr, stderr_file = self.stderr.result(context, "err")
        return Output(stdout, stderr, stdout_file, stderr_file)


def collect(context: Context, stdout_fd: int, stderr_fd: int) -> Output:
    """Return what is in two files: the text when it is short and UTF-8, else the path of a file with a copy.

    All processes that write to the files must have ended. Raises OSError when the output cannot be kept.
    """
    stdout, stdout_file = _one(context, stdout_fd, "out")
    stderr, stderr_file = _one(context, stderr_fd, "err")
    return Output(stdout, stderr, stdout_file, stderr_file)


def keep(context: Context, parts: Iterable[bytes | memoryview], suffix: str, *, sync: bool) -> str:
    """Keep bytes of an outcome that are too many for a message; return the path of their file. Raises OSError.

    `sync`: so that it survives the loss of power.
    """
    fd = open_unnamed(context.spool)
    try:
        for part in parts:
            _write(fd, part)
        return _keep(context, fd, suffix, reused=False, sync=sync)
    finally:
        os.close(fd)


def lost(error: Exception) -> Output:
    """Make the output of a job whose own cannot be kept: a full disk does not change how the job ended."""
    text = f"[taskpool] what the job printed is lost: {error}\n"
    return Output(stderr=text.encode("utf-8", "backslashreplace").decode())  # a path may hold bytes that are no UTF-8


def _one(context: Context, fd: int, suffix: str) -> tuple[str | None, str | None]:
    size = os.fstat(fd).st_size
    if size <= limits.INLINE_OUTPUT_BYTES_MAX:
        try:
            return os.pread(fd, size, 0).decode(), None
        except UnicodeDecodeError:
            pass  # not text: kept byte for byte
    return None, _keep(context, fd, suffix, reused=True)


def _keep(context: Context, fd: int, suffix: str, *, reused: bool, sync: bool = True) -> str:
    """Give the output a name beside the spool, `sync`: that survives the loss of power; `reused`: keep a copy of it."""
    # Not in the spool, whose files are transfers that end with their messages: this one is an outcome's, and stays
    # until retention takes the outcome. The token is in the name because a lost attempt may have kept its own.
    home = os.path.dirname(os.path.abspath(context.spool))
    name = f"{context.seq}.{context.token.epoch}-{context.token.n}"
    try:
        kept = _name(context, home, fd, f"{name}.{suffix}", reused, sync)
    except FileExistsError:
        # Epochs have begun anew here, because the lock file that counts them was removed; outputs were not.
        kept = _name(context, home, fd, f"{name}-{os.urandom(8).hex()}.{suffix}", reused, sync)
    except FileNotFoundError:  # the directory was removed between two steps
        kept = _name(context, home, fd, f"{name}.{suffix}", reused, sync)
    return os.path.join(home, OUTPUT_NAME, context.batch, kept)


def _name(context: Context, home: str, fd: int, name: str, reused: bool, sync: bool) -> str:
    directory_fd = open_inside(home, OUTPUT_NAME, context.batch)
    try:
        if sync and not reused:
            os.fsync(fd)
        if reused or not _link(fd, name, directory_fd):
            _copy(fd, name, directory_fd, sync)
        # File first, then its name: the journal must not tell of a file that a loss of power has taken.
        if sync:
            os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
    return name


def epoch_of(name: str) -> int:
    """Return the epoch in which a file of kept output was made, by its name; 0 when that tells none."""
    match = _KEPT_NAME.match(name)
    return int(match[1]) if match else 0


def _link(fd: int, name: str, directory_fd: int) -> bool:
    os.fchmod(fd, 0o600)  # a umask may have taken the owner's rights, and the file is to be read by its name
    try:
        # With dst_dir_fd, os.link follows the symbolic link in /proc: how linkat(2) names a file made by O_TMPFILE.
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory_fd)
    except FileNotFoundError:  # made without O_TMPFILE, see procs.files.open_unnamed: it can get no name any more
        return False
    return True


def _copy(fd: int, name: str, directory_fd: int, sync: bool) -> None:
    # O_EXCL: a file that is there is another attempt's.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    copy_fd = os.open(name, flags, 0o600, dir_fd=directory_fd)
    try:
        os.fchmod(copy_fd, 0o600)
        offset = 0
        while count := os.sendfile(copy_fd, fd, offset, _COPY_BYTES):
            offset += count
        if sync:
            os.fsync(copy_fd)
    finally:
        os.close(copy_fd)


def _write(fd: int, data: bytes | bytearray | memoryview) -> None:
    left = memoryview(data)
    while left:  # a disk that becomes full takes a part
        left = left[os.write(fd, left) :]
