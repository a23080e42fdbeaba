"""A pause between the starts of attempts."""

from __future__ import annotations

from typing import Any

from support.builders import EPOCH, World, work
from taskpool.clock import MICROSECOND, MILLISECOND, SECOND
from taskpool.core.storage import Restored
from taskpool.messages import End, Progress


def paced(workers: int = 2, **config: Any) -> World:
    return World(workers, delay_ns=SECOND, frame_bytes=4096, **config)


def test_the_next_goes_a_pause_after_the_start_of_the_one_before() -> None:
    world = paced()
    world.batch(*[work()] * 3)
    assert world.sent() == [(1, [1])], "the other worker is free, and must wait"
    world.advance(5 * SECOND)
    assert not world.sent(), "when the first one starts is not known: it may be now"
    world.start(1)
    world.advance(SECOND - 1)
    assert not world.sent()
    world.advance(1)
    assert world.sent() == [(2, [2])]


def test_a_dealer_that_stands_still_amid_a_turn_does_not_shorten_the_pause() -> None:
    world = paced()
    world.batch(*[work()] * 2)
    frame = world.workers[1].receive()
    turn_began = world.now
    world.advance(5 * SECOND)
    world.core.handle(Progress(1, EPOCH, [], frame.first_n), turn_began)
    world.settle()
    assert not world.sent()[1:], "it may have been started a moment ago"
    world.advance(SECOND - 1)
    assert not world.sent()
    world.advance(1)
    assert world.sent() == [(2, [2])]


def test_the_pool_wakes_when_the_pause_is_over() -> None:
    world = paced()
    world.batch(*[work()] * 2)
    world.start(1)
    assert world.core.next_deadline_ns(world.now) <= world.now.mono + SECOND


def test_a_frame_carries_one_job_and_waits_behind_none() -> None:
    world = paced(1)
    world.hello()
    world.submit(work())
    world.run(run_ns=10 * MICROSECOND)
    world.forget()
    world.advance(SECOND)
    world.submit(*[work()] * 30)
    assert world.sent() == [(1, [2])]
    world.start(1)
    world.advance(SECOND)
    assert not world.sent(), "its worker is not done"
    world.report(1)
    assert world.sent() == [(1, [3])]


def test_tries_after_the_first_wait_too() -> None:
    world = paced(1)
    world.batch(work(retries=2, backoff_min_ns=MILLISECOND, backoff_max_ns=MILLISECOND))
    assert world.sent() == [(1, [1])]
    world.run(1, End.FAILED)
    world.advance(SECOND - 1)
    assert not world.sent()
    world.advance(1)
    assert world.sent() == [(1, [1])]


def test_a_worker_that_dies_before_its_start_keeps_no_one_waiting() -> None:
    world = paced(2)
    world.batch(*[work()] * 2)
    assert world.sent() == [(1, [1])]
    world.die(1)
    assert world.sent() == [(2, [1])]


def test_after_one_that_has_started_and_died_the_pause_is_kept() -> None:
    world = paced(2)
    world.batch(*[work()] * 2)
    world.sent()
    world.start(1)
    world.die(1)
    world.advance(SECOND - 1)
    assert not world.sent()
    world.advance(1)
    assert world.sent() == [(2, [1])]


def test_a_dealer_that_takes_over_waits_first() -> None:
    """The one before may have started a job just now."""
    for ordinal, sent in ((0, [(1, [1])]), (7, [])):
        restored = Restored(False, ordinal, [], [], [], [])
        world = paced(1, restored=restored)
        world.batch(work())
        assert world.sent() == sent
        world.advance(SECOND)
        assert world.sent() == ([] if sent else [(1, [1])])
