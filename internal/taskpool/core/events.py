"""What happened. Messages of generators and workers are events as they are; these are the others."""

from __future__ import annotations

from msgspec import Struct

from taskpool.core.entries import Traits
from taskpool.core.storage import Restored, StoreEvent
from taskpool.identifiers import Incarnation
from taskpool.messages import Ack, Bye, Close, Command, Hello, JobSpec, Ping, Progress, Ready, Report


class CheckedJob(Struct, frozen=True):
    """A submitted job whose payload its kind has accepted."""

    spec: JobSpec
    traits: Traits
    digest: bytes  # of what the job does: kind and payload, not limits, label or priority


class Submitted(Struct, frozen=True):
    """A Submit that passed the input checks."""

    client: int
    batch: str
    first_seq: int
    jobs: list[CheckedJob]


class Spawned(Struct, frozen=True):
    incarnation: Incarnation
    pid: int


class ReadyUnreadable(Struct, frozen=True):
    """A worker is up that speaks another version of the protocol, so that nothing else it says can be read."""

    incarnation: Incarnation
    epoch: int
    pid: int
    version: str  # of its program
    protocol: int  # the version that it speaks,
    ours: int  # and that of this dealer


class SpawnFailed(Struct, frozen=True):
    incarnation: Incarnation
    text: str


class Exited(Struct, frozen=True):
    """A worker is gone, what it had sent was drained and none of its descendants is alive."""

    incarnation: Incarnation
    status: int | None
    signal: int | None
    seen_mono_ns: int  # when its death was first seen; recovery is measured from here
    cpu_ns: int = 0
    max_rss_bytes: int = 0
    stderr_tail: str | None = None
    core_dumped: bool = False
    out_of_memory: bool | None = None  # of one killed by SIGKILL: by the kernel, for want of memory; None: unknown
    held: tuple[Report, ...] = ()  # what it had not sent yet, or had sent and not forgotten yet


class TakenBack(Struct, frozen=True):
    """Frames a worker had not received, by the number of their first attempt."""

    incarnation: Incarnation
    # Garbage that others wrote into the queue is left out; a frame is known by its first attempt.
    first_ns: tuple[int, ...]


class ReportLost(Struct, frozen=True):
    """What a worker reported lay in the spool and is not there any more."""

    incarnation: Incarnation


class ClientLost(Struct, frozen=True):
    """A generator's reply queue cannot be written any more."""

    client: int


class Signalled(Struct, frozen=True):
    """A signal for the dealer, by its name without SIG."""

    name: str


class Reconfigured(Struct, frozen=True):
    """What of the configuration can change while the pool runs, read again."""

    workers: int
    drain_timeout_ns: int


class LifelineClosed(Struct, frozen=True):
    """The generator that started this private dealer is gone."""


class Stalled(Struct, frozen=True):
    """The loop did not turn for this long. No instant counts that time: no deadline came nearer."""

    gap_ns: int


class Tick(Struct, frozen=True):
    """The end of a turn: dispatch, look at deadlines, hand over what is to be stored. `heard`: all that workers had
    said was read, so that a silence is one."""

    heard: bool = True


Event = (
    Hello
    | Submitted
    | Close
    | Ack
    | Ping
    | Bye
    | Command
    | Ready
    | ReadyUnreadable
    | Progress
    | Spawned
    | SpawnFailed
    | Exited
    | TakenBack
    | ReportLost
    | StoreEvent
    | Restored
    | ClientLost
    | Signalled
    | Reconfigured
    | LifelineClosed
    | Stalled
    | Tick
)
