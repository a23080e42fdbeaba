"""What happened. Messages of generators and workers are events as they are; these are the others."""

from __future__ import annotations

from msgspec import Struct

from taskpool.ids import Incarnation
from taskpool.messages import Ack, Bye, Close, Command, Hello, JobSpec, Outcome, Ping, Progress, Ready


class Traits(Struct, frozen=True):
    """What the core must know of a job's kind and payload, and cannot read itself."""

    in_process: bool  # runs inside the worker process, so its crash may be an earlier job's doing
    affinity: str  # "" or the user code it loads: a worker that loaded some serves no other


class Submitted(Struct, frozen=True):
    """A Submit whose payloads were checked at the door."""

    client: int
    batch: str
    first_seq: int
    jobs: list[JobSpec]
    traits: list[Traits]


class Spawned(Struct, frozen=True):
    incarnation: Incarnation
    pid: int


class SpawnFailed(Struct, frozen=True):
    incarnation: Incarnation
    text: str


class Exited(Struct, frozen=True):
    """A worker is gone, its reports were drained and none of its descendants is alive."""

    incarnation: Incarnation
    status: int | None
    signal: int | None
    seen_mono_ns: int  # when its death was first seen; recovery is measured from here
    cpu_ns: int = 0
    max_rss_bytes: int = 0
    last_words: str | None = None


class TakenBack(Struct, frozen=True):
    """Frames a worker had not received, by the number of their first attempt."""

    incarnation: Incarnation
    first_ns: tuple[int, ...]


class Committed(Struct, frozen=True):
    number: int


class CommitFailed(Struct, frozen=True):
    number: int
    text: str


class StoredJob(Struct, frozen=True):
    """A queued job as the store gives it back."""

    ordinal: int
    batch: str
    seq: int
    run: int
    tries: int
    failures: int
    crashes: int
    priority: int
    spec: JobSpec
    traits: Traits
    queued_wall_ns: int


class Loaded(Struct, frozen=True):
    """Queued jobs behind the backlog's horizon, in order."""

    jobs: list[StoredJob]
    more: bool


class OutcomesLoaded(Struct, frozen=True):
    batch: str
    items: list[Outcome]


class ClientLost(Struct, frozen=True):
    """A generator's reply queue cannot be written any more."""

    client: int


class Signalled(Struct, frozen=True):
    """A signal for the dealer, by its name without SIG."""

    name: str


class LifelineClosed(Struct, frozen=True):
    """The generator that started this private dealer is gone."""


class Stalled(Struct, frozen=True):
    """The loop did not turn for this long: nobody may be judged for the silence."""

    gap_ns: int


class Tick(Struct, frozen=True):
    """The end of a turn: dispatch, look at deadlines, hand over what is to be stored."""


Event = (
    Hello
    | Submitted
    | Close
    | Ack
    | Ping
    | Bye
    | Command
    | Ready
    | Progress
    | Spawned
    | SpawnFailed
    | Exited
    | TakenBack
    | Committed
    | CommitFailed
    | Loaded
    | OutcomesLoaded
    | ClientLost
    | Signalled
    | LifelineClosed
    | Stalled
    | Tick
)
