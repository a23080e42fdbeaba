"""What a job of user code may change about its process: how to look at each, and how to put it back.

LIMIT: only what is likely and would harm other jobs. What a module keeps, what C code sets without Python's
knowledge (setenv(3), sigaction(2)), and threads that C libraries keep for themselves are left as they are.
"""

from __future__ import annotations

import _locale  # `locale` takes long to load
import _signal  # type: ignore[import-not-found]  # signal.getsignal takes 20 times as long: it makes enums
import faulthandler
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from taskpool.procs import prctl
from taskpool.procs.signals import catchable

# Those that make programs, files and memory fail. The others matter to few, and each costs a system call.
LIMITS = {
    getattr(resource, f"RLIMIT_{name}"): f"RLIMIT_{name}"
    for name in ("AS", "CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "MSGQUEUE", "NOFILE", "NPROC", "STACK")
}
_SIGNALS = sorted(catchable())
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_REAL_TIME = (os.SCHED_FIFO, os.SCHED_RR)
_SUMMER = 1_720_000_000  # one instant tells most zones apart; their names tell the others
_STDIN, _STDERR = 0, 2
_NAMES = (("stdin", 0), ("stdout", 1), ("stderr", 2))
_ENVIRON = os.environ


class Cannot(Exception):
    """Something cannot be put back; its text goes behind "leaves"."""


class Property(NamedTuple):
    """One thing about the process that a job may change.

    `look` never raises and gives a value of its own, which later changes leave alone. `put_back` gets the value wanted
    and the one found; the next look decides whether it has worked, unless it raises Cannot, OSError or ValueError.
    """

    what: str  # is left behind when it cannot be put back
    look: Callable[[], Any]
    put_back: Callable[[Any, Any], object]
    in_kernel_state: bool = False  # see kernel_state.pyx, which looks at the same


_of_kernel = partial(Property, in_kernel_state=True)


# --- limits, timers, signals ----------------------------------------------------------------------


def _limits() -> list[tuple[int, int]]:
    return list(map(resource.getrlimit, LIMITS))


def _put_limits_back(wanted: list[tuple[int, int]], found: list[tuple[int, int]]) -> None:
    lowered = None
    for which, before, now in zip(LIMITS, wanted, found, strict=True):
        try:
            if now != before:
                resource.setrlimit(which, before)
        except (ValueError, OSError):  # only root may raise a hard limit again
            lowered = LIMITS[which]
    if lowered is not None:
        raise Cannot(f"a hard limit that is lower now, {lowered}")


def _timers() -> list[tuple[bool, float]]:
    return [(left > 0, interval) for left, interval in map(_signal.getitimer, _TIMERS)]


def _put_timers_back(wanted: list[tuple[bool, float]], found: list[tuple[bool, float]]) -> None:
    for timer, (runs, interval), now in zip(_TIMERS, wanted, found, strict=True):
        if (runs, interval) != now and (interval or not runs):  # a single alarm of a module has gone off for good
            signal.setitimer(timer, interval, interval)


def _handlers() -> list[signal.Handlers | int | None]:
    return list(map(_signal.getsignal, _SIGNALS))


def _put_handlers_back(wanted: list[Any], found: list[Any]) -> None:
    unknown = None
    for number, before, now in zip(_SIGNALS, wanted, found, strict=True):
        if before is None and now is not None:
            # signal.signal cannot install what C code had set before Python started.
            unknown = number
        elif now is not before:
            signal.signal(number, before)
    if unknown is not None:
        raise Cannot(f"a handler of signal {unknown} in the place of one that Python does not know")


def _mask() -> set[int]:
    return _signal.pthread_sigmask(signal.SIG_BLOCK, ())  # type: ignore[no-any-return]


def _wakeup_fd() -> int:
    fd = signal.set_wakeup_fd(-1)  # it can be read only by setting it
    if fd != -1:
        signal.set_wakeup_fd(fd)
    return fd


# --- the process among others ---------------------------------------------------------------------


def _ids() -> tuple[object, ...]:
    return os.getresuid(), os.getresgid(), os.getgroups()


def _put_ids_back(wanted: Any, _: object) -> None:
    uids, gids, groups = wanted
    os.setresuid(*uids)  # first: it may give back the right to the others
    os.setgroups(groups)
    os.setresgid(*gids)


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def _scheduling() -> tuple[int, int]:
    policy = os.sched_getscheduler(0)
    return policy, os.sched_getparam(0).sched_priority if policy in _REAL_TIME else 0


def _put_scheduling_back(wanted: tuple[int, int], _: object) -> None:
    policy, priority = wanted
    os.sched_setscheduler(0, policy, os.sched_param(priority))


def _cpus() -> set[int]:
    return os.sched_getaffinity(0)


# --- environment, places, words -------------------------------------------------------------------


def _umask() -> int:
    mask = os.umask(0o077)  # umask(2): it can be read only by setting it
    os.umask(mask)
    return mask


def _variables() -> dict[bytes, bytes] | None:
    # What os.environ keeps below: comparing that decodes nothing, which would take 40 times as long.
    return dict(os.environ._data) if os.environ is _ENVIRON else None  # type: ignore[attr-defined]


def _put_variables_back(wanted: dict[bytes, bytes] | None, found: dict[bytes, bytes] | None) -> None:
    if wanted is None:
        return  # a module has put its own there, and a job the first one: which is which cannot be told any more
    os.environ = _ENVIRON  # noqa: B003 - in case it was replaced
    os.environb.clear()  # all of them, which tells the C library too of what was set behind Python's back
    os.environb.update(wanted)
    if found is None or wanted.get(b"TZ") != found.get(b"TZ"):
        time.tzset()  # the C library looks at TZ again where it likes


def _zone() -> tuple[object, ...]:
    # Of the C library, which code may change without time.tzset, and of Python.
    there = time.localtime(_SUMMER)
    return there.tm_gmtoff, there.tm_zone, time.tzname


def _locale_name() -> str:
    return _locale.setlocale(_locale.LC_ALL, None)


def _path() -> tuple[object, ...] | None:
    path = getattr(sys, "path", None)
    return tuple(path) if type(path) is list else None


def _put_path_back(wanted: tuple[str, ...] | None, found: object) -> None:
    if wanted is not None and found is not None:
        sys.path[:] = wanted
    elif wanted is not None:
        sys.path = list(wanted)


def _argv() -> tuple[object, ...] | None:
    argv = getattr(sys, "argv", None)
    return tuple(argv[1:]) if type(argv) is list else None  # the first is set for each job


def _put_argv_back(wanted: tuple[str, ...] | None, _: object) -> None:
    if wanted is not None:
        sys.argv = ["", *wanted]


# --- standard streams -----------------------------------------------------------------------------


def _stdin_file() -> tuple[int, ...] | None:
    try:
        status = os.fstat(_STDIN)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_rdev


def _put_stdin_file_back(_: object, __: object) -> None:
    fd = os.open(os.devnull, os.O_RDONLY)  # what a worker has; anything else, the next look tells
    os.dup2(fd, _STDIN)
    if fd != _STDIN:
        os.close(fd)


def _streams() -> tuple[object, ...]:
    return getattr(sys, "stdin", None), getattr(sys, "stdout", None), getattr(sys, "stderr", None)


def _put_streams_back(wanted: Any, __: object) -> None:
    for name, _ in _NAMES[1:]:
        with suppress(BaseException):  # an object of the job's, which may hold what it has printed
            getattr(sys, name).flush()
    sys.stdin, sys.stdout, sys.stderr = wanted


def _settings(name: str) -> Callable[[], tuple[object, ...] | None]:
    def look() -> tuple[object, ...] | None:
        stream: Any = getattr(sys, name, None)
        try:
            return stream.closed, stream.encoding, stream.errors, stream.line_buffering, stream.write_through
        except BaseException:  # noqa: BLE001 - detached, or an object of the job's own
            return None

    return look


def _put_settings_back(name: str, fd: int) -> Callable[[Any, Any], None]:
    def put_back(wanted: Any, found: Any) -> None:
        if wanted is None:
            return
        stream = getattr(sys, name)
        closed, encoding, errors, by_line, through = wanted
        if (found is None or found[0]) and not closed:
            # Into the same object: what has been given it before, a log handler say, goes on writing.
            stream.__init__(os.fdopen(fd, "rb" if fd == _STDIN else "wb", closefd=False))
        stream.reconfigure(encoding=encoding, errors=errors, line_buffering=by_line, write_through=through)

    return put_back


# --- the interpreter ------------------------------------------------------------------------------


def _interpreter() -> tuple[object, ...]:
    collecting = gc.isenabled(), gc.get_threshold()
    return sys.getrecursionlimit(), sys.getswitchinterval(), collecting, faulthandler.is_enabled()


def _put_interpreter_back(wanted: Any, _: object) -> None:
    depth, interval, (collects, threshold), tells_of_faults = wanted
    sys.setrecursionlimit(depth)
    sys.setswitchinterval(interval)
    (gc.enable if collects else gc.disable)()
    gc.set_threshold(*threshold)
    if tells_of_faults:
        faulthandler.enable(_STDERR)


def _defaults() -> tuple[object, ...]:
    """Return what libraries were told once for all, of those that are loaded."""
    socket, contexts = sys.modules.get("_socket"), sys.modules.get("multiprocessing.context")
    timeout = socket.getdefaulttimeout() if socket is not None else None
    return timeout, contexts._default_context._actual_context if contexts is not None else None


def _put_defaults_back(wanted: Any, _: object) -> None:
    timeout, start_method = wanted
    if (socket := sys.modules.get("_socket")) is not None:
        socket.setdefaulttimeout(timeout)
    if (contexts := sys.modules.get("multiprocessing.context")) is not None:
        contexts._default_context._actual_context = start_method


# In this order. Limits first: under them the rest could fail. The user next: what follows may need the rights. Timers
# before handlers: one that goes off finds its own; the mask after them: what was blocked until now arrives there.
PROPERTIES: tuple[Property, ...] = (
    _of_kernel("resource limits", _limits, _put_limits_back),
    _of_kernel("another user or group", _ids, _put_ids_back),
    _of_kernel("other settings of prctl(2)", prctl.settings, lambda wanted, _: prctl.restore(wanted)),
    _of_kernel("a timer", _timers, _put_timers_back),
    Property("a signal handler", _handlers, _put_handlers_back),
    Property("a wake-up descriptor", _wakeup_fd, lambda wanted, _: signal.set_wakeup_fd(wanted)),
    _of_kernel("blocked signals", _mask, lambda wanted, _: _signal.pthread_sigmask(signal.SIG_SETMASK, wanted)),
    _of_kernel("another niceness", _niceness, lambda wanted, _: os.setpriority(os.PRIO_PROCESS, 0, wanted)),
    _of_kernel("another scheduling policy", _scheduling, _put_scheduling_back),
    _of_kernel("other CPUs", _cpus, lambda wanted, _: os.sched_setaffinity(0, wanted)),
    _of_kernel("another I/O priority", prctl.io_priority, lambda wanted, _: prctl.set_io_priority(wanted)),
    _of_kernel("another OOM score", prctl.oom_score, lambda wanted, _: prctl.set_oom_score(wanted)),
    _of_kernel("another umask", _umask, lambda wanted, _: os.umask(wanted)),
    Property("an os.environ of its own", _variables, _put_variables_back),
    _of_kernel("another time zone", _zone, lambda _, __: time.tzset()),
    _of_kernel("another locale", _locale_name, lambda wanted, _: _locale.setlocale(_locale.LC_ALL, wanted)),
    _of_kernel("another file as standard input", _stdin_file, _put_stdin_file_back),
    Property("other standard streams", _streams, _put_streams_back),
    *(Property(f"sys.{name} in another state", _settings(name), _put_settings_back(name, fd)) for name, fd in _NAMES),
    Property("another sys.path", _path, _put_path_back),
    Property("another sys.argv", _argv, _put_argv_back),
    Property("other settings of the interpreter", _interpreter, _put_interpreter_back),
    Property("other settings of a library", _defaults, _put_defaults_back),
)
