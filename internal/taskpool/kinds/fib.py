"""fib: naive recursive Fibonacci, the demonstration workload that keeps a processor busy.

Compiled, a running job hears no signal handler: past its time-out it can only be killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from taskpool.errors import MessageError, UsageError
from taskpool.kinds import fib_kernel
from taskpool.kinds.base import Context, Job, Result
from taskpool.messages import End

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

NAME = "fib"
SUMMARY = "Fibonacci numbers the slow way: processor-bound jobs to try a pool with"
IN_PROCESS = True
RUNS_USER_CODE = False
N_MAX = 92  # the last Fibonacci number that fits 64 bits
COMPILED = fib_kernel.__file__.endswith(".so")

_EXPECTED = f"an integer 0..{N_MAX}"
_decoder: msgspec.msgpack.Decoder[int] = msgspec.msgpack.Decoder(Annotated[int, Meta(ge=0, le=N_MAX)])


def notes() -> list[str]:
    note = (
        "fib runs in plain Python, about 50 times slower: its kernel was not compiled when taskpool was installed; "
        "a C compiler and Cython are what that takes"
    )
    return [] if COMPILED else [note]


def parse(job: dict[str, object], where: str) -> bytes:
    from taskpool.kinds.fields import Fields, integer

    fields = Fields(job, where)
    n = fields.required("n", _EXPECTED, integer(0, N_MAX))
    fields.done()
    return msgspec.msgpack.encode(n)


def check(payload: bytes) -> None:
    _decode(payload)


def describe(payload: bytes) -> str:
    return f"fib({_decode(payload)})"


def command_line(payload: bytes) -> str:
    return f"fib {_decode(payload)}"


def affinity(payload: bytes) -> str:
    return ""


def run(payload: bytes, context: Context) -> Result:
    return Result(End.SUCCEEDED, value=b"%d" % fib_kernel.fib(_decode(payload)))


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("numbers", nargs="+", metavar="N|N-M", help=f"which numbers, each within 0..{N_MAX}: 40-45")
    parser.add_argument("--repeat", type=int, default=1, metavar="K", help="go through the numbers K times (default 1)")


def jobs(args: Namespace, lines: Iterator[bytes] | None) -> Iterator[Job]:
    if args.repeat < 1:
        raise UsageError(f"--repeat: expected 1 or more, got {args.repeat}")
    numbers = [n for word in args.numbers for n in _numbers(word)]
    for _ in range(args.repeat):
        for n in numbers:
            yield Job(msgspec.msgpack.encode(n))


def _numbers(word: str) -> range:
    """`40` or `40-45`, both ends included."""
    first, dash, last = word.partition("-")
    ends = [first, last] if dash else [first]
    for end in ends:
        if not (end.isascii() and end.isdigit() and len(end) <= 2 and int(end) <= N_MAX):
            raise UsageError(f"fib: expected N or N-M within 0..{N_MAX}, got {word!r}")
    low, high = int(ends[0]), int(ends[-1])
    if low > high:
        raise UsageError(f"fib: the range {word!r} is empty: {low} is more than {high}")
    return range(low, high + 1)


def _decode(payload: bytes) -> int:
    try:
        return _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise MessageError(f"fib: {error}") from None
