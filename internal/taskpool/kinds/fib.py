"""fib: naive recursive Fibonacci, the demonstration workload that keeps a processor busy.

A running job of the compiled kernel runs no Python, and so no signal handler: past its time-out only a kill ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from taskpool.errors import UsageError
from taskpool.kinds import fib_kernel
from taskpool.kinds.base import Context, Result, TypedKind
from taskpool.messages import End

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

N_MAX = 92  # the last Fibonacci number that fits the kernel's signed 64 bits
COMPILED = fib_kernel.__file__.endswith(".so")

_N = Annotated[
    int,
    Meta(
        ge=0,
        le=N_MAX,
        description="Which Fibonacci number to compute.",
        examples=[40],
        extra={"expected": f"an integer 0..{N_MAX}"},
    ),
]


class FibJob(Struct, frozen=True, forbid_unknown_fields=True):
    """One Fibonacci number."""

    n: _N


class Fib(TypedKind[FibJob, int]):
    """The payload is the bare integer: the smallest message there is, for jobs of which millions may wait."""

    name = "fib"
    summary = "Fibonacci numbers the slow way: processor-bound jobs to try a pool with"
    runs_user_code = False
    object_type = FibJob
    payload_type = _N

    def to_payload(self, job: FibJob) -> int:
        return job.n

    def notes(self) -> list[str]:
        note = (
            "fib runs in plain Python, about 50 times slower: its kernel was not compiled when taskpool was installed; "
            "a C compiler and Cython are what that takes"
        )
        return [] if COMPILED else [note]

    def command_line(self, payload: bytes) -> str:
        return f"fib {self.decode(payload)}"

    def title(self, payload: bytes) -> str:
        return f"fib({self.decode(payload)})"  # short by itself

    def run(self, payload: bytes, context: Context) -> Result:
        return Result(End.SUCCEEDED, value=b"%d" % fib_kernel.fib(self.decode(payload)))

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("numbers", nargs="+", metavar="N|N-M", help=f"which numbers, each within 0..{N_MAX}: 40-45")
        parser.add_argument(
            "--repeat", type=int, default=1, metavar="K", help="go through the numbers K times (default 1)"
        )

    def jobs(self, args: Namespace, lines: Iterator[bytes]) -> Iterator[bytes]:
        if args.repeat < 1:
            raise UsageError(f"--repeat: expected 1 or more, got {args.repeat}")
        payloads = [self.encode(n) for word in args.numbers for n in _numbers(word)]
        return (payload for _ in range(args.repeat) for payload in payloads)


def _numbers(word: str) -> range:
    """`40` or `40-45`, both ends included."""
    first, dash, last = word.partition("-")
    ends = [first, last] if dash else [first]
    for end in ends:
        # int() alone would take `4_0`, a digit of another script, or five thousand of them.
        if not (end.isascii() and end.isdigit() and len(end) <= 2 and int(end) <= N_MAX):
            raise UsageError(f"fib: expected N or N-M within 0..{N_MAX}, got {word!r}")
    low, high = int(ends[0]), int(ends[-1])
    if low > high:
        raise UsageError(f"fib: the range {word!r} is empty: {low} is more than {high}")
    return range(low, high + 1)


FIB = Fib()
