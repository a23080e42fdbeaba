"""The errors that the programs raise on purpose, in a small tree by what is at fault, and the exit codes.

Each error has the exit code it leads to. A message names the value, the limit and the cure, because the
person who reads it cannot ask back.
"""

from __future__ import annotations

from enum import IntEnum


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


def system_refused(error: OSError) -> str:
    """Return the text for an OSError that no code has explained: what the system refused, and where the program was."""
    # The innermost frame: strerror alone would leave a reader to guess which of a program's files is meant.
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace is not None else "?"
    return f"the system refused: {error} (at {at})"
