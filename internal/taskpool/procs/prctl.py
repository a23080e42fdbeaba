"""Set a process's ties to its parent and to its orphans, and its place in the OOM killer's order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any, NamedTuple

from taskpool.procs.process_tree import kill_descendants

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_GET_NAME = 16
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_PR_GET_NO_NEW_PRIVS = 39

_NAME_BYTES = 16
_IOPRIO_SYSCALLS = {"x86_64": (251, 252), "aarch64": (30, 31)}  # set, get: glibc has no functions for them
_IOPRIO_WHO_PROCESS = 1
_OOM_SCORE_FILE = "/proc/self/oom_score_adj"

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
        os.register_at_fork(after_in_child=self._untie)
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

    def _untie(self) -> None:
        # A process that a job has forked: the kernel has forgotten the tie already.
        if signal.getsignal(_PARENT_DIED) == self._on_parent_died:
            signal.signal(_PARENT_DIED, signal.SIG_DFL)

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
        with open(_OOM_SCORE_FILE, "r+", encoding="ascii") as file:
            if int(file.read()) < WORKER_OOM_SCORE:
                file.seek(0)
                file.write(str(WORKER_OOM_SCORE))
    except OSError:
        pass  # /proc is read-only in some sandboxes; this is a preference, not a promise


class Settings(NamedTuple):
    """What user code may change by prctl(2), of what matters to others."""

    dumpable: int
    no_new_privileges: int  # there is no way back
    parent_death_signal: int  # the kernel forgets it when the process changes its user
    subreaper: int
    name: bytes


def settings() -> Settings:
    """Return the present ones."""
    number, name = _buffers()
    _prctl(_PR_GET_PDEATHSIG, number.address)
    death_signal = number.value
    _prctl(_PR_GET_CHILD_SUBREAPER, number.address)
    _prctl(_PR_GET_NAME, name.address)
    return Settings(_prctl(_PR_GET_DUMPABLE), _prctl(_PR_GET_NO_NEW_PRIVS), death_signal, number.value, name.value)


def restore(wanted: Settings) -> None:
    """Put back what can be put back. Raises OSError."""
    _prctl(_PR_SET_DUMPABLE, wanted.dumpable)
    _prctl(_PR_SET_PDEATHSIG, wanted.parent_death_signal)
    _prctl(_PR_SET_CHILD_SUBREAPER, wanted.subreaper)
    name = _buffers()[1]
    name.buffer.value = wanted.name
    _prctl(_PR_SET_NAME, name.address)


def io_priority() -> int:
    """Return the I/O priority as ioprio_get(2) gives it; 0 on a machine whose system call is not known here."""
    numbers = _IOPRIO_SYSCALLS.get(_machine())
    return _libc("syscall")(numbers[1], _IOPRIO_WHO_PROCESS, 0, 0, 0) if numbers else 0


def set_io_priority(value: int) -> None:
    """Set what `io_priority` has returned. Does nothing where that is refused."""
    _libc("syscall")(_IOPRIO_SYSCALLS[_machine()][0], _IOPRIO_WHO_PROCESS, 0, value, 0)


def oom_score() -> bytes:
    """Return this process's oom_score_adj as the kernel writes it; empty where it cannot be read."""
    try:
        return os.pread(_oom_score_fd(), 16, 0)
    except OSError:
        return b""


def set_oom_score(value: bytes) -> None:
    """Set what `oom_score` has returned. Raises OSError."""
    fd = os.open(_OOM_SCORE_FILE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


class _Buffer:
    """Memory that a system call writes to."""

    def __init__(self, buffer: Any, address: int) -> None:
        self.buffer = buffer
        self.address = address

    @property
    def value(self) -> Any:
        return self.buffer.value


@cache
def _buffers() -> tuple[_Buffer, _Buffer]:
    import ctypes

    made = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    return _Buffer(made[0], ctypes.addressof(made[0])), _Buffer(made[1], ctypes.addressof(made[1]))


@cache
def _oom_score_fd() -> int:
    return os.open(_OOM_SCORE_FILE, os.O_RDONLY | os.O_CLOEXEC)  # kept open: opening takes ten times as long


@cache
def _machine() -> str:
    return os.uname().machine


@cache
def _libc(name: str) -> Callable[..., int]:
    import ctypes  # here: it costs milliseconds that only a process with ties needs to pay

    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    # Variadic in C: without the types ctypes would pass ints, and the kernel reads the upper halves of the registers.
    function.argtypes = (ctypes.c_long, *[ctypes.c_ulong] * 4)
    return function  # type: ignore[no-any-return]


def _prctl(option: int, value: int = 0) -> int:
    result = _libc("prctl")(option, value, 0, 0, 0)
    if result < 0:
        import ctypes

        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
    return result
