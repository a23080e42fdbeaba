"""What the store keeps. One commit holds any number of rows and is atomic."""

from __future__ import annotations

from msgspec import Struct

from taskpool.core.events import Traits
from taskpool.messages import JobSpec, Limits, Outcome


class BatchOpened(Struct, frozen=True):
    batch: str
    limits: Limits


class BatchClosed(Struct, frozen=True):
    batch: str
    total: int


class BatchForgotten(Struct, frozen=True):
    """Every outcome was acknowledged and nobody holds the batch any more."""

    batch: str


class BatchCancelled(Struct, frozen=True):
    """Nothing of the batch starts any more, in this life of the dealer or a later one."""

    batch: str


class JobAccepted(Struct, frozen=True):
    ordinal: int  # order of acceptance over all batches
    batch: str
    seq: int
    priority: int
    spec: JobSpec
    traits: Traits
    digest: bytes
    queued_wall_ns: int


class AttemptMade(Struct, frozen=True):
    n: int
    ordinal: int
    try_: int
    incarnation: int


class JobReturned(Struct, frozen=True):
    """An attempt ended and the job goes on: back in the queue with these counts."""

    ordinal: int
    run: int
    tries: int
    failures: int
    crashes: int
    unclean_exits: int


class QuarantineDropped(Struct, frozen=True):
    """A person gave the job up: it will not be asked for again."""

    ordinal: int


class OutcomeRecorded(Struct, frozen=True):
    ordinal: int
    batch: str
    outcome: Outcome


class Acknowledged(Struct, frozen=True):
    batch: str
    upto: int


Entry = (
    BatchOpened
    | BatchClosed
    | BatchCancelled
    | BatchForgotten
    | JobAccepted
    | AttemptMade
    | JobReturned
    | QuarantineDropped
    | OutcomeRecorded
    | Acknowledged
)
