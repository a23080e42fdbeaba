"""Set a process's ties to its parent and to its orphans, and its place in the OOM killer's order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any

from taskpool.procs.process_tree import kill_descendants

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_PARENT_DIED = signal.SIGHUP  # nothing else that a worker is told by it

WORKER_OOM_SCORE = 500  # of 1000: before the dealer, and before most else on the host


class ParentTie:
    """Ends this process when its parent dies: the kernel kills it, or it ends what it has started first."""

    def __init__(self, parent: int) -> None:
        """Have the kernel kill this process as soon as the thread that spawned it ends.

        `parent` is the parent's pid as the parent itself gave it. Raises OSError.
        """
        self._parent = parent
        signal.signal(_PARENT_DIED, self._on_parent_died)
        self._arm(signal.SIGKILL)

    @contextmanager
    def descendants_first(self) -> Iterator[None]:
        """While the block runs, end all descendants when the parent dies, then this process.

        A SIGKILL would leave them behind. Only for a block that waits in Python: within long C code no handler runs.
        This process must be a subreaper, so that all its descendants are its children in the end.
        """
        self._arm(_PARENT_DIED)
        try:
            yield
        finally:
            self._arm(signal.SIGKILL)

    def _arm(self, number: signal.Signals) -> None:
        _prctl(_PR_SET_PDEATHSIG, number)
        # Armed first and compared second: a parent that dies in between is caught by the one or the other. If it died
        # before, no signal will ever come (measured). Comparing with 1 would not do: PID 1 of a container may be it.
        self._end_if_orphaned()

    def _end_if_orphaned(self) -> None:
        if os.getppid() != self._parent:
            kill_descendants()
            os.kill(os.getpid(), signal.SIGKILL)

    def _on_parent_died(self, _signum: int, _frame: FrameType | None) -> None:
        # It acts, like the handler of the time-out: who waits for a program is woken by nothing else. Any process of
        # this user may send the signal, a service manager does to the whole group: so the parent is looked for.
        self._end_if_orphaned()


def become_subreaper() -> None:
    """Have orphans among this process's descendants become its children, not init's. Raises OSError.

    The setting survives an exec and is not inherited by children (PR_SET_CHILD_SUBREAPER in prctl(2)): dealer and
    worker each set their own.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def lower_oom_protection() -> None:
    """Make the kernel prefer this process, and what it starts, to the dealer when memory runs out.

    One worker's death costs one attempt, the dealer's costs the pool an epoch. Raising the score needs no privilege,
    lowering it would (proc(5), oom_score_adj); a score that is higher already is left.
    """
    try:
        with open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:
            if int(file.read()) < WORKER_OOM_SCORE:
                file.seek(0)
                file.write(str(WORKER_OOM_SCORE))
    except OSError:
        pass  # /proc is read-only in some sandboxes; this is a preference, not a promise


def _prctl(option: int, value: int) -> None:
    import ctypes  # here: it costs milliseconds that only a process with ties needs to pay

    if _function()(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


@cache
def _function() -> Any:
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # Variadic in C: without the types ctypes would pass ints, and the kernel reads the upper halves of the registers.
    prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    return prctl
