"""What a kind of job is, what it is told when it runs, and what it answers.

A kind is a module with the names of `Kind`. Adding one touches this folder and its test, nothing else.

Rules of this folder:
1. A payload is the kind's own MessagePack: built by `parse` or `jobs`, opaque to everybody between, and
   checked again by `check` at the dealer's door, because it came off a queue.
2. `run` answers with a Result for everything the job can do wrong. It raises only JobTimedOut,
   MessageError for a damaged payload, and OSError when the machine under it fails.
3. Imports that only some calls need stay inside functions: how fast a worker starts depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from taskpool.ids import Token
from taskpool.messages import NO_OUTPUT, End, JobError, Output

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


class JobTimedOut(BaseException):
    """Raised by a worker's signal handler inside a job that is past its deadline.

    Not an Exception, so that a job's own `except Exception` lets it pass.
    """


OWN_VARIABLES = frozenset({"TP_WORKER", "TP_JOB_ID", "TP_BATCH", "TP_SEQ", "TP_ATTEMPT", "TP_SLOT"})
"""Environment variables the pool sets for a job. A job may not set them: TP_WORKER is how its
processes are found when they have to be ended."""


class Job(NamedTuple):
    """One job as read from a command line or a line of input."""

    payload: bytes
    label: str | None = None


class Context(NamedTuple):
    """What a worker tells a kind about the attempt it runs."""

    batch: str
    seq: int
    try_: int  # from 1
    slot: int  # from 0; people see it from 1
    token: Token  # names the attempt's files: no other attempt has it
    spool: str  # directory of the pool's spool
    started_ns: int  # monotonic, when the attempt began
    timeout_ns: int = 0  # 0: none

    @property
    def deadline_ns(self) -> int | None:
        """When the attempt has to be over, on the monotonic clock; None: never."""
        return self.started_ns + self.timeout_ns if self.timeout_ns else None

    def environment(self) -> dict[str, str]:
        """The variables a job finds in its environment."""
        return {
            "TP_JOB_ID": f"{self.batch}/{self.seq}",
            "TP_BATCH": self.batch,
            "TP_SEQ": str(self.seq),
            "TP_ATTEMPT": str(self.try_),
            "TP_SLOT": str(self.slot + 1),
        }


class Result(NamedTuple):
    """How an attempt ended. The worker adds number, times and, for kinds inside it, what was printed.

    The texts of `error` are a job's own words, of any length and with any character: the worker makes them fit.
    """

    end: End
    value: bytes | None = None  # JSON
    exit_status: int | None = None
    signal: int | None = None
    error: JobError | None = None
    output: Output = NO_OUTPUT
    cpu_ns: int = 0  # of the attempt's child processes ...
    max_rss_bytes: int = 0  # ... 0 for kinds inside the worker, which measures itself


class Kind(Protocol):
    """The names every kind module has."""

    NAME: str
    SUMMARY: str  # one line for --help
    IN_PROCESS: bool  # runs inside the worker process: such a job's crash is the worker's death
    RUNS_USER_CODE: bool  # ... and calls code that may leave anything behind in it

    def notes(self) -> list[str]:
        """What a person should know about this kind on this machine; usually nothing."""

    def parse(self, job: dict[str, object], where: str) -> bytes:
        """The payload of one JSON job object that holds this kind's own keys only.

        Raises UsageError that starts with `where` and names the key, the value and what was expected.
        """

    def check(self, payload: bytes) -> None:
        """Decodes strictly. Raises MessageError."""

    def describe(self, payload: bytes) -> str:
        """A short text for log lines: `fib(40)`. Never raises for a payload that passed `check`."""

    def command_line(self, payload: bytes) -> str:
        """What a person would type for this job, for --joblog."""

    def affinity(self, payload: bytes) -> str:
        """Jobs of different affinity may not share a worker process; "" goes with every one."""

    def run(self, payload: bytes, context: Context) -> Result:
        """Runs the job, in a worker's main thread. Raises JobTimedOut; MessageError for a bad payload."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The options and operands of this kind's subcommand."""

    def jobs(self, args: Namespace, lines: Iterator[bytes] | None) -> Iterator[Job]:
        """The jobs of one command line. `lines` are those of standard input without their newlines.

        `lines` is read only when the jobs come from there; None means that there is no input.
        Raises UsageError.
        """
