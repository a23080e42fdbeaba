"""The connection with real brokers: what it does when they are away, killed, frozen, or kept as they should not be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from support.brokers import Broker, BrokerCluster, answer_to
from support.harness import DEADLINE_SECONDS, until
from support.members import spec, submission
from taskpool.clock import SECOND
from taskpool.cluster.engine import (
    Done,
    Engine,
    Failed,
    Fetch,
    Fetched,
    JobKey,
    Notice,
    OutcomePage,
    ReadOutcomes,
    Record,
    Request,
)
from taskpool.cluster.memory import MemoryBroker
from taskpool.cluster.subjects import parse_address
from taskpool.errors import DealerUnreachable, ExitCode

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


def is_done(engine: Engine, request: Request) -> bool:
    return isinstance(answer_to(engine, request), Done)


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


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_three_brokers_that_sync_are_the_safe_profile_and_outlive_their_leader(tmp_path: Path, pool: str) -> None:
    with BrokerCluster(tmp_path / "brokers") as brokers, connected(brokers.address, pool) as engine:
        assert engine.refusal is None
        job = submission(MemoryBroker(pool, 1), FIRST, spec())
        until(lambda: isinstance(answer_to(engine, job), Done), "an accepted job")
        # Whichever leads which stream: after two of three have been killed and come back, all have been away.
        for broker in brokers.brokers[:2]:
            broker.kill()
            record = Record(JobKey("b", broker.port, 1), b"one")
            until(partial(is_done, engine, record), "an outcome recorded")
            broker.start()
        until(lambda: len(getattr(answer_to(engine, Fetch(1)), "jobs", ())) == 1, "the job")
        page = answer_to(engine, ReadOutcomes("b", 0, 9))
        assert isinstance(page, OutcomePage)
        assert len(page.outcomes) == 2


def test_an_ack_wait_that_is_there_is_kept_to(tmp_path: Path, pool: str) -> None:
    with Broker(tmp_path / "broker") as broker:
        for _ in range(2):
            with connected(f"{broker.address}?unsafe=1&ack_wait=7", pool) as engine:
                assert engine.ack_wait_ns == 7 * SECOND
        with connected(f"{broker.address}?unsafe=1", pool) as engine:
            assert engine.ack_wait_ns == 7 * SECOND, "or its members would extend too late"


@pytest.mark.parametrize(
    ("sync", "text"),
    [("always", ""), ('"2m"', "syncs its files every 120 s")],
)
def test_a_person_is_told_what_the_brokers_do_not_keep(
    tmp_path: Path, pool: str, sync: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from taskpool.dealer import cluster_cli

    with Broker(tmp_path / "broker", sync=sync) as broker:
        words = ["check", "--pool", pool, "--cluster", f"{broker.address}?monitor={broker.monitor}"]
        assert cluster_cli.run(words) == ExitCode.ENVIRONMENT, "one broker alone"
    told = capsys.readouterr().out
    assert "has 1 of 3 copies" in told
    assert text in told
    assert ("syncs" in told) is bool(text)


def test_brokers_that_are_not_there_are_said_to_be_so(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from taskpool.dealer import cluster_cli

    monkeypatch.setattr(cluster_cli, "LOOK_SECONDS", 0.1)
    with pytest.raises(DealerUnreachable, match=r"no broker of nats://127\.0\.0\.1:9 could be looked at"):
        cluster_cli.run(["check", "--pool", pool, "--cluster", "nats://127.0.0.1:9"])
