"""How attempts end, and what becomes of their jobs: retries, crashes, time-outs."""

from __future__ import annotations

from typing import Any

import pytest

from support.builders import Work, World, work
from taskpool.clock import MILLISECOND, SECOND
from taskpool.core.effects import SendFrame, Topic
from taskpool.core.entries import AttemptMade, JobCounts, JobReturned
from taskpool.limits import COMMAND_BACKSTOP_NS, LOST_HEAD_MAX, TERM_GRACE_NS
from taskpool.messages import End, JobError, Output, State, Try, Usage

HOUR_NS = 3600 * SECOND


def tries(world: World, end: End, most: int = 10, **fields: Any) -> int:
    """How often worker 1 gets the job until it has its outcome, when every try ends like this."""
    for count in range(1, most + 1):
        world.run(end=end, **fields)
        if world.core.pool.pending == 0:
            return count
    return most


# --- jobs that a worker gives back ----------------------------------------------------------------


def test_a_job_that_its_worker_cannot_begin_is_sent_again_and_not_counted() -> None:
    world = World()
    world.batch(work("command"))
    world.run(end=End.LOST)
    world.die(status=0)
    world.run(2)
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.attempts, outcome.crashes) == (State.SUCCEEDED, 1, 0)


def test_but_not_for_ever() -> None:
    """No worker can begin it, whatever they say why: five in a row count as one crash."""
    world = World()
    world.batch(work("command", crash_limit=2))
    assert tries(world, End.LOST, most=50, error=JobError("WorkerUnfit")) == 2 * LOST_HEAD_MAX
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.crashes, outcome.error) == (State.QUARANTINED, 2, JobError("WorkerUnfit"))


def test_a_run_in_between_ends_the_row() -> None:
    world = World()
    world.batch(work("command", crash_limit=1, retries=1))
    for end in (End.LOST, End.FAILED, End.LOST):
        for _ in range(1 if end is End.FAILED else LOST_HEAD_MAX - 1):
            world.run(end=end)
    world.run()
    assert world.ends() == [(1, State.SUCCEEDED)]


# --- memory ---------------------------------------------------------------------------------------

HUNGRY = JobError("OutOfMemory")


@pytest.mark.parametrize(
    ("ends", "limits", "had"),
    [
        ([HUNGRY, HUNGRY, HUNGRY], {"memory_growth_percent": 200}, [100, 200, 400]),
        ([HUNGRY, HUNGRY, HUNGRY], {"memory_growth_percent": 200, "memory_bytes_max": 150}, [100, 150, 150]),
        ([HUNGRY, JobError("ValueError"), HUNGRY], {"memory_growth_percent": 150}, [100, 150, 150]),
        ([JobError("ValueError"), HUNGRY, HUNGRY], {"memory_growth_percent": 150}, [100, 100, 150]),
        ([HUNGRY, HUNGRY, HUNGRY], {}, [100, 100, 100]),
    ],
)
def test_a_try_after_one_without_enough_memory_has_more(
    ends: list[JobError], limits: dict[str, Any], had: list[int]
) -> None:
    world = World()
    world.batch(work("command", retries=2, memory_bytes=100, **limits))
    sent = []
    for error in ends:
        sent += [effect.frame.limits.memory_bytes for effect in world.take(SendFrame)]
        world.run(end=End.FAILED, error=error)
    (outcome,) = world.outcomes()
    assert sent == [each.memory_limit_bytes for each in outcome.tries] == had


# --- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "fields", "limits", "expected"),
    [
        (End.FAILED, {}, {}, 1),
        (End.FAILED, {}, {"retries": 2}, 3),
        (End.TIMED_OUT, {}, {"retries": 2}, 3),
        (End.TIMED_OUT, {}, {"retries": 2, "retry_timeout": False}, 1),
        (End.FAILED, {}, {"retries": 2, "retry_timeout": False}, 3),
        (End.FAILED, {"exit_status": 75}, {"retries": 2, "retry_failed": False, "retry_exit": (75,)}, 3),
        (End.FAILED, {"exit_status": 1}, {"retries": 2, "retry_failed": False, "retry_exit": (75,)}, 1),
        (End.FAILED, {}, {"retries": 2, "retry_failed": False, "retry_exit": (75,)}, 1),
        (End.CRASHED, {"signal": 9}, {"retries": 1, "retry_failed": False, "retry_signal": (9,)}, 2),
        (End.CRASHED, {"signal": 9}, {"retry_failed": False, "retry_signal": (9,)}, 1),
        (End.CRASHED, {"signal": 11}, {"retries": 1, "retry_failed": False, "retry_signal": (9,)}, 3),
        (End.CRASHED, {"signal": 11}, {"crash_limit": 1, "retries": 5}, 1),
        (End.CRASHED, {"signal": 11}, {"crash_limit": 0}, 10),
    ],
)
def test_how_often_a_job_is_tried(end: End, fields: dict[str, int], limits: dict[str, Any], expected: int) -> None:
    world = World()
    world.batch(work("command", **limits))
    assert tries(world, end, **fields) == expected


def test_the_outcome_is_that_of_the_last_try() -> None:
    world = World()
    world.batch(work(retries=1))
    world.run(end=End.FAILED, exit_status=1, error=JobError("first"))
    world.run(end=End.TIMED_OUT, error=JobError("second"))
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.attempts, outcome.exit_status) == (State.TIMED_OUT, 2, None)
    assert outcome.error == JobError("second")


def test_a_success_ends_the_retries() -> None:
    world = World()
    world.batch(work(retries=5))
    world.run(end=End.FAILED)
    world.run()
    assert world.ends() == [(1, State.SUCCEEDED)]
    assert world.core.pool.counters.retries["failed"] == 1


def test_a_retry_waits_twice_as_long_each_time_up_to_a_limit() -> None:
    world = World()
    world.batch(work(retries=4, backoff_min_ns=SECOND, backoff_max_ns=3 * SECOND))
    for seconds in (1, 2, 3, 3):
        world.sent()
        world.run(end=End.FAILED)
        assert world.core.next_deadline_ns(world.now) == world.now.mono + seconds * SECOND
        world.ping()
        world.advance(seconds * SECOND - 1)
        assert world.sent() == []
        world.advance(1)
        assert world.sent() == [(1, [1])]
    world.run(end=End.FAILED)
    assert world.ends() == [(1, State.FAILED)]


def test_a_lower_limit_than_the_first_delay_does_not_shorten_it() -> None:
    world = World()
    world.batch(work(retries=2, backoff_min_ns=SECOND))
    for _ in range(2):
        world.run(end=End.FAILED)
        world.sent()
        world.advance(SECOND - 1)
        assert world.sent() == []
        world.advance(1)


def test_others_run_while_a_retry_waits() -> None:
    world = World()
    world.batch(work(retries=1, backoff_min_ns=SECOND), work())
    world.run(end=End.FAILED)
    world.run()
    assert [seqs for _, seqs in world.sent()] == [[1], [2]]
    world.advance(SECOND)
    assert world.sent() == [(1, [1])]


def test_every_attempt_and_every_return_is_stored() -> None:
    world = World()
    world.batch(work("command", retries=1, crash_limit=3))
    world.entries.clear()
    world.run(end=End.FAILED)
    world.run(end=End.CRASHED, signal=11)
    rows = [row for row in world.entries if isinstance(row, AttemptMade | JobReturned)]
    usage = Usage(started_wall_ns=world.now.wall, run_ns=SECOND)
    failed = Try(1, End.FAILED, out_of_memory=False, usage=usage, pid=101, slot=0)
    crashed = Try(2, End.CRASHED, signal=11, out_of_memory=False, usage=usage, pid=101, slot=0)
    assert rows == [
        JobReturned(1, JobCounts(1, 1, 1, 0, 0, (failed,))),
        AttemptMade(2, 1, 2),
        JobReturned(1, JobCounts(1, 2, 1, 1, 0, (failed, crashed))),
        AttemptMade(3, 1, 3),
    ]


def test_an_outcome_tells_of_each_try_that_did_not_succeed() -> None:
    world = World()
    world.batch(work(retries=2, crash_limit=2))
    world.run(end=End.FAILED, error=JobError("E", "m"), output=Output(stderr="a\nb\n"))
    world.start()
    world.die(signal=11, stderr_tail="Fatal", core_dumped=True, cpu_ns=5, max_rss_bytes=6)
    world.run(2, End.TIMED_OUT, exit_status=4, stderr_tail="from a file")
    world.die(2, signal=9)  # it makes room
    world.run(3)  # in a fresh one again: a worker has died of it
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.attempts) == (State.SUCCEEDED, 4)
    told = [(tried.no, tried.end, tried.pid, tried.stderr_tail, tried.core_dumped) for tried in outcome.tries]
    assert told == [
        (1, End.FAILED, 101, "a\nb", False),
        (2, End.CRASHED, 101, "Fatal", True),
        (3, End.TIMED_OUT, 102, "from a file", False),
    ]
    assert [tried.error for tried in outcome.tries[:2]] == [
        "E: m",
        "SIGSEGV: worker PID 101 was killed by SIGSEGV during this job.",
    ]
    assert (outcome.tries[1].usage.cpu_ns, outcome.tries[1].usage.max_rss_bytes) == (0, 6)  # the CPU time is of both


def test_the_last_try_is_told_too_and_a_lost_one_is_not() -> None:
    world = World()
    world.batch(work())
    world.sent()
    world.die(signal=9)  # before it began
    world.ready(2)
    world.run(2, End.FAILED, exit_status=1)
    (outcome,) = world.outcomes()
    assert [(tried.no, tried.exit_status) for tried in outcome.tries] == [(1, 1)]


def test_of_many_tries_the_last_five_are_told() -> None:
    world = World()
    world.batch(work(retries=8))
    for status in range(1, 10):
        world.run(end=End.FAILED, exit_status=status)
    (outcome,) = world.outcomes()
    assert [(tried.no, tried.exit_status) for tried in outcome.tries] == [(n, n) for n in range(5, 10)]


# --- crashes --------------------------------------------------------------------------------------


def test_a_started_job_whose_worker_dies_has_crashed() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    world.sent()
    world.start()
    world.advance(2 * SECOND)
    world.die(signal=11, stderr_tail="Fatal", cpu_ns=5, max_rss_bytes=6)
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.attempts, outcome.crashes) == (State.QUARANTINED, 1, 1)
    assert (outcome.signal, outcome.exit_status, outcome.pid, outcome.slot) == (11, None, 101, 0)
    assert (outcome.usage.run_ns, outcome.usage.cpu_ns, outcome.usage.max_rss_bytes) == (2 * SECOND, 5, 6)
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.traceback) == ("SIGSEGV", "Fatal")
    assert "PID 101 was killed by SIGSEGV" in outcome.error.message
    world.take_spawn()
    world.quiet()


@pytest.mark.parametrize("status", [0, 1, 3, 4])
def test_a_worker_that_exits_without_a_report_has_crashed_too(status: int) -> None:
    """Also with the statuses that mean something before it is ready."""
    world = World()
    world.batch(work(crash_limit=1))
    world.start()
    world.die(status=status)
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.exit_status, outcome.signal) == (State.QUARANTINED, status, None)
    assert outcome.error is not None
    assert outcome.error.type == "WorkerExited"
    assert world.spawned() == [2]
    assert world.exits() == []


def test_a_kill_hints_at_memory() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    world.start()
    world.die(signal=9)
    (outcome,) = world.outcomes()
    assert outcome.error is not None
    assert "out of memory" in outcome.error.message


def test_a_signal_without_a_name_has_a_number() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    world.start()
    world.die(signal=40)
    (outcome,) = world.outcomes()
    assert outcome.error is not None
    assert outcome.error.type == "signal 40"
    assert world.core.pool.counters.worker_exits["signal", "other"] == 1


def test_a_crashed_job_is_sent_again_at_once_and_quarantined_at_the_limit() -> None:
    world = World(spares=1)
    world.batch(work(crash_limit=2))
    world.sent()
    world.start(1)
    world.die(1)
    assert world.sent() == [(2, [1])], "the spare takes over"
    assert world.noted(Topic.JOB_RESENT)[0]["crashed_pid"] == 101
    world.start(2)
    world.die(2)
    assert world.ends() == [(1, State.QUARANTINED)]
    noted = [(note["crashes"], note["unclean_exits"]) for note in world.noted(Topic.JOB_QUARANTINED)]
    assert noted == [(2, 0)]
    assert world.core.pool.counters.recovery.counts[0] == 1


@pytest.mark.parametrize("kind", ["fib", "command"])
def test_a_job_is_not_quarantined_for_a_worker_that_others_corrupted(kind: str) -> None:
    """Only a worker's death where nothing else ever ran quarantines a job: an earlier one may have left a thread."""
    world = World()
    world.batch(work(), work(kind, crash_limit=1))
    world.run()
    world.start()
    world.die()
    assert world.outcomes()[1:] == []
    assert world.sent()[-1] == (2, [2])
    world.run(2)
    assert world.core.pool.pending == 0


@pytest.mark.parametrize("kind", ["fib", "command"])
def test_the_job_at_fault_is_quarantined_by_the_first_death_in_a_fresh_worker(kind: str) -> None:
    world = World()
    world.batch(work(), work(kind, crash_limit=1))
    world.run()
    world.start()
    world.die()
    world.start(2)
    world.die(2)
    outcome = world.outcomes()[1]
    assert (outcome.state, outcome.crashes) == (State.QUARANTINED, 2)


def test_a_program_that_crashes_where_a_worker_died_before_is_at_fault() -> None:
    world = World()
    world.batch(work(), work("command", crash_limit=2))
    world.run()
    world.start()
    world.die()
    world.run(2, end=End.CRASHED, signal=6)
    assert world.ends() == [(1, State.SUCCEEDED), (2, State.QUARANTINED)]


def test_a_program_is_at_fault_in_any_worker() -> None:
    world = World()
    world.batch(work(), work("command", crash_limit=1))
    world.run()
    world.run(end=End.CRASHED, signal=6)
    assert world.ends() == [(1, State.SUCCEEDED), (2, State.QUARANTINED)]


def test_a_job_that_crashed_waits_for_a_fresh_worker_and_others_pass_it() -> None:
    world = World(2)
    world.batch(work(), work(), work(), work())
    world.run(1)
    world.run(2)
    assert world.sent() == [(1, [1]), (2, [2]), (1, [3]), (2, [4])]
    world.start(1)
    world.die(1)  # worker 3 is started, and is fresh
    assert world.sent() == [(3, [3])]
    assert world.killed() == []


def test_an_idle_worker_makes_room_for_a_fresh_one() -> None:
    """All slots are held by workers that have run something: one of them is replaced."""
    world = World(2)
    world.batch(work(), work(), work("command"), work())
    world.run(1)
    world.run(2)
    world.forget()
    world.start(2)
    world.die(2)  # job 4, in-process; worker 3 comes, takes the slot
    assert world.sent() == [(3, [4])]
    world.start(3)
    world.boot = False
    world.die(3)
    assert world.spawned() == [3, 4]
    assert world.killed() == [], "the place is free: it lacks its process only"
    world.run(1)
    assert world.killed() == []
    world.ready(4)
    assert world.sent() == [(4, [4])]


def test_room_is_made_where_no_place_is_free() -> None:
    world = World(boot=False)
    world.ready(1)
    world.batch(work())
    world.start(1)
    world.die(1)
    world.forget()
    world.batch(work(priority=1), batch="other", client=2)
    world.ready(2)
    assert world.sent() == [(2, [1])], "of the other batch: it comes first"
    world.run(2)
    assert world.killed() == [(2, "KILL")], "idle, but not fresh"
    assert world.spawned() == [3]
    world.ready(3)
    assert world.sent() == [], "its slot is not free yet"
    world.die(2, signal=9)
    assert world.sent() == [(3, [1])]


def test_a_spare_without_a_slot_is_no_room() -> None:
    world = World(1, spares=1, boot=False)
    world.ready(1)
    world.batch(work())
    world.start(1)
    world.die(1)
    world.batch(work(priority=1), batch="other", client=2)
    world.ready(2)
    world.ready(3)
    world.forget()
    world.run(2)
    assert world.killed() == [(2, "KILL")]
    world.die(2, signal=9)
    assert world.sent() == [(3, [1])]


def test_no_more_workers_are_replaced_than_jobs_wait_for_fresh_ones() -> None:
    """A fresh worker cannot be had at the moment. That costs no worker that can do other work."""
    world = World(3)
    world.batch(work(), work(), work(), work())
    for worker in (1, 2, 3):
        world.run(worker)
    world.boot = False
    world.spawn_error = "no more processes"
    world.start(1)
    world.forget()
    world.die(1)
    for _ in range(5):
        world.advance(10 * MILLISECOND)
    assert world.killed() == []
    assert [worker.state.value for worker in world.core.supervisor.workers.values()] == ["idle", "idle"]


# --- time-outs ------------------------------------------------------------------------------------


def test_an_in_process_job_past_its_time_out_gets_term_then_kill() -> None:
    world = World()
    world.batch(work(timeout_ns=2 * SECOND))
    world.start()
    world.forget()
    world.advance(2 * SECOND - 1)
    world.quiet()
    world.advance(1)
    assert world.killed() == [(1, "TERM")]
    world.take_spawn()
    world.advance(TERM_GRACE_NS - 1)
    world.quiet()
    world.advance(1)
    assert world.killed() == [(1, "KILL")]
    world.die(signal=9)
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.crashes, outcome.signal) == (State.TIMED_OUT, 0, None)
    assert outcome.error is not None
    assert "longer than its 2 s" in outcome.error.message
    assert world.core.pool.counters.worker_exits["timeout", "SIGKILL"] == 1


def test_a_worker_dead_before_its_time_was_up_has_crashed() -> None:
    world = World()
    world.batch(work(timeout_ns=2 * SECOND, crash_limit=1))
    world.start()
    died_ns = world.now.mono + SECOND
    world.advance(2 * SECOND)  # a descendant was slow to die, and holds the burial up
    world.die(seen_mono_ns=died_ns)
    (outcome,) = world.outcomes()
    assert (outcome.state, outcome.crashes, outcome.signal) == (State.QUARANTINED, 1, 11)
    assert world.core.pool.counters.worker_exits["signal", "SIGSEGV"] == 1


def test_a_worker_that_reports_its_time_out_and_goes() -> None:
    world = World()
    world.batch(work(timeout_ns=SECOND))
    world.start()
    world.advance(SECOND)
    world.report(end=End.TIMED_OUT)
    assert world.ends() == [(1, State.TIMED_OUT)]
    world.die(status=0)
    assert world.outcomes() == []


def test_a_job_that_made_it_in_the_last_moment_counts() -> None:
    world = World()
    world.batch(work(timeout_ns=SECOND))
    world.start()
    world.advance(SECOND)
    world.report()
    world.die(signal=9)
    assert world.ends() == [(1, State.SUCCEEDED)]


def test_the_worker_ends_a_program_itself_and_the_dealer_steps_in_later() -> None:
    world = World()
    world.batch(work("command", timeout_ns=SECOND))
    world.start()
    world.forget()
    world.advance(SECOND + TERM_GRACE_NS + COMMAND_BACKSTOP_NS - 1)
    world.quiet()
    world.advance(1)
    assert world.killed() == [(1, "KILL")]
    world.die(signal=9)
    assert world.ends() == [(1, State.TIMED_OUT)]


def test_the_time_counts_from_the_start_and_not_from_the_sending() -> None:
    world = World()
    world.batch(work(timeout_ns=SECOND))
    world.advance(5 * SECOND)
    world.start()
    world.forget()
    world.advance(SECOND - 1)
    world.quiet()


def test_a_job_without_a_time_out_may_run_for_ever() -> None:
    world = World()
    world.batch(work())
    world.start()
    world.bye()
    world.forget()
    world.advance(100 * HOUR_NS)
    world.quiet()


@pytest.mark.parametrize("job", [work(timeout_ns=SECOND, retries=1, backoff_min_ns=SECOND), work(timeout_ns=SECOND)])
def test_a_wanted_delay_is_no_recovery(job: Work) -> None:
    world = World()
    world.batch(job)
    world.start()
    world.advance(SECOND)
    world.die(signal=9)
    world.advance(SECOND)
    assert sum(world.core.pool.counters.recovery.counts) == 0


# --- counted --------------------------------------------------------------------------------------


def test_what_is_counted() -> None:
    world = World(verbose=True)
    world.batch(work(), work("command"))
    world.run(run_ns=7 * MILLISECOND)
    world.advance(20 * MILLISECOND)
    world.run(end=End.FAILED, run_ns=3 * SECOND)
    counters = world.core.pool.counters
    assert counters.jobs_accepted == {"fib": 1, "command": 1}
    assert counters.jobs_finished == {("fib", "succeeded"): 1, ("command", "failed"): 1}
    assert counters.attempts == {"succeeded": 1, "failed": 1}
    assert (counters.run["fib"].total, sum(counters.run["fib"].counts)) == (7 * MILLISECOND, 1)
    assert counters.run["fib"].counts[counters.run["fib"].bounds.index(10 * MILLISECOND)] == 1
    assert counters.run["command"].total == 3 * SECOND
    assert counters.wait["fib"].total == 0
    assert len(world.noted(Topic.JOB_SENT)) == 2
    assert [note["end"] for note in world.noted(Topic.JOB_REPORTED)] == ["succeeded", "failed"]
