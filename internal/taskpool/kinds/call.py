"""call: a function of a Python program, called inside the worker with what the program gives it, pickled.

Made by `taskpool.Executor`, not by people. The worker runs the same Python as the program, with the program's
directories ahead of its own. What a call, or its result, takes beyond a message goes into a file that the message
names.
"""

from __future__ import annotations

import binascii
import os
import sys
from _contextvars import copy_context
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from msgspec import Meta

from taskpool.errors import MessageError
from taskpool.kinds.base import Context, JobTimedOut, Kind, Result
from taskpool.kinds.invoke import explain, put_ahead
from taskpool.limits import CALL_INLINE_BYTES_MAX, JOB_TEXT_BYTES_MAX
from taskpool.log import excerpt
from taskpool.messages import End, JobError, Part

Version = Annotated[tuple[int, int], Meta(description="major and minor")]


class Payload(Part, frozen=True):
    """One call. Pickles are made for the Python that is named, and read by no other."""

    title: str  # for people: the function's name
    python: Version
    function: bytes  # pickle of what is called
    call: bytes  # pickle of (args, kwargs); empty: both are in `file`, one behind the other
    file: bytes = b""  # its absolute path
    function_bytes: int = 0  # of `file`, that are the function
    path: tuple[bytes, ...] = ()  # absolute directories, ahead of the worker's own sys.path
    setup: bytes = b""  # pickle of (initializer, its args), run before the first call in a process; empty: none
    calls_max: int = 0  # so many may run in a process; 0: any number


class SetupFailed(Exception):
    """The initializer of a worker raised an exception: the `__cause__`."""


class Call(Kind[Payload]):
    """Values are JSON, as those of other kinds: the pickle as text in base64, or an object that names its file."""

    name = "call"
    payload_type = Payload

    def __init__(self) -> None:
        super().__init__()
        self._set_up: set[tuple[str, bytes]] = set()  # what has run in this process
        self._calls = 0  # in this process
        self._function: tuple[bytes, str, Any] = (b"", "", None)  # the last one, with its pickle and batch

    def check(self, payload: bytes) -> None:
        job = self.decode(payload)
        if not bool(job.call) == bool(job.function) != bool(job.file):
            raise MessageError("call: expected two pickles or the file that holds them")
        for path in (*job.path, *([job.file] if job.file else [])):
            if not path.startswith(b"/") or b"\0" in path:
                raise MessageError(f"call: expected an absolute path, got {path!r}")
        if job.calls_max < 0 or job.function_bytes < 0:
            raise MessageError(f"call: expected 0 or more, got {job.calls_max} and {job.function_bytes}")

    # Words for people

    def command_line(self, payload: bytes) -> str:
        return f"call {self.title(payload)}"

    def describe(self, payload: bytes) -> str:
        return f"call({self.title(payload)})"

    def title(self, payload: bytes) -> str:
        return excerpt(self.decode(payload).title, JOB_TEXT_BYTES_MAX)

    # In the worker

    def affinity(self, payload: bytes) -> str:
        """Give what makes a process fit for some calls only: directories, and the initializer that has run."""
        job = self.decode(payload)
        if not job.setup:
            return b":".join(job.path).decode("latin-1")
        import hashlib

        # Short: the dealer keeps it with each job, and an initializer's pickle may take a megabyte.
        return hashlib.blake2b(b":".join((*job.path, job.setup)), digest_size=16).hexdigest()

    def run(self, payload: bytes, context: Context) -> Result:
        job = self.decode(payload)
        here = sys.version_info[:2]
        if job.python != here:
            text = (
                f"the program runs Python {_dotted(job.python)} and the worker Python {_dotted(here)}, which cannot "
                "read its functions: start the dealer with --worker-exec VENV/bin/tp-worker of that Python"
            )
            return Result(End.FAILED, error=JobError("OtherPython", text))
        self._calls += 1
        result = self._call(job, context)
        return result._replace(last=self._calls >= job.calls_max > 0)

    def _call(self, job: Payload, context: Context) -> Result:
        from taskpool.kinds import pickling

        try:
            put_ahead(job.path, context.keep)
            self._run_setup(job, context)
            pickled, call = _read(job)
            function = self._load(pickled, context.batch)
            args, kwargs = pickling.loads(call, context.batch)
            # What it sets in its context (a precision of decimals, say) goes with it.
            value = copy_context().run(function, *args, **kwargs)
        except JobTimedOut:
            raise
        except BaseException as error:  # noqa: BLE001 - the border: whatever it is, it is the call's, and goes back
            return _failed(error, context)
        try:
            return Result(End.SUCCEEDED, value=_write(pickling.dumps(value), context))
        except JobTimedOut:
            raise
        except BaseException as error:  # noqa: BLE001 - as above; a class may pickle itself in code of its own
            kind = type(value).__qualname__
            problem = TypeError(f"the result, of type {kind}, cannot be pickled: {type(error).__qualname__}: {error}")
            return _failed(problem, context)

    def _load(self, pickled: bytes, batch: str) -> Callable[..., Any]:
        """Unpickle the function, unless it is the one of the call before: most are, and code takes its time."""
        from taskpool.kinds import pickling

        if self._function[:2] != (pickled, batch):
            self._function = (pickled, batch, pickling.loads(pickled, batch))
        return self._function[2]  # type: ignore[no-any-return]

    def _run_setup(self, job: Payload, context: Context) -> None:
        from taskpool.kinds import pickling

        key = context.batch, job.setup
        if not job.setup or key in self._set_up:
            return
        try:
            initializer, args = pickling.loads(job.setup, context.batch)
            initializer(*args)
        except Exception as error:
            text = f"the worker's initializer failed: {type(error).__qualname__}: {error}"
            raise SetupFailed(text) from error
        self._set_up.add(key)
        context.keep()  # what it has changed about the process is for the calls


def call_each(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call a function once for each tuple of arguments: a chunk of `Executor.map`."""
    return [function(*args) for args in calls]


def read_value(value: bytes) -> bytes:
    """Return the pickle in a value. Raises OSError where its file is gone, MessageError for what is no such value."""
    import json

    try:
        found = json.loads(value)
        if isinstance(found, str):
            return binascii.a2b_base64(found, strict_mode=True)
        path: str = found["file"]
    except (ValueError, TypeError, KeyError) as error:
        raise MessageError(f"call: no value of a call: {error}") from None
    with open(path, "rb") as file:
        return file.read()


def file_of(value: bytes) -> str | None:
    """Return the file that a value names; None: it needs none."""
    import json

    path = json.loads(value)["file"] if value.startswith(b"{") else None
    return path if isinstance(path, str) else None


def _failed(error: BaseException, context: Context) -> Result:
    """Send the exception itself, where it can be, and its text in any case."""
    from taskpool.kinds import pickling

    told = explain(error)
    try:
        data = pickling.dumps(error)
        pickling.loads(data, context.batch)  # many an exception with arguments of its own pickles, and never comes back
        return Result(End.FAILED, value=_write(data, context), error=told)
    except JobTimedOut:
        raise
    except BaseException as problem:  # noqa: BLE001 - code of the exception's own class
        text = f"{told.message} (the exception itself cannot be pickled: {type(problem).__qualname__}: {problem})"
        return Result(End.FAILED, error=JobError(told.type, text, told.traceback))


def _read(job: Payload) -> tuple[bytes, bytes]:
    if not job.file:
        return job.function, job.call
    with open(job.file, "rb") as file:
        return file.read(job.function_bytes), file.read()


def _write(data: bytes, context: Context) -> bytes:
    import json

    if len(data) <= CALL_INLINE_BYTES_MAX:
        return b'"%s"' % binascii.b2a_base64(data, newline=False)
    from taskpool.kinds.capture import keep

    return json.dumps({"file": os.path.abspath(keep(context, data, "value"))}).encode()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


CALL = Call()
