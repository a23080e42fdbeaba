"""Find the descendants of a process, and end them all.

No attempt may outlive its worker, and no worker its dealer: a job that is sent again while the process tree of its last
attempt lives would run twice at a time. Who ends that tree depends on who is left:

- A worker, after each job and when its dealer dies: it is a subreaper, so whatever escaped its parent within a job is
  the worker's child (kill_descendants).
- The dealer, after a worker's death: it is a subreaper too, and beside workers it starts no process (kill_strays).
- The next dealer, after both. It is related to nothing of that, see `orphans`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping

from taskpool import limits
from taskpool.procs import procfs
from taskpool.procs.procfs import ProcessStat
from taskpool.procs.wait import wait_ready

MARK_VARIABLE = "TP_WORKER"
_MARK_PREFIX = MARK_VARIABLE.encode() + b"="


def worker_mark(pool: str, state_id: str, epoch: int, incarnation: int) -> str:
    """Return the value of TP_WORKER for a worker, which all its descendants inherit that do not clear it.

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


def with_descendants(table: Mapping[int, ProcessStat], roots: Iterable[int]) -> set[int]:
    """Return the roots and all that descends from them, by the parents in `table`."""
    children: dict[int, list[int]] = {}
    for pid, stat in table.items():
        children.setdefault(stat.parent, []).append(pid)
    found, left = set[int](), list(roots)
    while left:
        pid = left.pop()
        if pid not in found:
            found.add(pid)
            left += children.get(pid, ())
    return found


def mark_of(pid: int) -> str | None:
    """Return the TP_WORKER that `pid` was started with.

    None when it has none, is dead, or cannot be looked into: another user's, a program without read permission, one
    that made itself undumpable. A child that has not reached its exec yet shows its parent's.
    """
    for line in _read_beyond_exec(pid, "environ").split(b"\0"):
        if line.startswith(_MARK_PREFIX):
            return os.fsdecode(line.removeprefix(_MARK_PREFIX))
    return None


# --- ending -------------------------------------------------------------------------------------------


def kill_descendants() -> int:
    """Kill and reap all children until none is left; return how many there were.

    For a process that is a subreaper and has no child to keep: each death hands it the dead one's children. A resource
    tracker gets the time to unlink what it knows of, which it does when all others that could tell it more are dead.
    Costs one system call when there is no child, since it runs after every job.

    LIMIT: children that run as another user cannot be killed, except by root, and are left.
    """
    ended = 0
    while has_children():
        children = children_of()
        trackers = [pid for pid in children if is_resource_tracker(pid)]
        killed = [pid for pid in children if pid not in trackers and _kill_child(pid)]
        if not killed and trackers:
            _wait_for_trackers(trackers)
            killed = [pid for pid in trackers if _kill_child(pid)]
        if not killed:
            break
        # All are killed before the first is waited for, so that none has the time to start more.
        for pid in killed:
            os.waitpid(pid, 0)
        ended += len(killed)
    return ended


def kill_strays(strays: Iterable[int], *, spare_trackers: bool = False) -> int:
    """Kill these children; return how many have to die yet.

    Resource trackers may be spared at first: they end by themselves, and unlink what the worker has left.

    For a subreaper after a worker's death: `strays` are its children that it did not start. Each one counted sends a
    SIGCHLD; reap it and call again with the strays there are then, until the answer is 0. Only then nothing of
    that worker runs: the dying count because their children are not handed to us before they are dead. Does not wait
    for a death: the dealer's loop must not stand still. LIMIT: as for kill_descendants.
    """
    return sum((spare_trackers and is_resource_tracker(pid)) or _kill_child(pid) for pid in strays)


def kill_below(held: Iterable[int]) -> int:
    """Kill what descends from dead children that their tracer does not let go of; return how many have to die yet.

    In the stop at its exit a process has not handed over its children. Those cannot be reaped, so none of their pids
    can have been given to another process.
    """
    held = list(held)
    found = set(_below(held))
    for pid in found:
        _kill_child(pid)
    alive = sum(not procfs.runs_no_more(pid) for pid in found)
    # Asked once more: one that has died since it was listed has left its own children to one of the others.
    return alive or len(set(_below(held)) - found)


def _below(held: Iterable[int]) -> Iterator[int]:
    for parent in held:
        for pid in children_of(parent):
            yield pid
            if procfs.runs_no_more(pid):
                yield from _below([pid])


def is_resource_tracker(pid: int) -> bool:
    """Say whether this is a process of Python's multiprocessing that unlinks what others have left."""
    # As multiprocessing and loky start it, frozen or not.
    return b"resource_tracker import main" in _read_beyond_exec(pid, "cmdline")


def wait_for_deaths(pidfds: Mapping[int, int], deadline_mono_ns: int) -> set[int]:
    """Wait until all are dead; return the pids alive at the deadline. The descriptors are the keys."""
    alive = dict(pidfds)
    while alive and (left_ns := deadline_mono_ns - time.monotonic_ns()) > 0:
        for pidfd in wait_ready(alive, timeout_ns=left_ns):  # readable once its process is dead, see pidfd_open(2)
            del alive[pidfd]
    return set(alive.values())


def _wait_for_trackers(pids: Iterable[int]) -> None:
    pidfds = {os.pidfd_open(pid): pid for pid in pids}
    try:
        wait_for_deaths(pidfds, time.monotonic_ns() + limits.TRACKER_END_NS)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def _read_beyond_exec(pid: int, name: str) -> bytes:
    """Read the environ or cmdline of a process; empty when it has none, or cannot be looked into."""
    text = procfs.read(pid, name)
    deadline = time.monotonic_ns() + limits.EXEC_NS_MAX
    while text == b"" and time.monotonic_ns() < deadline:
        # Amid an exec there is nothing to read for an instant, which nothing announces: yield and look again.
        is_amid_exec = _is_amid_exec(pid)
        text = procfs.read(pid, name)
        if not is_amid_exec:  # before this read: what it says is the truth
            break
        os.sched_yield()
    return text or b""


def _is_amid_exec(pid: int) -> bool:
    stat = procfs.stat_of(pid)
    return stat is not None and not stat.is_dying and stat.environ_end == 0


def _kill_child(pid: int) -> bool:
    """Send SIGKILL to a child that is not reaped yet, so that its pid is its own. False: it runs as another user."""
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        return False
    return True


def has_children() -> bool:
    # WNOWAIT leaves a dead child for the code that waits for it; ECHILD is the answer looked for.
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _children_by_scan(parent: int) -> list[int]:
    return [pid for pid in procfs.all_pids() if (stat := procfs.stat_of(pid)) is not None and stat.parent == parent]
