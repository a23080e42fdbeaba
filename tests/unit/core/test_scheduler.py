"""Frames: in which company jobs travel, who is to blame when a frame dies, and what is taken back."""

from __future__ import annotations

from typing import Any

import pytest

from support.builders import EPOCH, Work, World, work
from taskpool import codec
from taskpool.clock import MICROSECOND, MILLISECOND, SECOND
from taskpool.core.effects import SendFrame, TakeBack
from taskpool.limits import (
    FRAME_JOBS_MAX,
    FRAME_SHORT_JOB_NS_MAX,
    FRAME_SILENT_NS_MAX,
    FRAME_TAKE_BACK_NS,
    LOST_HEAD_MAX,
    START_SILENT_NS_MAX,
)
from taskpool.messages import End, Progress, Report, State

TINY_NS = 10 * MICROSECOND
SHORT_NS = 5 * MILLISECOND


def known(*works: Work, run_ns: int = TINY_NS, workers: int = 1, **config: Any) -> World:
    """A pool that has run one fib job of batch b and knows how long they take; jobs 2, 3, ... are these. The
    first frame of them is on its way."""
    world = World(workers, frame_bytes=4096, **config)
    world.hello()
    world.submit(work())
    world.run(run_ns=run_ns)
    world.forget()
    world.submit(*works)
    world.told()
    return world


# --- company --------------------------------------------------------------------------------------


def test_tiny_jobs_travel_together_and_two_frames_are_in_flight() -> None:
    world = known(*[work()] * 30)
    assert world.sent() == [(1, list(range(2, 17))), (1, list(range(17, 25)))], "each a fair share of what waits"
    world.quiet()


def test_an_unknown_kind_travels_alone() -> None:
    world = World(2)
    world.batch(*[work()] * 5)
    assert world.sent() == [(1, [1]), (2, [2])]


def test_short_jobs_travel_alone_and_two_at_a_time() -> None:
    world = known(*[work()] * 5, run_ns=SHORT_NS)
    assert world.sent() == [(1, [2]), (1, [3])]


def test_long_jobs_travel_one_at_a_time() -> None:
    world = known(*[work()] * 5, run_ns=FRAME_SHORT_JOB_NS_MAX)
    assert world.sent() == [(1, [2])]


def test_a_frame_holds_so_many_at_most() -> None:
    world = known(*[work()] * 500)
    assert [len(seqs) for _, seqs in world.sent()] == [FRAME_JOBS_MAX, FRAME_JOBS_MAX]


def test_a_frame_is_no_more_than_its_share_of_the_work() -> None:
    world = known(*[work()] * 500, run_ns=200 * MICROSECOND)
    assert [len(seqs) for _, seqs in world.sent()] == [10, 10], "two milliseconds of work"


@pytest.mark.parametrize("payload_bytes", [0, 1, 40, 300, 5000])
def test_a_frame_of_several_fits_the_queue(payload_bytes: int) -> None:
    world = World(frame_bytes=1024)
    world.hello("b" * 64)
    jobs = [work("command", payload=bytes(payload_bytes))] * 200
    world.submit(*jobs[:1], batch="b" * 64)
    world.run(run_ns=TINY_NS)
    world.forget()
    world.submit(*jobs[1:], batch="b" * 64)
    frames = [effect.frame for effect in world.take(SendFrame)]
    assert len(frames) == 2
    assert all(frame.count == 1 or len(codec.encode(frame)) <= 1024 for frame in frames)
    assert (frames[0].count > 1) == (payload_bytes < 400)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (work(timeout_ns=SECOND), "a time-out is measured for one job"),
        (work("command"), "of another kind"),
        (work(affinity="/lib"), "of other user code"),
        (work(retries=1), "under other limits, which a frame has once"),
    ],
)
def test_never_in_company(second: Work, why: str) -> None:
    world = known(*[work(), second] * 10)
    assert world.sent()[0] == (1, [2]), why


def test_batches_do_not_mix() -> None:
    world = World(frame_bytes=4096)
    world.hello("a")
    world.hello("b", client=2)
    world.submit(work(), batch="a")
    world.run(run_ns=TINY_NS)
    world.submit(work(), batch="b", client=2)
    world.run(run_ns=TINY_NS)
    world.command("pause")
    for _ in range(3):
        world.submit(work(), work(), batch="a")
        world.submit(work(), work(), batch="b", client=2)
    world.forget()
    world.command("unpause")
    assert world.sent() == [(1, [2, 3]), (1, [2, 3])]


def test_a_job_with_a_time_out_has_a_worker_to_itself() -> None:
    world = known(*[work(timeout_ns=SECOND)] * 3)
    assert world.sent() == [(1, [2])]
    world.run(run_ns=TINY_NS)
    assert world.sent() == [(1, [3])]


# --- silent and dead frames -----------------------------------------------------------------------


def test_a_frame_that_says_nothing_is_killed_and_its_jobs_go_alone_uncounted() -> None:
    world = known(*[work()] * 6)
    assert world.sent() == [(1, [2, 3, 4]), (1, [5, 6])]
    world.start()
    world.report(run_ns=TINY_NS)
    world.advance(FRAME_SILENT_NS_MAX - 1)
    assert world.take(TakeBack)
    assert world.killed() == []
    world.advance(1)
    assert world.killed() == [(1, "KILL")]
    world.sent()
    world.die(signal=9)
    sent: list[tuple[int, list[int]]] = []
    while not sent or sent[-1][1] != [7]:
        sent += world.sent()
        if world.workers[2].queue:
            world.run(2, run_ns=TINY_NS)
    assert [seqs for _, seqs in sent[:2]] == [[3], [4]], "alone, one by one"
    outcomes = {outcome.seq: outcome for outcome in world.outcomes()}
    assert (outcomes[3].attempts, outcomes[3].crashes) == (1, 0), "the lost one counts for nothing"


def test_every_report_of_a_frame_gives_it_more_time() -> None:
    world = known(*[work()] * 6)
    world.start()
    for _ in range(2):
        world.advance(FRAME_SILENT_NS_MAX - 1)
        world.report(run_ns=TINY_NS)
    assert world.killed() == []


def test_of_a_frame_that_died_no_job_is_at_fault() -> None:
    world = known(*[work()] * 4)
    assert world.sent() == [(1, [2, 3]), (1, [4])]
    world.start()
    world.die()
    assert world.told() == []
    seqs = []
    for _ in range(4):
        seqs += [seq for _, seqs_of in world.sent() for seq in seqs_of]
        world.run(2)
    assert seqs == [2, 3, 4, 5]
    assert all((outcome.state, outcome.crashes) == (State.SUCCEEDED, 0) for outcome in world.outcomes())


def test_a_job_alone_after_its_frame_died_is_at_fault_for_its_next_death() -> None:
    world = known(work(crash_limit=1), work(crash_limit=1), work(crash_limit=1))
    assert world.sent()[0] == (1, [2, 3])
    world.start()
    world.die()
    world.start(2)
    world.die(2)
    assert world.ends() == [(2, State.QUARANTINED)]


def test_a_crash_that_is_reported_from_a_frame_of_several_blames_no_job() -> None:
    world = World(2, frame_bytes=4096)
    world.hello()
    world.submit(work())
    world.run(1, run_ns=TINY_NS)
    world.boot = False
    world.command("pause")
    world.submit(*[work(crash_limit=1)] * 8)
    world.die(1)
    world.command("unpause")
    world.start(2)
    assert len(world.workers[2].todo) > 1
    world.report(2, End.CRASHED, signal=11)
    assert (2, State.QUARANTINED) not in world.ends()


def test_what_was_reported_before_the_frame_died_counts() -> None:
    world = known(*[work()] * 4)
    world.forget()
    world.start()
    world.report(run_ns=TINY_NS)
    world.die()
    assert world.ends() == [(2, State.SUCCEEDED)]
    assert world.sent()[0] == (2, [3])


def held(world: World, *numbers: int, end: End = End.SUCCEEDED) -> tuple[Report, ...]:
    """Reports that worker 1 has not sent, of these jobs of the frame it began."""
    todo = list(world.workers[1].todo)
    return tuple(Report(todo[number][0], end, value=b"1") for number in numbers)


def test_what_ended_before_the_frame_died_counts_though_it_was_not_sent() -> None:
    world = known(*[work()] * 7)
    assert world.sent()[0] == (1, [2, 3, 4, 5])
    world.start()
    world.die(held=held(world, 0, 1))
    assert world.ends() == [(2, State.SUCCEEDED), (3, State.SUCCEEDED)]
    assert world.sent()[0] == (2, [4])
    assert world.core.pool.counters.stale_reports == 0


def test_what_was_sent_and_held_as_well_counts_once() -> None:
    world = known(*[work()] * 7)
    world.start()
    reports = held(world, 0, 1)
    world.do(Progress(1, EPOCH, list(reports[:1])))
    world.die(held=reports)
    assert world.ends() == [(2, State.SUCCEEDED), (3, State.SUCCEEDED)]


def test_a_frame_that_had_ended_is_not_the_one_its_worker_died_of() -> None:
    """Its reports waited to share a message with the start of the next frame, which was never begun."""
    world = known(*[work(crash_limit=1)] * 7)
    assert world.sent() == [(1, [2, 3, 4, 5]), (1, [6, 7])]
    world.start()
    world.die(held=held(world, 0, 1, 2, 3))
    assert world.ends() == [(seq, State.SUCCEEDED) for seq in (2, 3, 4, 5)]
    assert world.sent()[0] == (2, [6]), "one death with this job at the head, which was not begun"
    world.run(2)
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.attempts, outcome.crashes) == (State.SUCCEEDED, 1, 0)


@pytest.mark.parametrize("end", [End.LOST, End.CANCELLED])
def test_what_a_worker_cannot_say_is_not_believed_of_a_dead_one(end: End) -> None:
    world = known(*[work()] * 7)
    world.start()
    world.die(held=held(world, 0, end=end))
    assert world.ends() == []
    assert world.sent()[-1] == (2, [2])


# --- lost before it began -------------------------------------------------------------------------


def test_a_worker_that_dies_with_the_frame_unread_costs_nothing() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    world.sent()
    world.die(signal=9)
    assert world.sent() == [(2, [1])]
    world.run(2)
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.attempts, outcome.crashes) == (State.SUCCEEDED, 1, 0)


def test_five_such_deaths_in_a_row_count_as_one_crash() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    for worker in range(1, LOST_HEAD_MAX):
        world.die(worker, signal=9)
        assert world.told() == []
    world.die(LOST_HEAD_MAX, signal=9)
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.attempts, outcome.crashes) == (State.QUARANTINED, 1, 1)


def test_a_worker_that_leaves_in_order_is_held_against_no_job() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    for worker in range(1, 2 * LOST_HEAD_MAX):
        world.die(worker, status=0)
        assert world.told() == []
    world.run(2 * LOST_HEAD_MAX)
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.attempts, outcome.crashes) == (State.SUCCEEDED, 1, 0)


def test_a_job_that_began_breaks_the_row() -> None:
    world = World()
    world.batch(work("command", crash_limit=1, retries=1))
    for worker in range(1, LOST_HEAD_MAX):
        world.die(worker, signal=9)
    world.run(LOST_HEAD_MAX, End.FAILED)
    for worker in range(LOST_HEAD_MAX, 2 * LOST_HEAD_MAX - 1):
        world.die(worker, signal=9)
        assert world.outcomes() == []
    world.die(2 * LOST_HEAD_MAX - 1, signal=9)
    assert world.ends() == [(1, State.QUARANTINED)]


def test_only_the_first_of_an_unread_frame_is_counted_and_only_of_the_first_frame() -> None:
    world = known(*[work()] * 4)
    assert world.sent() == [(1, [2, 3]), (1, [4])]
    world.die(signal=9)
    assert world.sent() == [(2, [2]), (2, [3, 4])], "never again in company, the row may be its own"


def test_a_frame_not_begun_in_time_costs_the_worker_its_life_and_the_job_nothing() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    world.sent()
    world.advance(START_SILENT_NS_MAX - 1)
    assert world.killed() == []
    world.advance(1)
    assert world.killed() == [(1, "KILL")]
    for worker in range(1, 2 * LOST_HEAD_MAX):
        world.die(worker, signal=9)
        world.advance(START_SILENT_NS_MAX)
    assert world.outcomes() == []


def test_a_frame_begun_after_its_worker_was_given_up_costs_the_job_nothing_either() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    world.advance(START_SILENT_NS_MAX)
    world.start()
    world.die(signal=9)
    assert world.outcomes() == []
    assert world.sent()[-1] == (2, [1])


# --- two frames in flight -------------------------------------------------------------------------


def test_the_next_start_rides_with_the_last_report() -> None:
    world = known(work(), work(), work(), run_ns=SHORT_NS)
    assert world.sent() == [(1, [2]), (1, [3])]
    first = world.start()
    world.workers[1].todo.clear()
    second = world.workers[1].receive()
    world.do(Progress(1, EPOCH, [Report(first, End.SUCCEEDED)], second.first_n))
    assert world.sent() == [(1, [4])]
    world.die()
    world.run(2)
    assert [(outcome.seq, outcome.crashes) for outcome in world.outcomes()] == [(2, 0), (3, 1)]


def test_what_waits_behind_a_long_job_is_taken_back_and_did_not_happen() -> None:
    world = known(work(), work(), run_ns=SHORT_NS)
    assert world.sent() == [(1, [2]), (1, [3])]
    world.start()
    world.advance(FRAME_TAKE_BACK_NS - 1)
    world.quiet()
    world.advance(1)
    assert [effect.incarnation for effect in world.take(TakeBack)] == [1]
    world.quiet()
    world.advance(10 * FRAME_TAKE_BACK_NS)
    world.quiet()
    world.report(run_ns=SHORT_NS)
    assert world.sent() == [(1, [3])]
    world.run()
    assert [(outcome.seq, outcome.attempts) for outcome in world.outcomes()] == [(2, 1), (3, 1)]


def test_what_was_taken_back_goes_to_whoever_is_free() -> None:
    world = known(work(), work(), work(), run_ns=SHORT_NS, workers=2)
    assert world.sent() == [(1, [2]), (2, [3]), (1, [4])]
    world.start(1)
    world.start(2)
    world.advance(FRAME_TAKE_BACK_NS)
    world.take(TakeBack)
    world.report(2, run_ns=SHORT_NS)
    assert world.sent() == [(2, [4])]


def test_what_could_not_be_taken_back_is_the_workers_to_run() -> None:
    world = known(work(), work(), run_ns=SHORT_NS)
    first = world.start()
    world.workers[1].todo.clear()
    second = world.workers[1].receive()  # it has read the next frame and not said so yet
    world.advance(FRAME_TAKE_BACK_NS)
    assert world.take(TakeBack)
    world.forget()
    world.advance(FRAME_TAKE_BACK_NS)
    world.quiet()
    world.do(Progress(1, EPOCH, [Report(first, End.SUCCEEDED)], second.first_n))
    world.do(Progress(1, EPOCH, [Report(second.first_n, End.SUCCEEDED)]))
    assert world.ends() == [(2, State.SUCCEEDED), (3, State.SUCCEEDED)]


def test_nothing_is_sent_to_wait_behind_a_job_that_runs_long_already() -> None:
    world = known(work(), run_ns=SHORT_NS)
    world.start()
    world.advance(FRAME_TAKE_BACK_NS)
    world.submit(work())
    world.told()
    assert world.sent() == [(1, [2])]
    world.quiet()


def test_a_frame_that_becomes_the_head_has_its_full_time_to_begin() -> None:
    world = known(work(), work(), run_ns=SHORT_NS)
    world.start()
    world.advance(FRAME_TAKE_BACK_NS - 1)
    world.report()
    world.forget()
    world.advance(START_SILENT_NS_MAX - 1)
    assert world.killed() == []
    world.advance(1)
    assert world.killed() == [(1, "KILL")]
