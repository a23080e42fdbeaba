"""In which order jobs run, and that none is lost behind the backlog's horizon and none runs twice."""

from __future__ import annotations

from random import Random

import pytest

from support.builders import World, work
from taskpool import limits
from taskpool.clock import SECOND
from taskpool.core.backlog import Backlog
from taskpool.core.effects import Effect
from taskpool.core.events import Event
from taskpool.core.storage import Loaded, LoadJobs
from taskpool.messages import End, State


def order(world: World, count: int) -> list[int]:
    """Let worker 1 do this many jobs; their numbers as they were sent."""
    numbers = []
    for _ in range(count):
        numbers += [seq for _, seqs in world.sent() for seq in seqs]
        world.run()
    return numbers


# --- the order ------------------------------------------------------------------------------------


def test_first_come_first_served() -> None:
    world = World()
    world.batch(work(), work(), work())
    assert order(world, 3) == [1, 2, 3]


def test_priority_comes_first_strictly() -> None:
    world = World()
    world.batch(work(), work(priority=-1), work(priority=2), work(), work(priority=2))
    assert order(world, 5) == [3, 5, 1, 4, 2]


def test_batches_share_one_line() -> None:
    world = World()
    world.batch(work(), work(), batch="a")
    world.batch(work(), work(priority=1), batch="b", client=2)
    sent = []
    for _ in range(4):
        frames = world.workers[1].queue
        sent.append(f"{frames[0].batch}{world.sent()[0][1][0]}")
        world.run()
    assert sent == ["a1", "b2", "a2", "b1"]


def test_a_batch_gives_its_jobs_their_limits() -> None:
    world = World()
    world.batch(work(), work(), work(crash_limit=7), priority=3)
    world.batch(work(priority=2), batch="other", client=2)
    assert order(world, 2) == [1, 2]
    assert world.sent() == [(1, [1])], "its own limits replace the batch's: no priority is priority 0"


def test_what_goes_back_keeps_its_place() -> None:
    world = World()
    world.batch(work(retries=1), work())
    world.run(end=End.FAILED)
    assert world.sent() == [(1, [1]), (1, [1])]
    assert order(world, 1) == []
    assert world.sent() == [(1, [2])]


# --- the horizon ----------------------------------------------------------------------------------


def loads(world: World) -> list[Effect]:
    asked: list[Effect] = []

    def watch(event: Event, effects: list[Effect]) -> None:
        asked.extend(effect for effect in effects if isinstance(effect, LoadJobs))

    world.on_event = watch
    return asked


def test_memory_holds_the_front_and_the_store_the_rest() -> None:
    world = World(backlog=Backlog(4, 1000))
    asked = loads(world)
    world.batch(*[work()] * 20)
    assert len(world.core.pool.jobs) <= 8
    assert order(world, 20) == list(range(1, 21))
    assert len(world.core.pool.jobs) == 0
    assert 4 <= len(asked) <= 20
    assert len(world.ends()) == 20
    world.quiet()


def test_a_late_job_of_high_priority_overtakes_what_lies_in_the_store() -> None:
    world = World(backlog=Backlog(4, 1000))
    world.batch(*[work()] * 12, work(priority=1))
    assert order(world, 13) == [13, *range(1, 13)]


def test_a_crowd_of_high_priority_pushes_the_back_out() -> None:
    world = World(backlog=Backlog(4, 1000))
    world.batch(*[work()] * 4, *[work(priority=1)] * 20)
    assert len(world.core.pool.jobs) <= 9
    assert order(world, 24) == [*range(5, 25), 1, 2, 3, 4]


def test_a_job_that_comes_back_from_beyond_the_horizon_is_found_in_the_store() -> None:
    world = World(backlog=Backlog(2, 1000))
    world.hello()
    world.submit(work(priority=-5, retries=1))
    world.submit(*[work()] * 6)
    assert world.sent() == [(1, [1])]
    world.run(end=End.FAILED)
    assert order(world, 6) == [2, 3, 4, 5, 6, 7]
    assert world.sent() == [(1, [1])]
    world.run()
    assert len(world.ends()) == 7


def test_few_large_jobs_are_read_a_few_at_a_time() -> None:
    """A backlog short in jobs and full in bytes asks for no more: it would be trimmed and asked for for ever."""
    world = World(backlog=Backlog(1000, 100))
    asked = loads(world)
    world.batch(*[work(payload=bytes(30))] * 30)
    held = sum(len(job.spec.payload) for job in world.core.pool.jobs.values())
    assert held <= 300
    assert order(world, 30) == list(range(1, 31))
    assert len(asked) <= 30


def test_a_job_larger_than_the_backlog_runs_too() -> None:
    world = World(backlog=Backlog(1000, 100))
    world.batch(*[work(payload=bytes(300))] * 4)
    assert order(world, 4) == [1, 2, 3, 4]


def test_high_priority_and_large_is_trimmed_by_bytes() -> None:
    world = World(backlog=Backlog(1000, 100))
    world.batch(*[work(payload=bytes(40))] * 3, *[work(payload=bytes(40), priority=1)] * 9)
    assert sum(len(job.spec.payload) for job in world.core.pool.jobs.values()) <= 240
    assert order(world, 12) == [*range(4, 13), 1, 2, 3]


def test_nothing_is_read_while_rows_wait_to_be_stored() -> None:
    """A read sees what was handed over before it: what was not must not be missed."""
    world = World(backlog=Backlog(2, 1000), slow_store=True)
    asked = loads(world)
    world.batch(*[work()] * 8)
    world.answer()
    asked.clear()
    world.hello("other", client=2)  # a commit is under way, and rows wait behind it
    for _ in range(3):
        world.run()
    assert asked == []
    world.answer(1)
    assert len(asked) == 1


def test_a_job_finished_while_the_store_is_read_is_not_brought_back() -> None:
    """It waited for its retry: to the store it was queued when the read began."""
    world = World(backlog=Backlog(2, 1000), slow_store=True)
    world.hello()
    world.submit(work(priority=-1, retries=1, backoff_min_ns=10 * SECOND))
    world.answer()
    world.run(end=End.FAILED)
    world.answer()
    world.submit(*[work()] * 3)
    world.answer(1)
    for _ in range(10):
        if not isinstance(world.waiting_answers[0], Loaded):
            world.run()
            world.answer(1)
    (loaded,) = [answer for answer in world.waiting_answers if isinstance(answer, Loaded)]
    assert 1 in [job.record.seq for job in loaded.jobs]
    assert world.command("cancel", "b", 1) == {"cancelled": 1, "stopping": 0}
    world.answer()
    assert world.core.pool.find_job("b", 1) is None
    assert (1, State.CANCELLED) in world.ends()


def test_a_job_that_came_in_while_the_store_is_read_can_be_cancelled() -> None:
    world = World(backlog=Backlog(2, 1000), slow_store=True)
    world.batch(*[work()] * 5)
    world.answer()
    world.hello("other", client=2)
    world.submit(work(), batch="other", client=2)
    world.run()
    world.run()
    world.answer(2)
    assert isinstance(world.waiting_answers[0], Loaded), "asked for together with the commit of the new job"
    assert world.command("cancel", "other", 1) == {"cancelled": 1, "stopping": 0}
    world.answer()
    assert world.ends(2) == [(1, State.CANCELLED)]


def test_a_stale_answer_names_no_batch_of_ours() -> None:
    world = World()
    world.do(Loaded([], more=False))
    world.quiet()


# --- against a model ------------------------------------------------------------------------------


class Model:
    """What a plain sorted list says about the order."""

    def __init__(self) -> None:
        self.waiting: dict[int, int] = {}  # seq to priority

    def best(self) -> int:
        return min(self.waiting, key=lambda seq: (-self.waiting[seq], seq))


def some_work(random: Random) -> list[tuple[int, bytes]]:
    return [(random.choice((0, 0, 0, 1, -1)), bytes(random.randrange(40))) for _ in range(random.randrange(1, 12))]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_the_order_is_that_of_a_sorted_list(seed: int) -> None:
    random = Random(seed)
    world = World(2, backlog=Backlog(random.choice((1, 3, 8)), random.choice((60, 1000))), pending_max=10_000)
    model, running, submitted = Model(), {1: 0, 2: 0}, 0
    world.hello()

    def follow() -> None:
        for worker, seqs in world.sent():
            assert seqs == [model.best()]
            del model.waiting[seqs[0]]
            running[worker] = seqs[0]

    for _ in range(120):
        busy = [worker for worker, seq in running.items() if seq]
        choice = random.random()
        if choice < 0.25:
            jobs = some_work(random)
            for priority, _ in jobs:
                submitted += 1
                model.waiting[submitted] = priority
            limited = [work("command", payload=body, priority=priority, crash_limit=0) for priority, body in jobs]
            world.submit(*limited)
        elif choice < 0.3 and model.waiting:
            seq = random.choice(list(model.waiting))
            if "error" not in world.command("cancel", "b", seq):  # else it lies in the store
                del model.waiting[seq]
        elif busy:
            worker = random.choice(busy)
            crashes = random.random() < 0.2
            if crashes:
                model.waiting[running[worker]] = world.priority(running[worker])
            running[worker] = 0
            world.run(worker, End.CRASHED if crashes else End.SUCCEEDED)
        follow()
    while any(running.values()):
        worker = next(worker for worker, seq in running.items() if seq)
        running[worker] = 0
        world.run(worker)
        world.ack(world.core.pool.batches["b"].sent)
        follow()
    assert model.waiting == {}
    assert world.core.pool.pending == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_with_a_slow_store_no_job_is_lost_and_none_runs_twice(seed: int) -> None:
    random = Random(seed)
    world = World(3, backlog=Backlog(random.choice((1, 3, 8)), random.choice((60, 1000))), slow_store=True)
    world.hello()
    succeeded: list[int] = []
    sent: list[int] = []
    states: dict[int, State] = {}

    def turn(*, submitting: bool) -> None:
        choice = random.random()
        busy = [worker for worker, play in world.workers.items() if play.queue]
        if choice < 0.3 and submitting:
            jobs = [work("command", payload=body, priority=priority) for priority, body in some_work(random)]
            world.submit(*jobs)
        elif choice < 0.35 and submitting:
            world.command("cancel", "b", random.randrange(1, 100))
        elif choice < 0.7 and busy:
            worker = random.choice(busy)
            world.start(worker)
            seq = world.workers[worker].todo[0][1]
            end = random.choice((End.SUCCEEDED, End.SUCCEEDED, End.CRASHED))
            succeeded.extend([seq] if end is End.SUCCEEDED else [])
            world.report(worker, end, run_ns=limits.FRAME_SHORT_JOB_NS_MAX)
        else:
            world.answer(1)
        sent.extend(seq for _, seqs in world.sent() for seq in seqs)
        for seq, state in world.ends():
            assert seq not in states, f"job {seq} ended twice"
            states[seq] = state
        world.ack(len(states))

    for _ in range(200):
        turn(submitting=True)
    for _ in range(3000):
        if not (world.core.pool.pending or world.unanswered):
            break
        turn(submitting=False)
    assert sorted(states) == list(range(1, world.submitted["b"] + 1))
    assert sorted(succeeded) == sorted(seq for seq, state in states.items() if state is State.SUCCEEDED)
