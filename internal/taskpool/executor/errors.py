"""What a future raises when the pool, and not the function itself, ends a call.

An exception that the function raised comes back as itself, with `RemoteTraceback` as its `__cause__`.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from typing import Any

from taskpool.certificate import OUT_OF_MEMORY
from taskpool.kinds import call
from taskpool.messages import Outcome, State
from taskpool.procs.signals import signal_name

_FATAL = "Fatal Python error"  # how faulthandler begins what it writes
# It writes the innermost frame first: from the first one of this file on, they are the worker's.
_OWN_FRAME = f'  File "{call.__file__}"'


class PoolError(BrokenExecutor):
    """The pool is gone for good, or cannot be had: names what is wrong and the cure."""


class JobFailed(Exception):
    """A call that did not succeed, for another reason than an exception that can be handed on.

    `job` is its `BATCH/NUMBER`, `attempts` how often it was tried, `traceback` where it was in its code, if that is
    known.
    """

    def __init__(self, text: str, *, job: str = "", attempts: int = 0, traceback: str | None = None) -> None:
        super().__init__(text)
        self.job = job
        self.attempts = attempts
        self.traceback = traceback

    def __reduce__(self) -> tuple[Any, ...]:
        return _remake, (type(self), self.args, self.__dict__)


class JobCrashed(JobFailed):
    """The process of a call died: killed by `signal`, or ended with `exit_status`; the other one is None.

    `stderr_tail` is the end of what it wrote to standard error, `traceback` what faulthandler wrote there.
    """

    def __init__(
        self,
        text: str,
        *,
        signal: int | None = None,
        exit_status: int | None = None,
        stderr_tail: str | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(text, **facts)
        self.signal = signal
        self.exit_status = exit_status
        self.stderr_tail = stderr_tail


class OutOfMemory(JobCrashed, MemoryError):
    """A call took more memory than its limit, or the kernel killed its process because memory was short."""


class JobTimedOut(JobFailed, TimeoutError):
    """A call was still running after its `timeout`, and was ended."""


class JobLost(JobFailed):
    """The dealer went away with a call that it had accepted, and without a journal nothing has kept it."""


class RemoteTraceback(Exception):
    """Shows where in the worker an exception was raised: the `__cause__` of one that came back."""

    # Text, for no traceback can be pickled; as a cause, the interpreter prints it above the exception.
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.tb = text  # by the name that those of the standard library and of joblib have

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


def from_outcome(job: str, outcome: Outcome) -> JobFailed:
    """Return what the future of a call raises whose job has ended so."""
    facts: dict[str, Any] = {"job": job, "attempts": outcome.attempts}
    what = f"{outcome.job or 'the call'} ({job})"
    error = outcome.error
    message = error.message if error is not None else ""
    if outcome.state is State.TIMED_OUT:
        return JobTimedOut(f"{what} timed out: {message}", **facts)
    if outcome.state is State.QUARANTINED:
        return _crashed(what, outcome, facts)
    trace = error.traceback if error is not None else None
    if error is not None and error.type == OUT_OF_MEMORY:
        return OutOfMemory(f"{what} ran out of memory: {message}", traceback=trace, **facts)
    kind = f"{error.type}: " if error is not None else ""
    return JobFailed(f"{what} failed: {kind}{message}", traceback=trace, **facts)


def _crashed(what: str, outcome: Outcome, facts: dict[str, Any]) -> JobCrashed:
    last = outcome.tries[-1] if outcome.tries else None
    tail = outcome.error.traceback if outcome.error is not None else None
    if tail is None and last is not None:
        tail = last.stderr_tail
    facts |= {"signal": outcome.signal, "exit_status": outcome.exit_status, "stderr_tail": tail}
    facts["traceback"] = _traceback(tail or "")
    if last is not None and last.out_of_memory:
        return OutOfMemory(f"{what} was killed because memory was short", **facts)
    if outcome.signal is not None:
        how = f"its process was killed by {signal_name(outcome.signal)}"
    elif outcome.exit_status is not None:
        how = f"its process ended with exit status {outcome.exit_status}, and it had not returned"
    else:
        how = outcome.error.message if outcome.error is not None else "its process died"
    return JobCrashed(f"{what} crashed: {how}", **facts)


def _traceback(tail: str) -> str | None:
    """Return what faulthandler wrote, down to the call: below it there are only frames of the worker."""
    _, found, rest = tail.partition(_FATAL)
    return found + rest.partition(_OWN_FRAME)[0] if found else None


def _remake(kind: type[JobFailed], args: tuple[Any, ...], facts: dict[str, Any]) -> JobFailed:
    error = kind(*args)
    error.__dict__.update(facts)
    return error
