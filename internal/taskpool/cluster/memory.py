"""An engine in memory, for tests: brokers that lose nothing, and connections on which anything may happen.

It answers as the real one does (`tests/contract` asks both the same things). What a connection does is chosen by its
test: `Link` names what it can do to a request. Times are monotonic nanoseconds, handed in.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from itertools import islice
from typing import NamedTuple

from taskpool.cluster.engine import (
    Acknowledge,
    Answer,
    DeadLetter,
    Delivery,
    Done,
    Extend,
    Failed,
    Fetch,
    Fetched,
    GiveBack,
    Look,
    NoteBatch,
    OpenBatch,
    OutcomePage,
    ReadOutcomes,
    Record,
    Request,
    SubmitJob,
    Taken,
)
from taskpool.cluster.subjects import Lane, Names

WAITING_MAX = 64  # requests that a connection takes before it refuses more, as the real one


class Link(StrEnum):
    """What happens to requests on a connection."""

    GOOD = "good"
    CUT = "cut"  # they do not arrive
    DEAF = "deaf"  # they are carried out, and the answer does not arrive
    LATE = "late"  # they count as failed, and are carried out when the connection is good again


class _Waiting(NamedTuple):
    """A job in the queue."""

    subject: str
    data: bytes


class _HandOut(NamedTuple):
    """A job that a member has."""

    number: int  # of hand-outs, over all jobs
    until: int


class MemoryBroker:
    """What the brokers of one pool have on their disks."""

    def __init__(self, pool: str, ack_wait_ns: int) -> None:
        self.names = Names(pool)
        self.ack_wait_ns = ack_wait_ns
        self.jobs: dict[int, _Waiting] = {}  # by their place in the stream
        self.outcomes: dict[str, tuple[int, bytes]] = {}  # by subject; with the place
        self.dead: dict[str, bytes] = {}
        self.crashes: dict[str, int] = {}
        self.notes: dict[str, bytes] = {}  # of batches
        self.refused = 0  # outcomes of runs that had one
        self._hand_outs: dict[int, _HandOut] = {}
        self._delivered: dict[int, int] = {}
        self._ids: set[str] = set()
        self._lock = threading.Lock()
        self._places = self._numbers = 0

    def perform(self, request: Request, now: int) -> Answer:
        """Carry out a request, of any thread."""
        with self._lock:
            return self._perform(request, now)

    def _perform(self, request: Request, now: int) -> Answer:
        match request:
            case Fetch():
                return Fetched(request, self._fetch(request.count, now))
            case Look():
                return Taken(request, b"") if self._is_settled(request) else Done(request)
            case Record():
                return self._record(request)
            case SubmitJob():
                return self._submit(request)
            case OpenBatch():
                return self._open(request)
            case ReadOutcomes():
                return OutcomePage(request, self._read(request))
            case _:
                self._dispose(request, now)
                return Done(request)

    def _dispose(self, request: Extend | Acknowledge | GiveBack | DeadLetter | NoteBatch, now: int) -> None:
        """Do what needs no answer of its own."""
        match request:
            case NoteBatch():
                self.notes[self.names.note(request.batch)] = request.note
            case Extend():
                for token in request.tokens:
                    self._postpone(token, now + self.ack_wait_ns)
            case Acknowledge():
                self._forget(_place(request.token))
            case GiveBack():
                if request.crashes:
                    self.crashes[self.names.crashes(request.key.batch, request.key.seq)] = request.crashes
                self._postpone(request.token, now + request.delay_ns)
            case DeadLetter():
                if (job := self.jobs.get(_place(request.token))) is not None:
                    self.dead.setdefault(self.names.dead_letter(*request.key), job.data)

    def _fetch(self, count: int, now: int) -> tuple[Delivery, ...]:
        due = [place for place in self.jobs if place not in self._hand_outs or self._hand_outs[place].until <= now]
        due.sort(key=self._lane)  # within a lane the order stays
        return tuple(self._hand_out(place, now) for place in due[:count])

    def _lane(self, place: int) -> int:
        placed = self.names.parse_job(self.jobs[place].subject)
        return list(Lane).index(placed.lane) if placed is not None else len(Lane)

    def _hand_out(self, place: int, now: int) -> Delivery:
        self._numbers += 1
        self._hand_outs[place] = _HandOut(self._numbers, now + self.ack_wait_ns)
        delivered = self._delivered[place] = self._delivered.get(place, 0) + 1
        job, crashes = self.jobs[place], 0
        if delivered > 1 and (placed := self.names.parse_job(job.subject)) is not None:
            crashes = self.crashes.get(self.names.crashes(placed.batch, placed.seq), 0)
        return Delivery(f"normal.{delivered}.{place}.{self._numbers}", job.subject, job.data, delivered, crashes)

    def _postpone(self, token: str, until: int) -> None:
        # Of a later hand-out too, as the real one does: it knows a job by its place, whichever token is shown.
        if (hand_out := self._hand_outs.get(_place(token))) is not None:
            self._hand_outs[_place(token)] = hand_out._replace(until=until)

    def _forget(self, place: int) -> None:
        self.jobs.pop(place, None)
        self._hand_outs.pop(place, None)
        self._delivered.pop(place, None)

    def _is_settled(self, request: Look) -> bool:
        job = self.jobs.get(_place(request.token))
        placed = None if job is None else self.names.parse_job(job.subject)
        if placed is None or (placed.batch, placed.seq) != request.key[:2]:
            return True
        return self.names.outcome(*request.key) in self.outcomes

    def _record(self, request: Record) -> Answer:
        subject = self.names.outcome(*request.key)
        if subject in self.outcomes:
            self.refused += 1
            return Taken(request, self.outcomes[subject][1])
        self._places += 1
        self.outcomes[subject] = (self._places, request.data)
        return Done(request)

    def _submit(self, request: SubmitJob) -> Answer:
        there = next((job for job in self.jobs.values() if job.subject == request.subject), None)
        if request.id in self._ids:
            return Done(request)
        if there is not None:
            return Taken(request, there.data)
        self._ids.add(request.id)
        self._places += 1
        self.jobs[self._places] = _Waiting(request.subject, request.data)
        return Done(request)

    def _open(self, request: OpenBatch) -> Answer:
        key = self.names.note(request.batch)
        if self.notes.get(key, request.note) != request.note:
            return Taken(request, self.notes[key])
        if request.create:
            self.notes[key] = request.note
        return Done(request)

    def _read(self, request: ReadOutcomes) -> tuple[tuple[int, bytes], ...]:
        prefix = self.names.outcomes(request.batch).removesuffix(">")
        found = (
            entry for subject, entry in self.outcomes.items() if subject.startswith(prefix) and entry[0] > request.after
        )
        return tuple(islice(found, request.count))


class MemoryEngine:
    """One member's connection with the brokers."""

    def __init__(self, broker: MemoryBroker, now: Callable[[], int]) -> None:
        self._broker = broker
        self._now = now
        self.link = Link.GOOD
        self.ack_wait_ns = broker.ack_wait_ns
        self.refusal: str | None = None
        self._answers: list[Answer] = []
        self._late: list[Request] = []
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def ask(self, request: Request) -> bool:
        """Take a request, and carry it out as far as the connection lets it."""
        if len(self._answers) >= WAITING_MAX or self._event < 0:
            return False
        self._answers.append(self._answer(request))
        os.eventfd_write(self._event, 1)
        return True

    def _answer(self, request: Request) -> Answer:
        match self.link:
            case Link.GOOD:
                self.catch_up()
                return self._broker.perform(request, self._now())
            case Link.DEAF:
                self._broker.perform(request, self._now())
            case Link.LATE:
                self._late.append(request)
            case Link.CUT:
                pass
        return Failed(request, f"the connection is {self.link}")

    def catch_up(self) -> None:
        """Carry out what was late."""
        late, self._late = self._late, []
        for request in late:
            self._broker.perform(request, self._now())

    def answers(self) -> list[Answer]:
        """Return, once, what has come."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        answers, self._answers = self._answers, []
        return answers

    def fileno(self) -> int:
        """A descriptor that can be read while there are answers."""
        return self._event

    def close(self) -> None:
        """Leave. May be called twice."""
        if self._event >= 0:
            os.close(self._event)
            self._event = -1


def _place(token: str) -> int:
    return int(token.split(".")[2])
