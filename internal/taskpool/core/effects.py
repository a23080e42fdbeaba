"""What to do. The shell performs effects in the order given; order that matters is decided here.

Requests to the store are effects too, handed on as they are: see `storage`.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

from msgspec import Struct

from taskpool.core.storage import StoreRequest
from taskpool.errors import ExitCode
from taskpool.identifiers import Incarnation
from taskpool.messages import Accepted, Answer, Frame, Outcomes, Pong, Refused, Welcome


class SendFrame(Struct, frozen=True):
    incarnation: Incarnation
    frame: Frame


class TakeBack(Struct, frozen=True):
    """Receive from the worker's own queue what it has not received; `TakenBack` follows."""

    incarnation: Incarnation


class Spawn(Struct, frozen=True):
    """Start a worker; `Spawned` or `SpawnFailed` follows."""

    incarnation: Incarnation


class Kill(Struct, frozen=True):
    """Signal the worker's process group."""

    incarnation: Incarnation
    # By name: the core imports no `signal`, and numbers differ between architectures.
    signal: str  # name without SIG


class Reply(Struct, frozen=True):
    """`whole`: one message, however long. Else outcomes may come in several."""

    client: int
    message: Welcome | Accepted | Refused | Outcomes | Pong | Answer
    whole: bool = False


class Release(Struct, frozen=True):
    """The connection has ended: close the generator's reply queue."""

    client: int


class Exit(Struct, frozen=True):
    """Stop everything and leave."""

    code: ExitCode
    text: str


class Level(IntEnum):
    """Same numbers as in logging."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class Topic(Enum):
    """What a note is about. The log turns each into its line."""

    BATCH_OPENED = "batch-opened"
    BATCH_CLOSED = "batch-closed"
    JOBS_ACCEPTED = "jobs-accepted"
    SUBMISSION_REFUSED = "submission-refused"
    WORKER_SPAWNED = "worker-spawned"
    WORKER_READY = "worker-ready"
    WORKER_NOTE = "worker-note"
    WORKER_EXITED = "worker-exited"
    WORKER_STOPPED = "worker-stopped"
    JOB_SENT = "job-sent"
    JOB_RESENT = "job-resent"
    JOB_REPORTED = "job-reported"
    JOB_RETRIED = "job-retried"
    JOB_QUARANTINED = "job-quarantined"
    STALE_REPORT = "stale-report"
    RESPAWN_DELAYED = "respawn-delayed"
    OUT_OF_SERVICE = "out-of-service"
    CLIENT_LAPSED = "client-lapsed"
    DISK = "disk"
    DRAINING = "draining"
    PAUSED = "paused"
    SCALED = "scaled"
    STATUS = "status"
    STALLED = "stalled"
    EXITING = "leaving"  # the name under which programs that read the JSON log know it


class Note(Struct, frozen=True):
    """Something a person may want to read."""

    level: Level
    topic: Topic
    fields: dict[str, Any]


Effect = StoreRequest | SendFrame | TakeBack | Spawn | Kill | Reply | Release | Exit | Note
