"""What a member does with the jobs that the engine has handed out to it. Decisions only: no queue, no socket, no clock.

A job passes through a member like this. The local dealer has it in its journal, and executes it. Its outcome decides
which steps follow (`STEPS`), one at a time: each is a request to the engine, and the next one is asked for when the one
before is answered. Behind the last step the local outcome may be acknowledged; until then the journal brings it back
after any restart, and the steps begin anew. All of them may be carried out twice.

Rules of this file:
1. An outcome is recorded before its job is acknowledged: a member that dies in between leaves a job that is handed out
   again, and is found to be recorded; the other order would lose it.
2. What is held is extended until it is acknowledged, also while its outcome waits for an engine that is away.
3. A job that is handed out again to its holder is not begun again; the token of the later hand-out counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import StrEnum

from taskpool.clock import MILLISECOND, NEVER, SECOND
from taskpool.cluster.demand import Pace
from taskpool.cluster.engine import (
    Acknowledge,
    Answer,
    DeadLetter,
    Done,
    Extend,
    Failed,
    Fetch,
    Fetched,
    GiveBack,
    JobKey,
    Look,
    Record,
    Request,
    Taken,
)
from taskpool.cluster.job import Mark, recorded
from taskpool.cluster.subjects import EXTENSIONS_PER_WAIT
from taskpool.messages import JobSpec, Outcome, State

EMPTY_NS = 10 * MILLISECOND  # after a fetch without a job, which the engine may have answered without a wait
AGAIN_NS = 1 * SECOND  # after a request that failed, or that the engine's connection had no room for
# A person of this host has cancelled it here, which is no word of the cluster's. Not at once: it may well come back.
CANCELLED_HERE_NS = 10 * SECOND


class Step(StrEnum):
    """What is asked of the engine once the local dealer has done with a job."""

    DEAD_LETTER = "dead-letter"
    RECORD = "record"
    ACKNOWLEDGE = "acknowledge"
    GIVE_BACK = "give back"


_RECORDED = (Step.RECORD, Step.ACKNOWLEDGE)
# What an outcome of the local dealer means for the job of the cluster.
STEPS: dict[State, tuple[Step, ...]] = {
    State.SUCCEEDED: _RECORDED,
    State.FAILED: _RECORDED,
    State.TIMED_OUT: _RECORDED,
    # The copy first: with its outcome recorded, no other member would make one.
    State.QUARANTINED: (Step.DEAD_LETTER, *_RECORDED),
    # Only this member, or a person at its host, cancels a local job; the job of the cluster is still to be executed.
    State.CANCELLED: (Step.GIVE_BACK,),
}


class Held:
    """A job between its hand-out and its last step."""

    def __init__(self, mark: Mark, job: JobSpec | None = None) -> None:
        self.mark = mark
        self.job = job  # what is to be submitted to the local dealer; None: it has it, or does not get it
        self.look_due = NEVER  # when to ask whether it is still to be executed
        self.seq = 0  # of the local batch; 0: not submitted yet, or never to be
        self.no = 0  # of the local outcome; 0: there is none
        self.steps: tuple[Step, ...] = ()  # those to come; empty: the local dealer has it
        self.data = b""  # of the outcome, to be recorded
        self.crashes = mark.crashes  # counted by all members so far
        self.delay_ns = 0
        self.gone = False  # another member has recorded an outcome of it
        self.due = NEVER  # when to ask for the next step; NEVER: it is asked for, or there is none

    @property
    def executing(self) -> bool:
        """Whether the local dealer has it, waiting or running."""
        return not self.steps

    def begin(self, steps: tuple[Step, ...], now: int) -> None:
        """Go through these steps, the first one now."""
        self.steps, self.due = steps, now


class Member:
    """All jobs that one member holds, and what it asks of the engine."""

    def __init__(self, name: str, ack_wait_ns: int, acknowledged: int = 0) -> None:
        """`name`: the host, for people. `acknowledged`: the last local outcome that an earlier life was done with."""
        self._name = name
        self._extend_ns = ack_wait_ns // EXTENSIONS_PER_WAIT
        self._held: dict[JobKey, Held] = {}
        self._ready: deque[Held] = deque()  # to be submitted to the local dealer
        self._extend_due = NEVER
        self._fetching = False
        self._fetch_due = 0
        self._done_with: set[int] = set()  # numbers of outcomes, beyond `stored_upto`
        self.stored_upto = acknowledged
        self.pace = Pace()
        self.recorded = self.duplicates = 0

    def extend_within(self, ack_wait_ns: int) -> None:
        """Extend what is held often enough for this `ack_wait`: the engine's is known once there is a connection."""
        self._extend_ns = ack_wait_ns // EXTENSIONS_PER_WAIT

    @property
    def executing(self) -> int:
        """How many jobs the local dealer has of us, waiting or running."""
        return sum(held.executing for held in self._held.values())

    @property
    def holds(self) -> int:
        """How many jobs are ours, those with steps to come included."""
        return len(self._held)

    @property
    def settling(self) -> int:
        """How many jobs the local dealer has done with, and the engine has not."""
        return self.holds - self.executing

    @property
    def idle(self) -> bool:
        """Whether nothing is held, and nothing is on its way to us."""
        return not self._held and not self._fetching

    # --- jobs in ----------------------------------------------------------------------------------

    def take(self, mark: Mark, job: JobSpec, delivered: int, now: int) -> None:
        """Take a job that was handed out. `delivered`: how often."""
        held = self._held.get(mark.key)
        if held is not None:
            # Our extension came too late, or was lost. The engine has the later hand-out, and would take an
            # acknowledgement of either; an extension of the earlier one may not reach it.
            held.mark = held.mark._replace(token=mark.token)
            return
        held = self._hold(mark, now)
        held.job = job
        if delivered > 1:
            held.look_due = now  # its first member may have died, or was cut off, between the last two steps
        else:
            self._ready.append(held)

    def take_corrupt(self, mark: Mark, data: bytes, now: int) -> None:
        """Take what is no job, and record `data` as its outcome."""
        if mark.key not in self._held:
            self._hold(mark, now).data = data
            self._held[mark.key].begin((Step.DEAD_LETTER, *_RECORDED), now)

    def next_job(self) -> Held | None:
        """Return the next job to submit to the local dealer, for as long as it is not `submitted`."""
        while self._ready and self._ready[0].job is None:
            self._ready.popleft()
        return self._ready[0] if self._ready else None

    def submitted(self, held: Held, seq: int) -> None:
        """Note the number that a job has in the local batch."""
        held.seq, held.job = seq, None

    def adopt(self, mark: Mark, seq: int, now: int) -> None:
        """Take over a job that an earlier life of this member has submitted, and that has no outcome."""
        held = self._hold(mark, now)
        held.seq = seq
        held.look_due = now  # it may have an outcome by now, of a member that it was handed out to

    def give_back_waiting(self, now: int) -> None:
        """Give back what the local dealer does not have: it takes no more."""
        for held in self._held.values():
            if held.job is not None and held.executing:
                held.job = None
                held.begin((Step.GIVE_BACK,), now)

    def refused(self, first_seq: int, now: int) -> None:
        """Give back what the local dealer has refused: the jobs from this number on."""
        for held in self._held.values():
            if held.seq >= first_seq and held.executing:
                held.seq = 0
                held.begin((Step.GIVE_BACK,), now)

    def _hold(self, mark: Mark, now: int) -> Held:
        held = self._held[mark.key] = Held(mark)
        self._extend_due = min(self._extend_due, now + self._extend_ns)
        return held

    # --- jobs out ---------------------------------------------------------------------------------

    def outcome(self, outcome: Outcome, now: int) -> None:
        """Take an outcome of the local dealer. It may come again, after a restart."""
        mark = Mark.parse(outcome.label)
        if mark is None or outcome.no <= self.stored_upto:
            self._note_done(outcome.no)
            return
        held = self._held.get(mark.key)
        if outcome.state is State.CANCELLED and (held is None or held.seq != outcome.seq):
            # Of an earlier life, or of an earlier hand-out: it was given back, or goes to another member by itself.
            self._note_done(outcome.no)
            return
        held = held or self._hold(mark, now)
        if not held.executing:  # a second one: a person of this host has had the job run again
            self._note_done(outcome.no)
            return
        self._settle(held, outcome, now)

    def _settle(self, held: Held, outcome: Outcome, now: int) -> None:
        """Begin the steps that follow from the outcome."""
        self.pace.add(outcome.usage.run_ns)
        held.no, held.crashes = outcome.no, held.mark.crashes + outcome.crashes
        held.data = recorded(held.mark, outcome, self._name)
        if outcome.state is State.CANCELLED and held.gone:
            held.begin((Step.ACKNOWLEDGE,), now)
            return
        if outcome.state is State.CANCELLED and not held.delay_ns:
            held.delay_ns = CANCELLED_HERE_NS
        held.begin(STEPS[outcome.state], now)

    def to_cancel(self, running: Iterable[int]) -> list[int]:
        """Return the local jobs to cancel so that all that is not running goes back to the engine, soon."""
        started = set(running)
        waiting = [held for held in self._held.values() if held.executing and held.seq and held.seq not in started]
        for held in waiting:
            held.delay_ns = 1  # other members may have it at once
        return [held.seq for held in waiting]

    # --- the engine -------------------------------------------------------------------------------

    def requests(self, now: int, wanted: int) -> list[Request]:
        """Return what to ask of the engine now. `wanted`: how many more jobs there is room for."""
        asked: list[Request] = []
        if self._held and now >= self._extend_due:
            self._extend_due = now + self._extend_ns
            # Not what goes back: the engine may have handed it out again, and would wait for its new member longer.
            kept = [held for held in self._held.values() if held.steps[:1] != (Step.GIVE_BACK,)]
            asked.append(Extend(tuple(held.mark.token for held in kept)))
        for held in self._held.values():
            if now >= held.look_due:
                held.look_due = NEVER
                asked.append(Look(held.mark.token, held.mark.key))
            if held.steps and now >= held.due:
                held.due = NEVER
                asked.append(self._request(held))
        if now >= self._fetch_due:
            self._fetch_due = 0
        if wanted > 0 and not self._fetching and not self._fetch_due:
            self._fetching = True
            asked.append(Fetch(wanted))
        return asked

    def answered(self, answer: Answer, now: int) -> list[int]:
        """Take an answer (jobs that were fetched go to `take`); return local jobs to cancel: others have done them."""
        match answer:
            case Fetched(request=Fetch()):
                self._fetching = False
                if not answer.jobs:
                    self._fetch_due = now + EMPTY_NS
            case Failed(request=Fetch()):
                self._fetching, self._fetch_due = False, now + AGAIN_NS
            case Failed(request=Extend()):
                self._extend_due = min(self._extend_due, now + min(AGAIN_NS, self._extend_ns))
            case Failed(request=Look()) | Taken(request=Look()) | Done(request=Look()):
                return self._looked(answer, now)
            case Failed(request=GiveBack() as request):
                # Not again: it may have been carried out, and then a second one takes the job from its new member. As
                # it is extended no more, the engine hands it out by itself.
                if (held := self._asked(request)) is not None:
                    self._advance(held, now)
            case Failed(request=request):
                if (held := self._asked(request)) is not None:
                    held.due = now + AGAIN_NS
            # An outcome that was there before is as good: the job has one, whichever member recorded it.
            case Done(request=request) | Taken(request=request):
                if (held := self._asked(request)) is not None:
                    self.recorded += isinstance(request, Record) and isinstance(answer, Done)
                    self.duplicates += isinstance(request, Record) and isinstance(answer, Taken)
                    self._advance(held, now)
        return []

    def next_deadline(self) -> int:
        """Return when `requests` has something to ask, at the latest; NEVER: when something else happens."""
        dues = [min(held.due, held.look_due) for held in self._held.values()]
        if self._fetch_due:
            dues.append(self._fetch_due)
        return min([*dues, self._extend_due if self._held else NEVER], default=NEVER)

    def _request(self, held: Held) -> Request:
        token, key = held.mark.token, held.mark.key
        match held.steps[0]:
            case Step.DEAD_LETTER:
                return DeadLetter(token, key)
            case Step.RECORD:
                return Record(key, held.data)
            case Step.ACKNOWLEDGE:
                return Acknowledge(token, key)
            case Step.GIVE_BACK:
                return GiveBack(token, key, held.crashes, held.delay_ns)

    def _asked(self, request: Request) -> Held | None:
        """Return the job whose step was asked for and is answered now."""
        # An answer to a question of an earlier life, or to one that was asked twice, is of no job that waits for it.
        key = getattr(request, "key", None)
        held = self._held.get(key) if key is not None else None
        return held if held is not None and held.steps and held.due == NEVER else None

    def _advance(self, held: Held, now: int) -> None:
        if len(held.steps) > 1:
            held.begin(held.steps[1:], now)
            return
        del self._held[held.mark.key]
        if held.no:
            self._note_done(held.no)

    def _looked(self, answer: Failed | Taken | Done, now: int) -> list[int]:
        assert isinstance(answer.request, Look)
        held = self._held.get(answer.request.key)
        if held is None or not held.executing:
            return []
        match answer:
            case Failed():
                held.look_due = now + AGAIN_NS
            case Done() if held.job is not None:
                self._ready.append(held)
            case Taken() if held.job is not None:
                held.job = None
                held.begin((Step.ACKNOWLEDGE,), now)
            case Taken():
                held.gone = True
                return [held.seq]
        return []

    def _note_done(self, no: int) -> None:
        """The local outcome is done with. Acknowledgements are cumulative, so the first gap holds them up."""
        self._done_with.add(no)
        while self.stored_upto + 1 in self._done_with:
            self.stored_upto += 1
            self._done_with.discard(self.stored_upto)
        self._done_with = {each for each in self._done_with if each > self.stored_upto}
