"""What a person may ask of a running pool: cancel, requeue, pause, status, show."""

from __future__ import annotations

import re

import pytest

from support.builders import World, work
from taskpool.clock import SECOND
from taskpool.core.backlog import Backlog
from taskpool.core.effects import TakeBack, Topic
from taskpool.core.entries import BatchCancelled, BatchForgotten, JobCounts, JobReturned, QuarantineDropped
from taskpool.core.events import Reconfigured
from taskpool.limits import COMMAND_BACKSTOP_NS, FRAME_TAKE_BACK_NS
from taskpool.messages import Answer, End, State


def quarantined(world: World, worker: int = 1) -> None:
    """Job 1 of batch b in quarantine."""
    world.batch(work("command", crash_limit=1))
    world.run(worker, End.CRASHED, signal=11)
    world.forget()


# --- asking ---------------------------------------------------------------------------------------


def test_an_unknown_verb_is_answered_with_the_known_ones() -> None:
    world = World()
    body = world.command("explode")
    assert "'explode'" in body["error"]
    assert "cancel" in body["error"]


def test_a_command_without_a_connection_is_carried_out_and_not_answered() -> None:
    world = World()
    world.do_command("pause", client=8)
    world.quiet()
    assert world.core.pool.paused


def test_status_shows_the_pool_at_a_glance() -> None:
    world = World(2, spares=1, version="2")
    world.batch(work(), work(retries=1, backoff_min_ns=SECOND), work("command"), work())
    world.run(1)
    world.run(2, End.FAILED)
    world.start(1)
    world.advance(SECOND // 2)
    body = world.command("status")
    assert {name: body[name] for name in ("pool", "epoch", "pid", "version", "state", "journal")} == {
        "pool": "p",
        "epoch": 3,
        "pid": 7,
        "version": "2",
        "state": "running",
        "journal": False,
    }
    assert (body["workers_wanted"], body["spares"], body["workers"]) == (2, 1, {"busy": 2, "spare": 1})
    assert body["jobs"] == {"queued": 0, "delayed": 1, "running": 2}
    assert (body["finished"], body["quarantined"]) == ({"succeeded": 1}, 0)
    assert body["batches"] == [{"batch": "b", "accepted": 4, "total": 4, "open": 3}]
    first, second = body["running"]
    assert first.pop("description") == "command"
    assert first == {"slot": 1, "pid": 101, "job": "b/3", "kind": "command", "started": True, "seconds": 0.5}
    assert (second["job"], second["started"]) == ("b/4", False)


@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("unpause", "running"), ("drain", "draining")])
def test_the_state_of_the_pool(verb: str, state: str) -> None:
    world = World()
    world.batch(work())
    assert world.command(verb) == {"state": state}
    assert world.command("status")["state"] == state


def test_a_signal_writes_the_status_into_the_log() -> None:
    world = World()
    world.signal("USR1")
    (note,) = world.noted(Topic.STATUS)
    assert note["workers"] == {"spare": 1}
    world.signal("HUP")
    world.signal("WINCH")
    world.quiet()


def test_show_describes_a_job_wherever_it_is() -> None:
    world = World()
    quarantined(world)
    world.batch(work("command", label="mine", priority=2), work(), batch="c", client=2)
    parked = world.command("show", "b", 1)
    assert (parked["state"], parked["crashes"], parked["pid"]) == ("quarantined", 1, None)
    running = world.command("show", "c", 1)
    assert (running["job"], running["state"], running["pid"]) == ("c/1", "running", 101)
    assert (running["label"], running["priority"], running["attempts"]) == ("mine", 2, 1)
    assert running["queued_at"].endswith("Z")
    assert world.command("show", "c", 2)["state"] == "queued"
    assert "job c/3 is not waiting" in world.command("show", "c", 3)["error"]
    assert "error" in world.command("show", None, 1)


def test_what_a_job_is_stands_in_answers_and_outcomes_but_not_on_pages() -> None:
    world = World()
    world.core.pool.title = lambda spec: f"what {spec.kind} does"
    quarantined(world)
    world.batch(work("command"), batch="c", client=2)
    world.start(1)
    (line,) = world.command("status")["running"]
    assert (line["job"], line["description"]) == ("c/1", "what command does")
    assert world.command("show", "c", 1)["description"] == "what command does"
    assert world.command("quarantine-list")["quarantine"][0]["description"] == "what command does"
    # Others may reach those, and arguments can be confidential.
    (line,) = world.core.commands.status(world.now)["running"]
    assert "description" not in line
    world.report(1)
    assert [outcome.job for outcome in world.outcomes(2)] == ["what command does"]


# --- pause ----------------------------------------------------------------------------------------


def test_a_paused_pool_lets_running_jobs_finish_and_starts_none() -> None:
    world = World()
    world.batch(work(), work())
    world.command("pause")
    world.forget()
    world.run()
    assert world.ends() == [(1, State.SUCCEEDED)]
    world.quiet()
    world.command("unpause")
    assert world.sent() == [(1, [2])]


# --- cancel ---------------------------------------------------------------------------------------


def test_cancel_a_waiting_job() -> None:
    world = World()
    world.batch(work(), work())
    world.forget()
    assert world.command("cancel", "b", 2) == {"cancelled": 1, "stopping": 0}
    (outcome,) = world.outcomes()
    assert (outcome.seq, outcome.state, outcome.attempts, outcome.pid) == (2, State.CANCELLED, 0, None)
    world.run()
    assert world.ends() == [(1, State.SUCCEEDED)]
    world.quiet()
    assert "error" in world.command("cancel", "b", 2)


def test_cancel_a_delayed_job() -> None:
    world = World()
    world.batch(work(retries=1, backoff_min_ns=SECOND))
    world.run(end=End.FAILED)
    world.forget()
    assert world.command("cancel", "b", 1) == {"cancelled": 1, "stopping": 0}
    assert world.ends() == [(1, State.CANCELLED)]
    world.advance(SECOND)
    world.quiet()


def test_cancel_a_running_job_costs_its_worker() -> None:
    world = World(spares=1)
    world.batch(work(retries=9), work())
    world.start()
    world.forget()
    assert world.command("cancel", "b", 1) == {"cancelled": 0, "stopping": 1}
    assert world.command("cancel", "b", 1) == {"cancelled": 0, "stopping": 1}
    assert world.killed() == [(1, "KILL")]
    assert world.outcomes() == []
    world.die(1, signal=9)
    assert world.ends() == [(1, State.CANCELLED)]
    assert world.sent() == [(2, [2])]
    assert world.core.pool.counters.attempts == {"cancelled": 1}


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (End.SUCCEEDED, State.SUCCEEDED),
        (End.FAILED, State.FAILED),
        (End.TIMED_OUT, State.TIMED_OUT),
        (End.CRASHED, State.CANCELLED),
    ],
)
def test_a_report_that_was_quicker_than_the_cancel_counts(end: End, state: State) -> None:
    world = World()
    world.batch(work("command", retries=5))
    world.start()
    world.command("cancel", "b", 1)
    world.report(end=end)
    assert world.ends() == [(1, state)]
    world.die(signal=9)
    assert world.outcomes() == []


def second_in_flight(world: World) -> None:
    """Worker 1 runs job 2 and holds job 3."""
    world.batch(work(), work(), work(), work())
    world.run(run_ns=SECOND // 1000 * 5)
    world.start()
    world.forget()


def test_a_running_command_is_told_to_end_and_its_worker_killed_when_it_does_not() -> None:
    world = World()
    world.batch(work("command", term_sequence=((2, SECOND), (15, 3 * SECOND))))
    world.start()
    world.command("cancel", "b", 1)
    assert world.killed() == [(1, "USR1")]
    world.advance(4 * SECOND + COMMAND_BACKSTOP_NS - 1)
    assert world.killed() == []
    world.advance(1)
    assert world.killed() == [(1, "KILL")]
    world.die(signal=9)
    assert world.ends() == [(1, State.CANCELLED)]


def test_cancel_a_job_that_waits_in_a_worker_takes_it_back() -> None:
    world = World()
    second_in_flight(world)
    assert world.command("cancel", "b", 3) == {"cancelled": 0, "stopping": 1}
    assert len(world.take(TakeBack)) == 1
    assert world.killed() == []
    (outcome,) = world.outcomes()
    assert (outcome.seq, outcome.state, outcome.attempts) == (3, State.CANCELLED, 0)
    assert world.sent() == [(1, [4])]


def test_nothing_is_taken_back_from_a_worker_that_is_to_go() -> None:
    world = World()
    second_in_flight(world)
    world.command("cancel", "b", 2)
    assert world.killed() == [(1, "KILL")]
    world.advance(FRAME_TAKE_BACK_NS)
    assert world.take(TakeBack) == []
    world.die(signal=9)
    assert world.outcomes()[-1].state is State.CANCELLED
    assert world.sent() == [(2, [3]), (2, [4])]


def test_cancel_a_job_that_cannot_be_taken_back_any_more() -> None:
    world = World()
    second_in_flight(world)
    third = world.workers[1].receive()
    world.command("cancel", "b", 3)
    world.command("cancel", "b", 3)
    assert len(world.take(TakeBack)) == 1, "it was asked for"
    world.forget()
    n, _ = world.workers[1].todo.popleft()
    world.do(world.progress(1, n, started=third.first_n))
    assert world.killed() == [(1, "KILL")]
    world.die(signal=9)
    assert world.ends()[-1] == (3, State.CANCELLED)


def test_cancel_a_whole_batch_wherever_its_jobs_are() -> None:
    world = World(backlog=Backlog(2, 1000))
    world.batch(work(), batch="other", client=2)
    world.hello()
    world.submit(work(retries=1, backoff_min_ns=SECOND, priority=1), *[work()] * 6)
    world.run()
    world.run(end=End.FAILED)
    world.start()
    world.forget()
    world.command("cancel", "b")
    world.submit(work())
    (refused,) = [message for message in world.told() if hasattr(message, "reason")]
    assert refused.reason == "closed"
    world.die(signal=9)
    assert world.core.pool.batches["b"].open == 0
    assert world.command("cancel", "b") == {"cancelled": 0, "stopping": 0}
    assert world.entries.count(BatchCancelled("b")) == 1
    assert world.core.pool.counters.jobs_finished["fib", "cancelled"] == 7
    assert "error" in world.command("cancel", "nowhere")


def test_jobs_on_their_way_into_the_store_are_cancelled_as_they_arrive() -> None:
    world = World(slow_store=True)
    world.hello()
    world.submit(work(), work())
    world.command("cancel", "b")
    world.forget()
    world.answer()
    assert world.ends() == [(1, State.CANCELLED), (2, State.CANCELLED)]
    assert world.sent() == []


def test_let_what_runs_finish_and_start_nothing_more() -> None:
    world = World(2)
    world.batch(work("command", retries=5), work("command", retries=5, crash_limit=9), work(), work())
    world.start(1)
    world.start(2)
    world.forget()
    assert world.command("cancel-waiting", "b") == {"cancelled": 2}
    assert world.ends() == [(3, State.CANCELLED), (4, State.CANCELLED)]
    world.report(1, End.FAILED)
    world.report(2, End.CRASHED, signal=11)
    assert world.ends() == [(1, State.FAILED), (2, State.CANCELLED)], "no retry starts any more"
    world.quiet()


def test_what_is_taken_back_from_a_cancelled_batch_does_not_start_either() -> None:
    world = World()
    second_in_flight(world)
    world.command("cancel-waiting", "b")
    world.forget()
    world.advance(FRAME_TAKE_BACK_NS)
    assert world.ends() == [(3, State.CANCELLED)]
    assert world.sent() == []


# --- quarantine -----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["requeue", "quarantine-requeue"])
def test_a_requeued_job_has_a_new_run_with_clean_counts(verb: str) -> None:
    world = World()
    quarantined(world)
    assert world.command(verb, "b", 1) == {"requeued": 1}
    assert world.sent() == [(1, [1])]
    assert JobReturned(1, JobCounts(2, 0, 0, 0, 0)) in world.entries
    world.run(end=End.CRASHED, signal=11)
    (outcome,) = world.outcomes()
    assert (outcome.no, outcome.run, outcome.attempts, outcome.crashes) == (2, 2, 1, 1)
    assert outcome.state is State.QUARANTINED
    world.command(verb)
    world.run()
    (outcome,) = world.outcomes()
    assert (outcome.no, outcome.run, outcome.state) == (3, 3, State.SUCCEEDED)
    assert world.command(verb) == {"requeued": 0}
    assert re.search("not in quarantine|not ended badly", world.command(verb, "b", 1)["error"])


def test_a_requeue_is_no_recovery() -> None:
    world = World()
    world.batch(work(crash_limit=1))
    world.start()
    world.die()
    world.command("requeue")
    world.run(2)
    assert sum(world.core.pool.counters.recovery.counts) == 0


def test_a_batch_with_a_job_in_quarantine_is_kept_for_it() -> None:
    """Else its new run would end in nobody's hands."""
    world = World()
    quarantined(world)
    world.ack(1)
    world.bye()
    assert BatchForgotten("b") not in world.entries
    world.command("requeue", "b", 1)
    world.run()
    world.hello(client=2, cursor=1)
    assert [(outcome.run, outcome.state) for outcome in world.outcomes(2)] == [(2, State.SUCCEEDED)]
    world.ack(2, client=2)
    world.bye(2)
    assert BatchForgotten("b") in world.entries


def test_a_requeued_job_behind_the_horizon_waits_in_the_store() -> None:
    world = World(backlog=Backlog(2, 1000))
    world.hello()
    world.submit(work("command", priority=-5, crash_limit=1))
    world.run(end=End.CRASHED, signal=11)
    world.submit(*[work("command")] * 6)
    world.forget()
    world.command("requeue")
    for _ in range(7):
        world.run()
    assert world.outcomes()[-1].run == 2


def test_the_quarantine_can_be_listed_and_emptied() -> None:
    world = World()
    quarantined(world)
    (line,) = world.command("quarantine-list")["quarantine"]
    assert (line["job"], line["crashes"], line["crash_limit"]) == ("b/1", 1, 1)
    assert world.command("quarantine-drop", "other") == {"error": "no job of batch 'other' is in quarantine"}
    assert world.command("quarantine-drop", "b") == {"dropped": 1}
    assert world.command("quarantine-list") == {"total": 0, "quarantine": []}
    assert "error" in world.command("quarantine-drop", "b", 1)


def test_a_batch_kept_for_a_job_in_quarantine_goes_with_it() -> None:
    world = World()
    quarantined(world)
    world.ack(1)
    world.bye()
    world.command("quarantine-drop")
    assert world.entries[-2:] == [QuarantineDropped(1), BatchForgotten("b")]


def test_an_answer_goes_to_who_asked() -> None:
    world = World()
    world.hello(None, client=4)
    world.hello(None, client=5)
    world.forget()
    world.do_command("pause", client=5)
    assert world.told(4) == []
    assert isinstance(world.told(5)[0], Answer)


def test_a_configuration_read_again_changes_workers_and_the_drain_time_out() -> None:
    world = World(1)
    world.do(Reconfigured(workers=3, drain_timeout_ns=SECOND))
    assert world.core.supervisor.wanted == 3
    assert world.core.pool.drain_timeout_ns == SECOND
    world.do(Reconfigured(workers=3, drain_timeout_ns=SECOND))
    assert world.core.supervisor.wanted == 3
