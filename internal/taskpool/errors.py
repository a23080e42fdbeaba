"""The errors that the programs raise on purpose, in a small tree by what is at fault, and the exit codes.

Each error has the exit code it leads to. A message names the value, the limit and the cure, because the
person who reads it cannot ask back.
"""

from __future__ import annotations

import errno
import os
from enum import IntEnum

# Which kernel has all the calls; the last that came is waitid(2) by pidfd.
_KERNEL_NEEDED = "Linux 5.4 or newer with CONFIG_POSIX_MQUEUE"
# How a kernel says that it lacks a call, and a sandbox that it forbids one.
_LACKING = frozenset({errno.ENOSYS, errno.EPERM})


class ExitCode(IntEnum):
    """The exit codes of the three programs. Where several apply, the first in `PRECEDENCE` is given."""

    OK = 0
    JOBS_FAILED = 1  # some jobs failed, timed out or were cancelled
    USAGE = 2  # the command line or the input is wrong
    ENVIRONMENT = 3  # limits, permissions, journal, configuration; a worker: cannot boot
    UNREACHABLE = 4  # no dealer, dealer lost, pool in use; a worker: cannot load a job kind
    HALTED = 5  # stopped by --halt
    QUARANTINED = 6  # some jobs crashed too often and wait for a person
    REFUSED = 7  # the pool is full and the caller would not wait, or it drains
    WAIT_TIMED_OUT = 124  # as timeout(1)
    INTERRUPTED = 130  # SIGINT
    TERMINATED = 143  # SIGTERM


# From what says that the run itself went wrong down to what says how its jobs ended.
PRECEDENCE = (
    ExitCode.USAGE,
    ExitCode.ENVIRONMENT,
    ExitCode.UNREACHABLE,
    ExitCode.REFUSED,
    ExitCode.INTERRUPTED,
    ExitCode.TERMINATED,
    ExitCode.HALTED,
    ExitCode.QUARANTINED,
    ExitCode.JOBS_FAILED,
    ExitCode.OK,
)


class TaskpoolError(Exception):
    """Base of all errors raised on purpose. `str(error)` is the whole text for a person."""

    exit_code = ExitCode.ENVIRONMENT


class UsageError(TaskpoolError):
    """The command line or the input is wrong: names the field, the value and what was expected."""

    exit_code = ExitCode.USAGE


class ConfigurationError(TaskpoolError):
    """This machine, its limits or its permissions do not let the program work."""

    exit_code = ExitCode.ENVIRONMENT


class JournalError(ConfigurationError):
    """The journal cannot be used, or is not what it should be: names the file, what is wrong and the cure."""


class SpoolFull(ConfigurationError):
    """A spool file cannot be written, most likely for lack of room: names the file, the reason and the cure."""


class DealerUnreachable(TaskpoolError):
    """No dealer answers for the pool, or it went away."""

    exit_code = ExitCode.UNREACHABLE


class PoolInUse(TaskpoolError):
    """Another dealer holds the pool."""

    exit_code = ExitCode.UNREACHABLE


class GeneratorGone(TaskpoolError):
    """A private dealer comes up and its generator has ended."""


class WorkerCannotBoot(TaskpoolError):
    """The worker program is missing, not executable, or dies before it is ready."""

    exit_code = ExitCode.ENVIRONMENT


class MessageError(TaskpoolError):
    """Bytes that are no message of ours: garbage, another version, a wrong type, a value out of range."""


class QueueError(TaskpoolError):
    """Base of what a message queue can refuse."""


class QueueMissing(QueueError):
    """No queue of that name in this IPC namespace."""


class QueueExists(QueueError):
    """A queue of that name is there already."""


class QueueForeign(QueueError):
    """The queue is there, but owner, mode or attributes are not those of this pool."""


class QueueFull(QueueError):
    """A send would block."""


class QueueEmpty(QueueError):
    """A receive would block."""


class QueueInterrupted(QueueError):
    """A signal came while waiting: look which, then wait again."""


class QueueGone(QueueError):
    """The descriptor is closed, or not open for this: an error in the program."""


class MessageTooLong(QueueError):
    """The message is longer than the queue takes."""


class QueueLimit(QueueError, ConfigurationError):
    """A kernel limit forbids the queue: names the limit, its value, the need and the cure."""


class QueueRoomTaken(QueueLimit):
    """There is no room for the queue now: other queues have what the limit allows. It would fit if they went."""


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun: `1 job`, `2 jobs`, `2 crashes`."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def is_lacking(error: Exception) -> bool:
    """Say whether an error means that a system call does not exist here, or is not permitted."""
    return getattr(error, "errno", None) in _LACKING


def call_refused(call: str, error: Exception) -> str:
    """Return the text for a system call that this kernel lacks, or that a sandbox forbids."""
    return (
        f"{call} is refused here: {getattr(error, 'strerror', None) or error}. The programs need {_KERNEL_NEEDED} "
        f"(this is Linux {os.uname().release}), and a container engine or sandbox that permits the call: update the "
        "one, or allow the call in the seccomp profile of the other"
    )


def system_refused(error: OSError) -> str:
    """Return the text for an OSError that no code has explained: what the system refused, where the program was, and
    the cure, if the error tells it."""
    # The innermost frame: strerror alone would leave a reader to guess which of a program's files is meant.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace is not None else "?"
    return f"the system refused: {error} (at {at}){_cure(error)}"


def _cure(error: OSError) -> str:
    match error.errno:
        case errno.EMFILE:
            from resource import RLIMIT_NOFILE, getrlimit

            files_max = getrlimit(RLIMIT_NOFILE)[0]
            return (
                f". This process has all {files_max} of its RLIMIT_NOFILE open: raise it, ulimit -n {2 * files_max}, "
                f"LimitNOFILE={2 * files_max} (systemd), --ulimit nofile={2 * files_max} (container)"
            )
        case errno.ENFILE:
            return ". This machine has all files open that it may have: raise fs.file-max (sysctl)"
        case errno.ENOMEM:
            return ". Memory is short: raise the limit of the control group or container, or run fewer workers"
        case errno.EAGAIN:
            return (
                ". Processes are short: raise RLIMIT_NPROC (ulimit -u), TasksMax= (systemd), --pids-limit (container)"
            )
        case errno.ENOSPC | errno.EDQUOT:
            return ". Make room there, or raise the quota"
        case errno.EACCES:
            return f". Run as its owner, which uid {os.geteuid()} is not, or change its mode"
        case errno.EROFS:
            return ". Set XDG_STATE_HOME to a directory that can be written"
        case errno.ENOSYS:  # not EPERM, which files give too
            return f". The programs need {_KERNEL_NEEDED}, and a container engine or sandbox that permits the call"
    return ""
