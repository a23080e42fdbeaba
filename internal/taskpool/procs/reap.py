"""See which child has died, end what is left of its process group, and reap it.

A dead child is seen first and reaped second. In between it is a zombie, so its pid, and with it the id of
its process group, cannot be given to another process, and what is left of the group can be killed safely:

    while (pid := peek()) is not None:
        kill_group(pid)
        exit = reap(pid)

Only one place in a program may do this, because a second one would take exits away from the first. A SIGCHLD means
"go and look": fifty deaths may send one, since a signal that is pending already is not queued again (signal(7)).
"""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

from taskpool.clock import SECOND

_KIB = 1024


# R10 (docs/protocol.md, 11): the dealer calls `peek` and `reap` in dealer/processes.py only.
class ChildExit(NamedTuple):
    """The end of a child. Exactly one of `status` and `signal` is not None."""

    pid: int
    status: int | None  # the exit status
    signal: int | None  # the signal that killed it
    cpu_ns: int  # user and system, with all descendants it has reaped
    max_rss_bytes: int  # the most it, or any one descendant it has reaped, held at a time
    core_dumped: bool = False


def peek() -> int | None:
    """Return the pid of a child that has died and waits to be reaped, or None. Never blocks.

    It may be one that this program did not start: PID 1 and subreapers inherit the orphans below them. Reap it all
    the same: zombies count against the limit on processes.
    """
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def reap(pid: int) -> ChildExit:
    """Take the dead child off the process table and return how it ended. Blocks while it is not dead.

    Raises ChildProcessError when `pid` is no child of this process.
    """
    _, status, usage = os.wait4(pid, 0)
    killed = os.WIFSIGNALED(status)
    return ChildExit(
        pid=pid,
        status=None if killed else os.WEXITSTATUS(status),
        signal=os.WTERMSIG(status) if killed else None,
        cpu_ns=round((usage.ru_utime + usage.ru_stime) * SECOND),
        # In KiB on Linux (getrusage(2)). It begins at what the parent held: a spawned child shares the parent's memory
        # until its exec, and the peak does not fall again.
        max_rss_bytes=usage.ru_maxrss * _KIB,
        core_dumped=killed and os.WCOREDUMP(status),
    )


def kill_group(leader: int) -> None:
    """Send SIGKILL to every process of the group. `leader` must be a child of this process, not reaped yet."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # It never led a group, or all that is left of it runs as another user.
        pass
