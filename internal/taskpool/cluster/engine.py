"""What a member, or a generator, asks of the engine between hosts, and what comes back. Data, and one interface.

Five verbs are about jobs that a member holds: fetch, extend, acknowledge, give back (to be retried later), dead-letter.
Three more submit a job, record an outcome and read outcomes. A request is answered once: `Done`, `Taken`, `Failed`, or
an answer of its own. An answer may be lost with its process, never with a connection: an engine that cannot be reached
fails a request in time, and what it has carried out all the same is harmless to ask again.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from msgspec import Struct


class JobKey(NamedTuple):
    """One run of a job of the cluster: what has exactly one recorded outcome."""

    batch: str
    seq: int
    run: int

    def __str__(self) -> str:
        return f"{self.batch}/{self.seq}" if self.run == 1 else f"{self.batch}/{self.seq} (run {self.run})"


class Delivery(NamedTuple):
    """A job as the engine hands it out. What is in it may be of any origin."""

    token: str  # by which the engine knows this hand-out, also after a restart of the member
    subject: str
    data: bytes
    delivered: int = 1  # how often it was handed out, this time included
    crashes: int = 0  # counted by members that gave it back


# --- requests -------------------------------------------------------------------------------------


class Fetch(Struct, frozen=True):
    """Hand out up to `count` jobs. Answered by Fetched, with none after a while."""

    count: int


class Extend(Struct, frozen=True):
    """These are still worked on: hand them out to no other member for another `ack_wait`."""

    tokens: tuple[str, ...]


class Acknowledge(Struct, frozen=True):
    """The job is done with: forget it. Answered when the engine has confirmed that it has."""

    token: str
    key: JobKey


class Look(Struct, frozen=True):
    """Is the job still to be executed? Answered by Done if so, by Taken if it is gone or has an outcome."""

    token: str
    key: JobKey


class GiveBack(Struct, frozen=True):
    """Hand the job out again, to any member, after a delay; with it goes what it has crashed so far."""

    token: str
    key: JobKey
    crashes: int = 0
    delay_ns: int = 0


class DeadLetter(Struct, frozen=True):
    """Keep a copy of the job among those that crash their workers."""

    token: str
    key: JobKey


class Record(Struct, frozen=True):
    """Record the outcome of a run. Answered by Taken when it has one already."""

    key: JobKey
    data: bytes


class SubmitJob(Struct, frozen=True):
    """Accept a job. Answered by Done when a majority of the brokers has it on disk; by Taken when it is there."""

    subject: str
    data: bytes
    id: str  # the same for the same job: the engine drops what it was told twice


class OpenBatch(Struct, frozen=True):
    """Is there a batch of this name? Answered by Taken if so, with its note; by Done if not, or if the note is ours."""

    batch: str
    note: bytes
    create: bool  # and leave this note, if there is none


class NoteBatch(Struct, frozen=True):
    """Leave this note with a batch, in the place of the one before."""

    batch: str
    note: bytes


class ReadOutcomes(Struct, frozen=True):
    """Read outcomes of a batch in the order of recording, after a position. Answered by OutcomePage."""

    batch: str
    after: int  # 0: from the first
    count: int


OfMembers = Fetch | Extend | Acknowledge | Look | GiveBack | DeadLetter | Record
OfSubmitters = SubmitJob | OpenBatch | NoteBatch | ReadOutcomes
Request = OfMembers | OfSubmitters


# --- answers --------------------------------------------------------------------------------------


class Fetched(Struct, frozen=True):
    """Jobs that are ours from now on, until we acknowledge, give back, or extend too late."""

    request: Fetch | None  # None: they came when the request was answered already
    jobs: tuple[Delivery, ...]


class Done(Struct, frozen=True):
    """The engine has carried it out, and keeps it."""

    request: Request


class Taken(Struct, frozen=True):
    """Its subject has a message already: `data`."""

    request: Request
    data: bytes


class Failed(Struct, frozen=True):
    """It may or may not have been carried out."""

    request: Request
    text: str


class OutcomePage(Struct, frozen=True):
    """Outcomes, each with its position."""

    request: ReadOutcomes
    outcomes: tuple[tuple[int, bytes], ...]


class Notice(Struct, frozen=True):
    """What a person should know: the connection was lost, or is there again."""

    text: str
    is_warning: bool = False


Answer = Fetched | Done | Taken | Failed | OutcomePage | Notice


class Engine(Protocol):
    """A connection with the engine. No call waits; what has come is announced by a descriptor."""

    ack_wait_ns: int  # how long a job that is handed out may go without an extension
    refusal: str | None  # why it is not used: it would not keep what it accepts

    def ask(self, request: Request) -> bool:
        """Take a request; False: too many wait already, ask again later."""

    def answers(self) -> list[Answer]:
        """Return, once, what has come."""

    def fileno(self) -> int:
        """A descriptor that can be read while there are answers."""

    def close(self) -> None:
        """Leave; what was asked and is not answered may or may not happen. May be called twice."""
