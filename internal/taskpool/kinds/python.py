"""python: a function by name, called inside the worker, with arguments from JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from msgspec import Meta, Struct

from taskpool.errors import MessageError, UsageError
from taskpool.kinds.base import Argument, Context, Result, TypedKind, wrong_value
from taskpool.kinds.invoke import Function, invoke
from taskpool.limits import JOB_TEXT_BYTES_MAX
from taskpool.log import excerpt
from taskpool.messages import Part

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_CALL_EXPECTED = "MODULE:FUNCTION, such as math:factorial"
_ARGS_EXPECTED = "a list of JSON values"
_KWARGS_EXPECTED = "an object of JSON values"

# An identifier, with every character beyond ASCII: which of those are letters only `_split_call` knows.
_WORD = r"[^\x00-@\[-^`{-\x7f][^\x00-/:-@\[-^`{-\x7f]*"


class PythonJob(Struct, frozen=True, forbid_unknown_fields=True):
    """One call of a function."""

    call: Annotated[
        str,
        Meta(
            pattern=rf"^{_WORD}(\.{_WORD})*:{_WORD}(\.{_WORD})*$",
            description="The function: its module, a colon, and its name, dotted inside a class.",
            examples=["math:factorial"],
            extra={"expected": _CALL_EXPECTED},
        ),
    ]
    args: Annotated[
        list[Any] | None,
        Meta(description="Its positional arguments.", examples=[[5]], extra={"expected": _ARGS_EXPECTED}),
    ] = None
    kwargs: Annotated[
        dict[str, Any] | None,
        Meta(description="Its named arguments.", examples=[{"key": "value"}], extra={"expected": _KWARGS_EXPECTED}),
    ] = None
    path: Annotated[
        list[Argument] | None,
        Meta(
            description="Directories to look for modules in, ahead of the worker's own; relative ones are taken from "
            "where the job is submitted.",
            examples=[["lib"]],
            extra={"expected": "a list of directories"},
        ),
    ] = None


_NO_ARGS, _NO_KWARGS = b"[]", b"{}"


class Payload(Part, frozen=True):
    """The same, with the arguments as JSON, because MessagePack has no integers beyond 64 bits."""

    module: str
    function: str  # dotted for what lies inside a class
    args: bytes = _NO_ARGS
    kwargs: bytes = _NO_KWARGS
    path: tuple[bytes, ...] = ()  # absolute directories, ahead of the worker's own sys.path


class Python(TypedKind[PythonJob, Payload]):
    """Calls happen inside the worker: no process has to be started for each, and modules stay loaded."""

    name = "python"
    summary = "a Python function, once for each line of JSON arguments"
    object_type = PythonJob
    payload_type = Payload

    # Making and checking payloads

    def to_payload(self, job: PythonJob) -> Payload:
        call = _split_call(job.call)
        if call is None:
            raise wrong_value("call", _CALL_EXPECTED, job.call)
        args = _write_json("args", _ARGS_EXPECTED, job.args or [])
        kwargs = _write_json("kwargs", _KWARGS_EXPECTED, job.kwargs or {})
        return Payload(*call, args, kwargs, _absolute([directory.encode() for directory in job.path or ()]))

    def check(self, payload: bytes) -> None:
        job = self.decode(payload)
        if _split_call(f"{job.module}:{job.function}") is None:
            raise MessageError(f"python: expected {_CALL_EXPECTED}, got {job.module!r}:{job.function!r}")
        for directory in job.path:
            if not directory.startswith(b"/") or b"\0" in directory:
                raise MessageError(f"python: path must be of absolute directories, got {directory!r}")
        _read_arguments(job)

    # Words for people

    def command_line(self, payload: bytes) -> str:
        from taskpool.kinds.template import shell_quote

        job = self.decode(payload)
        words = [b"python", f"{job.module}:{job.function}".encode(), shell_quote(job.args)]
        if job.kwargs != _NO_KWARGS:
            words.append(shell_quote(job.kwargs))
        return b" ".join(words).decode()

    def describe(self, payload: bytes) -> str:
        job = self.decode(payload)
        return f"python({job.module}:{job.function})"

    def title(self, payload: bytes) -> str:
        """Give the call as Python spells it, its arguments as JSON: `math:comb(5, 2)`."""
        job = self.decode(payload)
        arguments = job.args.strip()[1:-1][:JOB_TEXT_BYTES_MAX]
        if job.kwargs != _NO_KWARGS:
            arguments += (b", **" if arguments else b"**") + job.kwargs[: JOB_TEXT_BYTES_MAX + 1]
        call = f"{job.module}:{job.function}({arguments.decode('utf-8', 'backslashreplace')})"
        return excerpt(call, JOB_TEXT_BYTES_MAX)

    # In the worker

    def affinity(self, payload: bytes) -> str:
        """Give the path: a worker that has imported a module under one path must not serve another."""
        # Latin-1 has a character for every byte, so different paths stay different.
        return b":".join(self.decode(payload).path).decode("latin-1")

    def run(self, payload: bytes, context: Context) -> Result:
        job = self.decode(payload)
        args, kwargs = _read_arguments(job)
        return invoke(Function(job.module, job.function, job.path), args, kwargs, context.keep)

    # On the command line

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "call",
            metavar="MODULE:FUNCTION",
            help="called once for each line of standard input: a JSON array of positional or an object of named "
            "arguments",
        )
        parser.add_argument(
            "--path", action="append", default=[], metavar="DIR", help="look for modules in DIR first; may be repeated"
        )

    def reads_lines(self, args: Namespace) -> bool:
        return True

    def jobs(self, args: Namespace, lines: Iterator[bytes]) -> Iterator[bytes]:
        call = _split_call(args.call)
        if call is None:
            raise UsageError(f"python: expected {_CALL_EXPECTED}, got {args.call!r}")
        path = _absolute([os.fsencode(directory) for directory in args.path])
        return (
            self.encode(Payload(*call, *_read_line(line, number), path)) for number, line in enumerate(lines, start=1)
        )


def _split_call(call: str) -> tuple[str, str] | None:
    """Module and function; None when these are not dotted names."""
    module, _, function = call.partition(":")
    names = [*module.split("."), *function.split(".")]
    return (module, function) if all(name.isidentifier() for name in names) else None


def _absolute(path: list[bytes]) -> tuple[bytes, ...]:
    """Resolve the directories where the submitter stands. Raises UsageError."""
    try:
        # Normalised, because the path is the affinity too: two spellings of one directory would cost a worker each.
        return tuple(map(os.path.abspath, path))
    except FileNotFoundError:
        relative = next(directory for directory in path if not os.path.isabs(directory))
        raise UsageError(
            f"python: the current directory is gone, and the path {os.fsdecode(relative)!r} starts from it: "
            "cd elsewhere, or give an absolute path"
        ) from None


# --- JSON -----------------------------------------------------------------------------------------
# Python's own, not msgspec's: a file name whose bytes are not UTF-8 is text with halves of surrogate pairs to Python,
# which its JSON keeps and msgspec refuses. What one job returns, another must be able to take.
# NaN and Infinity, which Python's would take too, are no JSON: other readers of a job would fail on them.


@cache  # building one for each line would take longer than reading a short line
def _decoder() -> Callable[[str], Any]:
    import json

    return json.JSONDecoder(parse_constant=_refuse_constant).decode


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _read_json(data: bytes) -> object:
    """Raises ValueError; RecursionError for what is nested too deep."""
    import json

    return _decoder()(data.decode(json.detect_encoding(data), "surrogatepass"))  # as json.loads decodes bytes


def _read_arguments(job: Payload) -> tuple[list[Any], dict[str, Any]]:
    try:
        # What most jobs leave out needs no decoder.
        args = _read_json(job.args) if job.args != _NO_ARGS else []
        kwargs = _read_json(job.kwargs) if job.kwargs != _NO_KWARGS else {}
    except (ValueError, RecursionError) as error:
        raise MessageError(f"python: arguments: {error}") from None
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise MessageError("python: arguments: expected a list and an object")
    return args, kwargs


def _read_line(line: bytes, number: int) -> tuple[bytes, bytes]:
    """The arguments of one line as they are written there: (args, kwargs). Raises UsageError."""
    try:
        value = _read_json(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"python: line {number}: expected a JSON array or object: {error}") from None
    if isinstance(value, list):
        return line.strip(), _NO_KWARGS
    if isinstance(value, dict):
        return _NO_ARGS, line.strip()
    raise UsageError(f"python: line {number}: expected a JSON array or object, got {line[:60]!r}")


def _write_json(field: str, expected: str, value: object) -> bytes:
    import json

    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):  # not JSON, NaN, or nested too deep
        raise wrong_value(field, expected, value) from None


PYTHON = Python()
