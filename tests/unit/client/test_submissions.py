"""Jobs in: a go-back-N window over a queue that may lose everything."""

from __future__ import annotations

import pytest

from support.client_sessions import (
    JOB,
    ME,
    connected,
    first_seqs,
    intake,
    outcome,
    refused,
    resumed,
    session,
    welcome,
)
from taskpool import limits
from taskpool.client.submissions import FULL_DELAY_NS_MIN, Submissions
from taskpool.messages import (
    Accepted,
    Close,
    Outcomes,
    Submit,
)


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


@pytest.mark.parametrize("reason", ["malformed", "unknown_kind", "closed", "conflict"])
def test_refused_for_good_closes_at_what_is_accepted(reason: str) -> None:
    talk = connected(jobs=4)
    talk.receive(Accepted(ME, "b", 2), 0)
    talk.receive(refused(3, reason), 0)
    talk.receive(refused(4, "gap"), 0)
    assert talk.submissions.refusal is not None
    assert not talk.submissions.has_room
    assert [message.total for message in intake(talk) if isinstance(message, Close)] == [2]


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
    talk.receive(refused(0, "conflict"), 0)  # of a close that another process sent in our name
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


# --- resuming ---------------------------------------------------------------------------------------


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
    talk.receive(welcome(epoch=2, accepted=3, last_no=3), 0)
    assert talk.submissions.accepted == 0
    assert first_seqs(intake(talk)) == [1]


@pytest.mark.parametrize("resume", [True, False])
def test_what_another_client_left_in_the_queues_is_compared_and_its_outcomes_are_told(resume: bool) -> None:
    """Accepted while this client waited for the next dealer."""
    talk = connected(resume=resume)
    talk.reconnect(0)
    talk.receive(welcome(epoch=2, accepted=2, last_no=2), 0)
    assert talk.receive(Outcomes(ME, "b", [outcome(1), outcome(2)]), 0) == []
    told = []
    for number in (1, 2):
        talk.submissions.submit([JOB])
        assert first_seqs(intake(talk)) == [number]
        told += talk.receive(Accepted(ME, "b", 2), 0)
    assert [item.no for item in told] == [1, 2]


def test_what_was_sent_and_not_accepted_before_a_restart_is_compared_one_by_one() -> None:
    """What the next dealer has may be what another client left in the queues, not this one."""
    talk = connected(jobs=3, resume=True)
    talk.reconnect(0)
    talk.receive(welcome(epoch=2, accepted=3), 0)
    for number in (1, 2, 3):
        assert talk.submissions.accepted == number - 1
        assert first_seqs(intake(talk)) == [number]
        talk.receive(Accepted(ME, "b", 3), 0)
    assert not talk.submissions.comparing


def test_to_resume_what_never_began_is_to_begin() -> None:
    talk = session(resume=True)
    talk.receive(welcome(), 0)
    for _ in range(3):
        talk.submissions.submit([JOB])
    assert first_seqs(intake(talk)) == [1, 2, 3]


def test_jobs_that_the_dealer_has_are_adopted() -> None:
    submissions = Submissions(7, "b", 0)
    submissions.compare_first(12, adopt=True)
    assert (submissions.submitted, submissions.accepted, submissions.settled) == (12, 12, True)
    assert not submissions.has_room and not submissions.comparing
    submissions.rewind(5)
    assert submissions.next_message(5) is None and submissions.next_deadline() is None
