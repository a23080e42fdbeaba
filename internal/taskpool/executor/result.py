"""What a job's outcome means for the future of its call."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import InvalidStateError
from contextlib import suppress
from pathlib import Path
from typing import Any

from taskpool.errors import MessageError
from taskpool.executor.errors import OutOfMemory, RemoteTraceback, from_outcome
from taskpool.executor.future import CallFuture
from taskpool.kinds import pickling
from taskpool.kinds.call import file_of, read_value
from taskpool.messages import Outcome, State

_log = logging.getLogger("taskpool")


def settle(future: CallFuture[Any], outcome: Outcome, *, keep_files: bool) -> None:
    """Complete a future by its outcome. Files of results go once they are read, unless another run may read them."""
    future.remove_file()
    if outcome.state is State.CANCELLED:
        future.cancel()  # nothing is new where the program has cancelled it; else a person or another program has
        future.tell_cancelled()
    elif future.cancelled():
        future.tell_cancelled()  # it ended before it could be cancelled
    else:
        value, error = _read(future, outcome)
        complete(future, value, error)
    if outcome.value is not None and not keep_files and (file := file_of(outcome.value)) is not None:
        Path(file).unlink(missing_ok=True)


def complete(future: CallFuture[Any], value: Any = None, error: BaseException | None = None) -> None:
    """Complete a future, unless it was cancelled: then what waits for it is told."""
    if future.cancelled():
        future.tell_cancelled()
        return
    # From here on it cannot be cancelled any more; if it was in between, this says so.
    with suppress(InvalidStateError):
        if not future.set_running_or_notify_cancel():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _read(future: CallFuture[Any], outcome: Outcome) -> tuple[Any, BaseException | None]:
    """Return the result of a call, or what it has raised."""
    job = future.job or ""
    if outcome.value is None:
        return None, from_outcome(job, outcome)
    try:
        pickled, *buffers = read_value(outcome.value)
        value = pickling.loads(pickled, buffers=buffers)
    except (OSError, MessageError) as problem:
        problem.add_note(f"while the result of job {job} was read")
        return None, problem
    except BaseException as problem:  # noqa: BLE001 - code of the result's own classes, which may raise SystemExit
        problem.add_note(f"while the result of job {job} was unpickled: can this program import its class?")
        return None, problem
    if outcome.state is State.SUCCEEDED:
        return value, None
    ended = from_outcome(job, outcome)
    if not isinstance(value, BaseException):
        return None, ended
    if isinstance(ended, OutOfMemory):  # of its limit, which a MemoryError by itself does not tell
        ended.__cause__ = value
        return None, ended
    # Pickle leaves out `__cause__` and `__traceback__` of an exception, so none is lost by setting it.
    text = outcome.error.traceback if outcome.error is not None else None
    if text is not None:
        value.__cause__ = RemoteTraceback(text)
    return None, value


def hand_on_output(outcome: Outcome, *, keep_files: bool) -> None:
    """Write what a call has printed to the same stream of the program."""
    output = outcome.output
    for stream, short, name in (
        ("stdout", output.stdout, output.stdout_file),
        ("stderr", output.stderr, output.stderr_file),
    ):
        text = short or ""
        if name is not None:
            with suppress(OSError):
                text = Path(name).read_text(encoding="utf-8", errors="replace")
                if not keep_files:
                    Path(name).unlink()
        if text:
            _write(text, stream)


def _write(text: str, stream: str) -> None:
    target = getattr(sys, stream)  # the program may have put another one there, or none
    if target is None:
        return
    try:
        target.write(text)
        target.flush()
    except Exception as error:  # noqa: BLE001 - it is closed, its reader is gone, or the program's own has no `flush`
        _log.warning("what a call printed cannot be written to sys.%s: %s", stream, error)
