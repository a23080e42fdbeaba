"""Every message that crosses a queue. docs/protocol.md is the normative text; this is its grammar.

Rules of this file:
1. A message is an immutable, array-like msgspec Struct with an integer tag; tags are never used twice.
2. Every field has its range here, so that the decoder refuses what the rest of the code need not check.
3. A changed field means a new `codec.PROTOCOL_VERSION`; what `codec` reads of any version is never changed.
4. Times on the wire are wall-clock nanoseconds, durations nanoseconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from taskpool import limits

U63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
MemoryBytes = Annotated[int, Meta(ge=0, le=limits.MEMORY_BYTES_MAX)]
ExitStatus = Annotated[int, Meta(ge=0, le=255)]
SignalNumber = Annotated[int, Meta(ge=1, le=64)]
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Seq = Annotated[int, Meta(ge=1, le=limits.JOB_SEQ_MAX)]
Ranges = tuple[tuple[Seq, Seq], ...]  # the first and the last job of each
DurationNs = Annotated[int, Meta(ge=0, le=limits.TIMEOUT_NS_MAX)]
BatchName = Annotated[str, Meta(pattern=limits.BATCH_ID_PATTERN)]
KindName = Annotated[str, Meta(pattern=limits.KIND_NAME_PATTERN)]
ReplySlot = Annotated[int, Meta(ge=0, lt=limits.REPLY_SLOTS_MAX)]
Text = Annotated[str, Meta(max_length=limits.ERROR_TEXT_BYTES_MAX)]
Payload = Annotated[bytes, Meta(max_length=limits.PAYLOAD_BYTES_MAX)]
Value = Annotated[bytes, Meta(max_length=limits.VALUE_BYTES_MAX)]
Captured = Annotated[str, Meta(max_length=limits.INLINE_OUTPUT_BYTES_MAX)]
JobTitle = Annotated[str, Meta(max_length=limits.JOB_TEXT_BYTES_MAX)]
FilePath = Annotated[str, Meta(max_length=4096)]


# --- what messages are made of ---


class End(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the job's own error: an exception, an exit status other than 0
    CRASHED = "crashed"  # killed by a signal, or its worker ended without a report
    TIMED_OUT = "timed-out"
    LOST = "lost"  # dealer or host went away, or the worker died before the job began
    CANCELLED = "cancelled"


class State(StrEnum):
    """Where a job stands. From SUCCEEDED on the state is terminal."""

    QUEUED = "queued"
    DELAYED = "delayed"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"
    QUARANTINED = "quarantined"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED, State.QUARANTINED})


class Part(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of what messages are made of."""


class Limits(Part):
    """What a job may use and how often it is tried. One object serves a whole batch."""

    timeout_ns: DurationNs = 0  # 0: none
    retries: Annotated[int, Meta(ge=0, le=limits.RETRIES_MAX)] = 0  # tries after the first
    backoff_min_ns: DurationNs = 0  # before the first retry; doubles up to backoff_max_ns
    backoff_max_ns: DurationNs = 0
    retry_exit: tuple[ExitStatus, ...] = ()  # retry only these exit statuses ...
    retry_signal: tuple[SignalNumber, ...] = ()  # ... and these signals ...
    retry_timeout: bool = True  # ... and time-outs
    retry_failed: bool = True  # every failure, whatever its status
    crash_limit: Annotated[int, Meta(ge=0, le=limits.RETRIES_MAX)] = limits.CRASH_LIMIT_DEFAULT  # 0: unlimited
    priority: Annotated[int, Meta(ge=-limits.PRIORITY_MAX, le=limits.PRIORITY_MAX)] = 0  # higher first
    memory_bytes: MemoryBytes = 0  # 0: as much as there is
    # A try after one that ran out of memory has so much of that one's limit, up to the maximum; 0: the same.
    memory_growth_percent: Annotated[int, Meta(ge=0, le=limits.MEMORY_GROWTH_PERCENT_MAX)] = 0
    memory_bytes_max: MemoryBytes = 0  # 0: none
    # How a command is ended: each signal, and how long it is waited for; then KILL. Empty: the usual one.
    term_sequence: Annotated[tuple[tuple[SignalNumber, DurationNs], ...], Meta(max_length=limits.TERM_SIGNALS_MAX)] = ()

    @property
    def grace_ns(self) -> int:
        """How long a command may take to end, from the first signal to KILL."""
        return sum(pause_ns for _, pause_ns in self.term_sequence) if self.term_sequence else limits.TERM_GRACE_NS


DEFAULT_LIMITS = Limits()


class JobSpec(Part):
    """A job as submitted. `payload` is the kind's own MessagePack, opaque to all others."""

    kind: KindName
    payload: Payload
    limits: Limits | None = None  # None: the batch's
    label: Annotated[str, Meta(max_length=256)] | None = None


class JobError(Part):
    """Why an attempt did not succeed, for a person."""

    type: Text
    message: Text = ""
    traceback: Text | None = None


class Usage(Part):
    """What an attempt used, as measured by the process that ran it."""

    started_wall_ns: U63 = 0
    run_ns: U63 = 0
    cpu_ns: U63 = 0
    max_rss_bytes: U63 = 0


class Output(Part):
    """What a job printed: text when short and UTF-8, else the file it lies in, else nothing."""

    stdout: Captured | None = None
    stderr: Captured | None = None
    stdout_file: FilePath | None = None
    stderr_file: FilePath | None = None


NO_OUTPUT = Output()
NO_USAGE = Usage()


class Report(Part):
    """How one attempt ended, as its worker saw it."""

    n: U63  # the attempt's number; the epoch stands in the message around it
    end: End  # SUCCEEDED, FAILED, CRASHED (its program was killed by a signal) or TIMED_OUT
    value: Value | None = None  # JSON
    exit_status: ExitStatus | None = None
    signal: SignalNumber | None = None
    error: JobError | None = None
    usage: Usage = NO_USAGE
    output: Output = NO_OUTPUT
    core_dumped: bool = False
    stderr_tail: Text | None = None  # the end of its standard error, where `output` has no text of it
    out_of_memory: bool | None = None  # of one killed by SIGKILL: by the kernel, for want of memory; None: unknown


class Try(Part):
    """How one attempt ended that counts and did not succeed. `certificate` makes it."""

    no: U32  # within its run, from 1
    end: End  # FAILED, CRASHED or TIMED_OUT
    exit_status: ExitStatus | None = None
    signal: SignalNumber | None = None
    core_dumped: bool = False
    out_of_memory: bool | None = None  # None: cannot be told
    usage: Usage = NO_USAGE
    pid: U32 | None = None  # of the worker
    slot: U32 | None = None
    stderr_tail: Annotated[str, Meta(max_length=limits.TRY_TAIL_BYTES_MAX)] | None = None
    error: Annotated[str, Meta(max_length=limits.TRY_ERROR_CHARS_MAX)] | None = None
    memory_limit_bytes: MemoryBytes | None = None


class Outcome(Part):
    """The one recorded end of a run. Field for field the outcome object of `--results`."""

    no: U63  # place in the batch's outcomes, from 1
    seq: Seq
    run: U32
    kind: KindName
    label: str | None
    state: State
    attempts: U32
    crashes: U32
    value: Value | None = None
    exit_status: ExitStatus | None = None
    signal: SignalNumber | None = None
    slot: U32 | None = None
    pid: U32 | None = None
    queued_wall_ns: U63 = 0
    finished_wall_ns: U63 = 0
    wait_ns: U63 = 0  # accepted until its last attempt began
    usage: Usage = NO_USAGE
    output: Output = NO_OUTPUT
    error: JobError | None = None
    job: JobTitle = ""  # what it is, in one printable line; empty: recorded by a version that did not say
    tries: Annotated[tuple[Try, ...], Meta(max_length=limits.TRIES_KEPT_MAX)] = ()  # the last that did not succeed


class Task(Part):
    """A job as a worker gets it."""

    seq: Seq
    try_: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    kind: KindName
    payload: Payload


# --- generator to dealer --------------------------------------------------------------------------


class Hello(Part, tag=1):
    """Opens or reopens a connection on control. The reply queue is the slot's name."""

    client: U63
    slot: ReplySlot
    pid: U32  # for people
    batch: BatchName | None = None  # None: only asks
    limits: Limits = DEFAULT_LIMITS  # of the batch, when this hello opens it
    cursor: U63 = 0  # the last outcome this generator has safely


class Submit(Part, tag=2):
    """Jobs first_seq, first_seq+1, ... of the batch, on intake."""

    client: U63
    batch: BatchName
    first_seq: Seq
    jobs: Annotated[list[JobSpec], Meta(min_length=1, max_length=limits.SUBMIT_JOBS_MAX)]


class Close(Part, tag=3):
    """No job comes after `total`. On intake, behind the last Submit."""

    client: U63
    batch: BatchName
    total: U63


class Ack(Part, tag=4):
    """The generator has all outcomes up to number `upto`."""

    client: U63
    batch: BatchName
    upto: U63


class Ping(Part, tag=5):
    """Asks whether the dealer is there, and renews the lease."""

    client: U63


class Bye(Part, tag=6):
    """The generator leaves; its batches live on."""

    client: U63


class Command(Part, tag=7):
    """What a person asks of the pool; `core.commands` has the verbs."""

    client: U63
    verb: Annotated[str, Meta(pattern=r"^[a-z-]{1,32}\Z")]
    batch: BatchName | None = None
    seq: U63 = 0  # 0: the whole batch
    number: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    jobs: Annotated[Ranges, Meta(max_length=limits.RERUN_RANGES_MAX)] = ()


# --- dealer to generator --------------------------------------------------------------------------


class Welcome(Part, tag=20):
    """Answers Hello. `accepted` and `last_no` say where the batch stands."""

    client: U63
    epoch: U63
    pid: U32
    spool: FilePath
    accepted: U63 = 0  # every job up to this seq is accepted
    total: U63 | None = None  # known once closed
    last_no: U63 = 0  # outcomes recorded so far
    journaled: bool = False  # what is told once is there for a later run of the generator


class Accepted(Part, tag=21):
    """Every job of the batch up to `upto` is accepted: it will get exactly one outcome."""

    client: U63
    batch: BatchName
    upto: U63
    closed: bool = False


class Refused(Part, tag=22):
    """Nothing of the frame that starts at `first_seq` was accepted; `seq` is the first bad job."""

    client: U63
    batch: BatchName | None
    first_seq: U63
    seq: U63
    reason: Annotated[str, Meta(pattern=r"^[a-z_]{1,32}\Z")]
    text: Text


class Outcomes(Part, tag=23):
    """Outcomes in the order of their numbers, without a gap."""

    client: U63
    batch: BatchName
    items: list[Outcome]


class Pong(Part, tag=24):
    """Answers Ping."""

    client: U63


class Answer(Part, tag=25):
    """Answers Command. `body` is JSON."""

    client: U63
    verb: str
    ok: bool
    body: Annotated[bytes, Meta(max_length=limits.VALUE_BYTES_MAX)]


# --- dealer to worker -----------------------------------------------------------------------------


class Frame(Part, tag=40):
    """One or more attempts, numbered first_n, first_n+1, ... The header is read, and answered with
    `started`, before `tasks` is decoded: bad payloads must not take the acknowledgement with them."""

    epoch: U63
    first_n: U63
    count: Annotated[int, Meta(ge=1, le=limits.FRAME_JOBS_MAX)]
    slot: Annotated[int, Meta(ge=0, lt=limits.WORKERS_MAX)]
    batch: BatchName
    tasks: msgspec.Raw
    limits: Limits = DEFAULT_LIMITS  # of each of them: a worker keeps those that are its to keep


# --- worker to dealer -----------------------------------------------------------------------------


class Ready(Part, tag=60):
    """The worker is up, holds its queue and can run these kinds."""

    incarnation: U63
    epoch: U63
    pid: U32
    version: Annotated[str, Meta(max_length=64)]
    kinds: Annotated[list[KindName], Meta(max_length=64)]
    notes: Annotated[list[Text], Meta(max_length=8)] = []  # what a person should know, e.g. no compiled fib


class Progress(Part, tag=61):
    """Reports, and the frame begun. All reports of a frame come before the next frame's `started`."""

    incarnation: U63
    epoch: U63
    reports: Annotated[list[Report], Meta(max_length=limits.FRAME_JOBS_MAX)] = []
    started: U63 = 0  # first_n of the frame begun; 0: none


# --- any of them ----------------------------------------------------------------------------------


class Spilled(Part, tag=80):
    """The real message did not fit its queue and lies in a file of the pool's spool."""

    name: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    size: Annotated[int, Meta(ge=0, le=limits.SPILL_BYTES_MAX)]
    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]  # SHA-256
    sender: U63 = 0  # the worker's incarnation; 0: it is no worker's


Message = (
    Hello
    | Submit
    | Close
    | Ack
    | Ping
    | Bye
    | Command
    | Welcome
    | Accepted
    | Refused
    | Outcomes
    | Pong
    | Answer
    | Frame
    | Ready
    | Progress
    | Spilled
)
