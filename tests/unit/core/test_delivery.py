"""How outcomes go out: stored before they are told, in order, within the reader's window, and read back for one
that was away or slow."""

from __future__ import annotations

import pytest

from support.builders import World, work
from taskpool import limits
from taskpool.certificate import certificate
from taskpool.clock import SECOND
from taskpool.core.effects import Effect
from taskpool.core.entries import Acknowledged, BatchForgotten, OutcomeRecorded
from taskpool.core.events import ClientLost
from taskpool.core.storage import LoadOutcomes, OutcomesLoaded
from taskpool.limits import HELD_NOTED_NS, OUTCOMES_IN_FLIGHT_BYTES_MAX, PING_NS, VALUE_BYTES_MAX
from taskpool.messages import End, JobError, Outcome, Outcomes, Output, Report, State, Usage


def run_all(world: World, count: int, worker: int = 1) -> None:
    for _ in range(count):
        world.run(worker)
    world.sent()


def numbers(world: World, client: int = 1) -> list[int]:
    return [outcome.no for outcome in world.outcomes(client)]


# --- stored, then told ----------------------------------------------------------------------------


def test_an_outcome_is_told_when_it_is_stored_and_not_before() -> None:  # R3
    world = World(slow_store=True)
    world.batch(work())
    world.answer()
    world.forget()
    world.run()
    assert [row.outcome.state for row in world.entries if isinstance(row, OutcomeRecorded)] == [State.SUCCEEDED]
    world.quiet()
    world.answer()
    assert world.ends() == [(1, State.SUCCEEDED)]
    world.quiet()


def test_an_outcome_says_everything() -> None:
    world = World()
    world.batch(work(), work("command", label="mine"))
    world.run()
    assert world.ends() == [(1, State.SUCCEEDED)]
    world.advance(2 * SECOND)
    queued = world.now.wall - 2 * SECOND
    error = JobError("E", "text")
    usage = Usage(started_wall_ns=world.now.wall, run_ns=SECOND)
    world.run(end=End.FAILED, value=b"1", exit_status=3, error=error, output=Output("out"), run_ns=SECOND)
    assert world.outcomes() == [
        Outcome(
            no=2,
            seq=2,
            run=1,
            kind="command",
            label="mine",
            state=State.FAILED,
            attempts=1,
            crashes=0,
            value=b"1",
            exit_status=3,
            slot=0,
            pid=101,
            queued_wall_ns=queued,
            finished_wall_ns=world.now.wall,
            wait_ns=2 * SECOND,
            usage=usage,
            output=Output("out"),
            error=error,
            job="command",
            tries=(certificate(1, Report(2, End.FAILED, exit_status=3, error=error, usage=usage), 101, 0),),
        )
    ]


def test_outcomes_of_one_commit_travel_together() -> None:
    world = World(2, slow_store=True)
    world.batch(work(), work())
    world.answer()
    world.hello("other", client=2)  # so that a commit is under way
    world.run(1)
    world.run(2)
    world.forget()
    world.answer()
    assert [[outcome.no for outcome in message.items] for message in world.told()] == [[1, 2]]


# --- the window -----------------------------------------------------------------------------------


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> int:
    """A small window, so that few jobs fill it."""
    monkeypatch.setattr(limits, "OUTCOMES_IN_FLIGHT_MAX", 10)
    return 10


def test_a_slow_reader_has_a_window_of_outcomes_and_the_rest_is_read_back(window: int) -> None:
    world = World()
    total = 2 * window + 5
    world.batch(*[work()] * total)
    world.forget()
    run_all(world, total)
    assert numbers(world) == list(range(1, window + 1))
    world.quiet()
    world.ack(4)
    assert numbers(world) == list(range(window + 1, window + 5))
    world.ack(window + 4)
    assert numbers(world) == list(range(window + 5, 2 * window + 5))
    world.ack(2 * window)
    assert numbers(world) == [total]
    world.quiet()
    world.ack(total)
    world.quiet()


def test_a_reader_only_just_behind_is_served_from_memory(window: int) -> None:
    world = World()
    total = window + 5
    world.batch(*[work()] * total)
    run_all(world, total)
    assert len(numbers(world)) == window
    loads: list[Effect] = []
    world.on_event = lambda event, effects: loads.extend(each for each in effects if isinstance(each, LoadOutcomes))
    world.ack(5)
    assert numbers(world) == list(range(total - 4, total + 1))
    assert loads == []


def test_large_outcomes_fill_the_window_sooner() -> None:
    world = World()
    world.batch(*[work()] * 4)
    world.forget()
    for _ in range(4):
        world.run(value=b"1" * VALUE_BYTES_MAX)
    assert OUTCOMES_IN_FLIGHT_BYTES_MAX == 2 * VALUE_BYTES_MAX
    assert numbers(world) == [1, 2]
    world.ack(2)
    assert numbers(world) == [3, 4]


def test_what_is_recorded_during_a_read_back_is_read_next() -> None:
    world = World(slow_store=True)
    world.batch(work(), work())
    world.answer()
    world.bye()
    run_all(world, 1)
    world.answer()
    world.hello()
    world.forget()
    assert world.unanswered == 1, "the read"
    world.run()
    world.answer()
    assert numbers(world) == [1, 2]


def test_an_acknowledgement_counts_once_and_only_for_what_was_sent() -> None:
    world = World()
    world.batch(work(), work())
    run_all(world, 2)
    assert numbers(world) == [1, 2]
    world.entries.clear()
    for upto in (2, 2, 1, 3, 0):
        world.ack(upto)
    world.ack(2, batch="nowhere")
    world.ack(2, client=5)
    assert world.entries == [Acknowledged("b", 2)]
    world.quiet()


# --- away and back --------------------------------------------------------------------------------


def test_outcomes_wait_for_a_reader_that_left() -> None:
    world = World()
    world.batch(work(), work(), work())
    run_all(world, 1)
    assert numbers(world) == [1]
    world.bye()
    assert world.released() == [1]
    run_all(world, 2)
    world.quiet()
    world.hello(client=2)
    assert numbers(world, 2) == [1, 2, 3], "nothing was acknowledged"


def test_a_cursor_acknowledges() -> None:
    world = World()
    world.batch(work(), work())
    run_all(world, 2)
    world.forget()
    world.hello(cursor=1)
    assert world.entries == [Acknowledged("b", 1)]
    assert numbers(world) == [2]
    world.hello(cursor=0)
    assert numbers(world) == [2], "a cursor that goes back does not unsay it"
    world.hello(cursor=9)
    (welcome,) = world.told()
    assert welcome.last_no == 2, "a cursor beyond the last outcome means all of them"
    world.ack(2)
    world.quiet()


def test_a_read_back_that_was_overtaken_by_a_hello_is_not_told_twice() -> None:
    world = World(slow_store=True)
    world.batch(work(), work())
    world.answer()
    for _ in range(2):
        world.run()
        world.answer()
    world.hello()  # reads 1 and 2 back
    world.hello(cursor=1)
    world.forget()
    world.answer()
    assert numbers(world) == [2]


def test_the_store_is_told_of_batches_that_are_held_however_still_their_readers() -> None:
    world = World(journaled=True)
    world.batch(work())
    world.run()
    world.hello(None, client=5)
    world.entries.clear()
    for _ in range(HELD_NOTED_NS // PING_NS + 1):
        world.advance(PING_NS)
        world.ping()
    assert world.entries == [Acknowledged("b", 0)]
    world.bye()
    world.entries.clear()
    world.advance(HELD_NOTED_NS)
    assert world.entries == []


def test_a_read_back_for_a_batch_or_a_reader_that_is_gone_is_dropped() -> None:
    world = World()
    world.do(OutcomesLoaded("nowhere", []))
    world.batch(work())
    world.bye()
    world.forget()
    world.do(OutcomesLoaded("b", []))
    world.quiet()


def test_a_reply_queue_that_broke_is_a_reader_that_left() -> None:
    world = World()
    world.batch(work())
    world.forget()
    world.do(ClientLost(1))
    assert world.released() == [1]
    world.run()
    world.quiet()
    world.hello()
    assert world.ends() == [(1, State.SUCCEEDED)]


def test_a_settled_batch_is_forgotten_when_its_reader_leaves() -> None:
    world = World()
    world.batch(work())
    world.run()
    world.bye()
    assert BatchForgotten("b") not in world.entries, "unread"
    world.hello()
    world.ack(1)
    assert BatchForgotten("b") not in world.entries, "held"
    world.bye()
    assert world.entries[-1] == BatchForgotten("b")
    world.hello()
    assert world.told()[-1].accepted == 0


def test_a_batch_whose_reader_left_before_its_close_was_stored_is_forgotten_then() -> None:
    world = World(slow_store=True)
    world.hello()
    world.close()
    world.bye()
    world.answer()
    assert world.entries[-1] == BatchForgotten("b")


# --- dispatch waits for readers -------------------------------------------------------------------


def unread(leaves: bool = False, **options: bool) -> World:
    """A pool in which a generator has not read more outcomes than is good, and another one waits."""
    world = World(**options)  # type: ignore[arg-type]
    world.command("pause")
    world.hello()
    world.submit(*[work()] * 22)
    world.command("cancel", "b")  # the quickest way to many outcomes
    if leaves:
        world.bye()
    world.batch(work(), batch="other", client=2)
    world.forget()
    world.command("unpause")
    return world


@pytest.fixture
def _few_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OUTCOMES_UNREAD_MAX", 20)


@pytest.mark.usefixtures("_few_unread")
def test_dispatch_pauses_while_a_reader_is_too_far_behind() -> None:
    world = unread()
    world.quiet()
    world.ack(1)
    world.quiet()
    world.ack(2)
    assert world.sent() == [(1, [1])]


@pytest.mark.usefixtures("_few_unread")
def test_a_journal_or_an_absent_reader_pauses_nothing() -> None:
    assert unread(journaled=True).sent() == [(1, [1])]
    assert unread(leaves=True).sent() == [(1, [1])]


def test_a_person_reads_outcomes_page_by_page() -> None:
    world = World()
    world.batch(work(), work(), work())
    run_all(world, 3)
    world.hello(None, client=9)
    world.told(9)
    world.do_command("outcomes", "b", seq=1, client=9)
    (page,) = world.told(9)
    assert isinstance(page, Outcomes)
    assert [outcome.no for outcome in page.items] == [2, 3]
    world.forget()
    world.do_command("outcomes", "b", client=8)
    world.quiet()


def test_a_reader_that_comes_back_with_everything_read_is_no_longer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OUTCOMES_UNREAD_BYTES_MAX", 1000)
    world = World()
    world.batch(work(), work(), work())
    world.run(value=b"1" * 1000)
    world.run()
    assert world.sent() == [(1, [1]), (1, [2])]
    world.hello(cursor=2)
    assert world.sent() == [(1, [3])]


def test_without_a_journal_unread_outcomes_are_let_go_when_nobody_comes_for_them() -> None:
    world = World()
    world.batch(work())
    world.run()
    world.bye()
    world.advance(limits.UNREAD_KEPT_NS - 1)
    assert "b" in world.core.pool.batches
    world.advance(1)
    assert "b" not in world.core.pool.batches


def test_a_reader_who_comes_back_in_time_finds_its_outcomes() -> None:
    world = World()
    world.batch(work())
    world.run()
    world.bye()
    world.advance(limits.UNREAD_KEPT_NS - 1)
    world.forget()
    world.hello("b", client=2)
    assert numbers(world, client=2) == [1]


# --- many bytes -----------------------------------------------------------------------------------


def test_what_is_unsent_to_a_slow_reader_is_bounded_by_its_bytes() -> None:
    world = World()
    total = 9
    world.batch(*[work()] * total)
    world.forget()
    for _ in range(total):
        world.run(value=b"1" * VALUE_BYTES_MAX)
        world.sent()
    batch = world.core.pool.batches["b"]
    assert not batch.unsent, "a window was sent, and the others are read back"
    told = numbers(world)
    while told[-1] < total:
        world.ack(told[-1])
        told += numbers(world)
    assert told == list(range(1, total + 1))


def test_long_texts_are_bytes_too() -> None:
    world = World()
    world.batch(*[work()] * 3)
    world.run(end=End.FAILED, error=JobError("E", "m" * 1000, "t" * 2000))
    world.run(end=End.FAILED, error=JobError("E", "m" * 1000))
    batch = world.core.pool.batches["b"]
    tries = 256 * 2  # what is told of each attempt
    assert batch.unread_bytes == 256 * 2 + 4000 + tries
    world.run(output=Output(stdout="o" * 10, stderr="e" * 7))
    assert batch.unread_bytes == 256 * 3 + 4000 + tries + 17


def test_outcomes_are_read_back_one_answer_at_a_time() -> None:
    world = World(slow_store=True)
    for client, name in ((1, "b"), (2, "c")):
        world.batch(work(), work(), batch=name, client=client)
        world.answer()
        world.bye(client)
    for _ in range(4):
        world.run()
        world.answer()
    for client, batch in enumerate(("b", "c", None, None), 1):
        world.hello(batch, client)
    for client, after in ((3, 0), (4, 0), (4, 1)):  # the last asks again before it was answered
        world.do_command("outcomes", "b", after, client=client)
    answered = []
    while world.unanswered:
        (answer,) = world.waiting_answers
        assert isinstance(answer, OutcomesLoaded)
        answered.append((answer.batch, answer.reader, [outcome.no for outcome in answer.items]))
        world.answer(1)
    assert answered == [("b", 0, [1, 2]), ("c", 0, [1, 2]), ("b", 3, [1, 2]), ("b", 4, [2])]
    assert [numbers(world, client) for client in (1, 2, 3, 4)] == [[1, 2], [1, 2], [1, 2], [2]]


def test_a_batch_has_not_ended_before_its_last_outcome_is_stored() -> None:
    world = World(slow_store=True)
    world.batch(work(), work())
    world.answer()
    run_all(world, 1)
    world.answer()
    world.run()
    asked = world.command("batch", "b")
    assert (asked["recorded"], asked["open"]) == (1, 1)
    world.answer()
    asked = world.command("batch", "b")
    assert (asked["recorded"], asked["open"]) == (2, 0)
