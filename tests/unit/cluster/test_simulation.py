"""Members on an engine in memory, with seeded faults, then a calm in which everything must converge."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from support.members import ACK_WAIT_NS, POOL, SimulatedMember, spec, submission
from taskpool.clock import SECOND
from taskpool.cluster import member as member_module
from taskpool.cluster.engine import JobKey
from taskpool.cluster.job import decode_outcome
from taskpool.cluster.member import Member, Step
from taskpool.cluster.memory import Link, MemoryBroker, MemoryEngine
from taskpool.messages import State

JOBS = 30
STEPS = 400
CALM_TURNS_MAX = 400
SEEDS = 60


class World:
    """Three members, one broker, a submitter, and a clock."""

    def __init__(self, seed: int, make: Callable[[str, int, int], Member] = Member) -> None:
        self.random = Random(seed)
        self.now = 0
        self.broker = MemoryBroker(POOL, ACK_WAIT_NS)
        self.members = [SimulatedMember(f"host-{n}", self.broker, lambda: self.now, make) for n in range(3)]
        self.submitter = MemoryEngine(self.broker, lambda: self.now)
        self.keys = [JobKey("b.1", seq, 1) for seq in range(1, JOBS + 1)]

    def submit(self, key: JobKey) -> None:
        assert self.submitter.ask(submission(self.broker, key, spec(key.seq)))
        self.submitter.answers()

    def step(self, turn: int) -> None:
        """Something happens."""
        random = self.random
        if turn < JOBS:
            self.submit(self.keys[turn])
        one = random.choice(self.members)
        match random.randrange(24):
            case 0:
                one.kill()
            case 1 | 2:
                if one.member is None:
                    one.start()
            case 3:
                one.engine.link = random.choice(list(Link))
            case 4:
                one.engine.link = Link.GOOD
            case 5:
                one.hand_back()
            case 6:
                self.submit(random.choice(self.keys[: turn + 1]))  # a submitter that was killed, and begins anew
            case 7 | 8 | 9 | 10:
                one.execute(random)
            case 11 | 12:
                self.now += random.choice((1, 5, 40)) * SECOND
            case _:
                one.turn(random.randrange(4))

    def calm(self) -> None:
        """All is well from now on, until nothing is left to do."""
        for one in self.members:
            one.engine.link = Link.GOOD
            if one.member is None:
                one.start()
        for _ in range(CALM_TURNS_MAX):
            for one in self.members:
                one.execute(self.random)
                one.turn(2)
            if not self.broker.jobs and all(one.settled for one in self.members):
                return
            self.now += SECOND
        pytest.fail(f"no convergence: {len(self.broker.jobs)} jobs are left in the engine")

    def check(self) -> None:
        """Exactly one outcome a run, of an execution that there was, and none lost."""
        outcomes = [decode_outcome(data) for _, data in self.broker.outcomes.values()]
        assert sorted((each.batch, each.outcome.seq, each.outcome.run) for each in outcomes) == sorted(self.keys)
        for each in outcomes:
            key = JobKey(each.batch, each.outcome.seq, each.outcome.run)
            one = next(one for one in self.members if one.name == each.member)
            assert one.executed[key], f"{key} is recorded by {one.name}, which never executed it"
        quarantined = {each.outcome.seq for each in outcomes if each.outcome.state is State.QUARANTINED}
        letters = {int(subject.split(".")[4]) for subject in self.broker.dead}
        assert quarantined <= letters

    def close(self) -> None:
        for engine in (self.submitter, *(one.engine for one in self.members)):
            engine.close()


def run(seed: int, make: Callable[[str, int, int], Member] = Member) -> World:
    world = World(seed, make)
    try:
        for turn in range(STEPS):
            world.step(turn)
        world.calm()
        world.check()
    finally:
        world.close()
    return world


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_run_has_one_outcome_whatever_happens(seed: int) -> None:
    run(seed)


def test_the_faults_are_such_as_to_make_duplicates() -> None:
    """Or the invariant would hold of itself."""
    worlds = [run(seed) for seed in range(20)]
    assert any(world.broker.refused for world in worlds)
    assert any(sum(one.executed[key] for one in world.members) > 1 for world in worlds for key in world.keys)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((Step.ACKNOWLEDGE, Step.RECORD), id="acknowledged before it is recorded"),
        pytest.param((Step.ACKNOWLEDGE,), id="never recorded"),
    ],
)
def test_a_wrong_order_is_found(steps: tuple[Step, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for state in (State.SUCCEEDED, State.FAILED):
        monkeypatch.setitem(member_module.STEPS, state, steps)
    assert any(fails(seed, Member) for seed in range(SEEDS)), "no schedule shows it"


def test_a_cancelled_local_job_that_counts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(member_module.STEPS, State.CANCELLED, (Step.RECORD, Step.ACKNOWLEDGE))
    assert any(fails(seed, Member) for seed in range(SEEDS)), "no schedule shows it"


def fails(seed: int, make: Callable[[str, int, int], Member]) -> bool:
    try:
        run(seed, make)
    except (AssertionError, pytest.fail.Exception):
        return True
    return False
