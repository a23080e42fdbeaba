"""Who died, how, and at what cost.

A dead child is seen first and reaped second. In between it is a zombie, so its pid, and with it the id of
its process group, cannot be given to anybody else, and what is left of the group can be killed safely:

    while (pid := peek()) is not None:
        kill_group(pid)
        exit = reap(pid)

Only one place in a program may do this. A SIGCHLD means "go and look": fifty deaths may send one.
"""

from __future__ import annotations

import os
import signal
from typing import NamedTuple


class Exit(NamedTuple):
    """The end of a child. Exactly one of `status` and `signal` is not None."""

    pid: int
    status: int | None  # the exit status
    signal: int | None  # the signal that killed it
    cpu_ns: int  # user and system, with all descendants it has reaped
    max_rss_bytes: int  # the most it, or any one descendant it has reaped, held at a time
    core: bool  # it dumped core


def peek() -> int | None:
    """The pid of a child that has died and waits to be reaped, or None. Never blocks.

    It may be nobody we started: PID 1 and subreapers inherit the orphans below them. Reap it all the same.
    """
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def reap(pid: int) -> Exit:
    """Takes the dead child off the process table. Blocks if it is not dead.

    Raises ChildProcessError when `pid` is no child of ours.
    """
    _, status, usage = os.wait4(pid, 0)
    killed = os.WIFSIGNALED(status)
    return Exit(
        pid=pid,
        status=None if killed else os.WEXITSTATUS(status),
        signal=os.WTERMSIG(status) if killed else None,
        cpu_ns=round((usage.ru_utime + usage.ru_stime) * 1e9),
        max_rss_bytes=usage.ru_maxrss * 1024,  # KiB on Linux
        core=killed and os.WCOREDUMP(status),
    )


def kill_group(leader: int) -> None:
    """SIGKILL to every process of the group. `leader` must be a child of ours, not reaped yet."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # It never led a group, or all that is left of it runs as another user.
        pass
