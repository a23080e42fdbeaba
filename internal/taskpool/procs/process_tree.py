"""Who descends from whom, and ending a whole family.

Two ways to know: the parent (children_of), and a mark in the environment that every descendant inherits
(TP_WORKER). No attempt may outlive its worker, and no worker its dealer.

LIMIT: a process that clears its environment *and* escapes from its parent is not found; nor is one that
runs as another user. One whose environment cannot be read is found as a child only, not by end_orphans.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import MILLISECOND
from taskpool.errors import ConfigurationError

MARK_VARIABLE = "TP_WORKER"
_MARK_PREFIX = MARK_VARIABLE.encode() + b"="


def worker_mark(pool: str, home: str, epoch: int, incarnation: int) -> str:
    """The value of TP_WORKER for a worker and all its descendants.

    `home` is the identity of the pool's state directory, where epochs are counted: a pool of the same name with
    another one, in a container that shares our processes, is another pool.
    """
    return f"{pool}/{home}/{epoch}/{incarnation}"


# --- looking ------------------------------------------------------------------------------------------


def children_of(pid: int | None = None) -> list[int]:
    """The pids of the children of `pid` (default: this process), zombies included."""
    parent = os.getpid() if pid is None else pid
    try:
        threads = os.listdir(f"/proc/{parent}/task")
        return [child for thread in threads for child in _pids_in(f"/proc/{parent}/task/{thread}/children")]
    except (FileNotFoundError, ProcessLookupError):
        # A kernel without CONFIG_PROC_CHILDREN has no such file; or a thread has just ended.
        return _children_by_scan(parent)


def mark_of(pid: int) -> str | None:
    """The TP_WORKER that `pid` was started with.

    None when it has none, is dead, belongs to another user, or lets nobody look (see _hides_its_mark). A child
    that has not reached its exec yet shows its parent's.
    """
    deadline = time.monotonic_ns() + limits.EXEC_NS_MAX
    while (environ := _read(f"/proc/{pid}/environ")) == b"" and not _has_no_environment(pid):
        # Amid an exec there is nothing to read for an instant.
        if time.monotonic_ns() > deadline:
            return None
        os.sched_yield()
    for line in (environ or b"").split(b"\0"):
        if line.startswith(_MARK_PREFIX):
            return os.fsdecode(line.removeprefix(_MARK_PREFIX))
    return None


def find_marked(prefix: str) -> list[int]:
    """All processes of our user whose mark starts with `prefix`, such as "pool/"; this one excepted."""
    return [pid for pid in _all_pids() if _is_marked(pid, lambda mark: mark.startswith(prefix))]


# --- ending -------------------------------------------------------------------------------------------


def kill_descendants() -> int:
    """Kills and reaps all children until none is left; returns how many there were.

    For a process that is a subreaper and has no child to keep: each death hands it the next generation.
    Costs one system call when there is no child.

    LIMIT: children that run as another user cannot be killed and are left.
    """
    ended = 0
    while _has_children():
        killed = [pid for pid in children_of() if _kill_child(pid)]
        if not killed:
            break
        for pid in killed:
            os.waitpid(pid, 0)
        ended += len(killed)
    return ended


def kill_marked(children: Iterable[int], mark: str) -> int:
    """Kills those of `children` that carry `mark`, or may carry it; returns how many may still have to die.

    For a subreaper after a worker's death: `children` are all its children it does not know. Each that is
    counted will send a SIGCHLD; reap it and call again with the children there are then, until the answer
    is 0. Only then nothing of that worker runs. Never waits for a death.
    """
    return sum(_kill_child(pid) for pid in children if _may_carry(pid, mark))


def end_orphans(pool: str, home: str, epoch: int, deadline_mono_ns: int) -> int:
    """Kills all workers of the pool's other epochs with their descendants; waits until they are dead.

    Returns how many there were. Raises ConfigurationError naming those still alive at the deadline.
    """

    def is_orphan(mark: str) -> bool:
        return mark.startswith(f"{pool}/{home}/") and not mark.startswith(f"{pool}/{home}/{epoch}/")

    ended: set[int] = set()
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
    """Whether this child, which nobody knows, must be dead before the worker of that mark counts as buried."""
    found = mark_of(pid)
    if found is not None:
        return found == mark
    # The dying count too: who they were can no longer be read, and their children are not ours yet.
    # They are killed as well, for the sake of those whose first thread alone has ended.
    return _is_dying(pid) or _hides_its_mark(pid)


def _kill_all(wanted: Callable[[str], bool]) -> dict[int, int]:
    """Kills every process whose mark is wanted; returns their pids, each with a pidfd open on it."""
    killed: dict[int, int] = {}
    for pid in _all_pids():
        if not _is_marked(pid, wanted):
            continue
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        # Looked at again: before the pidfd held it, the pid could have gone to somebody else.
        if _is_marked(pid, wanted) and _kill_pidfd(pidfd):
            killed[pid] = pidfd
        else:
            os.close(pidfd)
    return killed


def _wait_for_deaths(pidfds: dict[int, int], deadline_mono_ns: int) -> set[int]:
    """Returns the pids alive at the deadline. A pidfd is readable once its process is dead."""
    poll = select.poll()
    alive = {pidfd: pid for pid, pidfd in pidfds.items()}
    for pidfd in alive:
        poll.register(pidfd, select.POLLIN)
    while alive and (rest := deadline_mono_ns - time.monotonic_ns()) > 0:
        for pidfd, _ in poll.poll(rest / MILLISECOND):
            poll.unregister(pidfd)
            del alive[pidfd]
    return set(alive.values())


def _kill_child(pid: int) -> bool:
    """SIGKILL to a child not reaped yet, whose pid nobody else can have. False: it runs as another user."""
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
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


# --- /proc: whatever is asked about may be gone by the time we look -----------------------------------


class _Stat(NamedTuple):
    """What is used of /proc/PID/stat; see proc_pid_stat(5)."""

    parent: int
    memory_bytes: int  # 0: a zombie, a process amid its exit, or a kernel thread
    environ_start: int
    environ_end: int  # 0 amid an exec


def _stat(pid: int) -> _Stat | None:
    text = _read(f"/proc/{pid}/stat")
    if not text:
        return None
    # The second field is the program's name in parentheses, which may itself hold blanks and parentheses.
    fields = text.rpartition(b")")[2].split()
    return _Stat(int(fields[1]), int(fields[20]), int(fields[47]), int(fields[48]))


def _is_dying(pid: int) -> bool:
    stat = _stat(pid)
    return stat is not None and stat.memory_bytes == 0


def _has_no_environment(pid: int) -> bool:
    """Whether an empty environ is the truth, rather than an exec going on or just over."""
    stat = _stat(pid)
    return stat is None or stat.memory_bytes == 0 or stat.environ_start == stat.environ_end != 0


def _hides_its_mark(pid: int) -> bool:
    """Whether it is one of our user's and lets nobody look into it: a program without read permission, or one
    that made itself undumpable, as agents that hold keys do. All of its /proc that still tells is its status.

    LIMIT: below PID 1 of a container it may also be a stranger that somebody else started there as our user.
    Rather him than a second execution beside the first.
    """
    try:
        os.close(os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return os.geteuid() in _user_ids(pid)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return False


def _user_ids(pid: int) -> set[int]:
    """Real, effective, saved and file system's."""
    for line in (_read(f"/proc/{pid}/status") or b"").splitlines():
        if line.startswith(b"Uid:"):
            return {int(word) for word in line.split()[1:]}
    return set()


def _is_marked(pid: int, wanted: Callable[[str], bool]) -> bool:
    try:
        ours = os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except (FileNotFoundError, ProcessLookupError):
        return False
    mark = mark_of(pid) if ours and pid != os.getpid() else None
    return mark is not None and wanted(mark)


def _children_by_scan(parent: int) -> list[int]:
    return [pid for pid in _all_pids() if (stat := _stat(pid)) is not None and stat.parent == parent]


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _pids_in(path: str) -> list[int]:
    with open(path, "rb", buffering=0) as file:
        return [int(word) for word in file.readall().split()]


def _read(path: str) -> bytes | None:
    """None: there is no such process, or we may not look into it."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
