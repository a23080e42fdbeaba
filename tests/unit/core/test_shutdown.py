"""How a dealer stops: drained, forced, orphaned, or done."""

from __future__ import annotations

import pytest

from support.builders import World, work
from taskpool.clock import SECOND
from taskpool.core.effects import Exit, TakeBack, Topic
from taskpool.core.events import LifelineClosed
from taskpool.core.shutdown import READERS_WAIT_NS
from taskpool.core.storage import CommitFailed, DiskFull
from taskpool.errors import ExitCode
from taskpool.limits import DRAIN_TIMEOUT_NS, TERM_GRACE_NS
from taskpool.messages import End, State


def busy(jobs: int = 2, **config: bool) -> World:
    """Worker 1 runs the first of some jobs, and a generator reads."""
    world = World(**config)  # type: ignore[arg-type]
    world.batch(*[work()] * jobs)
    world.start()
    world.forget()
    return world


# --- drain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lost"), [("TERM", ExitCode.TERMINATED), ("INT", ExitCode.INTERRUPTED), ("QUIT", ExitCode.TERMINATED)]
)
@pytest.mark.parametrize("jobs", [1, 2])
def test_the_exit_code_says_whether_accepted_jobs_are_lost(name: str, lost: ExitCode, jobs: int) -> None:
    world = busy(jobs)
    world.signal(name)
    world.report()
    world.ack(1)
    assert world.exits() == [lost if jobs == 2 else ExitCode.OK]


def test_a_drain_lets_running_jobs_finish_and_starts_none() -> None:
    world = busy()
    world.signal("INT")
    assert [(note["running"], note["queued"]) for note in world.noted(Topic.DRAINING)] == [(1, 1)]
    world.advance(25 * SECOND)
    world.ping()
    world.told()
    world.advance(25 * SECOND)
    world.quiet()
    world.report()
    assert world.ends() == [(1, State.SUCCEEDED)]
    world.quiet()
    world.ack(1)
    assert world.exits() == [ExitCode.INTERRUPTED]


def test_a_journal_keeps_what_did_not_run() -> None:
    world = busy(journaled=True)
    world.signal("TERM")
    world.report()
    world.ack(1)
    assert world.exits() == [ExitCode.OK]


def test_a_person_asks_for_a_drain() -> None:
    world = busy()
    world.command("drain")
    world.report()
    world.ack(1)
    assert world.exits() == [ExitCode.TERMINATED], "a job is lost: that is no success"


def test_a_drain_waits_for_readers_a_moment_only() -> None:
    world = busy(1)
    world.signal("TERM")
    world.report()
    world.advance(READERS_WAIT_NS - 1)
    assert world.exits() == []
    world.advance(1)
    assert world.exits() == [ExitCode.OK]


def test_a_drain_waits_for_the_store() -> None:
    world = World(slow_store=True)
    world.batch(work())
    world.answer()
    world.bye()
    world.start()
    world.forget()
    world.signal("TERM")
    world.report()
    assert world.exits() == []
    world.answer()
    assert world.exits() == [ExitCode.OK]


def unstored() -> World:
    """A leaving pool whose last job has ended and whose store does not answer."""
    world = World(slow_store=True)
    world.batch(work())
    world.answer()
    world.start()
    world.answer()
    world.signal("TERM")
    world.report()
    world.forget()
    return world


def test_a_slow_store_is_no_slow_reader() -> None:
    world = unstored()
    world.advance(READERS_WAIT_NS + SECOND)
    assert world.exits() == []
    world.answer()
    assert world.ends() == [(1, State.SUCCEEDED)], "stored, and told"
    world.advance(READERS_WAIT_NS - 1)
    assert world.exits() == [], "from here on its reader has a moment"
    world.advance(1)
    assert world.exits() == [ExitCode.OK]


def test_a_reader_that_acknowledges_gets_another_moment() -> None:
    world = World()
    world.batch(work(), work())
    world.run()
    world.start()
    world.signal("TERM")
    world.report()
    world.forget()
    world.advance(READERS_WAIT_NS - 1)
    world.ack(1)
    world.advance(READERS_WAIT_NS - 1)
    assert world.exits() == []
    world.ack(2)
    assert world.exits() == [ExitCode.OK]


def test_a_dead_disk_does_not_hold_a_drain_for_ever() -> None:
    world = unstored()
    world.advance(DRAIN_TIMEOUT_NS - 1)
    assert world.exits() == []
    world.advance(1)
    (exit,) = world.take(Exit)
    assert exit.code is ExitCode.ENVIRONMENT
    assert "runs again" in exit.text
    assert world.noted(Topic.EXITING) == [], "the program says it, as an error"


def test_nor_does_a_full_one() -> None:
    world = unstored()
    world.do(DiskFull(True, "the disk is full"))
    world.advance(READERS_WAIT_NS - 1)
    assert world.exits() == []
    world.advance(1)
    assert world.exits() == [ExitCode.ENVIRONMENT]


def test_a_disk_that_has_room_again_is_waited_for() -> None:
    world = unstored()
    world.do(DiskFull(True, "the disk is full"))
    world.do(DiskFull(False, "there is room again"))
    world.advance(READERS_WAIT_NS)
    assert world.exits() == []
    world.answer()
    world.ack(1)
    world.answer()
    assert world.exits() == [ExitCode.OK]


def test_who_interrupts_three_times_waits_for_no_disk() -> None:
    world = unstored()
    for _ in range(3):
        world.signal("INT")
    assert world.exits() == [ExitCode.INTERRUPTED]


def test_an_idle_pool_leaves_at_once() -> None:
    world = World()
    world.signal("TERM")
    assert world.exits() == [ExitCode.OK]
    world.signal("TERM")
    world.advance(SECOND)
    assert world.exits() == []


def test_frames_that_were_not_received_are_taken_back() -> None:
    world = World(2)
    world.batch(work(), work())
    world.start(1)
    world.forget()
    world.signal("INT")
    assert [effect.incarnation for effect in world.take(TakeBack)] == [2]
    world.quiet()
    world.report(1)
    world.ack(1)
    assert world.exits() == [ExitCode.INTERRUPTED]


def test_a_worker_that_dies_during_a_drain_is_not_replaced_and_its_job_goes_back() -> None:
    world = busy(1)
    world.signal("INT")
    world.die()
    assert world.take(TakeBack) == []
    assert world.outcomes() == []
    assert world.spawned() == []
    assert world.exits() == [ExitCode.INTERRUPTED]


# --- by force -------------------------------------------------------------------------------------


def test_term_has_a_limit() -> None:
    world = busy(1)
    world.signal("TERM")
    world.advance(DRAIN_TIMEOUT_NS - 1)
    world.quiet()
    world.advance(1)
    assert world.killed() == [(1, "KILL")]
    world.die(signal=9)
    assert world.outcomes() == [], "it goes back, uncounted"
    assert world.exits() == [ExitCode.TERMINATED]


def test_a_shorter_limit_can_be_set() -> None:
    world = World(drain_timeout_ns=SECOND)
    world.batch(work())
    world.start()
    world.forget()
    world.signal("TERM")
    world.advance(SECOND)
    assert world.killed() == [(1, "KILL")]


def test_the_second_interrupt_stops_running_jobs_and_the_third_leaves() -> None:
    world = busy()
    world.signal("INT")
    world.quiet()
    world.signal("INT")
    assert world.killed() == [(1, "KILL")]
    world.signal("INT")
    assert world.exits() == [ExitCode.INTERRUPTED]


def test_a_second_term_does_not_prolong_the_first() -> None:
    world = busy(1)
    world.signal("TERM")
    world.advance(DRAIN_TIMEOUT_NS - 1)
    world.signal("TERM")
    world.advance(1)
    assert world.killed() == [(1, "KILL")]


def test_quit_stops_running_jobs_at_once() -> None:
    world = busy()
    world.signal("QUIT")
    assert world.killed() == [(1, "KILL")]
    world.die(signal=9)
    assert world.exits() == [ExitCode.TERMINATED]


def test_a_private_pool_without_its_generator_stops_at_once() -> None:
    world = busy(private=True)
    world.do(LifelineClosed())
    assert world.killed() == [(1, "KILL")]
    world.die(signal=9)
    assert world.exits() == [ExitCode.TERMINATED]


def test_a_private_pool_without_its_generator_waits_for_no_reader() -> None:
    world = busy(1, private=True)
    world.report()
    assert world.exits() == []
    world.do(LifelineClosed())
    assert world.exits() == [ExitCode.OK]


def test_a_worker_told_to_go_already_is_not_told_again() -> None:
    world = World()
    world.batch(work(timeout_ns=SECOND))
    world.start()
    world.advance(SECOND)
    assert world.killed() == [(1, "TERM")]
    world.signal("QUIT")
    assert world.killed() == []
    world.advance(TERM_GRACE_NS)
    assert world.killed() == [(1, "KILL")]


# --- done -----------------------------------------------------------------------------------------


def test_a_private_pool_leaves_when_its_batch_is_read() -> None:
    world = World(private=True)
    world.batch(work(), work())
    world.run()
    world.run(end=End.FAILED)
    world.ack(1)
    assert world.exits() == []
    world.ack(2)
    assert world.exits() == [ExitCode.OK]
    assert [note["text"] for note in world.noted(Topic.EXITING)] == ["All jobs completed. Shutting down workers..."]
    world.advance(SECOND)
    assert world.exits() == []


def test_a_private_pool_waits_for_the_close() -> None:
    world = World(private=True)
    world.hello()
    world.submit(work())
    world.run()
    world.ack(1)
    assert world.exits() == []
    world.close()
    assert world.exits() == [ExitCode.OK]


def test_a_named_pool_stays() -> None:
    world = World()
    world.batch(work())
    world.run()
    world.ack(1)
    assert world.exits() == []


def test_a_store_that_fails_ends_the_dealer() -> None:
    world = World(slow_store=True)
    world.hello()
    world.do(CommitFailed("disk I/O error"))
    assert world.exits() == [ExitCode.ENVIRONMENT]
