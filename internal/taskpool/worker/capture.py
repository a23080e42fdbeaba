"""Keep what a job inside the worker prints, in any language, on descriptors 1 and 2.

Files, not pipes: nothing has to read them while the job runs, and a grandchild that keeps one open keeps no reader
waiting. Descriptor 1 is a file of the worker's own. Descriptor 2 is the dealer's (docs/adr/0005): it quotes the end of
it when the worker dies, so the file must hold what the job in hand has written, and nothing of the jobs before.

LIMIT: a job or its program that opens one of them again by name and truncates it loses what was printed before.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from typing import TextIO

from taskpool.errors import ConfigurationError
from taskpool.kinds.base import Context
from taskpool.kinds.capture import collect
from taskpool.messages import NO_OUTPUT, Output
from taskpool.procs.files import open_unnamed_somewhere
from taskpool.worker.native_streams import NativeStreams

_STDOUT = 1
_STDERR = 2


class Capture:
    """Takes over the process's standard output and error. One in a process.

    Raises ConfigurationError when descriptor 2 is no file to read and append to.
    """

    def __init__(self, spool: str) -> None:
        _check_stderr()
        # Descriptors, not sys.stdout alone: C code and the programs that a job starts know only those.
        # In memory where the spool cannot be used: no worker at all would end the pool.
        fd = open_unnamed_somewhere(spool)
        os.dup2(fd, _STDOUT)
        os.close(fd)
        sys.stdout = sys.__stdout__ = self._stdout = _stream(_STDOUT)  # type: ignore[assignment,misc]
        sys.stderr = sys.__stderr__ = self._stderr = _stream(_STDERR)  # type: ignore[assignment,misc]
        self._native_streams = NativeStreams()
        self._files = _files()
        self.clear()

    def clear(self) -> None:
        """Discard what was printed."""
        # Looked at first: most jobs print nothing, and a look costs less than two truncations.
        for fd in (_STDOUT, _STDERR):
            if _size(fd):
                os.ftruncate(fd, 0)

    def take(self, context: Context) -> Output:
        """Return what was printed since the last call.

        Raises ValueError when the job has closed or replaced a stream, OSError when the output cannot be
        kept. Neither leaves this object fit for another job.
        """
        for stream in (self._stdout, self._stderr):
            _flush(stream)
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:  # a module has put its own there
            for stream in (sys.stdout, sys.stderr, self._stdout, self._stderr):
                _flush(stream)
        self._native_streams.flush()
        if not _size(_STDOUT) and not _size(_STDERR):
            return NO_OUTPUT
        if self._files != _files():
            # Asked before anything is truncated: it would be a file of the job's own.
            raise ValueError("the job has put files of its own in the place of standard output or error")
        output = collect(context, _STDOUT, _STDERR)
        self.clear()
        return output


def _check_stderr() -> None:
    # Anything but the dealer's file would be truncated here between jobs: a terminal cannot be, a user's log must not.
    flags = os.O_RDWR | os.O_APPEND
    is_file = stat.S_ISREG(os.fstat(_STDERR).st_mode)
    if not is_file or fcntl.fcntl(_STDERR, fcntl.F_GETFL) & flags != flags:
        raise ConfigurationError("descriptor 2: expected the dealer's capture file, opened with O_RDWR and O_APPEND")


def _stream(fd: int) -> TextIO:
    # Not the streams Python has made: their encoding depends on the locale, and they are missing where a
    # descriptor was closed at the start. surrogateescape: file names that are no UTF-8 come out byte for byte.
    by_line_or_block = 1 if fd == _STDERR else -1
    return open(fd, "w", by_line_or_block, encoding="utf-8", errors="surrogateescape", closefd=False)


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except BaseException as error:
        if isinstance(error, OSError):
            raise


def _files() -> list[tuple[int, int]]:
    """Identify the files that the descriptors stand for."""
    return [(status.st_dev, status.st_ino) for status in (os.fstat(_STDOUT), os.fstat(_STDERR))]


def _size(fd: int) -> int:
    return os.lseek(fd, 0, os.SEEK_END)  # a quarter of the price of fstat; with O_APPEND the offset does not matter
