"""The dealer's loop, where the simulator has too few workers to show it: more of them send than the queue holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.memory_platform import LAYOUT, POOL, MemoryPlatform, assemble
from taskpool import limits
from taskpool.clock import SECOND
from taskpool.dealer.dealer import Dealer
from taskpool.dealer.loop import LoopCounters
from taskpool.identifiers import Incarnation
from taskpool.ipc import names
from taskpool.kinds.fib import FIB
from taskpool.messages import Close, End, Frame, Hello, JobSpec, Progress, Report, Submit

WORKERS = 40
EVENTS = names.events(POOL)


def test_the_counters_of_a_turn() -> None:
    counters = LoopCounters()
    counters.count_turn(5, 7)
    counters.count_turn(6, -1)
    assert (counters.turns, counters.busy_ns, counters.lag.total) == (2, 11, 13)


def submit_jobs(platform: MemoryPlatform) -> Iterator[None]:
    """Every worker is ready, and gets one job."""
    platform.report_ready()
    yield
    platform.namespace.create(names.reply(POOL, 0), LAYOUT.reply).hold()
    platform.send(names.control(POOL), Hello(7, 0, 5, "b"))
    yield
    job = JobSpec("fib", FIB.parse({"n": 1}, ""))
    platform.send(names.intake(POOL), Submit(7, "b", 1, [job] * WORKERS))
    platform.send(names.intake(POOL), Close(7, "b", WORKERS))
    yield


def started(platform: MemoryPlatform, incarnation: Incarnation, frame: Frame) -> None:
    platform.send(EVENTS, Progress(incarnation, 1, started=frame.first_n))


def reported(platform: MemoryPlatform, incarnation: Incarnation, frame: Frame) -> None:
    platform.send(EVENTS, Progress(incarnation, 1, [Report(frame.first_n, End.SUCCEEDED, b"1")]))


def run(platform: MemoryPlatform) -> Dealer:
    with ExitStack() as teardown:
        dealer = assemble(platform, teardown, WORKERS)
        dealer.loop.run()
        return dealer


def test_a_death_is_judged_after_all_that_the_dead_worker_had_sent_was_read(tmp_path: Path) -> None:
    """Its report is the last that the queue holds, and behind it the others wait for room."""

    def script(platform: MemoryPlatform) -> Iterator[None]:
        yield from submit_jobs(platform)
        frames = platform.frames()
        assert len(frames) == WORKERS
        incarnations = list(frames)
        victim = incarnations[LAYOUT.events.maxmsg - 2]
        for incarnation in incarnations:
            if incarnation != victim:
                started(platform, incarnation, frames[incarnation])
                yield
        for incarnation in incarnations:
            if incarnation == victim:
                started(platform, incarnation, frames[incarnation])
            reported(platform, incarnation, frames[incarnation])
        assert len(platform.namespace.blocked[EVENTS]) == WORKERS + 1 - LAYOUT.events.maxmsg
        platform.played.die(victim)
        yield
        assert not platform.namespace.blocked[EVENTS]

    platform = MemoryPlatform(tmp_path, script)
    dealer = run(platform)
    counters = dealer.core.pool.counters
    assert counters.attempts == {"succeeded": WORKERS}, "nothing crashed, and nothing was lost"
    assert counters.jobs_finished == {("fib", "succeeded"): WORKERS}
    assert counters.worker_exits["signal", "SIGKILL"] == 1
    assert counters.stale_reports == 0
    assert dealer.parts.queues.counters.full["events"] >= 1


def test_workers_that_wait_to_send_are_not_taken_for_silent(tmp_path: Path) -> None:
    """All have begun in time, and three out of four wait for room in the queue when the deadline comes."""

    def script(platform: MemoryPlatform) -> Iterator[None]:
        yield from submit_jobs(platform)
        frames = platform.frames()
        until = platform.hand.mono + limits.START_SILENT_NS_MAX
        while platform.hand.mono + platform.timeout_ns < until:
            platform.sleep()
            yield
        for incarnation, frame in frames.items():
            started(platform, incarnation, frame)
        assert len(platform.namespace.blocked[EVENTS]) == WORKERS - LAYOUT.events.maxmsg
        platform.hand.mono = until
        yield
        assert platform.played.kills == []
        for incarnation, frame in frames.items():
            reported(platform, incarnation, frame)
        yield

    dealer = run(MemoryPlatform(tmp_path, script))
    assert dealer.core.pool.counters.attempts == {"succeeded": WORKERS}
    assert dealer.core.pool.counters.protocol_errors == 0


@pytest.mark.parametrize("pauses_ns", [[3600 * SECOND], [limits.START_SILENT_NS_MAX] * 5, [SECOND] * 40])
def test_a_pause_of_the_pool_is_no_silence_of_a_worker(tmp_path: Path, pauses_ns: list[int]) -> None:
    """Each pause hits a sleep of the loop. Shorter than the longest of these, together, is the time until a kill."""

    def script(platform: MemoryPlatform) -> Iterator[None]:
        yield from submit_jobs(platform)
        frames = platform.frames()
        for pause_ns in pauses_ns:
            platform.hand.mono += platform.timeout_ns + pause_ns
            yield
        assert platform.played.kills == []
        for incarnation, frame in frames.items():
            started(platform, incarnation, frame)
            reported(platform, incarnation, frame)
            yield

    dealer = run(MemoryPlatform(tmp_path, script))
    assert dealer.core.pool.counters.attempts == {"succeeded": WORKERS}
    assert dealer.loop.counters.stalls == sum(pause_ns > limits.LOOP_STALL_NS for pause_ns in pauses_ns)


def test_a_worker_that_does_not_start_its_frame_is_killed_at_that_deadline(tmp_path: Path) -> None:
    """What the test above would show if messages were left unread."""

    def script(platform: MemoryPlatform) -> Iterator[None]:
        yield from submit_jobs(platform)
        frames = platform.frames()
        until = platform.hand.mono + limits.START_SILENT_NS_MAX
        while platform.hand.mono + platform.timeout_ns < until:
            platform.sleep()
            yield
        for incarnation in list(frames)[1:]:
            started(platform, incarnation, frames[incarnation])
        platform.hand.mono = until
        yield
        assert platform.played.kills == [(next(iter(frames)), "KILL")]

    run(MemoryPlatform(tmp_path, script))
