"""Members on an engine in memory, with a dealer each that is a few lists: what a journal keeps, and nothing else.

A member that is killed loses its `Member`; its dealer keeps what a journal keeps, and the next life begins from that,
as the bridge does it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

from taskpool.clock import SECOND
from taskpool.cluster.engine import Fetched, JobKey, SubmitJob
from taskpool.cluster.job import Mark, encode_job, lane_of, message_id, received
from taskpool.cluster.member import Member
from taskpool.cluster.memory import MemoryBroker, MemoryEngine
from taskpool.messages import DEFAULT_LIMITS, JobSpec, Outcome, State, Usage

POOL = "render"
ACK_WAIT_NS = 30 * SECOND


def spec(number: int = 1, **changes: object) -> JobSpec:
    return JobSpec(**{"kind": "fib", "payload": bytes([number % 128]), **changes})  # type: ignore[arg-type]


def submission(broker: MemoryBroker, key: JobKey, job: JobSpec) -> SubmitJob:
    """A job as its submitter sends it."""
    subject = broker.names.job(lane_of(job, DEFAULT_LIMITS), key.batch, key.seq)
    return SubmitJob(subject, encode_job(key, job, DEFAULT_LIMITS), message_id(key, job))


class FakeDealer:
    """The journal of a member's dealer, and workers that execute what one tells them to."""

    def __init__(self) -> None:
        self.jobs: list[JobSpec] = []  # accepted, by number from 1
        self.outcomes: list[Outcome] = []
        self.acknowledged = 0
        self.open: list[int] = []

    def submit(self, job: JobSpec) -> int:
        self.jobs.append(job)
        self.open.append(len(self.jobs))
        return len(self.jobs)

    def end(self, seq: int, state: State, crashes: int = 0) -> Outcome:
        """Record the outcome of an open job."""
        self.open.remove(seq)
        job = self.jobs[seq - 1]
        usage = Usage(run_ns=SECOND)
        outcome = Outcome(len(self.outcomes) + 1, seq, 1, job.kind, job.label, state, 1, crashes, usage=usage)
        self.outcomes.append(outcome)
        return outcome


class SimulatedMember:
    """One host: its connection, its dealer, and the member between them while it lives."""

    def __init__(
        self,
        name: str,
        broker: MemoryBroker,
        now: Callable[[], int],
        make: Callable[[str, int, int], Member] = Member,
    ) -> None:
        self.name = name
        self._broker = broker
        self._now = now
        self._make = make
        self.dealer = FakeDealer()
        self.engine = MemoryEngine(broker, now)
        self.member: Member | None = None
        self._told = 0
        self.executed: Counter[JobKey] = Counter()
        self.start()

    def start(self) -> None:
        """Begin a life from what the journal has."""
        self.member = self._make(self.name, self._broker.ack_wait_ns, self.dealer.acknowledged)
        self._told = self.dealer.acknowledged
        for seq in self.dealer.open:
            mark = Mark.parse(self.dealer.jobs[seq - 1].label)
            assert mark is not None
            self.member.adopt(mark, seq, self._now())

    def kill(self) -> None:
        """Lose what is in memory. Requests under way may or may not have been carried out; their answers are gone."""
        self.member = None
        self.engine.answers()

    def turn(self, wanted: int) -> None:
        """One turn of the bridge, in its order."""
        if (member := self.member) is None:
            return
        now = self._now()
        for answer in self.engine.answers():
            for seq in member.answered(answer, now):
                self._cancel(seq)
            if isinstance(answer, Fetched):
                for delivery in answer.jobs:
                    mark, job = received(delivery, self._broker.names)
                    member.take(mark, job, delivery.delivered, now)
        while (held := member.next_job()) is not None:
            assert held.job is not None
            member.submitted(held, self.dealer.submit(held.job))
        for outcome in self.dealer.outcomes[self._told :]:
            member.outcome(outcome, now)
        self._told = len(self.dealer.outcomes)
        self.dealer.acknowledged = max(self.dealer.acknowledged, member.stored_upto)
        for request in member.requests(now, wanted):
            assert self.engine.ask(request)

    def execute(self, random: Random) -> None:
        """Have a worker end a job. The dealer does so whether or not the bridge lives."""
        if self.dealer.open:
            seq = random.choice(self.dealer.open)
            mark = Mark.parse(self.dealer.jobs[seq - 1].label)
            assert mark is not None
            self.executed[mark.key] += 1
            self.dealer.end(seq, random.choice((State.SUCCEEDED, State.SUCCEEDED, State.FAILED, State.QUARANTINED)))

    def hand_back(self) -> None:
        """Drain: what no worker has goes back."""
        if self.member is not None:
            for seq in self.member.to_cancel(()):
                self._cancel(seq)

    def _cancel(self, seq: int) -> None:
        if seq in self.dealer.open:
            self.dealer.end(seq, State.CANCELLED)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do for it."""
        idle = self.member is not None and not self.member.holds and not self.member.settling
        return idle and not self.dealer.open and self.dealer.acknowledged == len(self.dealer.outcomes)
