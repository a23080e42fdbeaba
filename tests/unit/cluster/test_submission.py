"""One batch on its way to the engine, with an engine in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.members import ACK_WAIT_NS, POOL, spec
from taskpool.clock import SECOND
from taskpool.cluster.engine import Failed, JobKey, OpenBatch, Record, SubmitJob
from taskpool.cluster.job import Mark, digest, recorded
from taskpool.cluster.memory import Link, MemoryBroker, MemoryEngine
from taskpool.cluster.submission import WINDOW_JOBS, Submission
from taskpool.errors import UsageError
from taskpool.messages import DEFAULT_LIMITS, JobSpec, Outcome, State


class Submitter:
    """A submitter and the brokers; each life of it has another id."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(POOL, ACK_WAIT_NS)
        self.engine = MemoryEngine(self.broker, lambda: self.now)
        self.now = 0
        self.lives = 0
        self.told: list[tuple[int, int]] = []  # position and number
        self.submission = self.begin()

    def begin(self, *, create: bool = True) -> Submission:
        self.lives += 1
        self.told.clear()
        self.submission = Submission(self.broker.names, "b", DEFAULT_LIMITS, f"life{self.lives}", create=create)
        return self.submission

    def turn(self, *jobs: JobSpec) -> None:
        """Some turns of a submitter, with time passing."""
        feed = list(jobs)
        for _ in range(8):
            while feed and self.submission.has_room:
                self.submission.submit(feed.pop(0))
            for request in self.submission.requests(self.now):
                assert self.engine.ask(request)
            for answer in self.engine.answers():
                for position, told in self.submission.answered(answer, self.now):
                    self.told.append((position, told.outcome.seq))
            self.now += SECOND
        assert not feed

    def record(self, seq: int) -> None:
        """A member has executed the job, and is done with it."""
        mark = Mark(JobKey("b", seq, 1), "normal.1.1.1", 0, digest(spec(seq)), None)
        outcome = Outcome(seq, seq, 1, "fib", None, State.SUCCEEDED, 1, 0)
        self.broker.perform(Record(mark.key, recorded(mark, outcome, "host")), self.now)
        subject = next(job.subject for job in self.broker.jobs.values() if job.subject.endswith(f".{seq}"))
        place = next(place for place, job in self.broker.jobs.items() if job.subject == subject)
        del self.broker.jobs[place]


@pytest.fixture
def submitter() -> Iterator[Submitter]:
    submitter = Submitter()
    yield submitter
    submitter.engine.close()


def test_jobs_are_accepted_and_outcomes_come_in_their_order(submitter: Submitter) -> None:
    submitter.turn(spec(1), spec(2), spec(3))
    assert (submitter.submission.existed, submitter.submission.accepted) == (False, 3)
    assert submitter.submission.all_accepted
    submitter.record(2)
    submitter.record(1)
    submitter.turn()
    assert [seq for _, seq in submitter.told] == [2, 1]


def test_a_next_life_submits_what_has_no_outcome(submitter: Submitter) -> None:
    submitter.turn(spec(1), spec(2))
    submitter.record(1)
    submitter.turn()
    submitter.submission.written(submitter.told[-1][0])
    submitter.turn()
    written = submitter.told[-1][0]
    again = submitter.begin()
    submitter.turn(spec(1), spec(2), spec(3))
    assert (again.existed, again.accepted, again.written_before) == (True, 3, written)
    assert [seq for _, seq in submitter.told] == [1], "it is told again, so that it is counted"
    assert len(submitter.broker.jobs) == 2
    again.finish()


def test_outcomes_that_were_not_written_are_known_for_such(submitter: Submitter) -> None:
    submitter.turn(spec(1))
    submitter.record(1)
    submitter.turn()
    again = submitter.begin()
    submitter.turn(spec(1))
    assert again.written_before < submitter.told[0][0]


@pytest.mark.parametrize("has_outcome", [True, False])
def test_another_job_under_the_same_number_is_refused(submitter: Submitter, has_outcome: bool) -> None:
    submitter.turn(spec(1), spec(2))
    if has_outcome:
        submitter.record(2)
    submitter.begin()
    with pytest.raises(UsageError, match="the input has changed: job 2 of batch 'b'"):
        submitter.turn(spec(1), spec(99))


def test_a_shorter_input_is_refused(submitter: Submitter) -> None:
    submitter.turn(spec(1), spec(2))
    submitter.record(2)
    again = submitter.begin()
    submitter.turn(spec(1))
    with pytest.raises(UsageError, match="it ends after 1 job; job 2"):
        again.finish()


def test_an_answer_that_was_lost_is_asked_for_again(submitter: Submitter) -> None:
    submitter.engine.link = Link.DEAF
    submitter.turn()
    assert submitter.submission.existed is None
    submitter.engine.link = Link.GOOD
    submitter.turn()
    assert submitter.submission.existed is False, "the batch that is there is ours"
    submitter.engine.link = Link.DEAF
    submitter.turn(spec(1))
    assert not submitter.submission.all_accepted
    submitter.engine.link = Link.GOOD
    submitter.turn()
    assert submitter.submission.all_accepted
    assert len(submitter.broker.jobs) == 1


def test_one_that_must_be_there_is_not_begun(submitter: Submitter) -> None:
    submitter.broker.notes.clear()
    asking = submitter.begin(create=False)
    submitter.turn()
    assert asking.existed is False
    assert submitter.broker.notes == {}


def test_no_more_is_under_way_than_the_window(submitter: Submitter) -> None:
    submitter.turn()
    for seq in range(1, WINDOW_JOBS + 1):
        assert submitter.submission.has_room
        submitter.submission.submit(spec(seq))
    assert not submitter.submission.has_room
    requests = [each for each in submitter.submission.requests(submitter.now) if isinstance(each, SubmitJob)]
    assert len(requests) == WINDOW_JOBS
    submitter.submission.answered(Failed(requests[0], "no broker"), submitter.now)
    assert submitter.submission.failure == "no broker"
    assert requests[0] in submitter.submission.requests(submitter.now + SECOND)


def test_a_note_of_another_kind_counts_for_nothing(submitter: Submitter) -> None:
    submitter.broker.perform(OpenBatch("b", b"", create=True), 0)
    submitter.broker.notes[submitter.broker.names.note("b")] = b"garbage"
    again = submitter.begin()
    submitter.turn()
    assert (again.existed, again.written_before) == (True, 0)
