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
from collections.abc import Callable, Iterable, Sequence
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
    call: bytes  # pickle of (args, kwargs); empty: both are in `file`, as parts
    file: bytes = b""  # its absolute path
    sizes: tuple[int, ...] = ()  # of the parts, in bytes: function, call, and the buffers of the call
    sync: bool = False  # whether a file of the result has to survive the loss of power
    path: tuple[bytes, ...] = ()  # absolute directories, ahead of the worker's own sys.path
    setup: bytes = b""  # pickle of (initializer, its args), run before the first call in a process; empty: none
    calls_max: int = 0  # so many may run in a process; 0: any number


_PICKLES = 2  # function and call


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
        if (len(job.sizes) < _PICKLES) if job.file else job.sizes:
            raise MessageError(f"call: expected the sizes of the parts of a file, got {len(job.sizes)}")
        for path in (*job.path, *([job.file] if job.file else [])):
            if not path.startswith(b"/") or b"\0" in path:
                raise MessageError(f"call: expected an absolute path, got {path!r}")
        if (least := min(job.calls_max, *job.sizes, 0)) < 0:
            raise MessageError(f"call: expected 0 or more, got {least}")

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
            pickled, call, *buffers = _read(job)
            function = self._load(bytes(pickled), context.batch)
            args, kwargs = pickling.loads(call, context.batch, buffers)
            # What it sets in its context (a precision of decimals, say) goes with it.
            value = copy_context().run(function, *args, **kwargs)
        except JobTimedOut:
            raise
        except BaseException as error:  # noqa: BLE001 - the border: whatever it is, it is the call's, and goes back
            return _failed(error, context)
        try:
            return Result(End.SUCCEEDED, value=_write(value, context, sync=job.sync))
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


def read_value(value: bytes) -> Sequence[bytes | memoryview]:
    """Return the pickle in a value, and behind it the buffers that belong to it.

    Raises OSError where its file is gone, MemoryError, MessageError for what is no such value.
    """
    import json

    from taskpool.kinds import parts

    try:
        if value[:1] == b'"':  # as most are: base64 needs no escape
            return [binascii.a2b_base64(value[1:-1], strict_mode=True)]
        found = json.loads(value)
        path, sizes = found["file"], list(map(int, found["sizes"]))
    except (ValueError, TypeError, KeyError) as error:
        raise MessageError(f"call: no value of a call: {error}") from None
    return parts.read(path, sizes)


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
        # Many an exception with arguments of its own pickles, and never comes back.
        pickling.loads(pickling.dumps(error), context.batch)
        return Result(End.FAILED, value=_write(error, context, sync=True), error=told)
    except JobTimedOut:
        raise
    except BaseException as problem:  # noqa: BLE001 - code of the exception's own class
        text = f"{told.message} (the exception itself cannot be pickled: {type(problem).__qualname__}: {problem})"
        return Result(End.FAILED, error=JobError(told.type, text, told.traceback))


def _read(job: Payload) -> Sequence[bytes | memoryview]:
    """Return the function's pickle, the call's, and the buffers of the call."""
    if not job.file:
        return [job.function, job.call]
    from taskpool.kinds import parts

    return parts.read(job.file, job.sizes)


def _write(value: object, context: Context, *, sync: bool) -> bytes:
    from taskpool.kinds import pickling

    buffers: list[memoryview] = []
    data = pickling.dumps(value, buffers)
    if len(data) + sum(map(len, buffers)) <= CALL_INLINE_BYTES_MAX:
        whole = pickling.dumps(value) if buffers else data
        return b'"%s"' % binascii.b2a_base64(whole, newline=False)
    import json

    from taskpool.kinds.capture import keep
    from taskpool.kinds.parts import padded

    path = keep(context, padded([data, *buffers]), "value", sync=sync)
    return json.dumps({"file": os.path.abspath(path), "sizes": [len(data), *map(len, buffers)]}).encode()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


CALL = Call()
