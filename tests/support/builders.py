"""A pool whose shell is the test: it performs what the core wants, plays the workers and the generators, and
sets the clock by hand.

Rules of this file:
1. `invariants.check` runs after every single event, and the pool must come to rest after each.
2. What the core asked for is kept until the test has taken it; `quiet()` says that nothing else was asked for.
3. Workers and generators do what the protocol lets them do, and nothing by themselves but boot.
"""

from __future__ import annotations

import json
import signal
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from taskpool import codec
from taskpool.clock import SECOND, Instant
from taskpool.core import invariants
from taskpool.core.backlog import Backlog
from taskpool.core.effects import Effect, Exit, Kill, Note, Release, Reply, SendFrame, Spawn, TakeBack, Topic
from taskpool.core.entries import BatchRecord, Entry, JobAccepted, JobRecord, Traits
from taskpool.core.events import (
    CheckedJob,
    Event,
    Exited,
    Signalled,
    Spawned,
    SpawnFailed,
    Stalled,
    Submitted,
    TakenBack,
    Tick,
)
from taskpool.core.reactor import Reactor
from taskpool.core.state import PoolConfig
from taskpool.core.storage import BatchFound, Commit, FindBatch, Restored, StoreRequest
from taskpool.errors import ExitCode
from taskpool.identifiers import Incarnation
from taskpool.journal.memory import MemoryStore
from taskpool.messages import (
    NO_USAGE,
    Ack,
    Answer,
    Bye,
    Close,
    Command,
    End,
    Frame,
    Hello,
    JobSpec,
    Limits,
    Outcome,
    Outcomes,
    Ping,
    Progress,
    Ready,
    Report,
    State,
    Usage,
)

EPOCH = 3
START = Instant(1_000 * SECOND, 1_700_000_000 * SECOND)
SIGNALS = {number.value: number.name for number in signal.Signals}
TURNS_MAX = 200  # a pool that has not come to rest by then never will
IN_PROCESS = {"fib": True, "python": True, "command": False}

AnyEffect = TypeVar("AnyEffect")


class Work(NamedTuple):
    """A job as a generator has it, and what ingress finds out about it."""

    spec: JobSpec
    traits: Traits

    @property
    def digest(self) -> bytes:
        return self.spec.kind.encode() + b" " + self.spec.payload


def record(work: Work, ordinal: int = 1, batch: str = "b", priority: int = 0) -> JobRecord:
    """The job as it is accepted, with the ordinal as its number."""
    return JobRecord(ordinal, batch, ordinal, priority, work.spec, work.traits, 0)


def work(
    kind: str = "fib", *, payload: bytes = b"", affinity: str = "", label: str | None = None, **wanted: Any
) -> Work:
    """A job; limits given here are its own, else it has the batch's."""
    spec = JobSpec(kind, payload, Limits(**wanted) if wanted else None, label)
    return Work(spec, Traits(IN_PROCESS[kind], affinity))


class WorkerPlay:
    """A worker process: what lies in its queue, and the frame it is at."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.queue: deque[Frame] = deque()
        self.frame: Frame | None = None
        self.todo: deque[tuple[int, int]] = deque()  # (attempt, seq) begun and without a report
        self.told_to: list[str] = []  # signals

    def receive(self) -> Frame:
        frame = self.frame = self.queue.popleft()
        tasks = codec.decode_tasks(frame.tasks)
        assert len(tasks) == frame.count
        self.todo.extend((frame.first_n + index, task.seq) for index, task in enumerate(tasks))
        return frame


class World:
    """One pool from its first worker on. Workers are numbered from 1 and have the pids 101, 102, ..."""

    def __init__(
        self,
        workers: int = 1,
        spares: int = 0,
        *,
        boot: bool = True,
        slow_store: bool = False,
        store: MemoryStore | None = None,
        restored: Restored | None = None,
        backlog: Backlog | None = None,
        **config: Any,
    ) -> None:
        self.core = Reactor(PoolConfig("p", EPOCH, workers, spares, pid=7, **{"version": "1", **config}), SIGNALS)
        if backlog is not None:
            self.core.pool.backlog = backlog
        self.store = store or MemoryStore()
        self.now = START
        self.boot = boot
        self.slow_store = slow_store
        self.workers: dict[int, WorkerPlay] = {}
        self.spawn_error: str | None = None
        self.asked: list[Effect] = []
        self.entries: list[Entry] = []
        self.notes: list[Note] = []
        self.submitted: dict[str, int] = {}
        self.kept: dict[str, BatchRecord] = {}  # what FindBatch finds
        self._events: deque[Event] = deque()
        self._answers: deque[Event] = deque()
        self.on_event: Callable[[Event, list[Effect]], None] = lambda event, effects: None
        if restored is not None:
            self._handle(restored)
        self.settle()
        if boot:
            self.take(Spawn)

    # --- the shell ---

    def do(self, event: Event) -> None:
        """One thing happens, and a turn of the loop follows."""
        self.do_all(event)

    def do_all(self, *events: Event) -> None:
        """Several things happen in one turn."""
        for event in events:
            self._handle(event)
        self.settle()

    def _handle(self, event: Event) -> None:
        effects = self.core.handle(event, self.now)
        invariants.check(self.core)
        self.on_event(event, effects)
        for effect in effects:
            self._perform(effect)

    def settle(self) -> None:
        """Turn until nothing more comes of it, as the loop does."""
        for _ in range(TURNS_MAX):
            self._handle(Tick())
            self._answers.extend(self.store.answers())
            if not self.slow_store:
                self._events.extend(self._answers)
                self._answers.clear()
            if not self._events:
                left = self.core.shutdown.exiting
                assert left or self.core.next_deadline_ns(self.now) > self.now.mono, "the loop would spin"
                return
            while self._events:
                self._handle(self._events.popleft())
        raise AssertionError("the pool never comes to rest")

    def answer(self, count: int = 1_000) -> None:
        """The slow store answers: this many of the requests that wait, those that follow included."""
        while self._answers and count:
            count -= 1
            self.do(self._answers.popleft())

    @property
    def unanswered(self) -> int:
        return len(self._answers)

    @property
    def waiting_answers(self) -> list[Event]:
        return list(self._answers)

    def advance(self, duration_ns: int) -> None:
        self.now = Instant(self.now.mono + duration_ns, self.now.wall + duration_ns)
        self.settle()

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Commit):
            self.entries += effect.entries
        if isinstance(effect, FindBatch):
            self._answers.append(BatchFound(effect.name, self.kept.get(effect.name)))
        elif isinstance(effect, StoreRequest):
            self.store.request(effect)
        elif isinstance(effect, Note):
            self.notes.append(effect)
        else:
            self.asked.append(effect)
        if isinstance(effect, Spawn):
            self._spawn(effect.incarnation)
        elif isinstance(effect, SendFrame):
            self.workers[effect.incarnation].queue.append(effect.frame)
            assert len(self.workers[effect.incarnation].queue) <= 2, "the queue would be full"
        elif isinstance(effect, TakeBack):
            queue = self.workers[effect.incarnation].queue
            self._events.append(TakenBack(effect.incarnation, tuple(frame.first_n for frame in queue)))
            queue.clear()
        elif isinstance(effect, Kill):
            self.workers[effect.incarnation].told_to.append(effect.signal)

    def _spawn(self, incarnation: Incarnation) -> None:
        if self.spawn_error is not None:
            self._events.append(SpawnFailed(incarnation, self.spawn_error))
            return
        pid = 100 + incarnation
        self.workers[incarnation] = WorkerPlay(pid)
        self._events.append(Spawned(incarnation, pid))
        if self.boot:
            self._events.append(self._ready(incarnation))

    # --- what the core asked for ---

    def take(self, kind: type[AnyEffect]) -> list[AnyEffect]:
        """Everything of this kind that was asked for since it was last taken."""
        taken: list[AnyEffect] = [effect for effect in self.asked if isinstance(effect, kind)]
        self.asked = [effect for effect in self.asked if not isinstance(effect, kind)]
        return taken

    def quiet(self) -> None:
        """Nothing was asked for but what was taken."""
        assert self.asked == []

    def sent(self) -> list[tuple[int, list[int]]]:
        """(worker, job numbers) of every frame sent."""
        return [
            (effect.incarnation, [task.seq for task in codec.decode_tasks(effect.frame.tasks)])
            for effect in self.take(SendFrame)
        ]

    def spawned(self) -> list[int]:
        return [int(effect.incarnation) for effect in self.take(Spawn)]

    def take_spawn(self) -> None:
        """That a replacement is started is no surprise here."""
        self.take(Spawn)

    def killed(self) -> list[tuple[int, str]]:
        return [(effect.incarnation, effect.signal) for effect in self.take(Kill)]

    def told(self, client: int = 1) -> list[Any]:
        """Messages to the generator. What it was not told stays."""
        mine = [effect for effect in self.asked if isinstance(effect, Reply) and effect.client == client]
        self.asked = [effect for effect in self.asked if effect not in mine]
        assert all(effect.message.client == client for effect in mine)
        return [effect.message for effect in mine]

    def outcomes(self, client: int = 1) -> list[Outcome]:
        """Outcomes the generator was told, whatever else it was."""
        return [outcome for message in self.told(client) if isinstance(message, Outcomes) for outcome in message.items]

    def ends(self, client: int = 1) -> list[tuple[int, State]]:
        return [(outcome.seq, outcome.state) for outcome in self.outcomes(client)]

    def exits(self) -> list[ExitCode]:
        return [effect.code for effect in self.take(Exit)]

    def released(self) -> list[int]:
        return [effect.client for effect in self.take(Release)]

    def noted(self, topic: Topic) -> list[dict[str, Any]]:
        noted = [note.fields for note in self.notes if note.topic is topic]
        self.notes = [note for note in self.notes if note.topic is not topic]
        return noted

    def forget(self) -> None:
        """What was asked for so far is not what the test is about."""
        self.asked.clear()
        self.entries.clear()
        self.notes.clear()

    # --- generators ---

    def hello(self, batch: str | None = "b", client: int = 1, cursor: int = 0, **wanted: Any) -> None:
        self.do(Hello(client, client, 50 + client, batch, Limits(**wanted), cursor))

    def submit(self, *works: Work, batch: str = "b", client: int = 1, first_seq: int = 0) -> None:
        first = first_seq or self.submitted.get(batch, 0) + 1
        self.submitted[batch] = max(self.submitted.get(batch, 0), first + len(works) - 1)
        self.do(Submitted(client, batch, first, [CheckedJob(each.spec, each.traits, each.digest) for each in works]))

    def priority(self, seq: int) -> int:
        """As the store has it."""
        accepted = (entry.job for entry in self.entries if isinstance(entry, JobAccepted))
        return next(job.priority for job in accepted if job.seq == seq)

    def close(self, total: int | None = None, batch: str = "b", client: int = 1) -> None:
        self.do(Close(client, batch, self.submitted.get(batch, 0) if total is None else total))

    def batch(self, *works: Work, batch: str = "b", client: int = 1, **wanted: Any) -> None:
        """A generator says hello, submits all, closes; what it is told to that is not kept."""
        self.hello(batch, client, **wanted)
        self.submit(*works, batch=batch, client=client)
        self.close(batch=batch, client=client)
        self.told(client)

    def ack(self, upto: int, batch: str = "b", client: int = 1) -> None:
        self.do(Ack(client, batch, upto))

    def ping(self, client: int = 1) -> None:
        self.do(Ping(client))

    def bye(self, client: int = 1) -> None:
        self.do(Bye(client))

    def command(self, verb: str, batch: str | None = None, seq: int = 0, number: int = 0, client: int = 9) -> Any:
        """What a person asks, from a connection of its own, and the answer to it."""
        if client not in self.core.pool.clients:
            self.hello(None, client)
        self.told(client)
        self.do_command(verb, batch, seq, number, client)
        (answer,) = self.told(client)
        assert isinstance(answer, Answer)
        assert answer.verb == verb
        body = json.loads(answer.body)
        assert answer.ok == ("error" not in body)
        return body

    def do_command(self, verb: str, batch: str | None = None, seq: int = 0, number: int = 0, client: int = 9) -> None:
        self.do(Command(client, verb, batch, seq, number))

    def signal(self, name: str) -> None:
        self.do(Signalled(name))

    def stall(self, gap_ns: int) -> None:
        """The loop stood still for this long, which the clock leaves out, and turns again."""
        self.now = Instant(self.now.mono, self.now.wall + gap_ns)
        self.do(Stalled(gap_ns))

    # --- workers ---

    def _ready(self, incarnation: int) -> Ready:
        return Ready(incarnation, EPOCH, 100 + incarnation, "1", ["fib"], [])

    def ready(self, *incarnations: int) -> None:
        for incarnation in incarnations:
            self.do(self._ready(incarnation))

    def start(self, incarnation: int = 1) -> int:
        """The worker takes its next frame and says so; returns the frame's number."""
        frame = self.workers[incarnation].receive()
        self.do(Progress(incarnation, EPOCH, [], frame.first_n))
        return frame.first_n

    def progress(self, incarnation: int, n: int, *, started: int) -> Progress:
        """The last report of a frame, with the start of the next riding along."""
        return Progress(incarnation, EPOCH, [Report(n, End.SUCCEEDED)], started)

    def report(self, incarnation: int = 1, end: End = End.SUCCEEDED, *, run_ns: int = SECOND, **fields: Any) -> None:
        """The worker reports the next attempt of the frame it began."""
        n, _ = self.workers[incarnation].todo.popleft()
        usage = Usage(started_wall_ns=self.now.wall, run_ns=run_ns) if run_ns else NO_USAGE
        self.do(Progress(incarnation, EPOCH, [Report(n, end, usage=usage, **fields)]))

    def run(self, incarnation: int = 1, end: End = End.SUCCEEDED, **fields: Any) -> None:
        """The worker takes its next frame and reports every job of it."""
        self.start(incarnation)
        while self.workers[incarnation].todo:
            self.report(incarnation, end, **fields)

    def die(self, incarnation: int = 1, *, signal: int | None = None, status: int | None = None, **fields: Any) -> None:
        """The worker's process is gone; by SIGSEGV when nothing else is said."""
        if signal is None and status is None:
            signal = 11
        del self.workers[incarnation]
        seen_ns = fields.pop("seen_mono_ns", self.now.mono)
        self.do(Exited(Incarnation(incarnation), status, signal, seen_ns, **fields))
