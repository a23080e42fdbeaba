"""Read what the kernel tells of processes in /proc: the one parser of /proc/PID/stat, and the other readers.

A process may end between any two of these reads, so each reader answers None, or nothing, for one that is gone or
that this user may not look into. What is wrong with *this* process, such as a lack of descriptors, is raised as
OSError: "cannot tell" must not be taken for "is not there".
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from taskpool.clock import SECOND

UNKNOWN = "unknown"
_RESET_PEAK = b"5"  # proc_pid_clear_refs(5)
_KIB = 1024


class ProcessStat(NamedTuple):
    """The fields that are used of /proc/PID/stat, in the kernel's units; see proc_pid_stat(5)."""

    parent: int
    session: int
    start_ticks: int  # since the boot
    cpu_ticks: int  # user and system, with all children it has waited for
    virtual_bytes: int  # 0: a zombie, a process amid its exit, or a kernel thread
    resident_pages: int
    environ_start: int
    environ_end: int  # 0 amid an exec

    def key(self, pid: int) -> tuple[int, int]:
        """Return what names the process among all of this boot, for a pid is used again."""
        return pid, self.start_ticks

    @property
    def cpu_ns(self) -> int:
        """CPU time, user and system, with all children the process has waited for."""
        return self.cpu_ticks * SECOND // os.sysconf("SC_CLK_TCK")

    @property
    def resident_bytes(self) -> int:
        """Memory the process holds now."""
        return self.resident_pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def is_dying(self) -> bool:
        """Whether it has given its memory up already: dead, or past the point of no return."""
        return self.virtual_bytes == 0


def stat_of(pid: int) -> ProcessStat | None:
    """Return the parsed /proc/PID/stat."""
    text = read(pid, "stat")
    if not text:
        return None
    # The second field is the program's name in parentheses, which may itself hold blanks and parentheses: only what
    # is behind the last one can be split. So fields[0] is the third field of proc_pid_stat(5), which numbers them.
    fields = text.rpartition(b")")[2].split()
    cpu_ticks = sum(map(int, fields[11:15]))
    parent, session, start_ticks, virtual_bytes, pages, environ_start, environ_end = (
        int(fields[number - 3]) for number in (4, 6, 22, 23, 24, 50, 51)
    )
    return ProcessStat(parent, session, start_ticks, cpu_ticks, virtual_bytes, pages, environ_start, environ_end)


def read(pid: int, name: str) -> bytes | None:
    """Return the content of a file of /proc/PID."""
    # Unbuffered: the kernel makes the text at the first read, and a second read could belong to another moment.
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.readall()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def replace_own_argument(before: str, after: str) -> None:
    """Show other words on this process's command line in the place of some, of the same length in bytes.

    Does nothing where the kernel refuses it, or they are not there: it is for people.
    """
    words, instead = (text.replace(" ", "\0").encode() for text in (before, after))
    assert len(words) == len(instead), f"{before} and {after} differ in length"
    at = (read(os.getpid(), "cmdline") or b"").find(words)
    if at < 0:
        return
    fields = (read(os.getpid(), "stat") or b"").rpartition(b")")[2].split()
    start = int(fields[48 - 3])  # where its arguments lie: arg_start of proc_pid_stat(5)
    try:
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(start + at)
            memory.write(instead)
    except OSError:
        pass


def all_pids() -> list[int]:
    """List the processes that this mount of /proc shows; with hidepid=2 those of this user only."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def runs_no_more(pid: int) -> bool:
    """Say of a process that was sent SIGKILL whether it will never run an instruction again.

    Each thread is dead or in the stop of a tracer. SIGKILL ends every such stop but the one at the exit, which a tracer
    may ask for (PTRACE_EVENT_EXIT, ptrace(2)): who is in one is past its last instruction. Not so one in disk sleep,
    whose write is under way.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return True
    stats = (read(pid, f"task/{thread}/stat") for thread in threads)
    return all(stat.rpartition(b")")[2].split()[0] in (b"t", b"Z", b"X") for stat in stats if stat)


def oom_score_of(pid: int) -> int:
    """Return the adjustment of a process's place in the OOM killer's order, which its children inherit; 0 when gone."""
    return int(read(pid, "oom_score_adj") or b"0")


def listed_children(pid: int) -> list[int] | None:
    """List the children of a process by the kernel's own list, zombies included; None where there is none.

    A kernel without CONFIG_PROC_CHILDREN has no such file; and one of a thread that has just ended is gone.
    """
    # Each thread has a list of its own: a child belongs to the thread that started it.
    try:
        return [child for thread in os.listdir(f"/proc/{pid}/task") for child in _children_of_thread(pid, thread)]
    except (FileNotFoundError, ProcessLookupError):
        return None


def _children_of_thread(pid: int, thread: str) -> Iterator[int]:
    with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
        yield from map(int, file.readall().split())


def boot_id() -> str:
    """Return what tells this boot of the machine from any other; UNKNOWN where a sandbox masks it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return UNKNOWN


def pid_namespace() -> str:
    """Return what tells the PID namespace of this process from any other of this boot, see namespaces(7)."""
    return os.readlink("/proc/self/ns/pid")


def has_open(pid: int, file: os.stat_result) -> bool:
    """Say whether a process of this PID namespace has that very file open, so that it is the process that is meant.

    A pid that another process tells may be one of its own PID namespace, and mean another process here.
    """
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    for descriptor in descriptors:
        with suppress(OSError):  # closed meanwhile
            if os.path.samestat(os.stat(f"/proc/{pid}/fd/{descriptor}"), file):
                return True
    return False


def own_descriptors() -> list[int]:
    """List the descriptors of this process, the one included that read the list and is closed by now."""
    return [int(name) for name in os.listdir("/proc/self/fd")]


def size_in(text: bytes | None, name: bytes) -> int:
    """Return the bytes of a line of `status` or `smaps_rollup`, which gives them in KiB; 0 where there is none."""
    _, found, rest = (text or b"").partition(name)
    return int(rest.split(None, 1)[0]) * _KIB if found else 0


def take_own_peak_bytes() -> int:
    """Return the largest resident set of this process since the last call; 0 where the kernel does not tell.

    Not by getrusage: its ru_maxrss never falls, and it begins at what the *parent* had in use when it spawned this
    process (measured: a child that takes 9 MiB of its own, spawned by a process of 200 MiB, shows 208).

    LIMIT: where /proc/self/clear_refs is not writable, it is the peak since the process began. Takes 30 microseconds.
    """
    # Opened each time: a job that closes all descriptors could leave its own file under a number kept here.
    try:
        with open("/proc/self/status", "rb", buffering=0) as status_file:
            status = status_file.readall()
    except OSError:
        return 0
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as reset_file:
            reset_file.write(_RESET_PEAK)
    except OSError:
        pass  # the peak stays: see LIMIT
    return size_in(status, b"VmHWM:")
