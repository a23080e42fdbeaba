"""Start one program for a job and wait for its end, time-out included.

The program gets a process group of its own, in its worker's session: it can be signalled with all it has
started. It is started by posix_spawn, measured some 15 % faster than subprocess.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, TypeVar

from taskpool import limits
from taskpool.clock import MILLISECOND, AwakeClock
from taskpool.errors import call_refused, is_lacking
from taskpool.kinds.base import JobCancelled, WorkerUnfit
from taskpool.kinds.capture import Streams
from taskpool.procs import memory
from taskpool.procs.process_tree import children_of
from taskpool.procs.reap import ChildExit, reap
from taskpool.procs.signals import catchable
from taskpool.procs.wait import wait_until

_SIGNALS = tuple(catchable())
_LOOK_NS = 10 * MILLISECOND
_T = TypeVar("_T")

EXIT_CANNOT_RUN = 126  # as a shell, env(1) and xargs(1) report it
EXIT_NOT_FOUND = 127


# What says something about the machine at this moment, and nothing about the job: the same job starts once others have
# ended. Each text names the limit that was met, because errno alone does not.
_SHORTAGES = {
    errno.EAGAIN: "too many processes: raise pids.max of the control group, or RLIMIT_NPROC (ulimit -u)",
    errno.ENOMEM: "not enough memory: raise memory.max of the control group, or run fewer workers",
    errno.EMFILE: "too many open files in the worker: raise RLIMIT_NOFILE (ulimit -n)",
    errno.ENFILE: "too many open files on this machine: raise fs.file-max",
    errno.ENOSPC: "no memory left for its standard input: raise vm.overcommit_ratio, or run fewer workers",
}

# What of that a limit of this process alone can bring about.
_OWN_LIMITS = {
    errno.EAGAIN: (resource.RLIMIT_NPROC,),
    errno.ENOMEM: (resource.RLIMIT_AS, resource.RLIMIT_DATA),
    errno.EMFILE: (resource.RLIMIT_NOFILE,),
}


class CannotStart(Exception):
    """The program did not run: `str` says why, `exit_status` is what a shell would have given."""

    def __init__(self, message: str, exit_status: int | None) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Program(NamedTuple):
    """What to start. The first word of `argv` is looked up as a shell does, from within `directory`."""

    argv: list[bytes]
    directory: bytes | None
    environment: Mapping[str, str]
    stdin: bytes | None  # None: nothing to read


class Bounds(NamedTuple):
    """What a program may use, and how it is ended."""

    deadline_ns: int | None  # by the clock; None: no time-out
    memory_bytes: int  # of all its processes; 0: as much as there is
    term_sequence: tuple[tuple[int, int], ...]  # signals, each with a pause, before KILL
    interruptible: Callable[[], AbstractContextManager[None]]  # within, JobCancelled may be raised


class Ended(NamedTuple):
    """How the program ended. LIMIT: its peak memory is at least the worker's own, which counts until the exec."""

    child: ChildExit
    timed_out: bool = False
    cancelled: bool = False
    held_bytes: int = 0  # not 0: it was killed because it held so much memory


def when_possible(
    attempt: Callable[[], _T], until_ns: int, clock: AwakeClock, lowered: Callable[..., str | None]
) -> _T:
    """Repeat `attempt` until the machine has the processes, memory and files for it; return what it returns.

    Without this one worker would fail the whole backlog within seconds while others hold what it lacks.
    Raises CannotStart when `until_ns`, by the clock, has come first, OSError for what waiting does not cure,
    WorkerUnfit when this worker alone lacks it: by a limit that is lower than at its start, which `lowered` tells.
    """
    pause_ns = limits.SHORTAGE_PAUSE_NS_MIN
    while True:
        try:
            return attempt()
        except OSError as error:
            reason = _SHORTAGES.get(error.errno or 0)
            now_ns = clock.now().mono
            if reason is None:
                raise
            if limit := lowered(*_OWN_LIMITS.get(error.errno or 0, ())):
                raise WorkerUnfit(f"{error.strerror}: {limit}") from None
            if now_ns >= until_ns:
                raise CannotStart(f"waited in vain to start it: {reason}", EXIT_CANNOT_RUN) from None
        wait_until(min(now_ns + pause_ns, until_ns), clock, ())  # no descriptor tells when the machine has room again
        pause_ns = min(2 * pause_ns, limits.SHORTAGE_PAUSE_NS_MAX)


def start(program: Program, streams: Streams) -> int:
    """Start the program and return its pid. Raises CannotStart; OSError when the machine fails.

    Main thread only: for a moment the whole process has the job's directory as its current one.
    """
    with _within(program.directory), _standard_input(program.stdin) as stdin_action:
        path = _find(program.argv[0], program.environment)
        try:
            return os.posix_spawn(
                path,
                program.argv,
                program.environment,
                file_actions=[
                    stdin_action,
                    (os.POSIX_SPAWN_DUP2, streams.stdout.writer, 1),
                    (os.POSIX_SPAWN_DUP2, streams.stderr.writer, 2),
                ],
                setpgroup=0,
                # A mask and ignored signals survive an exec, and Python ignores SIGPIPE: without these two lines
                # `yes | head` in a job would not end as it does in a shell.
                setsigmask=(),
                setsigdef=_SIGNALS,
            )
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            raise _cannot_run(path, error) from None


def wait(pid: int, bounds: Bounds, streams: Streams) -> Ended:
    """Wait for the program and reap it. Past the deadline, or when it is cancelled, end it by its sequence of signals;
    with more memory than its limit kill it at once, for that grows.

    A pause of the whole pool ends neither the time nor the grace. What it leaves behind is the caller's to end.
    """
    held_bytes, ended, cancelled = 0, False, False
    try:
        with bounds.interruptible():
            held_bytes = _watch_memory(pid, bounds, streams) if bounds.memory_bytes else 0
            ended = not held_bytes and _ends_by(pid, bounds.deadline_ns, streams)
    except JobCancelled:
        cancelled = True
    # Cancelled as it ended, perhaps: then it is a zombie, which takes every signal, and is told to be cancelled.
    if ended:
        return Ended(reap(pid))
    if held_bytes:
        _kill(pid, streams)
        return Ended(reap(pid), held_bytes=held_bytes)
    grace_ns = _end_in_order(pid, bounds.term_sequence, streams)
    end = reap(pid)
    _spare_children_until(grace_ns, streams)
    return Ended(end, timed_out=not cancelled, cancelled=cancelled)


def _end_in_order(pid: int, sequence: tuple[tuple[int, int], ...], streams: Streams) -> int:
    """End the program by one signal after the other, and by SIGKILL at last; return until when it had to obey."""
    grace_ns = 0
    for number, pause_ns in sequence:
        _signal_group(pid, number)
        _signal_group(pid, signal.SIGCONT)  # a stopped process acts on a signal only when it goes on
        grace_ns = streams.clock.now().mono + pause_ns
        if _ends_by(pid, grace_ns, streams):
            return grace_ns
    _kill(pid, streams)
    return grace_ns


def _kill(pid: int, streams: Streams) -> None:
    _signal_group(pid, signal.SIGKILL)
    _ends_by(pid, None, streams)  # one that runs as another user does not die, and must not wait for a reader


def _watch_memory(pid: int, bounds: Bounds, streams: Streams) -> int:
    """Look at its memory until it ends or its time is over, and return 0; or what it holds once that is too much."""
    while True:
        due_ns = streams.clock.now().mono + limits.MEMORY_LOOK_NS
        if bounds.deadline_ns is not None and bounds.deadline_ns <= due_ns:
            return 0
        if _ends_by(pid, due_ns, streams):
            return 0
        if held_bytes := memory.exceeds(bounds.memory_bytes):
            return held_bytes


def _ends_by(pid: int, deadline_ns: int | None, streams: Streams) -> bool:
    """Whether the child, which is not reaped here, is dead by the deadline. None: waits until it is."""
    try:
        pidfd = os.pidfd_open(pid)  # readable once the process is dead
    except OSError as error:
        if error.errno in _SHORTAGES:
            return _is_seen_to_end_by(pid, deadline_ns, streams)
        raise
    try:
        return streams.wait_until(deadline_ns, [pidfd])
    finally:
        os.close(pidfd)


def _is_seen_to_end_by(pid: int, deadline_ns: int | None, streams: Streams) -> bool:
    """Do the same with no descriptor left to wait on: the program runs already, and must not suffer from that."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now_ns = streams.clock.now().mono
        if deadline_ns is not None and now_ns >= deadline_ns:
            return False
        streams.wait_until(now_ns + _LOOK_NS, [])
    return True


def _spare_children_until(deadline_ns: int, streams: Streams) -> None:
    """Wait out the grace for the children of a dead leader: a shell dies at once of the SIGTERM its program handles."""
    for child in children_of():
        if not _ends_by(child, deadline_ns, streams):
            return


def _signal_group(pid: int, number: int) -> None:
    """Signal the program's group; the pid is safe from reuse because the process is not reaped yet."""
    try:
        os.killpg(pid, number)
    except PermissionError:
        pass  # LIMIT: a program that runs as another user keeps running, and the job with it


@contextmanager
def _within(directory: bytes | None) -> Iterator[None]:
    """Run the block in `directory`, then return: posix_spawn starts a program where its parent is."""
    if directory is None:
        yield
        return
    # A descriptor, not a path: the worker's directory may have been renamed or removed since.
    home_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.chdir(directory)
        except OSError as error:
            raise CannotStart(f"cannot enter the directory {_shown(directory)}: {error.strerror}", None) from None
        try:
            yield
        finally:
            os.fchdir(home_fd)
    finally:
        os.close(home_fd)


@contextmanager
def _standard_input(text: bytes | None) -> Iterator[tuple[int, ...] | tuple[int, int, str, int, int]]:
    """Give the file action for descriptor 0: a file in memory, because a pipe would have to be filled meanwhile."""
    if text is None:
        yield (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        return
    try:
        memory_fd = os.memfd_create("stdin")
    except OSError as error:
        if not is_lacking(error):
            raise
        raise CannotStart(call_refused("memfd_create(2), for its standard input,", error), EXIT_CANNOT_RUN) from None
    with open(memory_fd, "wb", buffering=0) as file:
        left = memoryview(text)
        while left:  # an unbuffered write may take less than it is given
            left = left[file.write(left) :]
        file.seek(0)
        yield (os.POSIX_SPAWN_DUP2, file.fileno(), 0)


def _find(program: bytes, environment: Mapping[str, str]) -> bytes:
    """Find the path to run. A name without a slash is looked up in the job's own PATH. Raises CannotStart."""
    # Not posix_spawnp: it looks in the worker's PATH, and does not say whether a file was there that cannot run.
    if b"/" in program:
        return program
    search = environment.get("PATH", os.defpath)
    candidates = [os.path.join(directory, program) for directory in os.fsencode(search).split(b":")]
    for path in candidates:
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    for path in candidates:
        if os.path.isfile(path):
            raise CannotStart(f"{_shown(path)} is not executable", EXIT_CANNOT_RUN)
    raise CannotStart(f"program {_shown(program)} not found in PATH={search}", EXIT_NOT_FOUND)


def _cannot_run(path: bytes, error: OSError) -> CannotStart:
    shown = _shown(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if os.path.exists(path):  # the kernel gives the same errno for a script whose interpreter is not there
            return CannotStart(f"cannot run {shown}: the interpreter in its first line is missing", EXIT_CANNOT_RUN)
        return CannotStart(f"program {shown} not found", EXIT_NOT_FOUND)
    reasons = {
        errno.EACCES: "it is not an executable file",
        errno.ENOEXEC: "not a program of this machine, nor a script with an interpreter in its first line",
        errno.E2BIG: "arguments or environment longer than the kernel takes (128 KiB each, a quarter of ulimit -s all)",
    }
    reason = reasons.get(error.errno or 0, error.strerror)
    return CannotStart(f"cannot run {shown}: {reason}", EXIT_CANNOT_RUN)


def _shown(path: bytes) -> str:
    return os.fsdecode(path)
