"""Set a process's ties to its parent and to its orphans, and its place in the OOM killer's order."""

from __future__ import annotations

import os
import signal

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_WORKER_OOM_SCORE = 500  # of 1000: before the dealer, and before most else on the host


def die_with_parent(expected_parent: int) -> None:
    """Have the kernel kill this process as soon as the thread that spawned it ends.

    `expected_parent` is the parent's pid as the parent itself gave it. If the parent died before the arming, no signal
    will ever come (measured), so this process is killed here. Comparing with 1 would not do: a parent that is PID 1 of
    its container is alive. Raises OSError.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Armed first and compared second: a parent that dies in between is caught by the one or the other.
    if os.getppid() != expected_parent:
        os.kill(os.getpid(), signal.SIGKILL)


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
            if int(file.read()) < _WORKER_OOM_SCORE:
                file.seek(0)
                file.write(str(_WORKER_OOM_SCORE))
    except OSError:
        pass  # /proc is read-only in some sandboxes; this is a preference, not a promise


def _prctl(option: int, value: int) -> None:
    import ctypes  # here: it costs milliseconds that only a process with ties needs to pay

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    # Variadic in C: without the types ctypes would pass ints, and the kernel reads the upper halves of the registers.
    prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    if prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
