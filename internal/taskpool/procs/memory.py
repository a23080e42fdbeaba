"""How much memory this process has and what descends from it, and a bound for what it may allocate."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

from taskpool.procs import procfs
from taskpool.procs.process_tree import children_of


def exceeds(limit_bytes: int) -> int:
    """Return what all descendants of this process hold in memory when it is more than the limit, else 0.

    Resident sets count a page once for each process that shares it, as a program and what it forks do. So where their
    sum is too much, each page is divided by those who share it (Pss of proc_pid_smaps_rollup(5)): that takes the kernel
    milliseconds, and is asked only then. LIMIT: of processes that cannot be looked into the resident set counts.
    """
    family = list(_descendants())
    if sum(_resident(pid) for pid in family) <= limit_bytes:
        return 0
    # Looked at again, and not in the same instant: one that has ended meanwhile counts nothing.
    held = sum(_proportional(pid) for pid in family)
    return held if held > limit_bytes else 0


class AllocationBound:
    """What this process may allocate within a block: what does not fit fails with ENOMEM, in Python a MemoryError.

    RLIMIT_DATA counts private writable memory, so neither files that are mapped nor address space that is only
    reserved, as RLIMIT_AS would (getrlimit(2), since Linux 4.7).
    """

    def __init__(self) -> None:
        self._around = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        self._within: tuple[int, int] | None = None

    @contextmanager
    def of(self, more_bytes: int) -> Iterator[None]:
        """Let this process allocate so many bytes more than it has now; 0 sets no bound."""
        if not more_bytes:
            yield
            return
        self._around = soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        bound = _allocated() + more_bytes
        # A limit of the user's own stands: the kernel refuses more than the hard one, and the soft one was asked for.
        for limit in (soft, hard):
            if limit != resource.RLIM_INFINITY:
                bound = min(bound, limit)
        self._within = bound, hard
        resource.setrlimit(resource.RLIMIT_DATA, self._within)
        try:
            yield
        finally:
            self._replace(self._within, self._around)
            self._within = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Look at the process within the block as if there were no bound."""
        if self._within is None:
            yield
            return
        self._replace(self._within, self._around)
        try:
            yield
        finally:
            self._replace(self._around, self._within)

    @staticmethod
    def _replace(old: tuple[int, int], new: tuple[int, int]) -> None:
        # One that the job itself has set is not ours to change.
        if resource.getrlimit(resource.RLIMIT_DATA) == old:
            resource.setrlimit(resource.RLIMIT_DATA, new)


def _descendants() -> Iterator[int]:
    left = children_of()
    while left:
        pid = left.pop()
        yield pid
        left += children_of(pid)


def _resident(pid: int) -> int:
    stat = procfs.stat_of(pid)
    return stat.resident_bytes if stat is not None else 0


def _proportional(pid: int) -> int:
    return procfs.size_in(procfs.read(pid, "smaps_rollup"), b"Pss:") or _resident(pid)


def _allocated() -> int:
    return procfs.size_in(procfs.read(os.getpid(), "status"), b"VmData:")
