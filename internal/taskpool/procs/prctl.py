"""Set a process's ties to its parent and to its orphans, and its place in the OOM killer's order.

Whether the kernel lets the programs do what they need is looked at here too, in one place and before anything is begun:
a call that is missing would otherwise be found by a job, or by a crash.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType
from typing import NamedTuple

from taskpool.errors import ConfigurationError, call_refused, is_lacking
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
_NAMES = {_PR_SET_PDEATHSIG: "PR_SET_PDEATHSIG", _PR_SET_CHILD_SUBREAPER: "PR_SET_CHILD_SUBREAPER"}

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
    """Return the present ones. Takes two microseconds, since it runs after each job."""
    return _reader().settings()


def restore(wanted: Settings) -> None:
    """Put back what can be put back. Raises OSError."""
    _prctl(_PR_SET_DUMPABLE, wanted.dumpable)
    _prctl(_PR_SET_PDEATHSIG, wanted.parent_death_signal)
    _prctl(_PR_SET_CHILD_SUBREAPER, wanted.subreaper)
    import ctypes

    name = ctypes.create_string_buffer(wanted.name, _NAME_BYTES)
    _prctl(_PR_SET_NAME, ctypes.addressof(name))


def io_priority() -> int:
    """Return the I/O priority as ioprio_get(2) gives it; 0 on a machine whose system call is not known here."""
    return _reader().io_priority()


def set_io_priority(value: int) -> None:
    """Set what `io_priority` has returned. Does nothing where that is refused."""
    _libc("syscall")(_IOPRIO_SYSCALLS[os.uname().machine][0], _IOPRIO_WHO_PROCESS, 0, value, 0)


def oom_score() -> bytes:
    """Return this process's oom_score_adj as the kernel writes it; empty where it cannot be read."""
    try:
        return os.pread(oom_score_fd(), 16, 0)
    except OSError:
        return b""


def set_oom_score(value: bytes) -> None:
    """Set what `oom_score` has returned. Raises OSError."""
    fd = os.open(_OOM_SCORE_FILE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


class _Reader:
    """Asks with arguments that are made once, of the types that the C library passes on to the kernel."""

    def __init__(self) -> None:
        import ctypes

        # Keeping the interpreter's lock: none of these calls waits.
        library = ctypes.PyDLL(None)
        self._prctl, self._syscall = library.prctl, library.syscall
        self._number, self._name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
        zero = ctypes.c_ulong(0)
        number, name = ctypes.c_void_p(ctypes.addressof(self._number)), ctypes.c_void_p(ctypes.addressof(self._name))
        self._death_signal = (ctypes.c_long(_PR_GET_PDEATHSIG), number, zero, zero, zero)
        self._subreaper = (ctypes.c_long(_PR_GET_CHILD_SUBREAPER), number, zero, zero, zero)
        self._get_name = (ctypes.c_long(_PR_GET_NAME), name, zero, zero, zero)
        self._dumpable = (ctypes.c_long(_PR_GET_DUMPABLE), zero, zero, zero, zero)
        self._no_new_privileges = (ctypes.c_long(_PR_GET_NO_NEW_PRIVS), zero, zero, zero, zero)
        numbers = _IOPRIO_SYSCALLS.get(os.uname().machine)
        who = ctypes.c_long(_IOPRIO_WHO_PROCESS)
        self._io_priority = None if numbers is None else (ctypes.c_long(numbers[1]), who, zero)

    def settings(self) -> Settings:
        prctl, number = self._prctl, self._number
        prctl(*self._death_signal)
        death_signal = number.value
        prctl(*self._subreaper)
        prctl(*self._get_name)
        dumpable, no_new_privileges = prctl(*self._dumpable), prctl(*self._no_new_privileges)
        return Settings(dumpable, no_new_privileges, death_signal, number.value, self._name.value)

    def io_priority(self) -> int:
        return 0 if self._io_priority is None else self._syscall(*self._io_priority)


@cache
def _reader() -> _Reader:
    return _Reader()


@cache
def oom_score_fd() -> int:
    """Return a descriptor to read the score from, for good. Raises OSError where /proc has none."""
    return os.open(_OOM_SCORE_FILE, os.O_RDONLY | os.O_CLOEXEC)  # kept open: opening takes ten times as long


# --- what the programs need of the kernel -----------------------------------------------------------


def require_for_dealer() -> None:
    """Check what a dealer needs, and take the orphans of this process's descendants for its own.

    Raises ConfigurationError naming what is missing and the cure.
    """
    _require_proc()
    require_pidfds()
    with _named("prctl(2)"):
        become_subreaper()  # before the first worker: what outlives a worker then becomes a child of this process


def require_pidfds() -> None:
    """Check that processes can be held by descriptors. Raises ConfigurationError."""
    with _named("pidfd_open(2)"):
        pidfd = os.pidfd_open(os.getpid())
    try:
        with _named("pidfd_send_signal(2)"):
            signal.pidfd_send_signal(pidfd, 0)
        # ECHILD is the answer of a kernel that knows the call: this process is no child of its own.
        with _named("waitid(2) with P_PIDFD", errno.EINVAL), suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    finally:
        os.close(pidfd)


def _require_proc() -> None:
    try:
        os.stat("/proc/self/stat")
    except OSError as error:
        raise ConfigurationError(
            f"/proc/self/stat: {error.strerror}; a dealer sees there what its workers have left running. Mount it: "
            "mount -t proc proc /proc (a container has it unless that is masked)"
        ) from None


@contextmanager
def _named(call: str, *also: int) -> Iterator[None]:
    """Name the call in what it raises. `also`: further errors by which a kernel says that it does not know it."""
    try:
        yield
    except AttributeError as error:  # this Python was built on a system without it
        raise ConfigurationError(call_refused(call, error)) from error
    except OSError as error:
        if not is_lacking(error) and error.errno not in also:
            raise
        raise ConfigurationError(call_refused(call, error)) from error


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
        name = _NAMES.get(option, option)
        raise OSError(number, f"prctl({name}): {os.strerror(number)}")
    return result
