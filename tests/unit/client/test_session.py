"""The client's side of the connection: hello and welcome, resuming, silence. No queue, no clock."""

from __future__ import annotations

from itertools import pairwise

import pytest

from support.client_sessions import (
    JOB,
    ME,
    connected,
    control,
    first_seqs,
    intake,
    outcome,
    refused,
    resumed,
    session,
    welcome,
)
from taskpool import limits
from taskpool.client.session import (
    HELLO_DELAY_NS_MAX,
    HELLO_DELAY_NS_MIN,
    ConnectTimeouts,
)
from taskpool.client.turn import HOLDER_NS_MAX, RETRY_NS
from taskpool.client.unreachable import JobsLost, OlderJournal, PoolRefuses
from taskpool.clock import SECOND
from taskpool.codec import decode
from taskpool.errors import DealerUnreachable, ExitCode, QueueRoomTaken, UsageError
from taskpool.messages import (
    Accepted,
    Ack,
    Answer,
    Bye,
    Command,
    Hello,
    Outcomes,
    Ping,
    Pong,
    Refused,
)

# --- hello and welcome ------------------------------------------------------------------------------


def test_says_nothing_before_the_welcome() -> None:
    talk = session()
    talk.submissions.submit([JOB])
    talk.command("status")
    assert control(talk) == [] and intake(talk) == []
    talk.receive(welcome(), 5)
    assert first_seqs(intake(talk)) == [1]
    assert isinstance(control(talk)[0], Command)


def test_hello_carries_the_cursor_and_is_said_again_after_a_while() -> None:
    talk = connected(jobs=2)
    talk.receive(Outcomes(ME, "b", [outcome(1), outcome(2)]), 0)
    talk.deliveries.store(1)  # not the second one: the dealer takes a cursor for an acknowledgement
    talk.reconnect(100)
    hello = decode(talk.hello(3, 100))
    assert isinstance(hello, Hello)
    assert (hello.slot, hello.cursor, hello.batch) == (3, 1, "b")
    talk.tick(100 + SECOND)  # a person is told that the dealer is gone
    assert talk.next_deadline() == 100 + limits.RESEND_NS


def test_hellos_are_farther_and_farther_apart_while_there_is_no_dealer_until_the_time_out() -> None:
    talk = session()
    due = [0]
    while due[-1] < 4 * SECOND:
        talk.dealer_missing(due[-1])
        due.append(talk.hello_due)
    waits = [after - before for before, after in pairwise(due)]
    assert waits == sorted(waits)
    assert waits[0] == HELLO_DELAY_NS_MIN and waits[-1] == HELLO_DELAY_NS_MAX
    assert all(wait <= max(before // 8, HELLO_DELAY_NS_MIN) for before, wait in zip(due, waits, strict=False))
    talk.tick(limits.FIRST_WELCOME_NS - 1)
    with pytest.raises(DealerUnreachable, match=r"tp-dealer --pool demo"):
        talk.tick(limits.FIRST_WELCOME_NS)


def test_a_batch_that_is_there_already_is_not_added_to() -> None:
    with pytest.raises(UsageError, match=r"exists already .* add --resume"):
        session().receive(welcome(accepted=3, last_no=1), 0)


def test_a_batch_that_was_let_go_a_moment_ago_is_told_to_be_gone() -> None:
    talk = session(resume=True, cursor=3)
    with pytest.raises(JobsLost, match="has let go of batch 'b', of which 3 outcomes were received"):
        talk.receive(welcome(accepted=0, last_no=0), 0)


def test_a_client_that_does_not_want_the_batch_lets_go_of_it_and_leaves_no_job_in_it() -> None:
    talk = session()
    talk.submissions.submit([JOB])
    talk.submissions.finish()
    with pytest.raises(UsageError):
        talk.receive(welcome(accepted=3, last_no=1), 0)
    talk.leave()
    assert control(talk) == [Bye(ME)]
    assert intake(talk) == []


def test_a_hello_answered_twice_is_no_news() -> None:
    talk = connected(jobs=1)
    talk.receive(welcome(), 1)
    assert talk.generation == 1
    assert intake(talk) == []


def test_messages_for_others_mean_nothing() -> None:
    talk = session()
    talk.receive(welcome(client=ME + 1), 0)
    talk.receive(Hello(client=ME, slot=0, pid=1), 0)
    assert talk.connecting


@pytest.mark.parametrize(
    ("reason", "error", "code"),
    [("draining", PoolRefuses, ExitCode.REFUSED), ("conflict", UsageError, ExitCode.USAGE)],
)
def test_a_refused_hello_ends_it(reason: str, error: type[Exception], code: ExitCode) -> None:
    with pytest.raises(error, match="because") as caught:
        session().receive(refused(0, reason), 0)
    assert caught.value.exit_code == code  # type: ignore[attr-defined]


def test_outcomes_that_are_not_kept_any_more_are_not_waited_for() -> None:
    talk = connected(jobs=2)
    with pytest.raises(JobsLost, match="not kept any more; 0 were received"):
        talk.receive(Refused(ME, "b", 0, 0, "gone", "outcomes are not kept any more"), 0)


# --- resuming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "first", "reason", "complaint"),
    [
        (None, 2, "conflict", "the input has changed: because"),
        (3, 4, "closed", "job 4 is new"),
        (3, 0, "conflict", "has changed"),
        (None, 4, "closed", "cancelled"),
    ],
)
def test_changed_input_is_told(total: int | None, first: int, reason: str, complaint: str) -> None:
    talk = resumed(4, accepted=3, total=total)
    intake(talk)
    with pytest.raises(UsageError, match=complaint):
        talk.receive(refused(first, reason), 0)


def test_a_batch_in_other_hands_is_waited_for_a_while() -> None:
    talk = session(resume=True)
    talk.receive(refused(0, "conflict"), 0)
    assert talk.connecting and talk.turn.news == "Waiting: because"
    assert 0 < talk.hello_due < limits.REPLY_OVERDUE_NS
    talk.tick(limits.REPLY_OVERDUE_NS)
    with pytest.raises(UsageError, match="because"):
        talk.tick(HOLDER_NS_MAX)


# --- waiting for a place ----------------------------------------------------------------------------

PATIENCE = limits.RETURN_WELCOME_NS
NO_ROOM = QueueRoomTaken("no room")


def test_a_hello_to_a_pool_without_a_place_is_said_again_and_told_once() -> None:
    talk = session()
    for now in (0, RETRY_NS):
        talk.receive(refused(0, "full"), now)
        assert talk.connecting and talk.hello_due == now + RETRY_NS
    assert talk.turn.news == (
        "Waiting up to 1m00s (--dealer-timeout) until another generator leaves: pool 'demo' refuses: because"
    )
    talk.tick(PATIENCE - 1)
    with pytest.raises(PoolRefuses, match=r"because\. So it was for 1m00s; --dealer-timeout waits longer"):
        talk.tick(PATIENCE)


def test_what_alternates_is_not_waited_for_without_end() -> None:
    talk = session(timeouts=ConnectTimeouts(SECOND, 2 * SECOND))
    for now in range(0, 2 * SECOND, RETRY_NS):
        talk.receive(refused(0, "full"), now)
        talk.no_reply_queue(NO_ROOM, now + 1)
        talk.tick(now + 1)
    with pytest.raises(QueueRoomTaken, match=r"no room\. So it was for 2"):
        talk.tick(2 * SECOND + 1)


def test_a_place_found_and_lost_again_is_waited_for_anew() -> None:
    talk = session()
    talk.receive(refused(0, "full"), 0)
    talk.turn.news = ""
    talk.receive(welcome(), PATIENCE - 1)
    assert not talk.connecting
    talk.reconnect(2 * PATIENCE)
    talk.no_reply_queue(NO_ROOM, 2 * PATIENCE)
    assert "no room" in talk.turn.news
    talk.tick(3 * PATIENCE - 1)


def test_a_dealer_that_goes_while_others_have_its_places_is_missing() -> None:
    talk = session()
    talk.receive(refused(0, "full"), 0)
    talk.dealer_missing(1)
    with pytest.raises(DealerUnreachable, match="no dealer answers"):
        talk.tick(PATIENCE)


def test_who_does_not_wait_for_room_does_not_wait_for_a_place() -> None:
    with pytest.raises(PoolRefuses, match="because"):
        session(wait_for_room=False).receive(refused(0, "full"), 0)


def test_a_late_refusal_of_jobs_is_none_of_the_hello() -> None:
    talk = connected(jobs=1)
    talk.reconnect(1)
    talk.receive(refused(1, "full"), 1)
    assert talk.turn.error is None


# --- a dealer that has lost its memory --------------------------------------------------------------


def test_outcomes_lost_with_a_journal_are_noticed() -> None:
    talk = connected(jobs=3)
    talk.receive(Accepted(ME, "b", 3), 0)
    talk.receive(Outcomes(ME, "b", [outcome(1), outcome(2)]), 0)
    talk.reconnect(0)
    said = "an older journal: it has 3 of the 3 jobs that were accepted and 1 of the 2 outcomes that were received"
    with pytest.raises(OlderJournal, match=said):
        talk.receive(welcome(epoch=2, accepted=3, last_no=1), 0)


def test_jobs_that_an_older_journal_has_are_not_told_to_be_gone() -> None:
    talk = connected(jobs=3)
    talk.receive(Accepted(ME, "b", 3), 0)
    talk.reconnect(0)
    with pytest.raises(OlderJournal, match="it has 2 of the 3 jobs that were accepted and 0 of the 0 outcomes"):
        talk.receive(welcome(epoch=2, accepted=2), 0)


def test_a_session_that_collects_tells_no_outcome() -> None:
    talk = session(collect_pages=True)
    talk.receive(welcome(), 0)
    page = Outcomes(ME, "other", [outcome(7)])
    assert talk.receive(page, 0) == []
    assert list(talk.pages) == [page]


# --- silence ----------------------------------------------------------------------------------------


def test_pings_say_the_last_acknowledgement_again() -> None:
    talk = connected(jobs=1)
    talk.receive(Outcomes(ME, "b", [outcome(1)]), 0)
    talk.deliveries.store(1)
    control(talk)
    talk.tick(limits.PING_NS)
    assert control(talk) == [Ack(ME, "b", 1), Ping(ME)]
    assert talk.next_deadline() > limits.PING_NS


def test_a_silent_dealer_is_called_again_and_given_up_in_the_end() -> None:
    talk = connected()
    talk.receive(Pong(ME), SECOND)
    talk.tick(SECOND + limits.REPLY_OVERDUE_NS - 1)
    assert not talk.connecting
    lost_at = SECOND + limits.REPLY_OVERDUE_NS
    talk.tick(lost_at)
    assert talk.connecting
    with pytest.raises(DealerUnreachable, match="was lost"):
        talk.tick(lost_at + limits.RETURN_WELCOME_NS)


def test_a_dealer_that_has_gone_is_told_and_so_is_the_next_one() -> None:
    talk = connected()
    talk.reconnect(0)
    talk.tick(SECOND - 1)
    assert not talk.turn.news and talk.next_deadline() <= SECOND
    talk.tick(SECOND)
    assert "PID 9, does not answer. Waiting up to 1m00s (--dealer-timeout)" in talk.turn.news
    talk.turn.news = ""
    talk.tick(2 * SECOND)
    assert not talk.turn.news, "once"
    talk.receive(welcome(epoch=2, pid=10), 3 * SECOND)
    assert "'demo' answers, PID 10" in talk.turn.news


@pytest.mark.parametrize("options", [{}, {"private": True}])
def test_a_dealer_that_is_soon_back_and_a_private_one_are_no_news(options: dict[str, bool]) -> None:
    talk = connected(**options)
    talk.reconnect(0)
    if options:
        talk.tick(2 * SECOND)
        assert not talk.turn.news, "of it tells who has started it"
    talk.receive(welcome(epoch=2, pid=10), SECOND // 2)
    assert not talk.turn.news and talk.next_deadline() > SECOND


def test_a_dealer_we_did_not_listen_to_is_not_silent() -> None:
    talk = connected()
    talk.pause_liveness(limits.REPLY_OVERDUE_NS)
    talk.tick(limits.REPLY_OVERDUE_NS)
    assert not talk.connecting


def test_after_a_restart_with_a_journal_it_goes_on_where_it_was() -> None:
    talk = connected(jobs=3)
    talk.receive(Accepted(ME, "b", 1), 0)
    talk.reconnect(0)
    talk.receive(welcome(epoch=2, accepted=2), 0)
    assert first_seqs(intake(talk)) == [3]


def test_after_a_restart_without_one_accepted_jobs_are_gone() -> None:
    talk = connected(jobs=3)
    talk.receive(Accepted(ME, "b", 3), 0)
    talk.receive(Outcomes(ME, "b", [outcome(1)]), 0)
    talk.reconnect(0)
    with pytest.raises(JobsLost, match="2 accepted jobs") as caught:
        talk.receive(welcome(epoch=2), 0)
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_a_batch_the_dealer_does_not_know_means_hello() -> None:
    talk = connected(jobs=1)
    talk.receive(refused(1, "unknown_batch"), 0)
    assert talk.connecting


def test_answers_are_kept_until_they_are_read() -> None:
    talk = connected()
    talk.receive(Answer(ME, "status", True, b"{}"), 0)
    assert talk.answers.popleft().body == b"{}"


def test_a_detached_session_does_not_take_outcomes() -> None:
    talk = connected(jobs=1, detached=True)
    assert talk.receive(Outcomes(ME, "b", [outcome(1)]), 0) == []
    assert talk.deliveries.cursor == 0


def test_the_user_is_not_told_to_start_a_private_dealer() -> None:
    mine = session(private=True, timeouts=ConnectTimeouts(SECOND, SECOND))
    with pytest.raises(DealerUnreachable, match=r"private dealer did not answer within 1\.0s") as raised:
        mine.tick(SECOND)
    assert "tp-dealer" not in str(raised.value)


def test_a_batch_is_extended_behind_the_jobs_that_are_there() -> None:
    talk = session(resume=True, extend=True)
    talk.receive(welcome(accepted=2, last_no=1), 0)
    assert not talk.submissions.comparing
    talk.receive(Outcomes(ME, "b", [outcome(1)]), 0)
    talk.submissions.submit([JOB])
    assert first_seqs(intake(talk)) == [3]
    # A dealer that was started again has the one, or not: neither is another client's.
    talk.reconnect(0)
    talk.receive(welcome(epoch=2, accepted=2, last_no=1), 0)
    assert first_seqs(intake(talk)) == [3]
    talk.reconnect(0)
    talk.receive(welcome(epoch=3, accepted=3, last_no=1), 0)
    assert (intake(talk), talk.submissions.accepted) == ([], 3)
    assert talk.submissions.has_room


def test_a_closed_batch_is_not_extended() -> None:
    talk = session(resume=True, extend=True)
    with pytest.raises(UsageError, match="was closed at 2 jobs"):
        talk.receive(welcome(accepted=2, total=2), 0)
