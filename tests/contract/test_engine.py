"""The engine in memory and the real one do the same: what the simulation shows of the one holds for the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.brokers import Broker, answer_to
from support.harness import DEADLINE_SECONDS, until
from support.members import POOL, spec, submission
from taskpool.clock import SECOND
from taskpool.cluster.engine import (
    Acknowledge,
    DeadLetter,
    Delivery,
    Done,
    Engine,
    Extend,
    Fetch,
    Fetched,
    GiveBack,
    JobKey,
    Look,
    NoteBatch,
    OpenBatch,
    OutcomePage,
    ReadOutcomes,
    Record,
    Taken,
)
from taskpool.cluster.memory import MemoryBroker, MemoryEngine
from taskpool.cluster.subjects import Names, parse_address
from taskpool.messages import DEFAULT_LIMITS, JobSpec, Limits

ACK_WAIT_SECONDS = 5  # longer than a request for jobs waits: what is asked for in between must find none
FIRST, SECOND_JOB = JobKey("a.b", 1, 1), JobKey("a.b", 2, 1)
NAMES = Names(POOL)


@pytest.fixture(params=["memory", "nats"])
def engine(request: pytest.FixtureRequest, pool: str, tmp_path: Path) -> Iterator[Engine]:
    """One connection with an engine that has nothing yet."""
    global NAMES
    NAMES = Names(pool)
    if request.param == "memory":
        memory = MemoryEngine(MemoryBroker(pool, ACK_WAIT_SECONDS * SECOND), time.monotonic_ns)
        yield memory
        memory.close()
        return
    with Broker(tmp_path / "broker") as broker:
        from taskpool.cluster.nats_connection import NatsEngine

        address = parse_address(f"{broker.address}?unsafe=1&ack_wait={ACK_WAIT_SECONDS}")
        real = NatsEngine(address, pool)
        assert real.start(DEADLINE_SECONDS), "the broker was not looked at in time"
        assert real.refusal is None
        yield real
        real.close()


def submit(engine: Engine, key: JobKey, job: JobSpec | None = None) -> type:
    asked = submission(MemoryBroker(NAMES.pool, 1), key, job or spec(key.seq))
    return type(answer_to(engine, asked))


def fetch(engine: Engine, count: int = 9) -> tuple[Delivery, ...]:
    answer = answer_to(engine, Fetch(count))
    assert isinstance(answer, Fetched)
    return answer.jobs


def fetch_one(engine: Engine) -> Delivery:
    """Fetch until there is one job."""
    found: list[Delivery] = []

    def look() -> bool:
        found.extend(fetch(engine, 1))
        return bool(found)

    until(look, "a job")
    (job,) = found
    return job


def test_a_job_is_handed_out_once_and_forgotten_when_acknowledged(engine: Engine) -> None:
    assert submit(engine, FIRST) is Done
    (job,) = fetch(engine)
    assert NAMES.parse_job(job.subject) == ("normal", "a.b", 1)
    assert (job.delivered, job.crashes) == (1, 0)
    assert fetch(engine) == ()
    assert type(answer_to(engine, Look(job.token, FIRST))) is Done
    assert type(answer_to(engine, Acknowledge(job.token, FIRST))) is Done
    assert type(answer_to(engine, Acknowledge(job.token, FIRST))) is Done, "said twice"
    assert type(answer_to(engine, Look(job.token, FIRST))) is Taken


def test_what_is_not_acknowledged_is_handed_out_again(engine: Engine) -> None:
    submit(engine, FIRST)
    (job,) = fetch(engine)
    again = fetch_one(engine)
    assert (again.subject, again.data, again.delivered) == (job.subject, job.data, 2)
    assert again.token != job.token


def test_what_is_extended_is_not(engine: Engine) -> None:
    submit(engine, FIRST)
    job = fetch_one(engine)
    begun = extended = time.monotonic()
    while time.monotonic() < begun + 2 * ACK_WAIT_SECONDS:
        found = fetch(engine)
        if found and time.monotonic() - extended > ACK_WAIT_SECONDS / 2:
            (job,) = found  # this machine was too busy to extend in time: begin anew
            begun = time.monotonic()
        else:
            assert found == ()
        answer_to(engine, Extend((job.token,)))
        extended = time.monotonic()
    assert type(answer_to(engine, Look(job.token, FIRST))) is Done


def test_what_is_given_back_is_handed_out_with_its_crashes(engine: Engine) -> None:
    submit(engine, FIRST)
    (job,) = fetch(engine)
    assert type(answer_to(engine, GiveBack(job.token, FIRST, crashes=2, delay_ns=1))) is Done
    again = fetch_one(engine)
    assert (again.delivered, again.crashes) == (2, 2)


def test_a_late_acknowledgement_by_the_first_holder_counts(engine: Engine) -> None:
    submit(engine, FIRST)
    (job,) = fetch(engine)
    again = fetch_one(engine)
    assert type(answer_to(engine, Acknowledge(job.token, FIRST))) is Done
    assert type(answer_to(engine, Look(again.token, FIRST))) is Taken


def test_what_an_earlier_holder_gives_back_is_taken_from_the_present_one(engine: Engine) -> None:
    """A fact of the engine, and why a member asks for that once only."""
    submit(engine, FIRST)
    (job,) = fetch(engine)
    assert fetch_one(engine).delivered == 2
    answer_to(engine, GiveBack(job.token, FIRST, delay_ns=1))
    assert [each.delivered for each in fetch(engine)] == [3]


def test_a_job_is_accepted_once(engine: Engine) -> None:
    assert submit(engine, FIRST) is Done
    assert submit(engine, FIRST) is Done, "the same, said twice"
    assert submit(engine, FIRST, spec(99)) is Taken, "another one under its number"
    assert len(fetch(engine)) == 1


def test_the_first_outcome_of_a_run_counts(engine: Engine) -> None:
    assert type(answer_to(engine, Record(FIRST, b"one"))) is Done
    second = answer_to(engine, Record(FIRST, b"two"))
    assert isinstance(second, Taken)
    assert second.data == b"one"
    assert type(answer_to(engine, Record(FIRST._replace(run=2), b"three"))) is Done
    assert type(answer_to(engine, Record(SECOND_JOB, b"four"))) is Done
    page = answer_to(engine, ReadOutcomes("a.b", 0, 2))
    assert isinstance(page, OutcomePage)
    assert [data for _, data in page.outcomes] == [b"one", b"three"]
    rest = answer_to(engine, ReadOutcomes("a.b", page.outcomes[-1][0], 9))
    assert isinstance(rest, OutcomePage)
    assert [data for _, data in rest.outcomes] == [b"four"]
    assert answer_to(engine, ReadOutcomes("a-b", 0, 9)) == OutcomePage(ReadOutcomes("a-b", 0, 9), ())


def test_a_job_that_has_an_outcome_is_settled_though_it_was_not_acknowledged(engine: Engine) -> None:
    submit(engine, FIRST)
    (job,) = fetch(engine)
    answer_to(engine, Record(FIRST, b"one"))
    assert type(answer_to(engine, Look(job.token, FIRST))) is Taken
    assert type(answer_to(engine, Look(job.token, FIRST._replace(run=2)))) is Done


def test_a_dead_letter_is_kept_once_and_needs_no_job(engine: Engine) -> None:
    submit(engine, FIRST)
    (job,) = fetch(engine)
    for _ in range(2):
        assert type(answer_to(engine, DeadLetter(job.token, FIRST))) is Done
    answer_to(engine, Acknowledge(job.token, FIRST))
    assert type(answer_to(engine, DeadLetter(job.token, FIRST))) is Done


def test_a_batch_is_begun_once(engine: Engine) -> None:
    assert type(answer_to(engine, OpenBatch("a.b", b"one", create=False))) is Done
    assert type(answer_to(engine, OpenBatch("a.b", b"one", create=True))) is Done
    assert type(answer_to(engine, OpenBatch("a.b", b"one", create=True))) is Done, "said twice"
    other = answer_to(engine, OpenBatch("a.b", b"two", create=True))
    assert isinstance(other, Taken)
    assert other.data == b"one"
    assert type(answer_to(engine, NoteBatch("a.b", b"three"))) is Done
    asked = answer_to(engine, OpenBatch("a.b", b"two", create=False))
    assert isinstance(asked, Taken)
    assert asked.data == b"three"
    assert type(answer_to(engine, OpenBatch("a-b", b"two", create=False))) is Done


def test_higher_lanes_come_first(engine: Engine) -> None:
    for seq, priority in enumerate((-1, 0, 5), 1):
        submit(engine, JobKey("b", seq, 1), spec(seq, limits=Limits(priority=priority)))
    placed = [NAMES.parse_job(job.subject) for job in fetch(engine, 3)]
    assert [each.seq for each in placed if each is not None] == [3, 2, 1]
    assert DEFAULT_LIMITS.priority == 0


def test_no_more_than_wanted(engine: Engine) -> None:
    for seq in range(1, 8):
        submit(engine, JobKey("b", seq, 1))
    counts = [len(fetch(engine, 3)) for _ in range(3)]
    assert counts == [3, 3, 1]


def test_a_connection_may_be_closed_twice(engine: Engine) -> None:
    engine.close()
    engine.close()
    assert not engine.ask(Fetch(1))
