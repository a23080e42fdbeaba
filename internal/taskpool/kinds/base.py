"""What a kind of job is, what a worker tells it about an attempt, and what it answers.

A kind is one instance of a subclass of `Kind` in a module of its own; of `TypedKind`, where people write its jobs. Such
jobs have two forms, those that a program makes have only the second one:

1. The job object that a person writes, one line of a `jobs` file. A msgspec Struct, `TypedKind.object_type`, declares
   its fields: it checks them, describes them in errors and gives the JSON Schema.
   What depends on more than one field, or on more than a type and a range can say, is for `TypedKind.to_payload`.
2. The payload that crosses the queues and lies in journals: MessagePack of `Kind.payload_type`, opaque to the code
   between generator and worker. Unless a kind says otherwise it is the same Struct. Where the payload holds bytes,
   because arguments of programs are bytes and need not be UTF-8, it cannot be: JSON has none.

Rules of this folder:
1. A payload is checked twice: when it is made, for the person who wrote the job, and by `check` in the dealer, because
   what comes off a queue may have been written by any process of the same user.
2. `run` answers with a Result for everything that a job can do wrong. It raises only JobTimedOut, MessageError for a
   damaged payload, OSError when the machine under it fails, and WorkerUnfit when another worker has to run the job.
3. Imports that only some calls need stay inside functions: each respawn of a worker waits for this folder to load.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from taskpool.errors import MessageError, UsageError
from taskpool.identifiers import Token
from taskpool.kinds.source import STDIN, Source
from taskpool.limits import JOB_TEXT_BYTES_MAX
from taskpool.log import excerpt
from taskpool.messages import DEFAULT_LIMITS, NO_OUTPUT, End, JobError, JobSpec, Limits, Output

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_VALUE_CHARS_MAX = 60  # of a wrong value in an error: enough to find it in the line, short enough for a terminal
_S = TypeVar("_S", bound=Struct)
_Object = TypeVar("_Object", bound=Struct)
_Payload = TypeVar("_Payload")
_encode = msgspec.msgpack.Encoder().encode

# JSON can spell half of a surrogate pair, which UTF-8 cannot; and execve(2) ends an argument at its first NUL.
Text = Annotated[str, Meta(pattern=r"^[^\ud800-\udfff]*$")]
Argument = Annotated[str, Meta(pattern=r"^[^\x00\ud800-\udfff]*$")]

OWN_VARIABLES = frozenset({"TP_WORKER", "TP_JOB_ID", "TP_BATCH", "TP_SEQ", "TP_ATTEMPT", "TP_SLOT"})
"""Environment variables that the pool sets for a job, and a job may not. TP_WORKER marks all processes of a worker:
by it they are found when they have to be ended."""


class JobTimedOut(BaseException):
    """Raised by a worker's signal handler inside a job that is past its deadline.

    Not an Exception, so that a job's own `except Exception` lets it pass.
    """


class JobCancelled(BaseException):
    """Raised by a worker's signal handler while it waits for the program of a job that a person has cancelled."""


class WorkerUnfit(Exception):
    """This process can start no program any more, and another one can: the job has not begun."""


def nothing() -> None:
    """Do nothing."""


def none_lowered(*_limits: int) -> str | None:
    """Say that no limit was lowered."""
    return None


class Context(NamedTuple):
    """What a worker tells a kind about the attempt it runs."""

    batch: str
    seq: int
    try_: int  # from 1
    slot: int  # from 0; people see it from 1
    token: Token  # names the attempt's files: no other attempt has it
    spool: str  # directory of the pool's spool
    started_ns: int  # monotonic, when the attempt began
    limits: Limits = DEFAULT_LIMITS
    keep: Callable[[], None] = nothing  # what has been changed about the process until now is to stay for later jobs
    interruptible: Callable[[], AbstractContextManager[None]] = nullcontext  # within, JobCancelled may be raised
    lowered: Callable[..., str | None] = none_lowered  # names one of these RLIMIT_* that the worker had higher

    @property
    def deadline_ns(self) -> int | None:
        """Say when the attempt has to be over, on the monotonic clock; None: never."""
        return self.started_ns + self.limits.timeout_ns if self.limits.timeout_ns else None

    def environment(self) -> dict[str, str]:
        """Give the variables that a job finds in its environment."""
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
    error: JobError | None = None  # why it did not succeed
    output: Output = NO_OUTPUT  # of kinds outside the worker, which captures what is printed inside it
    cpu_ns: int = 0  # of the attempt's child processes ...
    max_rss_bytes: int = 0  # ... 0 for kinds inside the worker, which measures itself
    core_dumped: bool = False
    out_of_memory: bool | None = None  # whether the kernel ended it for want of memory; None: it does not tell
    last: bool = False  # the process is to run no job after this one


# --- job objects ----------------------------------------------------------------------------------


class WrongField(Exception):
    """A field of a job object is not what it should be. `problem` goes behind the words that name the field."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"field {name!r}{problem}")
        self.name = name
        self.problem = problem


def wrong_value(name: str, expected: str, got: object) -> WrongField:
    """The error for a field with this value. A long value is cut: it may be megabytes."""
    shown = repr(got)
    if len(shown) > _VALUE_CHARS_MAX:
        shown = shown[:_VALUE_CHARS_MAX] + "..."
    return WrongField(name, f": expected {expected}, got {shown}")


def read_fields(struct: type[_S], given: Mapping[str, object]) -> _S:
    """Read the fields of a job object as a Struct. Raises WrongField.

    The `extra` of a field's outermost Meta says in words what is expected: {"expected": "an integer 0..92"}.
    """
    try:
        return msgspec.convert(given, struct)
    except msgspec.ValidationError:
        # msgspec's own text names Python types and a path of dots; and it stops at unknown fields, whose cure may be
        # the name of a missing one. So the first wrong field is looked for again, where time does not matter.
        raise _find_wrong(struct, given) from None


def _find_wrong(struct: type[Struct], given: Mapping[str, object]) -> WrongField:
    from msgspec.structs import fields

    declared = fields(struct)
    for field in declared:
        metas = getattr(field.type, "__metadata__", ())
        expected = next((meta.extra["expected"] for meta in metas if meta.extra), "another value")
        if field.name not in given:
            if field.required:
                return WrongField(field.name, f" is missing: expected {expected}")
            continue
        try:
            msgspec.convert(given[field.name], field.type)
        except msgspec.ValidationError:
            return wrong_value(field.name, expected, given[field.name])
    known = [field.name for field in declared]
    unknown = next(name for name in given if name not in known)
    return WrongField(unknown, f" is unknown: expected {', '.join(known)} or a field that every job may have")


# --- kinds ----------------------------------------------------------------------------------------


class Kind(ABC, Generic[_Payload]):
    """One kind of job. A new one needs a subclass in a module here, and its instance in `KINDS`.

    The defaults are those that are safe for a kind of which nothing is known.
    """

    name: ClassVar[str]
    in_process: ClassVar[bool] = True  # runs inside the worker process: such a job's crash is the worker's death
    runs_user_code: ClassVar[bool] = True  # ... and calls code that may leave anything behind in it
    payload_type: Any = None  # what msgspec makes the payload of

    def __init__(self) -> None:
        # A decoder is compiled from its type, which takes longer than any payload: once for each process.
        self._decoder: msgspec.msgpack.Decoder[_Payload] = msgspec.msgpack.Decoder(self.payload_type)

    # Making and checking payloads

    def encode(self, payload: _Payload) -> bytes:
        """Give the bytes of a payload. Equal payloads have equal bytes: digests of jobs are made of them."""
        return _encode(payload)

    def decode(self, payload: bytes) -> _Payload:
        """Read a payload strictly. Raises MessageError."""
        try:
            return self._decoder.decode(payload)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise MessageError(f"{self.name}: {error}") from None

    def check(self, payload: bytes) -> None:
        """Refuse what no submitter of ours would make. Raises MessageError."""
        self.decode(payload)

    # Words for people. They never raise for a payload that passed `check`.

    def notes(self) -> list[str]:
        """Say what a person should know about this kind on this machine; usually nothing."""
        return []

    @abstractmethod
    def command_line(self, payload: bytes) -> str:
        """Say what a person would type for this job, for --joblog and --dry-run."""

    def describe(self, payload: bytes) -> str:
        """Say in a short text for log lines what this job is: `fib(40)`."""
        return f"{self.name}({self.command_line(payload).removeprefix(f'{self.name} ')})"

    def title(self, payload: bytes) -> str:
        """Say in one printable line of at most JOB_TEXT_BYTES_MAX bytes what this job is: every outcome carries it."""
        return excerpt(self.describe(payload), JOB_TEXT_BYTES_MAX)

    # In the worker

    def affinity(self, payload: bytes) -> str:
        """Jobs of different affinity may not share a worker process; "" goes with every one."""
        return ""

    @abstractmethod
    def run(self, payload: bytes, context: Context) -> Result:
        """Run the job, in a worker's main thread. Raises JobTimedOut; MessageError for a bad payload."""


class TypedKind(Kind[_Payload], Generic[_Object, _Payload]):
    """A kind whose jobs people write, on a command line or as job objects."""

    summary: ClassVar[str]  # one line for --help
    object_type: type[_Object]  # the fields of its job objects, beside those that every job may have

    def __init__(self) -> None:
        if self.payload_type is None:
            self.payload_type = self.object_type
        super().__init__()

    # Making payloads

    def parse(self, job: Mapping[str, object], where: str) -> bytes:
        """Make the payload of a job object, of which only this kind's own fields are given.

        Raises UsageError that starts with `where` and names the field, the value and what was expected.
        """
        try:
            return self.encode(self.to_payload(read_fields(self.object_type, job)))
        except WrongField as wrong:
            raise UsageError(f"{where}: {wrong}") from None

    def to_payload(self, job: _Object) -> _Payload:
        """Turn a job object into its payload. Raises WrongField for what the Struct alone cannot tell."""
        return job  # type: ignore[return-value]  # the same, unless `payload_type` says otherwise

    # On the command line

    @abstractmethod
    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options and operands of this kind's subcommand."""

    def source(self, args: Namespace) -> Source:
        """Say where the jobs of this command line come from. Raises UsageError."""

        def make_jobs(lines: Iterator[bytes]) -> Iterator[JobSpec]:
            payloads = self.jobs(args, lines)  # not in the expression, which would ask only for the first job
            return (JobSpec(self.name, payload) for payload in payloads)

        return Source(make_jobs, STDIN, "standard input") if self.reads_lines(args) else Source(make_jobs)

    def reads_lines(self, args: Namespace) -> bool:
        """Whether the jobs of this command line come from lines of standard input."""
        return False

    @abstractmethod
    def jobs(self, args: Namespace, lines: Iterator[bytes]) -> Iterator[bytes]:
        """Give the payloads of one command line: one for each of `lines`, if the kind reads them.

        Raises UsageError at once for wrong arguments, so that no line is waited for in vain; the iterator raises it
        for wrong lines. The lines have no newlines; there are none unless `reads_lines` says so.
        """
