"""The bridge of a member with a real dealer and an engine in memory: what is hard to bring about with real brokers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.harness import OK, Program, Stage, tell, until
from support.members import spec, submission
from taskpool.clock import SECOND
from taskpool.cluster import bridge as bridge_module
from taskpool.cluster import member as member_module
from taskpool.cluster.bridge import Bridge
from taskpool.cluster.engine import JobKey, SubmitJob
from taskpool.cluster.job import ClusterOutcome, decode_outcome
from taskpool.cluster.memory import MemoryBroker, MemoryEngine
from taskpool.cluster.subjects import Lane
from taskpool.log import Fact
from taskpool.messages import JobSpec, State

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Told:
    """What the bridge tells a person."""

    def detail(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        tell(text)

    info = warning = detail


class Member:
    """A dealer of its own process, and a bridge to it in this one."""

    def __init__(self, stage: Stage, journal: Path) -> None:
        self.stage = stage
        self.dealer: Program = stage.dealer("--journal", journal, "--workers", 2)
        self.broker = MemoryBroker(stage.pool, 30 * SECOND)
        self.bridge = Bridge(stage.pool, MemoryEngine(self.broker, time.monotonic_ns), Told())

    def submit(self, seq: int, job: JobSpec | None = None) -> None:
        self.broker.perform(submission(self.broker, JobKey("b", seq, 1), job or spec(5)), time.monotonic_ns())

    def wait_outcomes(self, number: int) -> list[ClusterOutcome]:
        until(lambda: len(self.broker.outcomes) >= number, f"{number} outcomes")
        return [decode_outcome(data) for _, data in list(self.broker.outcomes.values())]


@pytest.fixture
def member(stage: Stage, tmp_path: Path) -> Iterator[Member]:
    member = Member(stage, tmp_path / "journal.db")
    member.bridge.start()
    yield member
    member.bridge.close()
    stage.generator("drain", "--pool", stage.pool).ends(OK)
    member.dealer.ends(OK)


def test_a_batch_with_many_jobs_is_closed_and_another_one_begun(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "ROTATE_JOBS", 3)
    for seq in range(1, 4):
        member.submit(seq)
    member.wait_outcomes(3)
    member.dealer.says("Batch cluster-1 closed with 3 jobs")
    member.submit(4)
    assert {each.outcome.state for each in member.wait_outcomes(4)} == {State.SUCCEEDED}
    member.dealer.says("Batch cluster-2 opened")


def test_what_is_no_job_is_told_and_stops_nothing(member: Member) -> None:
    garbage = SubmitJob(member.broker.names.job(Lane.HIGH, "b", 1), b"\xc1 garbage", "g")
    member.broker.perform(garbage, time.monotonic_ns())
    member.submit(2, JobSpec("nonsense", b""))
    member.submit(3, JobSpec("fib", b"\xc1"))
    member.submit(4)
    states = {each.outcome.seq: each.outcome for each in member.wait_outcomes(4)}
    assert states[4].state is State.SUCCEEDED
    for seq in (1, 2, 3):
        error = states[seq].error
        assert error is not None
        assert (states[seq].state, error.type) == (State.FAILED, "Corrupt")
    until(lambda: not member.broker.jobs, "an engine that is empty")
    assert len(member.broker.dead) == 3


def test_a_batch_that_a_person_cancels_here_goes_back(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "CANCELLED_HERE_NS", 1)
    member.submit(1)
    member.wait_outcomes(1)
    member.stage.generator("cancel", "cluster-1", "--pool", member.stage.pool).ends(OK)
    member.submit(2)
    assert {each.outcome.state for each in member.wait_outcomes(2)} == {State.SUCCEEDED}
    member.dealer.says("Batch cluster-2 opened")


def test_a_bridge_that_begins_anew_goes_on_with_its_batch(member: Member) -> None:
    member.submit(1)
    member.wait_outcomes(1)
    member.bridge.close()
    member.submit(2)
    member.bridge = Bridge(member.stage.pool, MemoryEngine(member.broker, time.monotonic_ns), Told())
    member.bridge.start()
    assert sorted(each.outcome.seq for each in member.wait_outcomes(2)) == [1, 2]
    assert "cluster-2" not in member.dealer.stderr
