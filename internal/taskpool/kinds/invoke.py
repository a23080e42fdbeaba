"""Call a function of a user's code, and report what became of it.

All that it raises is its own failure, sys.exit included: that ends the job as it would end a program.
Only JobTimedOut passes through.
"""

from __future__ import annotations

import os
import sys
from _contextvars import copy_context
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple

from taskpool import limits
from taskpool.kinds.base import JobTimedOut, Result
from taskpool.messages import End, JobError

_OWN_FOLDER = os.path.dirname(__file__)
_EXIT_STATUS_MASK = 0xFF  # what the kernel keeps of a status

# Of the class itself, whatever its metaclass makes of the attribute.
_qualname_of: Callable[[type], str] = type.__dict__["__qualname__"].__get__


class Function(NamedTuple):
    """What to call, and where its module is looked for first."""

    module: str
    name: str  # dotted for what lies inside a class
    path: Sequence[bytes]


def invoke(function: Function, args: Sequence[Any], kwargs: Mapping[str, Any], keep: Callable[[], None]) -> Result:
    """Call a function as a script of its own would find itself. Raises JobTimedOut.

    `keep` is called when the process has been changed for good, see `Context`.
    """
    try:
        put_ahead(function.path, keep)
        called = _load(function.module, function.name)
        # What it sets in its context (a precision of decimals, say) goes with it; what its import has set stays.
        value = _to_json(copy_context().run(called, *args, **kwargs))
    except JobTimedOut:
        raise
    except SystemExit as request:
        return _exited(request.code)
    except BaseException as error:  # noqa: BLE001 - the border: an exception of any class is the job's, and is told
        return Result(End.FAILED, error=explain(error))
    return Result(End.SUCCEEDED, value=value)


_ahead: list[bytes] = []  # what has been put ahead of sys.path


def put_ahead(directories: Sequence[bytes], keep: Callable[[], None]) -> None:
    """Extend sys.path for good: such a worker serves this path only (see `affinity`), and keeps its modules."""
    # Remembered, not looked for: modules, too, put directories ahead when they are imported.
    if [*directories] != _ahead:
        _ahead[:] = directories
        sys.path[:0] = map(os.fsdecode, directories)
        keep()


def _load(module: str, function: str) -> Callable[..., Any]:
    sys.argv[:1] = [module]  # what a module has put behind it when it was imported stays
    # Not importlib.import_module: the interpreter hides its own frames from the traceback of an __import__.
    __import__(module)
    found: Any = sys.modules[module]
    sys.argv[:1] = [getattr(found, "__file__", None) or module]
    for name in function.split("."):
        found = getattr(found, name)
    if not callable(found):
        raise TypeError(f"{module}:{function} cannot be called: it is of type {type(found).__qualname__}")
    return found  # type: ignore[no-any-return]


@cache  # making one takes longer than writing a short value
def _encoder() -> Callable[[object], str]:
    import json

    return json.JSONEncoder(allow_nan=False).encode  # NaN is no JSON, and would spoil a whole results file


def _to_json(value: object) -> bytes:
    try:
        data = _encoder()(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"the result, of type {type(value).__qualname__}, is not JSON: {error}") from None
    if len(data) > limits.VALUE_BYTES_MAX:
        raise ValueError(
            f"the result is {len(data)} bytes of JSON, more than the {limits.VALUE_BYTES_MAX} that a result may have; "
            "write it to a file and return the path"
        )
    return data


def _exited(code: object) -> Result:
    """Give the result that a program would have had which ends with `sys.exit(code)`."""
    if code is None or isinstance(code, int):
        status = int.__and__(code or 0, _EXIT_STATUS_MASK)
        text = f"exit status {status}"
    else:
        status, text = 1, _told(lambda: str(code))  # as the interpreter does: it prints any other object, and 1 it is
    if status == 0:
        return Result(End.SUCCEEDED, value=b"null", exit_status=0)
    return Result(End.FAILED, exit_status=status, error=JobError("SystemExit", text))


def explain(error: BaseException) -> JobError:
    """Put an exception of a job's code into words. Raises JobTimedOut only."""
    kind = type(error)
    name = _told(lambda: _name_of(kind))
    message = _told(lambda: str(error))
    if issubclass(kind, ModuleNotFoundError):
        message = f"{message}; {_where_modules_come_from()}"
    return JobError(name, message, _traceback(error, f"{name}: {message}"))


def _name_of(kind: type) -> str:
    # Qualified, because two libraries may both have a TimeoutError; as Python prints it at the end of a traceback.
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _told(tell: Callable[[], str]) -> str:
    """Return what code of the job's own, such as its `__str__`, says about it. Raises JobTimedOut only.

    A failure that cannot be told is a failure all the same. With SystemExit it would be the worker's end, and so would
    count as a crash.
    """
    try:
        return str.__str__(tell())  # a plain str: a subclass of the job's own could fail again where it is encoded
    except JobTimedOut:
        raise
    except BaseException as second:  # noqa: BLE001 - as in `invoke`
        return f"(its text cannot be had: {_qualname_of(type(second))})"


def _where_modules_come_from() -> str:
    if getattr(sys, "frozen", False):
        return (
            "this worker is a frozen program and brings its modules along; --worker-exec VENV/bin/tp-worker "
            "runs the worker of a virtual environment with modules of your own"
        )
    return (
        "--path DIR adds a directory of modules, --worker-exec VENV/bin/tp-worker runs the worker of a "
        "virtual environment"
    )


def _traceback(error: BaseException, last_line: str) -> str | None:
    """Format the frames of the job's code, and the cause; None when it was never entered. Raises JobTimedOut only."""
    import traceback

    # The pool's own frames come first in every traceback and say nothing about the job.
    inner: TracebackType | None = error.__traceback__
    while inner and os.path.dirname(inner.tb_frame.f_code.co_filename) == _OWN_FOLDER:
        inner = inner.tb_next
    if inner is None and error.__cause__ is None:
        return None
    frames = inner
    try:
        return "".join(traceback.format_exception(type(error), error, frames))
    except JobTimedOut:
        raise
    except BaseException:  # noqa: BLE001 - fields of odd types, as a SyntaxError's; a __str__ that raises SystemExit
        return f"Traceback (most recent call last):\n{''.join(traceback.format_tb(frames))}{last_line}\n"
