"""Reports that a worker holds to share a message, in memory where its dealer finds them when the worker dies.

The memory has no name (memfd_create(2)) and is made by the dealer, one for each worker. A report is written there as
soon as its job has ended, by a store of some bytes and no system call, before the next job of its frame can end the
process. The dealer reads it once, when the worker is dead and all that it has sent was read (docs/adr/0019).

Its first 8 bytes say how many reports there are and how many bytes they take; the reports follow, as in a Progress.

A job runs in the process that writes there, and can overwrite it: what the dealer finds is as hostile as a message.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct

import msgspec

from taskpool import codec, limits
from taskpool.errors import MessageError, is_lacking
from taskpool.messages import Report

# One word, so that a kill comes before or behind its store and never finds a number without its length. Native order:
# other orders are stored byte by byte.
_HEAD = struct.Struct("@Q")
_COUNT_SHIFT = 32
# No process can make it shorter, which would kill the worker at its next store (SIGBUS). They also tell a worker that
# it is this memory and no file that the dealer's parent left open.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def allocate() -> int:
    """Make the memory for one worker, for its dealer; return the descriptor. Raises OSError when there is none left."""
    try:
        fd = os.memfd_create("taskpool-reports", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        if not is_lacking(error) and error.errno != errno.EACCES:
            raise
        # A kernel or sandbox without it (EACCES: vm.memfd_noexec is 2): what a worker holds when it dies is lost, and
        # its jobs run again.
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.ftruncate(fd, limits.HELD_REPORTS_BYTES_MAX)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def read(fd: int) -> tuple[Report, ...]:
    """Return what a dead worker held; nothing where that is damaged, as if it had never been written."""
    data = os.pread(fd, limits.HELD_REPORTS_BYTES_MAX, 0)
    if len(data) < _HEAD.size:
        return ()  # the worker had no such memory
    head = _HEAD.unpack_from(data)[0]
    count, size = head >> _COUNT_SHIFT, head & ((1 << _COUNT_SHIFT) - 1)
    try:
        return tuple(codec.decode_reports(count, data[_HEAD.size : _HEAD.size + size]))
    except MessageError:
        return ()


def attach(fd: int) -> mmap.mmap:
    """Map the memory that the dealer gave this worker on a descriptor, and close that; without one, memory of its own.

    Raises OSError.
    """
    try:
        is_given = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:  # nothing is there, or no file in memory (fcntl(2))
        is_given = False
    if not is_given:
        return mmap.mmap(-1, limits.HELD_REPORTS_BYTES_MAX)
    memory = mmap.mmap(fd, limits.HELD_REPORTS_BYTES_MAX)
    os.close(fd)
    # What a job forks does not have it, and does not write reports of its parent by a stray store.
    memory.madvise(mmap.MADV_DONTFORK)
    return memory


class HeldReports:
    """A worker's end: the reports that wait for the next message, in order."""

    def __init__(self, memory: mmap.mmap, bytes_max: int) -> None:
        """`bytes_max`: how many bytes of reports one message takes."""
        self._memory = memory
        self._end_max = min(len(memory), _HEAD.size + bytes_max)
        self._end = _HEAD.size
        self.encoded: list[msgspec.Raw] = []

    def fits(self, report: bytes) -> bool:
        """Say whether there is room for a report beside those held."""
        return self._end + len(report) <= self._end_max

    def add(self, report: bytes) -> None:
        """Hold a report that fits: from here on it outlives this process."""
        begin, self._end = self._end, self._end + len(report)
        self._memory[begin : self._end] = report
        self.encoded.append(msgspec.Raw(report))
        # Behind the report: what is counted is whole.
        self._count(len(self.encoded))

    def clear(self) -> None:
        """Let go of all: they are sent."""
        self.encoded, self._end = [], _HEAD.size
        self._count(0)

    def _count(self, reports: int) -> None:
        _HEAD.pack_into(self._memory, 0, reports << _COUNT_SHIFT | (self._end - _HEAD.size))
