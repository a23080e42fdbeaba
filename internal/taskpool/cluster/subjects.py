"""Names in the engine: streams, subjects, consumers, and how each stream is kept. The only file that spells them.

Rules of this file:
1. A job has one subject while it waits or runs (`JOBS`), and one for the outcome of each run (`OUT`). A stream takes
   one message a subject and refuses a second, so the engine itself decides which submission and which outcome counts.
2. A batch's name is one token of a subject. It may have dots, which separate tokens; a tilde, which it cannot have,
   stands for them.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import SECOND
from taskpool.errors import UsageError

# A job that its member does not extend for so long goes to another one. Short, because members extend what they hold,
# so it need not be as long as a job; long beside a stall of a loaded host.
ACK_WAIT_NS = 30 * SECOND
EXTENSIONS_PER_WAIT = 3  # two may get lost
REPLICAS = 3
HELD_JOBS_MAX = 20_000  # delivered and not acknowledged, of one lane, over all members
# How long the engine remembers the id of a message. The streams' own rule, one message a subject, has no such limit.
DUPLICATES_NS = 120 * SECOND
# Refused by the server for `max_msgs_per_subject`: the job, or the outcome, is there already.
SUBJECT_TAKEN = 10077

_JOB = re.compile(r"^tp\.([a-z0-9-]+)\.job\.([a-z]+)\.([A-Za-z0-9_~-]+)\.(\d{1,16})\Z")


class Lane(StrEnum):
    """A line of waiting jobs; members take from the first one that has some."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @classmethod
    def of(cls, priority: int) -> Lane:
        """Return the lane of a job: the sign of its priority chooses."""
        return cls.NORMAL if not priority else cls.HIGH if priority > 0 else cls.LOW


class Placed(NamedTuple):
    """What the subject of a job tells."""

    lane: Lane
    batch: str
    seq: int


class StreamSettings(NamedTuple):
    """How a stream is kept, in the engine's own words."""

    name: str
    subjects: tuple[str, ...]
    retention: str  # workqueue: a message goes when it is acknowledged; limits: it stays
    per_subject: int | None  # None: as many as come; else a message beyond is refused, not an old one dropped


class Names:
    """All names of one pool."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.jobs = f"TP_{pool}_JOBS"
        self.out = f"TP_{pool}_OUT"
        self.dead = f"TP_{pool}_DEAD"
        self.state = f"TP_{pool}_STATE"

    def job(self, lane: Lane, batch: str, seq: int) -> str:
        """Return the subject of a job that waits or runs."""
        return f"tp.{self.pool}.job.{lane}.{_token(batch)}.{seq}"

    def lane(self, lane: Lane) -> str:
        """Return what matches all jobs of a lane."""
        return f"tp.{self.pool}.job.{lane}.>"

    def outcome(self, batch: str, seq: int, run: int) -> str:
        """Return the subject of a run's one outcome."""
        return f"tp.{self.pool}.out.{_token(batch)}.{seq}.{run}"

    def outcomes(self, batch: str) -> str:
        """Return what matches all outcomes of a batch."""
        return f"tp.{self.pool}.out.{_token(batch)}.>"

    def dead_letter(self, batch: str, seq: int, run: int) -> str:
        """Return the subject of a job in quarantine."""
        return f"tp.{self.pool}.dead.{_token(batch)}.{seq}.{run}"

    def crashes(self, batch: str, seq: int) -> str:
        """Return the key of a job's crash count in the state bucket."""
        # Of a key's characters (NATS: A-Z a-z 0-9 - _ = . /), a tilde is none.
        return f"crashes.{batch.replace('.', '=')}.{seq}"

    def note(self, batch: str) -> str:
        """Return the key of a batch's note in the state bucket."""
        return f"batches.{batch.replace('.', '=')}"

    def parse_job(self, subject: str) -> Placed | None:
        """Return what a job's subject tells; None for one that is none of this pool's."""
        match = _JOB.match(subject)
        if match is None or match[1] != self.pool or match[2] not in list(Lane):
            return None
        batch, seq = match[3].replace("~", "."), int(match[4])
        if not re.match(limits.BATCH_ID_PATTERN, batch) or not 1 <= seq <= limits.JOB_SEQ_MAX:
            return None
        return Placed(Lane(match[2]), batch, seq)

    def streams(self) -> tuple[StreamSettings, ...]:
        """Return the streams of the pool."""
        prefix = f"tp.{self.pool}"
        return (
            StreamSettings(self.jobs, (f"{prefix}.job.>",), "workqueue", 1),
            StreamSettings(self.out, (f"{prefix}.out.>",), "limits", 1),
            StreamSettings(self.dead, (f"{prefix}.dead.>",), "limits", 1),
        )


class Address(NamedTuple):
    """Where the engine is, as `--cluster` says it."""

    servers: tuple[str, ...]
    monitor: int | None = None  # the brokers' HTTP port, which tells how they keep what they take
    allow_unsafe: bool = False  # go on where the profile is not the safe one, and say so
    ack_wait_ns: int = ACK_WAIT_NS
    creds: str | None = None  # a file with the user's credentials
    ca: str | None = None  # a file with the authorities that brokers' certificates are checked by


_SERVER = re.compile(r"(?:(?:nats|tls)://)?(?:[^\s@/,?]+@)?(?:\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::\d{1,5})?\Z")
_NUMBER = re.compile(r"\d{1,5}\Z", re.ASCII)


def parse_address(text: str, option: str = "--cluster") -> Address:
    """Parse `nats://a:4222,b:4222,c:4222[?monitor=8222][&unsafe=1][&ack_wait=30]`. Raises UsageError."""
    hosts, _, query = text.partition("?")
    servers = tuple(_server(word, text, option) for word in hosts.split(","))
    known = {"monitor": "", "unsafe": "", "ack_wait": ""}
    for word in filter(None, query.split("&")):
        name, _, value = word.partition("=")
        if name not in known or not _NUMBER.match(value):
            raise UsageError(
                f"{option} {text}: {word!r}: expected monitor=PORT, unsafe=1 or ack_wait=SECONDS behind the ?"
            )
        known[name] = value
    seconds = int(known["ack_wait"] or ACK_WAIT_NS // SECOND)
    if not 1 <= seconds <= 3600:
        raise UsageError(f"{option} {text}: ack_wait={seconds}: expected 1 to 3600 seconds")
    monitor = int(known["monitor"]) if known["monitor"] else None
    return Address(servers, monitor, known["unsafe"] not in ("", "0"), seconds * SECOND)


def _server(word: str, text: str, option: str) -> str:
    if not _SERVER.match(word):
        raise UsageError(f"{option} {text}: {word!r}: expected nats://HOST:PORT, several with commas")
    return word if "://" in word else f"nats://{word}"


def _token(batch: str) -> str:
    return batch.replace(".", "~")
