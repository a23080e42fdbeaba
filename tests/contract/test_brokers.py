"""The connection with real brokers: what it does when they are away, killed, frozen, or kept as they should not be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.brokers import DEADLINE_SECONDS, Broker, answer_to, until
from support.members import spec, submission
from taskpool.cluster.engine import Done, Engine, Failed, Fetch, Fetched, JobKey, Notice, Record
from taskpool.cluster.memory import MemoryBroker
from taskpool.cluster.subjects import parse_address

FIRST = JobKey("b", 1, 1)


@contextmanager
def connected(address: str, pool: str, seconds: float = DEADLINE_SECONDS) -> Iterator[Engine]:
    from taskpool.cluster.nats_connection import NatsEngine

    engine = NatsEngine(parse_address(address), pool)
    try:
        engine.start(seconds)
        yield engine
    finally:
        engine.close()


def notice(engine: Engine, text: str) -> None:
    """Wait until it says so."""
    told: list[str] = []

    def look() -> bool:
        told.extend(each.text for each in engine.answers() if isinstance(each, Notice))
        return any(text in each for each in told)

    until(look, f"{text!r} among what the connection says: {told}")


def test_what_was_accepted_survives_a_kill_of_the_broker(tmp_path: Path, pool: str) -> None:
    with Broker(tmp_path / "broker") as broker, connected(f"{broker.address}?unsafe=1", pool) as engine:
        job = submission(MemoryBroker(pool, 1), FIRST, spec())
        assert isinstance(answer_to(engine, job), Done)
        broker.kill()
        notice(engine, "the connection with the cluster is lost")
        assert isinstance(answer_to(engine, Record(FIRST, b"one")), Failed), "in time, and not never"
        broker.start()
        notice(engine, "is there again")
        until(lambda: isinstance(answer_to(engine, Record(FIRST, b"one")), Done), "the outcome recorded")
        fetched = answer_to(engine, Fetch(1))
        assert isinstance(fetched, Fetched)
        assert [delivery.data for delivery in fetched.jobs] == [job.data]


def test_a_frozen_broker_holds_nothing_up(tmp_path: Path, pool: str) -> None:
    with Broker(tmp_path / "broker") as broker, connected(f"{broker.address}?unsafe=1", pool) as engine:
        broker.stop()
        try:
            assert isinstance(answer_to(engine, Record(FIRST, b"one")), Failed)
        finally:
            broker.stop(resume=True)
        until(lambda: isinstance(answer_to(engine, Record(FIRST, b"one")), Done), "the outcome recorded")


def test_a_broker_that_comes_later_is_found(tmp_path: Path, pool: str) -> None:
    broker = Broker(tmp_path / "broker")
    with broker:  # only for its port
        pass
    with connected(f"{broker.address}?unsafe=1", pool, seconds=0) as engine:
        assert isinstance(answer_to(engine, Fetch(1)), Failed)
        with broker:
            until(lambda: isinstance(answer_to(engine, Fetch(1)), Fetched), "an answer of the broker")


def test_more_requests_than_can_be_under_way_are_refused(tmp_path: Path, pool: str) -> None:
    from taskpool.cluster.nats_connection import WAITING_MAX

    with Broker(tmp_path / "broker") as broker, connected(f"{broker.address}?unsafe=1", pool) as engine:
        broker.stop()
        try:
            taken = [engine.ask(Record(JobKey("b", seq, 1), b"one")) for seq in range(1, WAITING_MAX + 2)]
        finally:
            broker.stop(resume=True)
        assert taken == [True] * WAITING_MAX + [False]


@pytest.mark.parametrize(
    ("sync", "options", "text"),
    [
        ("always", "", "has 1 of 3 copies"),
        ('"2m"', "?monitor={monitor}", "syncs its files every 120 s"),
    ],
)
def test_an_unsafe_broker_is_refused(tmp_path: Path, pool: str, sync: str, options: str, text: str) -> None:
    with (
        Broker(tmp_path / "broker", sync=sync) as broker,
        connected(broker.address + options.format(monitor=broker.monitor), pool) as engine,
    ):
        refusal = getattr(engine, "refusal", None)
        assert refusal is not None
        assert text in refusal
        failed = answer_to(engine, Fetch(1))
        assert isinstance(failed, Failed)
        assert failed.text == refusal


def test_one_that_syncs_always_is_seen_to(tmp_path: Path, pool: str) -> None:
    with Broker(tmp_path / "broker") as broker, connected(f"{broker.address}?monitor={broker.monitor}", pool) as engine:
        refusal = getattr(engine, "refusal", "")
        assert "copies" in refusal, "one broker alone has one copy ..."
        assert "sync" not in refusal, "... and nothing else is wrong with it"
