"""What a member does with what it holds: one fact a test. The simulation puts them together."""

from __future__ import annotations

import pytest

from support.members import ACK_WAIT_NS, spec
from taskpool.clock import NEVER, SECOND
from taskpool.cluster.engine import (
    Acknowledge,
    DeadLetter,
    Done,
    Extend,
    Failed,
    Fetch,
    Fetched,
    GiveBack,
    JobKey,
    Look,
    Record,
    Request,
    Taken,
)
from taskpool.cluster.job import Mark, digest
from taskpool.cluster.member import AGAIN_NS, CANCELLED_HERE_NS, STEPS, Member
from taskpool.messages import TERMINAL, Outcome, State

KEY = JobKey("b", 7, 1)


def mark(key: JobKey = KEY, token: str = "normal.1.2.3", crashes: int = 0) -> Mark:
    return Mark(key, token, crashes, digest(spec()), None)


def outcome(state: State, of: Mark, no: int = 1, seq: int = 1, crashes: int = 0) -> Outcome:
    return Outcome(no, seq, 1, "fib", of.text(), state, 1, crashes)


def holding(of: Mark) -> Member:
    """A member whose dealer has this job, as its first."""
    member = Member("host", ACK_WAIT_NS)
    member.take(of, spec(), 1, 0)
    held = member.next_job()
    assert held is not None
    member.submitted(held, 1)
    return member


def steps_of(member: Member, now: int = 0) -> list[type[Request]]:
    """Have each request succeed until there is none; return what was asked."""
    asked: list[type[Request]] = []
    while requests := member.requests(now, 0):
        (request,) = requests
        asked.append(type(request))
        member.answered(Done(request), now)
    return asked


def test_every_end_has_its_steps() -> None:
    assert set(STEPS) == TERMINAL


@pytest.mark.parametrize(
    ("state", "asked"),
    [
        (State.SUCCEEDED, [Record, Acknowledge]),
        (State.FAILED, [Record, Acknowledge]),
        (State.TIMED_OUT, [Record, Acknowledge]),
        (State.QUARANTINED, [DeadLetter, Record, Acknowledge]),
        (State.CANCELLED, [GiveBack]),
    ],
)
def test_what_an_outcome_means_for_its_message(state: State, asked: list[type[Request]]) -> None:
    member = holding(mark())
    member.outcome(outcome(state, mark()), 0)
    assert member.stored_upto == 0, "not before the engine has it"
    assert steps_of(member) == asked
    assert (member.stored_upto, member.holds, member.next_deadline()) == (1, 0, NEVER)


def test_a_second_outcome_is_not_recorded_and_done_with() -> None:
    member = holding(mark())
    member.outcome(outcome(State.SUCCEEDED, mark()), 0)
    (record,) = member.requests(0, 0)
    member.answered(Taken(record, b"another's"), 0)
    assert steps_of(member) == [Acknowledge]
    assert (member.recorded, member.duplicates, member.stored_upto) == (0, 1, 1)


def test_a_step_that_fails_is_repeated_later() -> None:
    member = holding(mark())
    member.outcome(outcome(State.SUCCEEDED, mark()), 0)
    (record,) = member.requests(0, 0)
    member.answered(Failed(record, "no broker"), 0)
    assert member.requests(AGAIN_NS - 1, 0) == []
    assert member.next_deadline() == AGAIN_NS
    assert member.requests(AGAIN_NS, 0) == [record]


def test_what_is_held_is_extended_until_it_is_acknowledged() -> None:
    member = holding(mark())
    third = ACK_WAIT_NS // 3
    assert member.next_deadline() == third
    assert member.requests(third, 0) == [Extend((mark().token,))]
    member.outcome(outcome(State.SUCCEEDED, mark()), third)
    (record,) = member.requests(third, 0)
    assert isinstance(record, Record)
    assert member.requests(2 * third, 0) == [Extend((mark().token,))], "while its outcome waits for the engine, too"


def test_a_job_handed_out_again_to_its_holder_is_not_begun_again() -> None:
    member = holding(mark())
    member.take(mark(token="normal.2.2.9"), spec(), 2, 0)
    assert member.next_job() is None
    member.outcome(outcome(State.SUCCEEDED, mark()), 0)
    (record,) = member.requests(0, 0)
    member.answered(Done(record), 0)
    assert member.requests(0, 0) == [Acknowledge("normal.2.2.9", KEY)]


def test_a_job_handed_out_again_is_looked_at_first() -> None:
    member = Member("host", ACK_WAIT_NS)
    member.take(mark(), spec(), 2, 0)
    assert member.next_job() is None
    (look,) = member.requests(0, 0)
    assert look == Look(mark().token, KEY)
    member.answered(Done(look), 0)
    held = member.next_job()
    assert held is not None
    assert held.job == spec()


def test_one_that_has_an_outcome_is_acknowledged_and_not_executed() -> None:
    member = Member("host", ACK_WAIT_NS)
    member.take(mark(), spec(), 2, 0)
    (look,) = member.requests(0, 0)
    member.answered(Taken(look, b""), 0)
    assert member.next_job() is None
    assert steps_of(member) == [Acknowledge]
    assert member.holds == 0


def test_a_next_life_asks_for_what_the_journal_has() -> None:
    member = Member("host", ACK_WAIT_NS, acknowledged=4)
    member.adopt(mark(), 9, 0)
    (look,) = member.requests(0, 0)
    assert member.answered(Taken(look, b""), 0) == [9], "another member has done it: it is cancelled here"
    member.outcome(outcome(State.CANCELLED, mark(), no=5, seq=9), 0)
    assert steps_of(member) == [Acknowledge]
    assert member.stored_upto == 5


def test_outcomes_are_acknowledged_without_a_gap() -> None:
    member = holding(mark())
    other = mark(JobKey("b", 8, 1))
    member.take(other, spec(), 1, 0)
    held = member.next_job()
    assert held is not None
    member.submitted(held, 2)
    member.outcome(outcome(State.SUCCEEDED, mark(), no=1, seq=1), 0)
    member.outcome(outcome(State.SUCCEEDED, other, no=2, seq=2), 0)
    first, second = member.requests(0, 0)
    member.answered(Done(second), 0)
    (acknowledge,) = member.requests(0, 0)
    member.answered(Done(acknowledge), 0)
    assert member.stored_upto == 0
    member.answered(Done(first), 0)
    assert steps_of(member) == [Acknowledge]
    assert member.stored_upto == 2


def test_a_drain_hands_back_what_does_not_run() -> None:
    member = holding(mark(crashes=1))
    assert member.to_cancel([1]) == [], "what runs may end"
    assert member.to_cancel([]) == [1]
    member.outcome(outcome(State.CANCELLED, mark(crashes=1), crashes=1), 0)
    assert member.requests(0, 0) == [GiveBack(mark().token, KEY, crashes=2, delay_ns=1)]


def test_what_the_dealer_does_not_take_goes_back() -> None:
    member = holding(mark())
    member.take(mark(JobKey("b", 8, 1)), spec(), 1, 0)
    member.refused(1, 0)
    member.give_back_waiting(0)
    assert member.next_job() is None
    assert [type(request) for request in member.requests(0, 0)] == [GiveBack, GiveBack]


def test_a_person_who_cancels_it_here_does_not_cancel_it_everywhere() -> None:
    member = holding(mark())
    member.outcome(outcome(State.CANCELLED, mark()), 0)
    assert member.requests(0, 0) == [GiveBack(mark().token, KEY, crashes=0, delay_ns=CANCELLED_HERE_NS)]


@pytest.mark.parametrize("label", [None, "a person's"])
def test_an_outcome_of_another_job_is_none_of_ours(label: str | None) -> None:
    member = Member("host", ACK_WAIT_NS)
    member.outcome(Outcome(1, 1, 1, "fib", label, State.SUCCEEDED, 1, 0), 0)
    assert (member.requests(0, 0), member.stored_upto) == ([], 1)


def test_an_outcome_of_an_earlier_hand_out_that_was_given_back() -> None:
    member = holding(mark())
    member.outcome(outcome(State.CANCELLED, mark(), no=1, seq=5), 0)
    assert (member.requests(0, 0), member.stored_upto, member.executing) == ([], 1, 1)


def test_what_is_no_job_is_kept_apart_and_told() -> None:
    member = Member("host", ACK_WAIT_NS)
    member.take_corrupt(mark(), b"told", 0)
    assert member.requests(0, 0) == [DeadLetter(mark().token, KEY)]


def test_one_fetch_at_a_time() -> None:
    member = Member("host", ACK_WAIT_NS)
    (fetch,) = member.requests(0, 3)
    assert fetch == Fetch(3)
    assert member.requests(0, 3) == []
    member.answered(Failed(fetch, "no broker"), 0)
    assert member.requests(0, 3) == []
    assert member.requests(1 * SECOND, 3) == [fetch]
    member.answered(Fetched(Fetch(3), ()), 0)
    assert member.requests(1 * SECOND, 2) == [Fetch(2)]
