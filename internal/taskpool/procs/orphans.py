"""End what an earlier life of a pool has left running.

Its processes are not this one's children, so nothing but traces tells them from others. Each trace has its hole, and
where one is missing another one is there:

- the control group, which nothing but a move by root or the owner leaves; it cannot be made everywhere;
- the mark in the environment, which a program can clear, and hide by making itself undumpable;
- the session of the worker, which a daemon leaves; it counts with the OOM score, which workers raise and children
  inherit, because the session's number can have gone to others since;
- being the descendant of a process with one of these.

LIMIT: where there is no control group, a descendant is not found that has cleared or hidden its environment *and*
has a session of its own *and* has lost its parent, if dealer and worker were killed together. No process of another
user is ended, except by root.
"""

from __future__ import annotations

import mmap
import os
import signal
from pathlib import Path
from typing import NamedTuple

import msgspec

from taskpool import limits
from taskpool.errors import ConfigurationError
from taskpool.procs import procfs
from taskpool.procs.control_group import ControlGroup
from taskpool.procs.prctl import WORKER_OOM_SCORE
from taskpool.procs.process_tree import mark_of, wait_for_deaths, with_descendants
from taskpool.procs.procfs import ProcessStat
from taskpool.procs.state_dir import identity

_LIST_NAME = "workers"  # in the pool's state directory
_ENTRIES = 2 * (limits.WORKERS_MAX + limits.SPARES_MAX) + 2  # replacements start before the dead are all reaped
_ENTRY_BYTES = 40
_HEAD_BYTES = 4096 + 512  # a path, and what else the head holds

_Processes = dict[int, ProcessStat]


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head of a worker list: where its pids mean anything, and the control group they are in."""

    boot_id: str
    pid_namespace: str
    group: str | None


class WorkerList:
    """The workers that a dealer has, in a file for the dealer after it. Not synced: no process survives a power cut."""

    def __init__(self, directory: Path, group: ControlGroup | None) -> None:
        """Begin an empty list in the place of an earlier one. Raises ConfigurationError."""
        path = directory / _LIST_NAME
        head = Head(procfs.boot_id(), procfs.pid_namespace(), None if group is None else str(group))
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                # Written over and in full: with its blocks there, a note cannot fail, whatever becomes of the disk.
                os.pwrite(fd, msgspec.json.encode(head).ljust(_HEAD_BYTES - 1) + b"\n" + _entry("") * _ENTRIES, 0)
                self._map = mmap.mmap(fd, _HEAD_BYTES + _ENTRY_BYTES * _ENTRIES)
            finally:
                os.close(fd)
        except OSError as error:
            raise ConfigurationError(f"cannot write the list of workers {path}: {error.strerror}") from error
        self._places: dict[int, int] = {}

    def add(self, pid: int) -> None:
        """Note a child of this process that was just started."""
        stat = procfs.stat_of(pid)
        assert stat is not None, "a child has a stat until it is reaped"
        taken = set(self._places.values())
        self._places[pid] = next(place for place in range(_ENTRIES) if place not in taken)
        self._write(self._places[pid], _entry(f"{pid} {stat.start_ticks}"))

    def remove(self, pid: int) -> None:
        """Strike out one that has exited, with all that descends from it."""
        self._write(self._places.pop(pid), _entry(""))

    def close(self) -> None:
        self._map.close()

    def _write(self, place: int, entry: bytes) -> None:
        start = _HEAD_BYTES + place * _ENTRY_BYTES
        self._map[start : start + _ENTRY_BYTES] = entry


def _entry(text: str) -> bytes:
    return text.encode().ljust(_ENTRY_BYTES - 1) + b"\n"


class Life(NamedTuple):
    """A life of a pool, by what it may have left running."""

    pool: str
    state_id: str
    workers: dict[int, int]  # when each was started, by pid, in ticks since the boot
    group: ControlGroup | None

    def is_mark(self, mark: str | None, living_epoch: int) -> bool:
        """Whether a mark is one of this pool's, of any epoch but the living one."""
        pool = f"{self.pool}/{self.state_id}/"
        return mark is not None and mark.startswith(pool) and not mark.startswith(f"{pool}{living_epoch}/")


def last_life(directory: Path, pool: str) -> Life:
    """Read what the last dealer of a state directory has noted; nothing of it where that says nothing here."""
    state_id = identity(directory)
    try:
        data = (directory / _LIST_NAME).read_bytes()
        head = msgspec.json.decode(data[:_HEAD_BYTES], type=Head)
        entries = (line.split() for line in data[_HEAD_BYTES:].splitlines())
        workers = {int(entry[0]): int(entry[1]) for entry in entries if entry}
    except (OSError, msgspec.MsgspecError, ValueError, IndexError):
        return Life(pool, state_id, {}, None)
    here = procfs.boot_id(), procfs.pid_namespace()
    if (head.boot_id, head.pid_namespace) != here or head.boot_id == procfs.UNKNOWN:
        return Life(pool, state_id, {}, None)
    return Life(pool, state_id, workers, None if head.group is None else ControlGroup(Path(head.group)))


def end_orphans(life: Life, living_epoch: int, deadline_mono_ns: int) -> int:
    """Kill all that earlier lives left running, and wait until it is dead; return how many processes there were.

    `living_epoch` is that of the caller, whose workers are spared; 0: none lives. Raises ConfigurationError naming
    those alive at the deadline.
    """
    count = 0 if life.group is None else _end_group(life.pool, life.group, deadline_mono_ns)
    ended: set[tuple[int, int]] = set()  # or another user's
    # Until a scan finds none: what an orphan starts behind the scan that found it is seen by the next one only.
    while orphans := {pid: stat for pid, stat in _orphans(life, living_epoch).items() if stat.key(pid) not in ended}:
        chosen = _first_to_end(life, orphans)
        count += sum(not stat.is_dying for stat in chosen.values())
        _check_ended(life.pool, _end(chosen, deadline_mono_ns))
        ended |= {stat.key(pid) for pid, stat in chosen.items()}
    return count


# --- finding ------------------------------------------------------------------------------------------


def _orphans(life: Life, living_epoch: int) -> _Processes:
    """Find the orphans. Not this process, whatever it carries: a job may have started it."""
    marked = {pid for pid in procfs.all_pids() if life.is_mark(mark_of(pid), living_epoch)}
    if not marked and not life.workers:
        return {}
    table = {pid: stat for pid in procfs.all_pids() if (stat := procfs.stat_of(pid)) is not None}
    traced = {pid for pid, stat in table.items() if _is_in_session(life, table, pid, stat)}
    found = with_descendants(table, marked | traced) - {os.getpid()}
    return {pid: table[pid] for pid in found & table.keys()}


def _is_in_session(life: Life, table: _Processes, pid: int, stat: ProcessStat) -> bool:
    """Whether a process is a worker of that life, or in the session that one began."""
    start_ticks = life.workers.get(stat.session)
    if start_ticks is None or stat.start_ticks < start_ticks:
        return False
    leader = table.get(stat.session)
    if leader is not None:
        return leader.start_ticks == start_ticks
    # The session may be another one, whose leader got the worker's pid and is dead too.
    return procfs.oom_score_of(pid) >= WORKER_OOM_SCORE


# --- ending -------------------------------------------------------------------------------------------


def _first_to_end(life: Life, orphans: _Processes) -> _Processes:
    """Return the orphans that are no workers, the workers if there are no others.

    A worker is a subreaper: while it lives, no descendant of it can lose its parent and with that its trace. It is
    stopped, so that it starts no more.
    """
    workers = {pid: stat for pid, stat in orphans.items() if life.workers.get(pid) == stat.start_ticks}
    others = {pid: stat for pid, stat in orphans.items() if pid not in workers}
    if not others:
        return workers
    for pid, stat in workers.items():
        if (pidfd := _signal(pid, stat, signal.SIGSTOP)) is not None:
            os.close(pidfd)
    return others


def _end_group(pool: str, group: ControlGroup, deadline_mono_ns: int) -> int:
    pids = group.pids()
    if not group.kill(deadline_mono_ns):
        return 0
    _check_ended(pool, group.pids())
    group.remove()
    return len(pids)


def _check_ended(pool: str, alive: set[int]) -> None:
    if alive:
        raise ConfigurationError(
            f"processes of an earlier life of pool {pool} do not die: {', '.join(map(str, sorted(alive)))}; "
            "a kill -9 waits for their disk or network I/O, or for a tracer (strace, gdb): end that, then start again"
        )


def _end(orphans: _Processes, deadline_mono_ns: int) -> set[int]:
    """Kill them, and wait until all are dead; return the pids alive at the deadline."""
    killed = {pid: _signal(pid, stat, signal.SIGKILL) for pid, stat in orphans.items()}
    pidfds = {pidfd: pid for pid, pidfd in killed.items() if pidfd is not None}
    try:
        return wait_for_deaths(pidfds, deadline_mono_ns)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def _signal(pid: int, stat: ProcessStat, number: signal.Signals) -> int | None:
    """Signal the process and return a pidfd on it; None when it is gone, or not ours to signal."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        # Looked at again: until the pidfd held it, the pid could have gone to another process.
        now = procfs.stat_of(pid)
        if now is not None and now.start_ticks == stat.start_ticks:
            signal.pidfd_send_signal(pidfd, number)
            return pidfd
    except (ProcessLookupError, PermissionError):
        pass
    os.close(pidfd)
    return None
