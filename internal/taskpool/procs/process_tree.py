"""Find the descendants of a process, and end them all.

Two ways to find them: by the parent (children_of), and by a mark in the environment that every descendant inherits
(TP_WORKER). Both are needed: a subreaper is handed the orphans below it but cannot see whose they are, and a mark tells
whose they are but can be cleared. No attempt may outlive its worker, and no worker its dealer: a job that is sent again
while the process tree of its last attempt lives would run twice at a time.

LIMIT: a process that clears its environment *and* escapes from its parent is not found; nor is one that
runs as another user. One whose environment cannot be read is found as a child only, not by end_orphans.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable

from taskpool import limits
from taskpool.errors import ConfigurationError
from taskpool.procs import procfs
from taskpool.procs.wait import wait_ready

MARK_VARIABLE = "TP_WORKER"
_MARK_PREFIX = MARK_VARIABLE.encode() + b"="


def worker_mark(pool: str, state_id: str, epoch: int, incarnation: int) -> str:
    """Return the value of TP_WORKER for a worker and all its descendants.

    `state_id` is the identity of the pool's state directory, where epochs are counted: a pool of the same name with
    another directory, in a container that shares this one's processes, is another pool (docs/adr/0014).
    """
    return f"{pool}/{state_id}/{epoch}/{incarnation}"


# --- finding ------------------------------------------------------------------------------------------


def children_of(pid: int | None = None) -> list[int]:
    """List the children of `pid` (default: this process), zombies included."""
    parent = os.getpid() if pid is None else pid
    listed = procfs.listed_children(parent)
    return _children_by_scan(parent) if listed is None else listed


def mark_of(pid: int) -> str | None:
    """Return the TP_WORKER that `pid` was started with.

    None when it has none, is dead, belongs to another user, or cannot be looked into (see _hides_its_mark). A child
    that has not reached its exec yet shows its parent's.
    """
    deadline = time.monotonic_ns() + limits.EXEC_NS_MAX
    while (environ := procfs.read(pid, "environ")) == b"" and not _has_no_environment(pid):
        # Amid an exec there is nothing to read for an instant, which nothing announces: yield and look again.
        if time.monotonic_ns() > deadline:
            return None
        os.sched_yield()
    for line in (environ or b"").split(b"\0"):
        if line.startswith(_MARK_PREFIX):
            return os.fsdecode(line.removeprefix(_MARK_PREFIX))
    return None


# --- ending -------------------------------------------------------------------------------------------


def kill_descendants() -> int:
    """Kill and reap all children until none is left; return how many there were.

    For a process that is a subreaper and has no child to keep: each death hands it the dead one's children.
    Costs one system call when there is no child, since it runs after every job.

    LIMIT: children that run as another user cannot be killed and are left.
    """
    ended = 0
    while _has_children():
        killed = [pid for pid in children_of() if _kill_child(pid)]
        if not killed:
            break
        # All are killed before the first is waited for, so that none has the time to start more.
        for pid in killed:
            os.waitpid(pid, 0)
        ended += len(killed)
    return ended


def kill_marked(children: Iterable[int], mark: str) -> int:
    """Kill those of `children` that carry `mark`, or may carry it; return how many may still have to die.

    For a subreaper after a worker's death: `children` are all its children that it did not start itself. Each one
    counted will send a SIGCHLD; reap it and call again with the children there are then, until the answer
    is 0. Only then nothing of that worker runs. Does not wait for a death: the dealer's loop must not stand still.
    """
    return sum(_kill_child(pid) for pid in children if _may_carry(pid, mark))


def end_orphans(pool: str, state_id: str, epoch: int, deadline_mono_ns: int) -> int:
    """Kill all workers of the pool's other epochs with their descendants; wait until they are dead.

    Returns how many there were. Raises ConfigurationError naming those still alive at the deadline. They are found by
    their mark, because they are not this process's children and the pids that an earlier dealer knew may be reused.
    """

    def is_orphan(mark: str) -> bool:
        return mark.startswith(f"{pool}/{state_id}/") and not mark.startswith(f"{pool}/{state_id}/{epoch}/")

    ended: set[int] = set()
    # Until a scan finds none: what an orphan starts behind the scan that found it is seen by the next one only.
    while killed := _kill_all(is_orphan):
        try:
            alive = _wait_for_deaths(killed, deadline_mono_ns)
        finally:
            for pidfd in killed.values():
                os.close(pidfd)
        if alive:
            raise ConfigurationError(
                f"processes of an earlier life of pool {pool} do not die: {', '.join(map(str, sorted(alive)))}; "
                "a kill -9 waits for their disk or network I/O: end that, then start again"
            )
        ended |= killed.keys()
    return len(ended)


def _may_carry(pid: int, mark: str) -> bool:
    """Say whether this unknown child has to be dead before the worker of that mark counts as gone."""
    found = mark_of(pid)
    if found is not None:
        return found == mark
    # The dying count too: their environment can no longer be read, and their children are not handed to us before
    # they are dead. They are killed as well, because in a process whose first thread alone has ended others run on.
    return _is_dying(pid) or _hides_its_mark(pid)


def _is_dying(pid: int) -> bool:
    stat = procfs.stat_of(pid)
    return stat is not None and stat.is_dying


def _has_no_environment(pid: int) -> bool:
    """Say whether an empty environ is the truth, rather than an exec that is going on or just over."""
    stat = procfs.stat_of(pid)
    return stat is None or stat.is_dying or stat.environ_start == stat.environ_end != 0


def _hides_its_mark(pid: int) -> bool:
    """Say whether it runs as our user and its environment cannot be read.

    So it is for a program without read permission, and for one that made itself undumpable, as agents that hold keys
    do (PR_SET_DUMPABLE in prctl(2)). Of its /proc only its status still tells whose it is.

    LIMIT: below PID 1 of a container it may also be a foreign process that was started there as our user. It is
    killed all the same: the alternative is a second execution of a job beside the first.
    """
    return procfs.is_readable(pid, "environ") is False and os.geteuid() in procfs.user_ids_of(pid)


def _kill_all(wanted: Callable[[str], bool]) -> dict[int, int]:
    """Kill every process whose mark is wanted; return their pids, each with a pidfd open on it."""
    killed: dict[int, int] = {}
    for pid in procfs.all_pids():
        if not _is_marked(pid, wanted):
            continue
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        # Looked at again: until the pidfd held it, the pid could have gone to another process.
        if _is_marked(pid, wanted) and _kill_pidfd(pidfd):
            killed[pid] = pidfd
        else:
            os.close(pidfd)
    return killed


def _wait_for_deaths(pidfds: dict[int, int], deadline_mono_ns: int) -> set[int]:
    """Wait until all are dead; return the pids alive at the deadline."""
    alive = {pidfd: pid for pid, pidfd in pidfds.items()}
    while alive and (left_ns := deadline_mono_ns - time.monotonic_ns()) > 0:
        for pidfd in wait_ready(alive, timeout_ns=left_ns):  # readable once its process is dead, see pidfd_open(2)
            del alive[pidfd]
    return set(alive.values())


def _kill_child(pid: int) -> bool:
    """Send SIGKILL to a child that is not reaped yet, so that its pid is its own. False: it runs as another user."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        return False
    return True


def _kill_pidfd(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _has_children() -> bool:
    # WNOWAIT leaves a dead child for the code that waits for it; ECHILD is the answer looked for.
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _is_marked(pid: int, wanted: Callable[[str], bool]) -> bool:
    """Say whether a process has a mark that is wanted. Only our user's are looked at, and not this one itself."""
    # This one: a dealer that a job has started carries the mark of that job's worker.
    if pid == os.getpid() or procfs.owner_of(pid) != os.geteuid():
        return False
    mark = mark_of(pid)
    return mark is not None and wanted(mark)


def _children_by_scan(parent: int) -> list[int]:
    return [pid for pid in procfs.all_pids() if (stat := procfs.stat_of(pid)) is not None and stat.parent == parent]
