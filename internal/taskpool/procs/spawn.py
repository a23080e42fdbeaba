"""Find the programs of this package, start a worker, and make the environment of any program that is started."""

from __future__ import annotations

import errno
import os
import sys
from _thread import get_native_id  # not by `threading`, which a worker would have to load before it starts
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fcntl import F_DUPFD_CLOEXEC, fcntl
from functools import cache

from taskpool.errors import WorkerCannotBoot
from taskpool.procs import procfs, signals

WORKER = "tp-worker"
LOG_FD = 3  # the descriptor on which a worker finds the dealer's standard error, for its log lines
REPORTS_FD = 4  # ... and the memory for the reports it holds, see ipc/held_reports.py
INCARNATION_FLAG = "--incarnation"
TEMPLATE_FLAG = "--as-template"  # of the same length, so that a copy can show which worker it is
TEMPLATE_READY = b"ready"  # what it says once it can be copied
INCARNATION_DIGITS = 19  # of the largest number that a message carries
_BOOTLOADER_PREFIX = "_PYI_"  # PyInstaller's bootloader sets _PYI_ARCHIVE_FILE and more
_LIBRARIES = "LD_LIBRARY_PATH"
_LIBRARIES_SAVED = "LD_LIBRARY_PATH_ORIG"  # the user's own value; absent when there was none
_COERCED = "LC_CTYPE"  # the interpreter sets it at its start where no locale is set (PEP 538)


# What posix_spawn refused a worker for, and the cure, for the person who reads the dealer's log.
_CAUSES = {
    errno.EACCES: "it may not be executed: check its mode (chmod +x) and that its mount is not noexec",
    errno.ENOEXEC: "it is not a program for this machine (wrong format or architecture, or no #! line)",
    errno.EAGAIN: "no more processes: raise the process limit (ulimit -u, TasksMax=, --pids-limit)",
    errno.ENOMEM: "out of memory: run fewer workers, or raise the memory limit",
    errno.EMFILE: "out of file descriptors: raise the limit (ulimit -n, LimitNOFILE=)",
    errno.ENFILE: "the machine is out of file descriptors: raise fs.file-max",
    errno.E2BIG: "its environment is too large: start the dealer with less in its environment",
}


def find_program(name: str) -> str | None:
    """Return the absolute path of a program of this package: beside the running one, else on PATH; None if nowhere.

    Beside comes first, so that an installation that is not on PATH uses its own worker, not another version's.
    """
    for directory in _search_path():
        path = os.path.join(directory, name)
        if _cause_not_runnable(path) is None:
            return os.path.abspath(path)
    return None


def find_worker(option: str | None = None) -> list[str]:
    """Return the worker's program, as the head of its command line; `option` is the value of --worker-exec.

    Raises WorkerCannotBoot, naming the path and the cause, when it is missing or not executable.
    """
    if option is None:
        path = find_program(WORKER)
        if path is None:
            raise WorkerCannotBoot(
                f"no {WORKER} beside {sys.argv[0] or sys.executable} nor on PATH: "
                "install it there, or name it with --worker-exec PATH"
            )
        return [path]
    cause = _cause_not_runnable(option)
    if cause is not None:
        raise WorkerCannotBoot(f"cannot start the worker {option} (--worker-exec): {cause}")
    return [os.path.abspath(option)]


def spawn_worker(
    program: list[str], env: Mapping[str, str], *, capture_fd: int, log_fd: int, reports_fd: int | None = None
) -> int:
    """Start a worker and return its pid.

    `program` is its whole command line. It gets /dev/null as standard input, `capture_fd` as standard output
    and error, `log_fd` as descriptor 3, `reports_fd`, if there is one, as descriptor 4, a session of its own, an
    empty signal mask and default dispositions. Raises WorkerCannotBoot naming the path and the cause; its `__cause__`
    is the OSError.

    Main thread only: a worker dies with the *thread* that spawned it (see prctl.ParentTie).
    """
    # Not by fork: a forked child holds the dealer's locks and queue descriptors until its exec, and its flock for ever.
    assert get_native_id() == os.getpid(), "workers are spawned from the main thread"
    path = program[0]
    try:
        with _out_of_the_way(*(fd for fd in (capture_fd, reports_fd) if fd is not None)) as (capture, *reports):
            # In this order: each move overwrites its target, and only copies are out of the way of all targets.
            moves = [
                (os.POSIX_SPAWN_DUP2, log_fd, LOG_FD),
                (os.POSIX_SPAWN_DUP2, capture, 1),
                (os.POSIX_SPAWN_DUP2, capture, 2),
                *((os.POSIX_SPAWN_DUP2, fd, REPORTS_FD) for fd in reports),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            ]
            # A session of its own keeps a terminal's Ctrl-C from it, and is a trace that what it starts carries
            # (procs.orphans). Mask and ignored signals would cross the exec.
            return os.posix_spawn(
                path, program, env, file_actions=moves, setsid=True, setsigmask=(), setsigdef=signals.catchable()
            )
    except OSError as error:
        raise WorkerCannotBoot(f"cannot start the worker {path}: {_cause(error, path)}") from error


@contextmanager
def _out_of_the_way(*fds: int) -> Iterator[list[int]]:
    """Give copies above the descriptors 0..4 that the child's are moved to.

    A descriptor that is one of those would be overwritten before it is moved. The one moved first needs no copy.
    """
    copies: list[int] = []
    try:
        copies.extend(fcntl(fd, F_DUPFD_CLOEXEC, REPORTS_FD + 1) for fd in fds)  # one by one: the last may fail
        yield copies
    finally:
        for copy in copies:
            os.close(copy)


def scrubbed(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` as it was before this program's interpreter and the bootloader of a frozen program changed it.

    A frozen program runs with its bundle's libraries in LD_LIBRARY_PATH. Handed on, they break foreign programs
    (`/bin/sh: symbol lookup error`), and a frozen child's bootloader saves them as if they had been the user's own. So
    every exec, of a worker as of a job's command, uses this.

    Without the bootloader's variables it is returned as it is, LD_LIBRARY_PATH included. Values are those of
    `os.environ`: bytes that are not UTF-8 are held as surrogates and come out of exec unchanged.
    """
    clean = {name: value for name, value in env.items() if not name.startswith(_BOOTLOADER_PREFIX)}
    is_frozen = len(clean) < len(env)
    if _COERCED in clean and (coerced := _coerced_locale()) is not None:
        clean.pop(_COERCED)
        clean.update(coerced)
    if not is_frozen:
        return clean
    # Only now: LD_LIBRARY_PATH_ORIG of a program that is not frozen is the user's variable like any other.
    original = clean.pop(_LIBRARIES_SAVED, None)
    if original is None:
        clean.pop(_LIBRARIES, None)
    else:
        clean[_LIBRARIES] = original
    return clean


def scrub_own_environment() -> None:
    """Make `os.environ` what `scrubbed` makes of it."""
    clean = scrubbed(os.environ)
    for name in os.environ.keys() - clean.keys():
        del os.environ[name]
    if os.environ != clean:
        os.environ.update(clean)


@cache
def _coerced_locale() -> dict[str, str] | None:
    """Return what the LC_CTYPE that the interpreter has set has replaced; None when it has set none."""
    # /proc shows what a program was started with, whatever it has set since (proc(5)).
    given = (procfs.read(os.getpid(), "environ") or b"").split(b"\0")
    prefix = f"{_COERCED}=".encode()
    before = [(_COERCED, os.fsdecode(each.removeprefix(prefix))) for each in given if each.startswith(prefix)]
    is_known = given != [b""] and before != [(_COERCED, os.environ.get(_COERCED))]
    return dict(before) if is_known else None


def _search_path() -> Iterator[str]:
    # A bare argv[0] was found on PATH; its empty directory part would mean the current directory, as an empty entry of
    # PATH does: a worker must not come from wherever the dealer was started.
    yield from (os.path.dirname(path) for path in (sys.argv[0], sys.executable) if os.sep in path)
    yield from (directory for directory in os.environ.get("PATH", os.defpath).split(os.pathsep) if directory)


def _cause_not_runnable(path: str) -> str | None:
    if not os.path.exists(path):
        return "there is no such file"
    if not os.path.isfile(path):
        return "it is not a file"
    return None if os.access(path, os.X_OK) else _CAUSES[errno.EACCES]


def _cause(error: OSError, path: str) -> str:
    if error.errno == errno.ENOENT:
        # execve(2) says ENOENT for a missing interpreter too, and then "no such file" about a file that is there
        # would send a person looking in the wrong place.
        exists = os.path.exists(path)
        return "the interpreter in its #! line, or its loader, is missing" if exists else "there is no such file"
    return _CAUSES.get(error.errno or 0, os.strerror(error.errno or 0))
