"""One pool past one host: a broker and two members on loopback, each in an IPC namespace and a state directory of its
own, as two hosts have them. What ran is judged from the ledger, what counts from what the broker has."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGINT, SIGSTOP, SIGTERM

import pytest

from support.brokers import Broker, answer_to
from support.harness import FAILED, INTERRUPTED, OK, USAGE, Program, Stage, kill, program, until
from support.ledger import Ledger
from taskpool.cluster.engine import Done, JobKey, OutcomePage, ReadOutcomes, SubmitJob
from taskpool.cluster.job import ClusterOutcome, decode_outcome, encode_job, message_id
from taskpool.cluster.nats_connection import NatsEngine
from taskpool.cluster.subjects import Lane, Names, parse_address
from taskpool.kinds import TYPED_KINDS
from taskpool.messages import DEFAULT_LIMITS, JobSpec, Limits, State

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BATCH = "render.1"
# Root may have an IPC namespace as it is, others in a user namespace of their own.
NAMESPACE = ("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-current-user")), "--ipc")
ACK_WAIT_SECONDS = 6  # jobs of a killed member wait so long; a member on a loaded machine extends them in time
NEVER_SECONDS = 600  # what is executed elsewhere then was handed back


def need_namespaces() -> None:
    asked = subprocess.run([*NAMESPACE, "true"], capture_output=True)
    if asked.returncode:
        pytest.skip(f"no IPC namespace of one's own here: {asked.stderr.decode().strip()}")


class Cluster:
    """The broker, and what a submitter and a reader of outcomes see."""

    def __init__(self, stage: Stage, broker: Broker, engine: NatsEngine, ack_wait: int) -> None:
        self.stage = stage
        self.broker = broker
        self.engine = engine
        self.ack_wait = ack_wait
        self.names = Names(stage.pool)

    def member(self, name: str, *args: object, workers: int = 2) -> Program:
        """Start a member on a host of its own; with the same name, the same host again."""
        state = self.stage.directory / name
        state.mkdir(exist_ok=True)
        options = ["--pool", self.stage.pool, "--metrics", "none", "-v", "--workers", str(workers), *map(str, args)]
        cluster = f"{self.broker.address}?unsafe=1&ack_wait={self.ack_wait}"
        argv = [*NAMESPACE, program("tp-dealer"), *options, "--cluster", cluster]
        started = self.stage.start(argv, env={"XDG_STATE_HOME": str(state)})
        started.says(r"\[Cluster\] Member of pool")
        started.says(r"is ready")
        return started

    def submit(self, seq: int, argv: list[str], wanted: Limits = DEFAULT_LIMITS) -> None:
        job = JobSpec("command", TYPED_KINDS["command"].parse({"argv": argv}, "test"), label=f"job {seq}")
        key = JobKey(BATCH, seq, 1)
        request = SubmitJob(self.names.job(Lane.NORMAL, BATCH, seq), encode_job(key, job, wanted), message_id(key, job))
        assert isinstance(answer_to(self.engine, request), Done)

    def submit_ledger(self, ledger: Ledger, work: str, seqs: range) -> None:
        for seq in seqs:
            self.submit(seq, [word.replace("{}", str(seq)) for word in ledger.command(work)])

    def outcomes(self) -> list[ClusterOutcome]:
        page = answer_to(self.engine, ReadOutcomes(BATCH, 0, 1000))
        assert isinstance(page, OutcomePage)
        return [decode_outcome(data) for _, data in page.outcomes]

    def wait_outcomes(self, number: int) -> list[ClusterOutcome]:
        until(lambda: len(self.outcomes()) >= number, f"{number} outcomes")
        return self.outcomes()


@contextmanager
def cluster_of(stage: Stage, tmp_path: Path, ack_wait: int) -> Iterator[Cluster]:
    with Broker(tmp_path / "broker") as broker:
        engine = NatsEngine(parse_address(f"{broker.address}?unsafe=1&ack_wait={ack_wait}"), stage.pool)
        try:
            assert engine.start(50)
            yield Cluster(stage, broker, engine, ack_wait)
        finally:
            engine.close()


@pytest.fixture
def cluster(stage: Stage, tmp_path: Path) -> Iterator[Cluster]:
    need_namespaces()
    with cluster_of(stage, tmp_path, ACK_WAIT_SECONDS) as cluster:
        yield cluster


@pytest.fixture
def patient(stage: Stage, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster in which no job is executed elsewhere because its member was silent."""
    need_namespaces()
    with cluster_of(stage, tmp_path, NEVER_SECONDS) as cluster:
        yield cluster


def leave(*members: Program) -> None:
    for member in members:
        member.send(SIGTERM)
    for member in members:
        member.ends(OK)


def test_two_members_share_the_jobs(cluster: Cluster, ledger: Ledger) -> None:
    members = [cluster.member(name) for name in ("a", "b")]
    with ledger.gate():
        cluster.submit_ledger(ledger, "gate", range(1, 11))
        ledger.wait("start", 4)  # two for each of the four workers would need a second member
        assert ledger.count("start") == 4
    found = cluster.wait_outcomes(10)
    assert sorted(each.outcome.seq for each in found) == [*range(1, 11)]
    assert {each.outcome.state for each in found} == {State.SUCCEEDED}
    assert {each.outcome.label for each in found} == {f"job {seq}" for seq in range(1, 11)}
    assert len({each.member for each in found}) == 2
    ledger.check_no_overlap()
    assert set(ledger.jobs("start").values()) == {1}
    leave(*members)


def test_the_jobs_of_a_killed_member_are_executed_by_another_one(cluster: Cluster, ledger: Ledger) -> None:
    first = cluster.member("a")
    with ledger.gate():
        cluster.submit_ledger(ledger, "gate", range(1, 7))
        ledger.wait("start", 2)
        second = cluster.member("b")
        ledger.wait("start", 4)
        kill(first.pid)
        first.wait()
        ledger.wait("start", 4)
    ledger.wait("end", 6)
    found = cluster.wait_outcomes(6)
    assert sorted(each.outcome.seq for each in found) == [*range(1, 7)]
    (survivor,) = {each.member for each in found}
    assert sum(count == 2 for count in ledger.jobs("start").values()) == 2, "those that the killed member had begun"
    # The killed one comes back with two jobs in its journal that have outcomes by now.
    again = cluster.member("a")
    again.says(r"\[Cluster\] Going on with what the journal has of the cluster")
    cluster.submit_ledger(ledger, "", range(7, 9))
    assert len(cluster.wait_outcomes(8)) == 8
    assert sorted(each.outcome.seq for each in cluster.outcomes()) == [*range(1, 9)]
    assert survivor in {each.member for each in cluster.outcomes()[:6]}
    leave(second, again)


def test_outcomes_wait_for_a_broker_that_was_killed(cluster: Cluster, ledger: Ledger) -> None:
    member = cluster.member("a")
    with ledger.gate():
        cluster.submit_ledger(ledger, "gate", range(1, 3))
        ledger.wait("start", 2)
        cluster.broker.kill()
        member.says(r"\[Cluster\] the connection with the cluster is lost")
    ledger.wait("end", 2)
    cluster.broker.start()
    member.says(r"\[Cluster\] the connection with the cluster is there again")
    found = cluster.wait_outcomes(2)
    assert sorted(each.outcome.seq for each in found) == [1, 2]
    assert set(ledger.jobs("start").values()) == {1}
    leave(member)


def test_a_drain_hands_back_what_does_not_run(patient: Cluster, tmp_path: Path) -> None:
    marker = tmp_path / "failed once"
    first = patient.member("a")
    patient.submit(1, ["true"])
    patient.wait_outcomes(1)
    # Its first try fails, and its second one is an hour away: here, at least.
    wanted = Limits(retries=1, backoff_min_ns=3600 * 10**9, backoff_max_ns=3600 * 10**9)
    patient.submit(2, ["sh", "-c", f'test -e "{marker}" || {{ : > "{marker}"; exit 1; }}'], wanted)
    first.says(r"next try in 3600 s")
    second = patient.member("b")
    leave(first)
    found = patient.wait_outcomes(2)
    assert [(each.outcome.seq, each.outcome.state) for each in found] == [(1, State.SUCCEEDED), (2, State.SUCCEEDED)]
    assert len({each.member for each in found}) == 2
    leave(second)


def test_a_job_that_crashes_is_quarantined_for_the_whole_cluster(cluster: Cluster) -> None:
    member = cluster.member("a")
    cluster.submit(1, ["sh", "-c", "kill -SEGV $$"], Limits(crash_limit=2))
    (found,) = cluster.wait_outcomes(1)
    assert (found.outcome.state, found.outcome.crashes) == (State.QUARANTINED, 2)
    leave(member)


# --- submission by tp-generator ------------------------------------------------------------------


def submitter(cluster: Cluster, *args: object, **how: object) -> Program:
    address = f"{cluster.broker.address}?unsafe=1&ack_wait={cluster.ack_wait}"
    kind, *rest = args
    return cluster.stage.generator(kind, "--pool", cluster.stage.pool, "--cluster", address, *rest, **how)


def test_a_batch_is_typed_as_for_a_pool_of_one_host(cluster: Cluster, tmp_path: Path) -> None:
    members = [cluster.member(name) for name in ("a", "b")]
    results = tmp_path / "results"
    run = submitter(cluster, "fib", "10-19", "--keep-order", "--results", results).ends(OK)
    assert run.lines == ["55", "89", "144", "233", "377", "610", "987", "1597", "2584", "4181"]
    told = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted(each["seq"] for each in told) == [*range(1, 11)]
    assert "10 jobs: 10 succeeded" in run.stderr
    failing = submitter(cluster, "command", "--", "sh", "-c", "exit {}", ":::", "0", "3").ends(FAILED)
    assert "1 succeeded, 1 failed" in failing.stderr
    leave(*members)


def test_a_killed_submitter_goes_on_and_nothing_runs_twice(cluster: Cluster, ledger: Ledger) -> None:
    member = cluster.member("a")
    command = ["--batch", "mine", "--", *ledger.command("gate"), ":::", *map(str, range(1, 9))]
    with ledger.gate():
        first = submitter(cluster, "command", *command)
        ledger.wait("start", 2)
        kill(first.pid)
        first.wait()
        exists = submitter(cluster, "command", *command).ends(USAGE)
        assert "exists already" in exists.stderr
        second = submitter(cluster, "command", "--resume", *command)
    second.ends(OK)
    assert "8 jobs: 8 succeeded" in second.stderr
    assert set(ledger.jobs("start").values()) == {1}
    changed = [*command[:-1], "another"]
    assert "the input has changed: job 8" in submitter(cluster, "command", "--resume", *changed).ends(USAGE).stderr
    again = submitter(cluster, "command", "--resume", *command).ends(OK)
    assert "(8 in earlier runs)" in again.stderr
    unknown = submitter(cluster, "fib", "5", "--batch", "other", "--resume").ends(USAGE)
    assert "no batch 'other'" in unknown.stderr
    assert ledger.count("start") == 8
    leave(member)


def test_a_signal_ends_the_submitter_and_not_the_jobs(cluster: Cluster, ledger: Ledger) -> None:
    member = cluster.member("a")
    command = ["--batch", "mine", "--", *ledger.command("gate"), ":::", "1", "2", "3"]
    with ledger.gate():
        run = submitter(cluster, "command", *command)
        ledger.wait("start", 2)
        run.send(SIGINT)
        run.ends(INTERRUPTED)
    assert "they live on in the cluster's pool" in run.stderr
    assert "--resume" in run.stderr
    ledger.wait("end", 2)
    resumed = submitter(cluster, "command", "--resume", *command).ends(OK)
    assert "3 jobs: 3 succeeded" in resumed.stderr
    assert set(ledger.jobs("start").values()) == {1}
    leave(member)


def test_a_detached_batch_is_gone_on_with(cluster: Cluster) -> None:
    run = submitter(cluster, "fib", "5-9", "--batch", "later", "--detach").ends(OK)
    assert run.lines == ["later"]
    member = cluster.member("a")
    resumed = submitter(cluster, "fib", "5-9", "--batch", "later", "--resume", "--keep-order").ends(OK)
    assert resumed.lines == ["5", "8", "13", "21", "34"], "no earlier run has printed them"
    again = submitter(cluster, "fib", "5-9", "--batch", "later", "--resume").ends(OK)
    assert again.lines == []
    assert "(5 in earlier runs)" in again.stderr
    leave(member)


def test_a_host_that_stood_still_records_nothing_a_second_time(cluster: Cluster, ledger: Ledger) -> None:
    first = cluster.member("a")
    words = ["--batch", BATCH, "--", *ledger.command("gate"), ":::", "1", "2"]
    run = submitter(cluster, "command", *words)
    with ledger.gate():
        ledger.wait("start", 2)
        first.send(SIGSTOP)  # its workers go on, as they would on a host that is cut off
        second = cluster.member("b")
        # The other member's executions find those of the first one alive, and say so.
        ledger.wait("overlap", 2)
    run.wait()
    recorded = {each.outcome.seq: each.member for each in cluster.outcomes()}
    assert len(recorded) == 2
    assert len({*recorded.values()}) == 1, "the first one stands still, so the other one has recorded both"
    first.send(SIGCONT)
    leave(first, second)
    assert {each.outcome.seq: each.member for each in cluster.outcomes()} == recorded
    assert len(cluster.outcomes()) == 2
