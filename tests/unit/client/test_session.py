"""The client's side of the connection: hello and welcome, cursors, deadlines. No queue, no clock."""

from __future__ import annotations

import pytest

from taskpool import limits
from taskpool.client.session import (
    GAPS_MAX,
    HOLDER_NS_MAX,
    ConnectTimeouts,
    JobsLost,
    PoolRefuses,
    Session,
    SessionOptions,
)
from taskpool.client.submissions import FULL_DELAY_NS_MIN
from taskpool.clock import SECOND
from taskpool.codec import decode
from taskpool.errors import DealerUnreachable, ExitCode, UsageError
from taskpool.messages import (
    Accepted,
    Ack,
    Answer,
    Bye,
    Close,
    Command,
    Hello,
    JobSpec,
    Message,
    Outcome,
    Outcomes,
    Ping,
    Pong,
    Refused,
    State,
    Submit,
    Welcome,
)

ME = 77
JOB = JobSpec(kind="fib", payload=b"\x05")


def session(**options: object) -> Session:
    return Session(SessionOptions(pool="demo", client=ME, pid=1, version="0", batch="b", **options), 0)  # type: ignore[arg-type]


def welcome(**changes: object) -> Welcome:
    fields: dict[str, object] = {"client": ME, "epoch": 1, "pool": "demo", "pid": 9, "version": "0", "spool": "/s"}
    return Welcome(**{**fields, **changes})  # type: ignore[arg-type]


def outcome(no: int, seq: int | None = None) -> Outcome:
    return Outcome(
        no=no, seq=seq or no, run=1, kind="fib", label=None, state=State.SUCCEEDED, attempts=1, crashes=0, value=b"1"
    )


def refused(first: int, reason: str) -> Refused:
    return Refused(ME, "b", first, first, reason, "because")


def connected(jobs: int = 0, **options: object) -> Session:
    """Welcomed, with so many frames of one job sent."""
    talk = session(**options)
    talk.receive(welcome(), 0)
    for _ in range(jobs):
        talk.submissions.submit([JOB])
    intake(talk)
    return talk


def intake(talk: Session, now: int = 0) -> list[Message]:
    messages = []
    while (data := talk.next_intake(now)) is not None:
        messages.append(decode(data))
    return messages


def control(talk: Session) -> list[Message]:
    messages = []
    while (data := talk.next_control()) is not None:
        messages.append(decode(data))
    return messages


def first_seqs(messages: list[Message]) -> list[int]:
    return [message.first_seq for message in messages if isinstance(message, Submit)]


# --- hello and welcome --------------------------------------------------------------------------------


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
    talk.deliveries.store(
        1
    )  # the second one is not safe here yet, and the dealer takes a cursor for an acknowledgement
    talk.reconnect(100)
    hello = decode(talk.hello(3, 100))
    assert isinstance(hello, Hello)
    assert (hello.slot, hello.cursor, hello.batch) == (3, 1, "b")
    assert talk.next_deadline() == 100 + limits.RESEND_NS


def test_waits_longer_and_longer_while_nobody_is_home_then_gives_up() -> None:
    talk = session()
    due = []
    for _ in range(4):
        talk.dealer_missing(0)
        due.append(talk.hello_due)
    assert due == sorted(set(due))
    talk.tick(limits.FIRST_WELCOME_NS - 1)
    with pytest.raises(DealerUnreachable, match=r"tp-dealer --pool demo"):
        talk.tick(limits.FIRST_WELCOME_NS)


def test_a_batch_that_is_there_already_is_not_added_to() -> None:
    with pytest.raises(UsageError, match=r"exists already .* add --resume"):
        session().receive(welcome(accepted=3, last_no=1, fresh=False), 0)


def test_who_does_not_want_the_batch_lets_go_of_it_and_leaves_nothing_in_it() -> None:
    talk = session()
    talk.submissions.submit([JOB])
    talk.submissions.finish()
    with pytest.raises(UsageError):
        talk.receive(welcome(accepted=3, last_no=1, fresh=False), 0)
    talk.leave()
    assert control(talk) == [Bye(ME)]
    assert intake(talk) == []


def test_a_hello_answered_twice_is_no_news() -> None:
    talk = connected(jobs=1)
    talk.receive(welcome(fresh=False), 1)
    assert talk.generation == 1
    assert intake(talk) == []


def test_messages_for_others_mean_nothing() -> None:
    talk = session()
    talk.receive(welcome(client=ME + 1), 0)
    talk.receive(Hello(client=ME, slot=0, pid=1, version="0"), 0)
    assert talk.connecting


@pytest.mark.parametrize(
    ("reason", "error", "code"),
    [("draining", PoolRefuses, ExitCode.REFUSED), ("conflict", UsageError, ExitCode.USAGE)],
)
def test_a_refused_hello_ends_it(reason: str, error: type[Exception], code: ExitCode) -> None:
    with pytest.raises(error, match="because") as caught:
        session().receive(refused(0, reason), 0)
    assert caught.value.exit_code == code  # type: ignore[attr-defined]


# --- jobs in ------------------------------------------------------------------------------------------


def test_room_for_so_many_frames_and_no_more() -> None:
    talk = connected()
    frames = 0
    while talk.submissions.has_room:
        talk.submissions.submit([JOB, JOB])
        frames += 1
    assert frames == limits.SUBMITS_IN_FLIGHT_MAX
    intake(talk)
    talk.receive(Accepted(ME, "b", 4), 0)
    assert talk.submissions.has_room


def test_close_goes_behind_the_last_frame_and_is_over_when_told() -> None:
    talk = connected()
    talk.submissions.submit([JOB, JOB])
    talk.submissions.finish()
    submit, close = intake(talk)
    assert isinstance(submit, Submit) and isinstance(close, Close)
    assert (submit.first_seq, len(submit.jobs), close.total) == (1, 2, 2)
    talk.receive(Accepted(ME, "b", 2), 0)
    assert not talk.submissions.closed
    talk.receive(Accepted(ME, "b", 2, closed=True), 0)
    assert talk.submissions.closed


def test_what_is_not_accepted_in_time_is_sent_again_from_there() -> None:
    talk = connected(jobs=3)
    talk.receive(Accepted(ME, "b", 1), 0)
    talk.tick(limits.RESEND_NS - 1)
    assert intake(talk, limits.RESEND_NS - 1) == []
    talk.tick(limits.RESEND_NS)
    assert first_seqs(intake(talk, limits.RESEND_NS)) == [2, 3]


def test_a_gap_rewinds_once_for_all_the_frames_behind_it() -> None:
    talk = connected(jobs=4)
    for first in (2, 3, 4):
        talk.receive(refused(first, "gap"), 1)
    assert first_seqs(intake(talk, 1)) == [1, 2, 3, 4]
    assert intake(talk, 1) == []


def test_full_means_a_pause_then_all_again_and_longer_the_next_time() -> None:
    talk = connected(jobs=3)
    pauses = []
    now = 0
    for _ in range(3):
        talk.receive(refused(1, "full"), now)
        talk.receive(refused(2, "gap"), now)
        assert intake(talk, now) == []
        pauses.append(talk.next_deadline() - now)
        now = talk.next_deadline()
        talk.tick(now)
        assert first_seqs(intake(talk, now)) == [1, 2, 3]
    assert pauses == [FULL_DELAY_NS_MIN, 2 * FULL_DELAY_NS_MIN, 4 * FULL_DELAY_NS_MIN]


def test_outcomes_before_the_welcome_are_left_to_come_again() -> None:
    talk = session()
    talk.receive(Outcomes(ME, "b", [outcome(1)]), 0)
    assert talk.deliveries.delivered == 0
    talk.receive(welcome(), 0)
    talk.submissions.submit([JOB])
    assert talk.receive(Outcomes(ME, "b", [outcome(1)]), 0) == [outcome(1)]


@pytest.mark.parametrize("reason", ["malformed", "unknown_kind", "closed", "conflict"])
def test_refused_for_good_closes_at_what_is_accepted(reason: str) -> None:
    talk = connected(jobs=4)
    talk.receive(Accepted(ME, "b", 2), 0)
    talk.receive(refused(3, reason), 0)
    talk.receive(refused(4, "gap"), 0)
    assert talk.submissions.refusal is not None
    assert not talk.submissions.has_room
    assert [message.total for message in intake(talk) if isinstance(message, Close)] == [2]


def test_outcomes_that_are_not_kept_any_more_are_not_waited_for() -> None:
    talk = connected(jobs=2)
    with pytest.raises(JobsLost, match="not kept any more; 0 were received"):
        talk.receive(Refused(ME, "b", 0, 0, "gone", "outcomes are not kept any more"), 0)


def test_a_frame_whose_dealer_died_with_it_may_be_refused_after_one_behind_it() -> None:
    talk = connected(jobs=4)
    talk.receive(Accepted(ME, "b", 1), 0)
    intake(talk)
    talk.receive(refused(4, "closed"), 0)
    assert [message.total for message in intake(talk) if isinstance(message, Close)] == [3]
    talk.receive(refused(2, "closed"), 0)
    assert talk.submissions.refusal is not None and talk.submissions.refusal.first_seq == 2
    assert [message.total for message in intake(talk) if isinstance(message, Close)] == [1]


def test_a_refusal_of_what_was_never_said_changes_nothing() -> None:
    talk = connected(jobs=2)
    talk.receive(refused(0, "conflict"), 0)  # of a close that somebody else sent in our name
    talk.receive(Accepted(ME, "b", 1), 0)
    talk.receive(refused(1, "conflict"), 0)  # of a job that was accepted, said anew by the same
    assert talk.submissions.refusal is None and talk.submissions.submitted == 2


@pytest.mark.parametrize("reason", ["draining", "full"])
def test_refused_for_now_leaves_the_batch_open(reason: str) -> None:
    talk = connected(jobs=4, wait_for_room=False)
    talk.receive(refused(3, reason), 0)
    assert not talk.submissions.has_room and not talk.submissions.settled
    talk.submissions.finish()
    assert intake(talk) == []
    talk.receive(Accepted(ME, "b", 2), 0)
    assert talk.submissions.settled and talk.submissions.submitted == 2


def test_no_wait_takes_full_for_an_answer() -> None:
    talk = connected(jobs=2, wait_for_room=False)
    talk.receive(refused(1, "full"), 0)
    assert talk.submissions.refusal is not None and talk.submissions.submitted == 0


def test_what_is_abandoned_is_not_closed_unless_all_was_sent() -> None:
    talk = connected(jobs=2)
    talk.submissions.submit([JOB])
    talk.submissions.finish()
    talk.submissions.abandon()
    assert talk.submissions.submitted == 2
    talk.submissions.finish()
    assert intake(talk) == []
    whole = connected(jobs=2)
    whole.submissions.finish()
    whole.submissions.abandon()
    assert [message.total for message in intake(whole) if isinstance(message, Close)] == [2]


def test_cut_closes_at_what_was_sent_even_if_all_was_read() -> None:
    talk = connected(jobs=2)
    talk.submissions.submit([JOB])
    talk.submissions.finish()
    talk.submissions.truncate()
    assert [message.total for message in intake(talk) if isinstance(message, Close)] == [2]


def test_cut_forgets_only_what_was_never_sent() -> None:
    talk = connected(jobs=2)
    talk.submissions.submit([JOB])
    talk.submissions.rewind(0)  # sent once, and to be sent again: may be accepted by now
    talk.submissions.truncate()
    assert talk.submissions.submitted == 2
    assert [message.total for message in intake(talk) if isinstance(message, Close)] == [2]


def test_a_dealer_cannot_accept_what_was_not_submitted() -> None:
    talk = connected(jobs=1)
    talk.receive(Accepted(ME, "b", 99), 0)
    assert talk.submissions.accepted == 0


# --- outcomes out -------------------------------------------------------------------------------------


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
            talk.receive(welcome(fresh=False), 0)


def test_outcomes_of_jobs_never_submitted_are_dropped() -> None:
    talk = connected(jobs=1)
    assert talk.receive(Outcomes(ME, "b", [outcome(1, seq=limits.JOB_SEQ_MAX)]), 0) == []


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


# --- resuming -----------------------------------------------------------------------------------------


def resumed(jobs: int, *, accepted: int, cursor: int = 0, total: int | None = None) -> Session:
    """Welcomed by a dealer that has accepted so many jobs before, with so many frames of one job to be sent."""
    talk = session(resume=True, cursor=cursor)
    talk.receive(welcome(accepted=accepted, last_no=accepted, total=total, fresh=False), 0)
    for _ in range(jobs):
        talk.submissions.submit([JOB])
    return talk


def test_what_is_known_is_compared_frame_by_frame_before_the_rest_is_sent() -> None:
    talk = resumed(5, accepted=3)
    for number in (1, 2, 3):
        assert first_seqs(intake(talk)) == [number]
        assert intake(talk) == []
        talk.receive(Accepted(ME, "b", 3), 0)
        assert talk.submissions.accepted == number
    assert first_seqs(intake(talk)) == [4, 5]


def test_a_close_waits_until_all_is_compared() -> None:
    """It is answered at once, with everything that is accepted, while a frame before it is still compared."""
    talk = resumed(1, accepted=1, total=1)
    talk.submissions.finish()
    assert [type(message) for message in intake(talk)] == [Submit]
    talk.receive(Accepted(ME, "b", 1), 0)
    assert [type(message) for message in intake(talk)] == [Close]


def test_what_was_not_compared_before_a_restart_is_compared_after_it() -> None:
    talk = resumed(3, accepted=3)
    intake(talk)
    talk.reconnect(0)
    talk.receive(welcome(epoch=2, accepted=3, last_no=3, fresh=False), 0)
    assert talk.submissions.accepted == 0
    assert first_seqs(intake(talk)) == [1]


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


def test_a_resumed_session_goes_on_behind_what_was_acknowledged() -> None:
    talk = resumed(3, accepted=3, cursor=2)
    assert control(talk) == [Ack(ME, "b", 1)], "the last one would let a private dealer go"
    hello = decode(talk.hello(0, 0))
    assert isinstance(hello, Hello) and hello.cursor == 1
    assert talk.receive(Outcomes(ME, "b", [outcome(3, seq=1)]), 0) == [], "held back, and no gap"
    assert not talk.connecting


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
    assert talk.connecting and talk.resume_blocked == "because"
    assert 0 < talk.hello_due < limits.REPLY_OVERDUE_NS
    talk.tick(limits.REPLY_OVERDUE_NS)
    with pytest.raises(UsageError, match="because"):
        talk.tick(HOLDER_NS_MAX)


def test_to_resume_what_never_began_is_to_begin() -> None:
    talk = session(resume=True)
    talk.receive(welcome(), 0)
    for _ in range(3):
        talk.submissions.submit([JOB])
    assert first_seqs(intake(talk)) == [1, 2, 3]


def test_outcomes_lost_with_a_journal_are_noticed() -> None:
    talk = connected(jobs=3)
    talk.receive(Accepted(ME, "b", 3), 0)
    talk.receive(Outcomes(ME, "b", [outcome(1), outcome(2)]), 0)
    talk.reconnect(0)
    with pytest.raises(JobsLost):
        talk.receive(welcome(epoch=2, accepted=3, last_no=1, fresh=False), 0)


def test_a_session_that_collects_tells_no_outcome() -> None:
    talk = session(collect_pages=True)
    talk.receive(welcome(), 0)
    page = Outcomes(ME, "other", [outcome(7)])
    assert talk.receive(page, 0) == []
    assert list(talk.pages) == [page]


# --- silence ------------------------------------------------------------------------------------------


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
    talk.receive(Pong(ME, 1), SECOND)
    talk.tick(SECOND + limits.REPLY_OVERDUE_NS - 1)
    assert not talk.connecting
    lost_at = SECOND + limits.REPLY_OVERDUE_NS
    talk.tick(lost_at)
    assert talk.connecting
    with pytest.raises(DealerUnreachable, match="was lost"):
        talk.tick(lost_at + limits.RETURN_WELCOME_NS)


def test_a_dealer_we_did_not_listen_to_is_not_silent() -> None:
    talk = connected()
    talk.pause_liveness(limits.REPLY_OVERDUE_NS)
    talk.tick(limits.REPLY_OVERDUE_NS)
    assert not talk.connecting


def test_after_a_restart_with_a_journal_it_goes_on_where_it_was() -> None:
    talk = connected(jobs=3)
    talk.receive(Accepted(ME, "b", 1), 0)
    talk.reconnect(0)
    talk.receive(welcome(epoch=2, accepted=2, fresh=False), 0)
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


def test_answers_are_kept_for_whoever_asked() -> None:
    talk = connected()
    talk.receive(Answer(ME, "status", True, b"{}"), 0)
    assert talk.answers.popleft().body == b"{}"


def test_a_detached_session_does_not_take_outcomes() -> None:
    talk = connected(jobs=1, detached=True)
    assert talk.receive(Outcomes(ME, "b", [outcome(1)]), 0) == []
    assert talk.deliveries.cursor == 0


def test_a_private_dealer_that_does_not_answer_is_nobody_elses_to_start() -> None:
    mine = session(private=True, timeouts=ConnectTimeouts(SECOND, SECOND))
    with pytest.raises(DealerUnreachable, match=r"private dealer did not answer within 1\.0s") as raised:
        mine.tick(SECOND)
    assert "tp-dealer" not in str(raised.value)
