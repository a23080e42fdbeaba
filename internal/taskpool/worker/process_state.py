"""Remember the state of the process that a job of user code may change, and restore it for the next job.

What a module changes when it is imported stays, for it is imported once: the first job of a worker and the hundredth
find the same process. What a function changes when it is called is put back. What cannot be put back makes the job the
process's last one.
"""

from __future__ import annotations

import _thread
import faulthandler
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from taskpool.procs import prctl
from taskpool.procs.process_tree import has_children
from taskpool.worker.properties import LIMITS, PROPERTIES, Cannot, Property

kernel_state: Callable[[int], bytes] | None
try:
    from taskpool.worker.kernel_state import kernel_state
except ImportError:  # it was not compiled
    kernel_state = None

_OUTPUTS = (1, 2)
_LOOKS = tuple(each.look for each in PROPERTIES)
_LOOKS_BESIDE_KERNEL = tuple(each.look for each in PROPERTIES if not each.in_kernel_state)


class ProcessState:
    """The process as it is at construction: make one when handlers and descriptors are set up. Main thread only."""

    def __init__(self) -> None:
        self.keep()
        self._directory = _directory()
        # A descriptor, not a path: the directory may be renamed, and O_PATH needs no permission to read it.
        self._directory_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._outputs = [(fd, os.dup(fd)) for fd in _OUTPUTS]
        self._limits = {number: resource.getrlimit(number)[0] for number in LIMITS}
        # A job that keeps more than half of the descriptors open leaves the next ones too few.
        self._files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._threads = _thread._count()
        self._left: str | None = None

    def restore(self) -> str | None:
        """Undo what a job has changed. Return a text that names what cannot be undone; None: nothing is left."""
        left = self._left
        if self._differs():
            left = self._put_back() or left
            # Behind it, when a stream of the job's own is gone, which may have closed its descriptor as it went.
            for fd, copy in self._outputs:
                if not _is_open(fd):
                    os.dup2(copy, fd)
        faulthandler.cancel_dump_traceback_later()  # it would end the process in the middle of another job
        # A thread cannot be ended from outside, and would run on beside the next job.
        threads = _thread._count()
        if threads > self._threads:
            left = "a thread that still runs"
        self._threads = min(self._threads, threads)  # one that a module has started may have ended
        return self._restore_directory() or left

    def lowered(self, *numbers: int) -> str | None:
        """Name one of these resource limits that is lower than at construction: prlimit(1) may have been used on this
        process. None: none is."""
        for number in numbers:
            # Compared as the kernel does, for which RLIM_INFINITY, -1 here, is the highest.
            before, now = (limit % 2**64 for limit in (self._limits[number], resource.getrlimit(number)[0]))
            if now < before:
                return f"{LIMITS[number]} of this worker was lowered to {now}"
        return None

    # --- imports ---

    def look(self) -> Snapshot:
        """Look at the process, before a module is loaded."""
        values = [look() for look in _LOOKS]
        return Snapshot(values, _directory(), _thread._count(), has_children(), len(sys.modules))

    def after_import(self, before: Snapshot, *, failed: bool) -> None:
        """Keep what the loading of a module has changed.

        A failed one will be tried again, and then finds the modules that it had loaded, but not what they did to the
        process: where they did something, this process serves no further job.
        """
        now = self.look()
        # A process cannot be kept for later jobs: what it does for one of them must end with that job.
        if now.children and not before.children:
            self._left = "a process that a module has started when it was imported"
        values_differ = _differ(now.values, before.values)
        if not values_differ and now.directory == before.directory and now.threads <= before.threads:
            return
        if failed:
            if now.modules > before.modules:
                self._left = "the process as a module changed it whose import then failed"
            return
        self._threads += max(0, now.threads - before.threads)
        if now.directory != before.directory:
            os.close(self._directory_fd)
            self._directory_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if values_differ:
            three = zip(self._kept, before.values, now.values, strict=True)
            self._keep([_merged(*each) if _differ(each[1], each[2]) else each[0] for each in three])

    def keep(self) -> None:
        """Keep the process as it is now, between two jobs or before a job's own code has run."""
        self._keep([look() for look in _LOOKS])

    def _keep(self, values: list[Any]) -> None:
        self._kept = values
        pairs = zip(values, PROPERTIES, strict=True)
        self._kept_beside_kernel = [value for value, each in pairs if not each.in_kernel_state]
        self._kernel_as_kept = b""

    def _differs(self) -> bool:
        state = _kernel_state()
        if state and state == self._kernel_as_kept:
            return _differ([look() for look in _LOOKS_BESIDE_KERNEL], self._kept_beside_kernel)
        if _differ([look() for look in _LOOKS], self._kept):
            return True
        self._kernel_as_kept = state
        return False

    def _put_back(self) -> str | None:
        left = None
        for each, wanted in zip(PROPERTIES, self._kept, strict=True):
            found = each.look()  # once more: what has been put back before this one may have changed it
            if _differ(found, wanted):
                left = _put_back(each, wanted, found) or left
        return left

    def _restore_directory(self) -> str | None:
        """Restore the directory, and find out by the way whether the job has closed or kept too many descriptors."""
        try:
            os.fchdir(self._directory_fd)
            # dup(2) gives the lowest free number: so many descriptors are open, in one call instead of a list of them.
            lowest_free = os.dup(self._directory_fd)
            os.close(lowest_free)
        except OSError as error:
            return f"descriptors that do not work: {error}"
        return f"{lowest_free} open files" if lowest_free > self._files_max else None


class Snapshot(NamedTuple):
    """The process before the import of a module."""

    values: list[Any]  # of PROPERTIES
    directory: tuple[int, int] | None
    threads: int
    children: bool
    modules: int


def _kernel_state() -> bytes:
    """Return what the properties that are marked have in the kernel; empty where that cannot be had at once."""
    if kernel_state is None:
        return b""
    try:
        return kernel_state(prctl.oom_score_fd())
    except OSError:
        return b""


def _put_back(each: Property, wanted: Any, found: Any) -> str | None:
    try:
        each.put_back(wanted, found)
    except Cannot as reason:
        return str(reason)
    except Exception:  # noqa: BLE001 - refused by the kernel, or by an object of the job's own
        return each.what
    return each.what if _differ(each.look(), wanted) else None


def _differ(one: Any, other: Any) -> bool:
    try:
        return bool(one != other)
    except BaseException:  # noqa: BLE001 - handlers and streams are objects of the job's, and compare as they like
        return True


def _merged(kept: Any, before: Any, after: Any) -> Any:
    """Return `kept` with what has changed between the other two, as finely as the values have parts."""
    if isinstance(kept, dict):
        changed = {key: value for key, value in after.items() if before.get(key, _merged) != value}
        return {key: value for key, value in (kept | changed).items() if key in after or key not in before}
    if isinstance(kept, list):
        return [new if _differ(new, old) else was for was, old, new in zip(kept, before, after, strict=True)]
    return after


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _directory() -> tuple[int, int] | None:
    try:
        status = os.stat(".")
    except OSError:
        return None
    return status.st_dev, status.st_ino
