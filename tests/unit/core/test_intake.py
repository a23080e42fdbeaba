"""How jobs come in: hello, submit, accepted or refused, close."""

from __future__ import annotations

import pytest

from support.builders import EPOCH, Work, World, work
from taskpool import limits
from taskpool.clock import SECOND
from taskpool.core.effects import Topic
from taskpool.core.entries import BatchClosed, BatchOpened, JobAccepted
from taskpool.core.storage import DiskFull
from taskpool.limits import LEASE_NS, REPLY_OVERDUE_NS
from taskpool.messages import Accepted, Hello, Limits, Pong, Refused, Welcome


def refusal(world: World, client: int = 1) -> tuple[str, int, int]:
    """(reason, frame, first bad job) of the one thing the generator was told."""
    (message,) = world.told(client)
    assert isinstance(message, Refused)
    assert message.text
    return message.reason, message.first_seq, message.seq


# --- hello ----------------------------------------------------------------------------------------


def test_hello_opens_a_batch() -> None:
    world = World(spool="/spool")
    world.hello("b", retries=2)
    assert world.told() == [Welcome(1, EPOCH, 7, "/spool", accepted=0, total=None, last_no=0)]
    assert world.entries == [BatchOpened("b", Limits(retries=2))]
    world.quiet()


def test_hello_again_says_where_the_batch_stands() -> None:
    world = World()
    world.batch(work(), work())
    world.sent()
    world.run()
    assert [outcome.no for outcome in world.outcomes()] == [1]
    world.sent()
    world.hello("b", cursor=1)
    (welcome,) = world.told()
    assert (welcome.accepted, welcome.total, welcome.last_no) == (2, 2, 1)
    world.quiet()


def test_hello_without_a_batch_only_asks() -> None:
    world = World()
    world.hello(None, client=4)
    (welcome,) = world.told(4)
    assert (welcome.client, welcome.accepted, welcome.last_no) == (4, 0, 0)
    world.ping(4)
    assert world.told(4) == [Pong(4)]
    world.quiet()
    assert world.entries == []


def test_a_batch_has_one_reader_at_a_time() -> None:
    world = World()
    world.hello("b", client=1)
    world.told(1)
    world.hello("b", client=2)
    assert refusal(world, 2) == ("conflict", 0, 0)
    assert world.released() == [2]
    world.bye(1)
    assert world.released() == [1]
    world.hello("b", client=2)
    (welcome,) = world.told(2)
    assert isinstance(welcome, Welcome), "it holds the batch now"
    world.quiet()


def test_a_reader_that_should_have_pinged_is_as_good_as_dead() -> None:
    world = World()
    world.batch(work())
    world.forget()
    world.advance(REPLY_OVERDUE_NS - 1)
    world.hello("b", client=2)
    assert refusal(world, 2)[0] == "conflict"
    world.advance(1)
    world.forget()
    world.hello("b", client=2)
    assert world.released() == [1]
    (welcome,) = world.told(2)
    assert isinstance(welcome, Welcome), "it holds the batch now"
    world.quiet()


def test_who_only_asked_leaves_nothing() -> None:
    world = World()
    world.hello(None, client=4)
    world.forget()
    world.bye(4)
    assert world.released() == [4]
    world.quiet()


def test_a_reader_that_moves_to_another_batch_lets_go_of_the_first() -> None:
    world = World()
    world.hello("a")
    world.hello("b")
    world.told()
    world.hello("a", client=2)
    (welcome,) = world.told(2)
    assert isinstance(welcome, Welcome), "it holds the batch now"
    world.quiet()


def test_a_reader_turned_away_elsewhere_loses_its_connection_and_nothing_else() -> None:
    world = World()
    world.batch(work(), batch="a")
    world.hello("b", client=2)
    world.forget()
    world.hello("b", client=1)
    assert refusal(world) == ("conflict", 0, 0)
    assert world.released() == [1]
    world.run()
    world.quiet()
    world.hello("a", client=1)
    assert world.ends() == [(1, "succeeded")]


def test_nobody_is_answered_without_a_connection() -> None:
    world = World()
    world.ping()
    world.bye()
    world.ack(1)
    world.quiet()


# --- accepted -------------------------------------------------------------------------------------


def test_jobs_are_accepted_when_they_are_stored_and_not_before() -> None:  # R1
    world = World(slow_store=True)
    world.hello()
    world.answer()
    world.told()
    world.submit(work(), work())
    assert [row.job.seq for row in world.entries if isinstance(row, JobAccepted)] == [1, 2]
    world.quiet()
    world.answer(1)
    assert world.told() == [Accepted(1, "b", 2)]
    assert world.sent() == [(1, [1])]
    world.quiet()


def test_what_is_submitted_during_a_commit_waits_for_the_next() -> None:
    world = World(slow_store=True)
    world.hello()
    world.answer()
    world.told()
    for _ in range(3):
        world.submit(work())
    assert world.unanswered == 1, "one commit is under way at a time"
    world.answer(1)
    assert world.told() == [Accepted(1, "b", 1)]
    world.answer(1)
    assert world.told() == [Accepted(1, "b", 2), Accepted(1, "b", 3)]


def test_a_frame_said_twice_is_taken_once() -> None:
    world = World(slow_store=True)
    world.hello()
    world.answer()
    world.told()
    world.submit(work(), work())
    world.submit(work(), work(), first_seq=1)
    world.quiet()
    world.answer()
    assert world.told() == [Accepted(1, "b", 2), Accepted(1, "b", 2)], "each is answered, neither too early"
    world.submit(work(), first_seq=2)
    world.answer()
    assert world.told() == [Accepted(1, "b", 2)]
    assert [row.job.seq for row in world.entries if isinstance(row, JobAccepted)] == [1, 2]


def test_a_frame_that_overlaps_is_taken_from_its_first_new_job() -> None:
    world = World()
    world.hello()
    world.submit(work(label="one"), work(label="two"))
    world.told()
    world.submit(work(label="two again"), work(label="three"), first_seq=2)
    assert world.told() == [Accepted(1, "b", 3)]
    labels = [row.job.spec.label for row in world.entries if isinstance(row, JobAccepted)]
    assert labels == ["one", "two", "three"]


def test_another_job_under_a_number_that_is_taken_is_refused() -> None:
    world = World()
    world.hello()
    world.submit(work(payload=b"1"), work(payload=b"2"))
    world.told()
    world.submit(work(payload=b"1"), work(payload=b"two"), work(payload=b"3"), first_seq=1)
    assert refusal(world) == ("conflict", 1, 2)
    world.submit(work(payload=b"1", priority=5, label="x"), first_seq=1)
    assert world.told() == [Accepted(1, "b", 2)], "a job is what it does"


def test_a_generator_gone_before_its_frame_was_compared_is_not_answered() -> None:
    world = World(slow_store=True)
    world.hello()
    world.submit(work())
    world.submit(work(), first_seq=1)
    world.bye()
    world.forget()
    world.answer()
    assert world.told() == []


def test_a_frame_compared_with_a_batch_that_is_gone_meets_the_gap_in_the_new_one() -> None:
    """Said again, then bye and hello: the batch was settled and forgotten before the store had answered."""
    world = World(slow_store=True)
    world.batch(*[work()] * 3)
    world.answer()
    for seq in (1, 2, 3):
        world.run()
        world.answer()
        world.ack(seq)
        world.answer()
    world.submit(work(), work(), first_seq=3)
    world.bye()
    world.hello()
    world.forget()
    world.answer()
    assert refusal(world) == ("gap", 3, 1)


def test_a_gap_is_refused_and_names_the_next_job() -> None:
    world = World()
    world.hello()
    world.submit(work())
    world.told()
    world.submit(work(), first_seq=5)
    assert refusal(world) == ("gap", 5, 2)


def test_a_stranger_is_refused() -> None:
    world = World()
    world.hello("b", client=1)
    world.submit(work(), client=2)
    assert refusal(world, 2) == ("unknown_batch", 1, 1)
    world.submit(work(), client=2, batch="nowhere")
    assert refusal(world, 2) == ("unknown_batch", 1, 1)
    world.close(client=2)
    assert refusal(world, 2) == ("unknown_batch", 0, 0)
    assert world.core.pool.counters.refusals["unknown_batch"] == 3


def test_a_full_pool_takes_a_frame_whole_or_not_at_all() -> None:
    world = World(pending_max=3)
    world.hello()
    world.submit(work(), work())
    world.told()
    world.submit(work(), work(), first_seq=3)
    assert refusal(world) == ("full", 3, 3)
    world.submit(work(), first_seq=3)
    assert world.told() == [Accepted(1, "b", 3)]


def test_outcomes_nobody_has_read_fill_the_pool_too() -> None:
    world = World(pending_max=1)
    world.hello()
    world.submit(work())
    world.run()
    world.told()
    world.submit(work(), first_seq=2)
    assert refusal(world)[0] == "full"
    world.ack(1)
    world.submit(work(), first_seq=2)
    assert world.told() == [Accepted(1, "b", 2)]


# --- close ----------------------------------------------------------------------------------------


def test_close_is_told_when_it_is_stored() -> None:
    world = World(slow_store=True)
    world.hello()
    world.submit(work())
    world.answer()
    world.told()
    world.sent()
    world.close(1)
    world.close(1)
    assert world.told() == [Accepted(1, "b", 1, closed=False)], "to the second: not yet"
    world.hello()
    (welcome,) = world.told()
    assert welcome.total is None
    world.answer()
    assert world.told() == [Accepted(1, "b", 1, closed=True)]
    assert BatchClosed("b", 1) in world.entries
    world.close(1)
    assert world.told() == [Accepted(1, "b", 1, closed=True)]
    world.quiet()


def test_close_at_another_total_is_refused() -> None:
    world = World()
    world.hello()
    world.submit(work())
    world.told()
    world.close(3)
    assert refusal(world) == ("gap", 0, 2)
    world.close(1)
    world.told()
    world.close(2)
    assert refusal(world) == ("conflict", 0, 0)
    world.submit(work(), first_seq=2)
    assert refusal(world) == ("closed", 2, 2)


def test_an_empty_batch_is_finished_at_once() -> None:
    world = World()
    world.batch()
    world.bye()
    world.hello()
    (welcome,) = world.told()
    assert welcome.total is None, "it was forgotten: there was nothing to keep"


# --- draining -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "INT", "QUIT"])
def test_a_draining_pool_takes_nothing_new(name: str) -> None:
    world = World()
    world.hello()
    world.submit(work(), work())
    world.start()
    world.forget()
    world.signal(name)
    world.submit(work())
    assert refusal(world) == ("draining", 3, 3)
    world.submit(work(), first_seq=1)
    assert world.told() == [Accepted(1, "b", 2)], "what was taken before is still answered"
    world.hello("new", client=2)
    assert refusal(world, 2) == ("draining", 0, 0)
    assert world.released() == [2]
    world.hello("b", client=1)
    assert isinstance(world.told()[0], Welcome), "outcomes can be fetched"


# --- the lease ------------------------------------------------------------------------------------


def test_a_silent_generator_loses_its_connection() -> None:
    world = World()
    world.hello()
    world.forget()
    world.advance(LEASE_NS - 1)
    world.quiet()
    world.advance(1)
    assert world.released() == [1]
    assert [note["pid"] for note in world.noted(Topic.CLIENT_LAPSED)] == [51]
    world.ping()
    world.quiet()


@pytest.mark.parametrize("word", ["ping", "submit", "ack", "hello", "close", "command"])
def test_any_word_renews_the_lease(word: str) -> None:
    world = World()
    world.hello()
    world.advance(LEASE_NS - 1)
    if word == "submit":
        world.submit(work())
    elif word == "ack":
        world.ack(1)
    elif word == "command":
        world.command("status", client=1)
    else:
        getattr(world, word)()
    world.advance(LEASE_NS - 1)
    assert world.released() == []
    world.advance(1)
    assert world.released() == [1]


def test_a_stall_is_told() -> None:
    world = World()
    world.stall(2 * LEASE_NS)
    assert [note["seconds"] for note in world.noted(Topic.STALLED)] == [2 * LEASE_NS / SECOND]


def test_a_lapsed_generator_comes_back_to_its_outcomes() -> None:
    world = World()
    world.batch(work(), work())
    world.run()
    assert len(world.outcomes()) == 1
    world.advance(LEASE_NS)
    assert world.released() == [1]
    world.run()
    assert world.told() == []
    world.hello(cursor=1)
    welcome, outcomes = world.told()
    assert welcome.last_no == 2
    assert [outcome.seq for outcome in outcomes.items] == [2]


def test_a_hello_may_open_a_batch_with_a_cursor_from_another_life() -> None:
    """The dealer was started again without a journal: the batch is new, whatever the generator holds of it."""
    world = World()
    world.do(Hello(1, 1, 51, "b", cursor=40))
    (welcome,) = world.told()
    assert (welcome.accepted, welcome.last_no) == (0, 0)
    world.submit(work())
    world.run()
    assert world.ends() == [(1, "succeeded")]


# --- much that waits for the store ----------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNSTORED_BYTES_MAX", 2000)
    monkeypatch.setattr(limits, "PENDING_BYTES_MAX", 2000)


@pytest.mark.parametrize("jobs", [[work(payload=bytes(2000))], [work()] * 10])
def test_submissions_are_left_unread_while_much_waits_for_the_store(small: None, jobs: list[Work]) -> None:
    world = World(slow_store=True, journaled=True)
    world.hello()
    world.answer()
    assert world.core.intake.wants_submissions
    world.submit(*jobs)
    assert not world.core.intake.wants_submissions
    world.do(DiskFull(True, "no room"))
    assert world.core.intake.wants_submissions, "to refuse them"
    world.do(DiskFull(False, "room"))
    assert not world.core.intake.wants_submissions
    world.answer()
    assert world.core.intake.wants_submissions


def test_a_pool_that_drains_reads_submissions_to_refuse_them(small: None) -> None:
    world = World(slow_store=True, journaled=True)
    world.hello()
    world.answer()
    world.submit(work(payload=bytes(2000)))
    world.signal("TERM")
    assert world.core.intake.wants_submissions


def test_frames_said_again_wait_for_the_store_too_and_for_a_full_disk_as_well(small: None) -> None:
    world = World(slow_store=True, journaled=True)
    world.hello()
    world.answer()
    world.submit(work(payload=bytes(2000)))
    world.answer()
    for _ in range(2):
        world.submit(work(payload=bytes(2000)), first_seq=1)
    world.do(DiskFull(True, "no room"))
    assert not world.core.intake.wants_submissions
    world.answer()
    assert world.core.intake.wants_submissions


def test_without_a_journal_the_bytes_of_pending_jobs_are_limited(small: None) -> None:
    world = World()
    world.hello(crash_limit=1)
    world.submit(work(payload=bytes(1500)))
    world.told()
    world.submit(work(payload=bytes(501)), first_seq=2)
    assert refusal(world) == ("full", 2, 2)
    world.submit(work(payload=bytes(500)), first_seq=2)
    assert [type(message) for message in world.told()] == [Accepted]
    world.start()
    world.die()
    assert world.core.pool.payload_bytes == 500, "in quarantine it is not pending"
    assert world.command("quarantine-requeue") == {"requeued": 1}
    assert world.core.pool.payload_bytes == 2000


def test_with_a_journal_they_wait_on_the_disk(small: None) -> None:
    world = World(journaled=True)
    world.hello()
    world.told()
    for _ in range(3):
        world.submit(work(payload=bytes(1500)))
        assert [type(message) for message in world.told()] == [Accepted]
    assert world.core.pool.payload_bytes == 0
