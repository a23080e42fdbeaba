"""Long random walks through the core. A failing seed fails again: run the test with its number.

The honest walk plays processes that die, stores that dawdle and generators that come and go, but no lies; it
ends in a calm in which every job must have exactly one outcome a run. The hostile walk lies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from random import Random
from typing import Any

import pytest

from support.builders import EPOCH, Work, World, work
from taskpool import limits
from taskpool.clock import MICROSECOND, MILLISECOND, SECOND, Instant
from taskpool.codec import decode_tasks, encode
from taskpool.core.backlog import Backlog
from taskpool.core.effects import Effect, Kill, Note, SendFrame
from taskpool.core.entries import OutcomeRecorded
from taskpool.core.events import (
    CheckedJob,
    ClientLost,
    Event,
    LifelineClosed,
    Signalled,
    Stalled,
    Submitted,
    TakenBack,
    Tick,
)
from taskpool.core.storage import Commit
from taskpool.core.worker import WorkerState
from taskpool.identifiers import Incarnation
from taskpool.messages import (
    Ack,
    Bye,
    Close,
    Command,
    End,
    Frame,
    Hello,
    Outcome,
    Outcomes,
    Ping,
    Progress,
    Ready,
    Report,
)

BATCHES = ("a", "b", "c")
VERBS = (
    "status",
    "cancel",
    "cancel-waiting",
    "requeue",
    "pause",
    "unpause",
    "scale",
    "quarantine-list",
    "show",
)


def some_job(random: Random) -> Work:
    limits: dict[str, Any] = {
        "retries": random.choice((0, 0, 2)),
        "backoff_min_ns": random.choice((0, 0, SECOND)),
        "crash_limit": random.choice((0, 1, 3)),
        "timeout_ns": random.choice((0, 0, 0, SECOND)),
        "priority": random.choice((0, 0, 0, 1, -1)),
    }
    kind = random.choice(("fib", "fib", "command", "python"))
    affinity = random.choice(("", "/x", "/y")) if kind == "python" else ""
    plain = random.random() < 0.6
    return work(kind, affinity=affinity, payload=bytes(random.randrange(30)), **({} if plain else limits))


class Walk:
    """One pool and what the outside knows of it."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.world = World(
            random.randrange(1, 5),
            random.randrange(3),
            boot=False,
            slow_store=True,
            backlog=Backlog(random.choice((2, 8, 1000)), random.choice((100, 10_000))),
            frame_bytes=random.choice((300, 4096)),
        )
        self.read: dict[str, dict[int, Outcome]] = {name: {} for name in BATCHES}
        self.acts: list[tuple[int, Callable[[], None]]] = [
            (6, self.submit),
            (3, self.hello),
            (8, self.acknowledge),
            (1, self.leave),
            (25, self.begin),
            (40, self.report),
            (2, self.die),
            (12, self.obey),
            (25, self.boot),
            (40, self.answer),
            (6, self.wait),
            (1, self.command),
            (1, lambda: self.world.stall(2 * SECOND)),
            (1, lambda: self.world.signal(random.choice(("TTIN", "TTOU", "USR1")))),
        ]

    def step(self) -> None:
        weights = [weight for weight, _ in self.acts]
        self.random.choices([act for _, act in self.acts], weights)[0]()
        self.look()

    # --- what is checked after every step ---

    def look(self) -> None:
        """Nobody owns what another owns; outcomes come in order and never change."""
        owned: Counter[tuple[str, int]] = Counter()
        for play in self.world.workers.values():
            if play.frame is not None:
                owned.update((play.frame.batch, seq) for _, seq in play.todo)
            for frame in play.queue:
                owned.update((frame.batch, seq) for seq in seqs_of(frame))
        twice = [job for job, count in owned.items() if count > 1]
        assert not twice, f"in two hands at once: {twice}"
        for index, name in enumerate(BATCHES, 1):
            for message in self.world.told(index):
                if isinstance(message, Outcomes):
                    self.receive(name, message.items)
        self.world.forget()

    def receive(self, name: str, items: list[Outcome]) -> None:
        read = self.read[name]
        for outcome in items:
            assert outcome.no <= len(read) + 1, "a gap"
            assert read.setdefault(outcome.no, outcome) == outcome, "an outcome changed"

    # --- what generators do ---

    def reader(self) -> tuple[int, str]:
        index = self.random.randrange(len(BATCHES))
        return index + 1, BATCHES[index]

    def submit(self) -> None:
        client, name = self.reader()
        batch = self.world.core.pool.batches.get(name)
        first = batch.received + 1 if batch is not None else 1
        jobs = [some_job(self.random) for _ in range(self.random.choice((1, 2, 30)))]
        if self.random.random() < 0.2:
            first = max(1, first - self.random.randrange(4))  # said again, or so it claims
        self.world.submit(*jobs, batch=name, client=client, first_seq=first)

    def hello(self) -> None:
        client, name = self.reader()
        self.world.hello(name, client, cursor=len(self.read[name]))

    def acknowledge(self) -> None:
        client, name = self.reader()
        self.world.ack(len(self.read[name]), batch=name, client=client)

    def leave(self) -> None:
        self.world.do(self.random.choice((Bye, ClientLost))(self.reader()[0]))

    def command(self) -> None:
        verb = self.random.choice(("cancel", "cancel", "requeue", "pause", "unpause", "unpause"))
        seq = self.random.randrange(1, 40)
        self.world.do_command(verb, self.reader()[1], seq)

    # --- what workers do ---

    def some(self, able: Callable[[int], bool]) -> int | None:
        workers = [number for number in self.world.workers if able(number)]
        return self.random.choice(workers) if workers else None

    def begin(self) -> None:
        plays = self.world.workers
        worker = self.some(lambda number: bool(plays[number].queue) and not plays[number].todo)
        if worker is not None:
            self.world.start(worker)

    def report(self) -> None:
        worker = self.some(lambda number: bool(self.world.workers[number].todo))
        if worker is not None:
            end = self.random.choice((*[End.SUCCEEDED] * 8, End.FAILED, End.TIMED_OUT, End.CRASHED))
            run_ns = self.random.choice((20 * MICROSECOND, 5 * MILLISECOND, SECOND))
            self.world.report(worker, end, run_ns=run_ns, signal=11 if end is End.CRASHED else None)

    def die(self) -> None:
        worker = self.some(lambda number: True)
        if worker is not None:
            ended = self.random.randrange(len(self.world.workers[worker].todo) + 1)
            held = tuple(Report(n, End.SUCCEEDED) for n, _ in list(self.world.workers[worker].todo)[:ended])
            self.world.die(worker, **self.random.choice(({"signal": 11}, {"signal": 9}, {"status": 1})), held=held)

    def obey(self) -> None:
        worker = self.some(lambda number: bool(self.world.workers[number].told_to))
        if worker is not None:
            self.world.die(worker, signal=9)

    def boot(self) -> None:
        workers = self.world.core.supervisor.workers.values()
        starting = {int(each.incarnation) for each in workers if each.state is WorkerState.STARTING}
        worker = self.some(lambda number: number in starting)
        if worker is not None:
            self.world.ready(worker)

    # --- what time and the store do ---

    def answer(self) -> None:
        self.world.answer(self.random.randrange(1, 4))

    def wait(self) -> None:
        world = self.world
        due = world.core.next_deadline_ns(world.now) - world.now.mono
        world.advance(min(due, self.random.choice((MILLISECOND, 50 * MILLISECOND, SECOND, 40 * SECOND))))

    # --- the calm ---

    def calm(self) -> None:
        """From now on nothing goes wrong: everything must come to its end."""
        world = self.world
        world.do_command("unpause")
        for index, name in enumerate(BATCHES, 1):
            world.hello(name, index, cursor=len(self.read[name]))
        for _ in range(50_000):
            if not (world.core.pool.pending or world.unanswered):
                break
            self.obey()
            self.boot()
            self.begin()
            worker = self.some(lambda number: bool(world.workers[number].todo))
            if worker is not None:
                world.report(worker)
            world.answer(5)
            for index, name in enumerate(BATCHES, 1):
                world.ack(len(self.read[name]), batch=name, client=index)
                if index not in world.core.pool.clients:
                    world.hello(name, index, cursor=len(self.read[name]))
            if self.random.random() < 0.05:
                self.wait()
            self.look()
        assert world.core.pool.pending == 0, "some job never ends"
        self.drain_readers()

    def drain_readers(self) -> None:
        for _ in range(1000):
            for index, name in enumerate(BATCHES, 1):
                self.world.ack(len(self.read[name]), batch=name, client=index)
                if index not in self.world.core.pool.clients:
                    self.world.hello(name, index, cursor=len(self.read[name]))
            self.world.answer()
            self.look()


def seqs_of(frame: Frame) -> list[int]:
    return [task.seq for task in decode_tasks(frame.tasks)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_an_honest_walk_ends_with_one_outcome_a_run(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(1200):
        walk.step()
    walk.calm()
    pool = walk.world.core.pool
    for name in BATCHES:
        batch = pool.batches[name]
        outcomes = [walk.read[name][no] for no in range(1, batch.recorded + 1)]
        runs = Counter((outcome.seq, outcome.run) for outcome in outcomes)
        assert max(runs.values(), default=1) == 1, "a run ended twice"
        assert {seq for seq, run in runs if run == 1} == set(range(1, batch.accepted + 1))
        for outcome in outcomes:
            assert outcome.run == 1 or (outcome.seq, outcome.run - 1) in runs
    assert pool.jobs == {}
    assert pool.attempts == {}


# --- lies -----------------------------------------------------------------------------------------


def lie(random: Random) -> Event:
    """Anything that can come off a queue, from anybody, at any time."""
    number = random.choice((0, 1, 2, 3, 7, 50, 2**62))
    client = random.randrange(1, 6)
    batch = random.choice((*BATCHES, "nowhere"))
    epoch = random.choice((EPOCH, EPOCH, EPOCH, EPOCH - 1))
    incarnation = random.choice((1, 2, 3, 4, 5, 99))
    jobs = [some_job(random) for _ in range(random.randrange(1, 4))]
    reports = [Report(random.randrange(60), random.choice(tuple(End))) for _ in range(random.randrange(3))]
    checked = [CheckedJob(each.spec, each.traits, random.choice((each.digest, b"other"))) for each in jobs]
    return random.choice(
        (
            Hello(client, 0, 1, random.choice((batch, None)), cursor=number),
            Submitted(client, batch, random.randrange(1, 9), checked),
            Close(client, batch, number),
            Ack(client, batch, number),
            Ping(client),
            Bye(client),
            Command(client, random.choice((*VERBS, "batch", "x")), batch, number, random.randrange(-3, 4)),
            Ready(incarnation, epoch, 1, "1", [], ["note"]),
            Progress(incarnation, epoch, reports, random.choice((0, random.randrange(60)))),
            TakenBack(Incarnation(incarnation), (random.randrange(60),)),
            ClientLost(client),
            Stalled(random.choice((0, SECOND, 100 * SECOND))),
        )
    )


def hostile(seed: int) -> tuple[list[Event], list[list[Effect]]]:
    """Events and what came of them, of a walk among liars."""
    walk = Walk(seed)
    events: list[Event] = []
    effects: list[list[Effect]] = []

    def record(event: Event, came: list[Effect]) -> None:
        events.append(event)
        effects.append(came)

    walk.world.on_event = record
    walk.look = walk.world.forget  # type: ignore[method-assign]  # a liar may claim another's work
    for _ in range(1500):
        if walk.random.random() < 0.4:
            walk.world.do(lie(walk.random))
            walk.look()
        else:
            walk.step()
    for name in walk.random.choice((("TERM",), ("INT", "INT", "INT"), ("QUIT",))):
        walk.world.do(Signalled(name))
    walk.world.do(LifelineClosed())
    return events, effects


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 104))
def test_a_hostile_walk_breaks_nothing(seed: int) -> None:
    _, effects = hostile(seed)
    ended: Counter[tuple[int, int, int]] = Counter()
    for effect in chain.from_iterable(effects):
        for row in effect.entries if isinstance(effect, Commit) else []:
            if isinstance(row, OutcomeRecorded):
                ended[row.ordinal, row.outcome.seq, row.outcome.run] += 1
    assert max(ended.values(), default=1) == 1, "a run ended twice"


@pytest.mark.slow
def test_the_same_events_give_the_same_effects() -> None:
    once, again = hostile(7), hostile(7)
    assert once[0] == again[0]
    assert [list(map(comparable, came)) for came in once[1]] == [list(map(comparable, came)) for came in again[1]]


def comparable(effect: Effect) -> object:
    """A note may hold a job itself, a frame holds bytes that are not looked into."""
    if isinstance(effect, Note):
        return effect.topic
    return encode(effect.frame) if isinstance(effect, SendFrame) else effect


# --- much that waits for the store ----------------------------------------------------------------


def slow_world(*jobs: Work, workers: int = 1) -> World:
    """These jobs were accepted, and from here on the store takes its time."""
    world = World(workers, slow_store=True, journaled=True)
    world.hello()
    world.answer()
    world.submit(*jobs)
    world.answer()
    return world


def test_nothing_is_sent_while_much_waits_for_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNSTORED_BYTES_MAX", 3000)
    world = slow_world(work(), work(), work())
    world.sent()
    world.run(value=b"1" * 2000)
    assert world.sent() == [(1, [2])], "not much yet"
    world.run(value=b"1" * 2000)
    assert world.sent() == []
    assert world.core.wants_reports
    world.answer()
    assert world.sent() == [(1, [3])]


def test_reports_are_left_unread_while_very_much_waits_and_no_silence_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "UNSTORED_REPORTS_BYTES_MAX", 3000)
    world = slow_world(work(timeout_ns=SECOND), work(), workers=2)
    world.start(1)
    world.start(2)
    world.report(2, value=b"1" * 4000)
    assert not world.core.wants_reports
    world.now = Instant(world.now.mono + 2 * SECOND, world.now.wall)
    assert not [effect for effect in world.core.handle(Tick(heard=False), world.now) if isinstance(effect, Kill)]
    assert world.core.next_deadline_ns(world.now) > world.now.mono, "or the loop would spin"
    world.answer()
    assert world.core.wants_reports
    assert world.killed() == [(1, "TERM")]


def test_a_pool_that_leaves_reads_all_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNSTORED_REPORTS_BYTES_MAX", 3000)
    world = slow_world(work())
    world.run(value=b"1" * 4000)
    assert not world.core.wants_reports
    world.signal("TERM")
    assert world.core.wants_reports
