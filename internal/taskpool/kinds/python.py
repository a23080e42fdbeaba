"""python: a function by name, called inside the worker, with arguments from JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from taskpool.errors import MessageError, UsageError
from taskpool.kinds.base import Context, Job, Result
from taskpool.kinds.invoke import invoke
from taskpool.messages import Part

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

NAME = "python"
SUMMARY = "a Python function, once for each line of JSON arguments"
IN_PROCESS = True
RUNS_USER_CODE = True

_CALL = "MODULE:FUNCTION, such as math:factorial"


class _Payload(Part, frozen=True):
    module: str
    function: str  # dotted for what lies inside a class
    args: bytes = b"[]"  # JSON, because its integers are of any size
    kwargs: bytes = b"{}"
    path: tuple[bytes, ...] = ()  # absolute directories, ahead of the worker's own sys.path


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Payload)


def notes() -> list[str]:
    return []


# --- at the door ----------------------------------------------------------------------------------


def parse(job: dict[str, object], where: str) -> bytes:
    from taskpool.kinds.fields import Fields, arguments

    fields = Fields(job, where)
    module, function = fields.required("call", _CALL, _read_call)
    args = fields.optional("args", "a list of JSON values", _json_reader(list))
    kwargs = fields.optional("kwargs", "an object of JSON values", _json_reader(dict))
    path = fields.optional("path", "a list of directories", arguments)
    fields.done()
    return _encode(_Payload(module, function, args or b"[]", kwargs or b"{}", _absolute(path or [])))


def check(payload: bytes) -> None:
    job = _decode(payload)
    if _read_call(f"{job.module}:{job.function}") is None:
        raise MessageError(f"python: expected {_CALL}, got {job.module!r}:{job.function!r}")
    for directory in job.path:
        if not directory.startswith(b"/") or b"\0" in directory:
            raise MessageError(f"python: path must be of absolute directories, got {directory!r}")
    _arguments(job)


def _decode(payload: bytes) -> _Payload:
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError) as error:
        raise MessageError(f"python: {error}") from None


def _arguments(job: _Payload) -> tuple[list[Any], dict[str, Any]]:
    try:
        args, kwargs = _read_json(job.args), _read_json(job.kwargs)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"python: arguments: {error}") from None
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise MessageError("python: arguments: expected a list and an object")
    return args, kwargs


def _read_json(data: bytes) -> object:
    """JSON as the standard has it: Python's own reader takes NaN too. Raises ValueError, RecursionError."""
    import json

    return json.loads(data, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _json_reader(wanted: type) -> Callable[[object], bytes | None]:
    import json

    def read(value: object) -> bytes | None:
        if not isinstance(value, wanted):
            return None
        try:
            return json.dumps(value, allow_nan=False).encode()
        except (ValueError, RecursionError):  # NaN, or nested too deep
            return None

    return read


def _read_call(value: object) -> tuple[str, str] | None:
    if not isinstance(value, str):
        return None
    module, _, function = value.partition(":")
    names = [*module.split("."), *function.split(".")]
    return (module, function) if all(name.isidentifier() for name in names) else None


def _absolute(path: list[bytes]) -> tuple[bytes, ...]:
    return tuple(os.path.normpath(os.path.join(os.getcwdb(), directory)) for directory in path)


# --- for people -----------------------------------------------------------------------------------


def describe(payload: bytes) -> str:
    job = _decode(payload)
    return f"python({job.module}:{job.function})"


def command_line(payload: bytes) -> str:
    from taskpool.kinds.template import shell_quote

    job = _decode(payload)
    words = [b"python", f"{job.module}:{job.function}".encode(), job.args]
    if job.kwargs != b"{}":
        words.append(job.kwargs)
    return b" ".join(words[:2] + [shell_quote(word) for word in words[2:]]).decode()


def affinity(payload: bytes) -> str:
    # Latin-1 has a character for every byte, so different paths stay different.
    return b":".join(_decode(payload).path).decode("latin-1")


# --- in the worker --------------------------------------------------------------------------------


def run(payload: bytes, context: Context) -> Result:
    job = _decode(payload)
    args, kwargs = _arguments(job)
    return invoke(job.module, job.function, args, kwargs, job.path)


# --- the command line -----------------------------------------------------------------------------


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "call",
        metavar="MODULE:FUNCTION",
        help="called once for each line of standard input: a JSON array of positional or an object of named arguments",
    )
    parser.add_argument(
        "--path", action="append", default=[], metavar="DIR", help="look for modules in DIR first; may be repeated"
    )


def jobs(args: Namespace, lines: Iterator[bytes] | None) -> Iterator[Job]:
    call = _read_call(args.call)
    if call is None:
        raise UsageError(f"python: expected {_CALL}, got {args.call!r}")
    if lines is None:
        raise UsageError("python: expected JSON arguments, an array or object on each line of standard input")
    path = _absolute([os.fsencode(directory) for directory in args.path])
    for number, line in enumerate(lines, start=1):
        yield Job(_encode(_Payload(*call, *_read_line(line, number), path)))


def _read_line(line: bytes, number: int) -> tuple[bytes, bytes]:
    """The arguments of one line: (args, kwargs)."""
    try:
        value = _read_json(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"python: line {number}: expected a JSON array or object: {error}") from None
    if isinstance(value, list):
        return line.strip(), b"{}"
    if isinstance(value, dict):
        return b"[]", line.strip()
    raise UsageError(f"python: line {number}: expected a JSON array or object, got {line[:60]!r}")
