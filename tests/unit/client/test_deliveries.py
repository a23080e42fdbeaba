"""Outcomes out: in order, once, acknowledged when they are safe."""

from __future__ import annotations

import pytest

from support.client_sessions import (
    JOB,
    ME,
    connected,
    control,
    intake,
    outcome,
    resumed,
    session,
    welcome,
)
from taskpool import limits
from taskpool.client.session import (
    GAPS_MAX,
)
from taskpool.codec import decode
from taskpool.errors import DealerUnreachable
from taskpool.messages import (
    Accepted,
    Ack,
    Bye,
    Command,
    Hello,
    Outcomes,
)


def test_outcomes_before_the_welcome_are_left_to_come_again() -> None:
    talk = session()
    talk.receive(Outcomes(ME, "b", [outcome(1)]), 0)
    assert talk.deliveries.delivered == 0
    talk.receive(welcome(), 0)
    talk.submissions.submit([JOB])
    assert talk.receive(Outcomes(ME, "b", [outcome(1)]), 0) == [outcome(1)]


def test_outcomes_come_once_and_in_order() -> None:
    talk = connected(jobs=3)
    assert [item.no for item in talk.receive(Outcomes(ME, "b", [outcome(1), outcome(2)]), 0)] == [1, 2]
    assert [item.no for item in talk.receive(Outcomes(ME, "b", [outcome(2), outcome(3)]), 0)] == [3]


def test_a_gap_in_the_outcomes_asks_again_from_the_last_one_held() -> None:
    talk = connected(jobs=3)
    assert talk.receive(Outcomes(ME, "b", [outcome(1), outcome(3)]), 0) != []
    assert talk.connecting and talk.deliveries.cursor == 1


def test_a_dealer_that_never_fills_the_gap_is_given_up() -> None:
    talk = connected(jobs=3)
    with pytest.raises(DealerUnreachable, match="outcome 1"):
        for _ in range(GAPS_MAX + 1):
            talk.receive(Outcomes(ME, "b", [outcome(2)]), 0)
            talk.receive(welcome(), 0)


def test_an_outcome_of_a_job_that_no_dealer_has_is_never_taken() -> None:
    talk = connected(jobs=1)
    assert talk.receive(Outcomes(ME, "b", [outcome(1, seq=limits.JOB_SEQ_MAX)]), 0) == []
    assert talk.connecting, "the dealer may have jobs that are not known here: its welcome says how many"
    talk.receive(welcome(accepted=1), 0)
    assert talk.receive(Outcomes(ME, "b", [outcome(1)]), 0) == [outcome(1)]
    with pytest.raises(DealerUnreachable, match="outcome 2"):
        for _ in range(GAPS_MAX + 1):
            talk.receive(Outcomes(ME, "b", [outcome(2, seq=limits.JOB_SEQ_MAX)]), 0)
            talk.receive(welcome(accepted=1, last_no=1), 0)


def test_only_what_is_stored_is_acknowledged_and_commands_go_first() -> None:
    talk = connected(jobs=2)
    talk.receive(Outcomes(ME, "b", [outcome(1), outcome(2)]), 0)
    assert control(talk) == []
    talk.deliveries.store(1)
    assert control(talk) == [Ack(ME, "b", 1)]
    talk.command("status")
    talk.deliveries.store(2)
    talk.leave()
    assert [type(message) for message in control(talk)] == [Command, Ack, Bye]


# --- resuming ---------------------------------------------------------------------------------------


def test_outcomes_of_jobs_not_compared_yet_are_held_back() -> None:
    talk = resumed(2, accepted=2)
    assert talk.receive(Outcomes(ME, "b", [outcome(1, seq=2), outcome(2, seq=1)]), 0) == []
    assert (talk.deliveries.cursor, talk.deliveries.delivered) == (2, 0)
    talk.deliveries.store(2)
    assert control(talk) == [], "nothing was told"
    intake(talk)
    assert talk.receive(Accepted(ME, "b", 2), 0) == [], "the first one told is that of job 2"
    intake(talk)
    assert [each.seq for each in talk.receive(Accepted(ME, "b", 2), 0)] == [2, 1]
    talk.deliveries.store(2)
    assert control(talk) == [Ack(ME, "b", 2)]


def test_outcomes_of_jobs_stored_after_the_welcome_wait_until_these_are_compared() -> None:
    talk = resumed(0, accepted=0)
    assert talk.receive(Outcomes(ME, "b", [outcome(1), outcome(2)]), 0) == []
    assert talk.connecting and talk.deliveries.cursor == 0, "its predecessor's jobs were stored meanwhile"
    talk.receive(welcome(accepted=2), 0)
    talk.submissions.submit([JOB, JOB])
    assert talk.receive(Outcomes(ME, "b", [outcome(1), outcome(2)]), 0) == []
    intake(talk)
    assert [each.no for each in talk.receive(Accepted(ME, "b", 2), 0)] == [1, 2]


def test_a_resumed_session_goes_on_behind_what_was_acknowledged() -> None:
    talk = resumed(3, accepted=3, cursor=2)
    assert control(talk) == [Ack(ME, "b", 1)], "the last one would let a private dealer go"
    hello = decode(talk.hello(0, 0))
    assert isinstance(hello, Hello) and hello.cursor == 1
    assert talk.receive(Outcomes(ME, "b", [outcome(3, seq=1)]), 0) == [], "held back, and no gap"
    assert not talk.connecting
