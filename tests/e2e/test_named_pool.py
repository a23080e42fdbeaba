"""A pool that stays: submit and leave, ask, steer, take back."""

from __future__ import annotations

import json
from collections import Counter
from signal import SIGTERM

from support.harness import OK, QUARANTINED, REFUSED, TERMINATED, USAGE, Program, Stage, kill, until, workers_of
from support.ledger import Ledger


def detach(stage: Stage, ledger: Ledger, work: str, jobs: int, *options: object) -> str:
    """Submit and leave; returns the batch's id, which is all that is printed."""
    names = map(str, range(1, jobs + 1))
    command = ["--", *ledger.command(work), ":::", *names]
    run = stage.generator("command", "--pool", stage.pool, "--detach", *options, *command).ends(OK)
    (batch,) = run.lines
    return batch


def leave(dealer: Program) -> None:
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_detached_jobs_run_and_can_be_looked_at(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 2)
    with ledger.gate():
        assert detach(stage, ledger, "gate", 5, "--batch", "mine") == "mine"
        ledger.wait("start", 2)
        status = stage.ask("status")
        assert (status["pool"], status["pid"], status["state"]) == (stage.pool, dealer.pid, "running")
        assert (status["jobs"]["running"], status["jobs"]["queued"]) == (2, 3)
        (batch,) = status["batches"]
        assert (batch["batch"], batch["accepted"], batch["total"], batch["open"]) == ("mine", 5, 5, 5)
        assert sorted(line["job"] for line in status["running"]) == ["mine/1", "mine/2"]
        assert stage.ask("show", "mine/1")["state"] == "running"
        assert stage.ask("show", "mine/5")["state"] == "queued"
        shown = stage.generator("status", "--pool", stage.pool).ends(OK).stdout
        assert stage.pool in shown
        assert "mine/1" in shown
    ledger.wait("end", 5)
    until(lambda: stage.ask("status")["finished"] == {"succeeded": 5}, "five finished jobs")
    assert stage.generator("show", "mine/99", "--pool", stage.pool).ends(USAGE).stderr
    leave(dealer)


def test_pause_and_resume(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 2)
    assert stage.ask("pause") == {"state": "paused"}
    detach(stage, ledger, "", 4)
    status = stage.ask("status")
    assert (status["state"], status["jobs"]["queued"], status["jobs"]["running"]) == ("paused", 4, 0)
    assert ledger.lines() == []
    assert stage.ask("unpause") == {"state": "running"}
    ledger.wait("end", 4)
    leave(dealer)


def test_cancel(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 2)
    names = map(str, range(1, 11))
    command = ["--", *ledger.command("sleep=3600"), ":::", *names]
    options = ["--pool", stage.pool, "--batch", "b", "--output", "json"]
    run = stage.generator("command", *options, *command)
    ledger.wait("start", 2)
    assert stage.ask("cancel", "b/9") == {"cancelled": 1, "stopping": 0}
    assert stage.ask("cancel", "b") == {"cancelled": 7, "stopping": 2}
    run.ends(1)
    assert Counter(job["state"] for job in run.objects()) == {"cancelled": 10}
    assert ledger.count("start") == 2
    assert ledger.count("end") == 0
    assert stage.generator("fib", "20", "--pool", stage.pool).ends(OK).lines == ["6765"]
    leave(dealer)


def test_scale(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 1, "--spares", 0)
    with ledger.gate():
        detach(stage, ledger, "gate", 6)
        ledger.wait("start", 1)
        assert stage.ask("scale", "+2") == {"workers_wanted": 3}
        ledger.wait("start", 3)
        assert len(workers_of(dealer.pid)) == 3
        assert stage.ask("scale", "-2") == {"workers_wanted": 1}
        assert ledger.count("start") == 3
    ledger.wait("end", 6)
    until(lambda: len(workers_of(dealer.pid)) == 1, "one worker that is left")
    assert set(ledger.jobs("start").values()) == {1}, "scaling down stopped a running job"
    leave(dealer)


def test_scale_goes_as_far_as_there_are_descriptors(stage: Stage, ledger: Ledger) -> None:
    """What cannot be started is not wanted, so that the dead are still replaced."""
    few = ("sh", "-c", 'ulimit -n 294 && exec "$@"', "sh")
    dealer = stage.dealer("--workers", 1, "--spares", 0, under=few)
    answer = stage.ask("scale", "+200")
    assert answer == {"workers_wanted": 17, "limit": "there is no room for 201: RLIMIT_NOFILE is 294 descriptors"}
    dealer.says(r"Workers wanted: 17; there is no room for 201")
    until(lambda: stage.ask("status")["workers"] == {"spare": 17}, "17 workers that are ready")
    with ledger.gate():
        detach(stage, ledger, "gate", 17)
        ledger.wait("start", 17)
        for worker in workers_of(dealer.pid):
            kill(worker)
        ledger.wait("start", 34)
    ledger.wait("end", 17)
    assert not stage.ask("status")["out_of_service"]
    leave(dealer)


def test_priority(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 1)
    stage.ask("pause")
    jobs = [{"kind": "command", "argv": [*ledger.command()[:3], str(n)], "priority": n % 3} for n in range(1, 10)]
    text = "\n".join(map(json.dumps, jobs)).encode()
    stage.generator("jobs", "--pool", stage.pool, "--detach", "-", stdin=text).ends(OK)
    stage.ask("unpause")
    ledger.wait("end", 9)
    order = [int(line[1]) % 3 for line in ledger.lines() if line[0] == "start"]
    assert order == sorted(order, reverse=True)
    leave(dealer)


def test_quarantine(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 1)
    names = ["1", "2"]
    command = ["--batch", "poison", "--crash-limit", 1, "--", *ledger.command("segv"), ":::", *names]
    stage.generator("command", "--pool", stage.pool, *command).ends(QUARANTINED)
    listed = stage.ask("quarantine list")["quarantine"]
    assert sorted(job["job"] for job in listed) == ["poison/1", "poison/2"]
    assert stage.ask("quarantine requeue", "poison/1") == {"requeued": 1}
    until(lambda: ledger.jobs("start")["1"] == 2, "the second run of a requeued job")
    until(lambda: len(stage.ask("quarantine list")["quarantine"]) == 2, "its return to quarantine")
    assert stage.ask("quarantine drop", "all") == {"dropped": 2}
    assert stage.ask("quarantine list")["quarantine"] == []
    leave(dealer)


def test_drain(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 2)
    with ledger.gate():
        detach(stage, ledger, "gate", 2)
        ledger.wait("start", 2)
        assert stage.ask("drain") == {"state": "draining"}
        refused = stage.generator("fib", "20", "--pool", stage.pool, "--no-wait").wait()
        assert refused == REFUSED
    dealer.ends(OK)
    assert ledger.count("end") == 2


def test_drain_with_jobs_that_will_not_run(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 1)
    with ledger.gate():
        detach(stage, ledger, "gate", 3)
        ledger.wait("start", 1)
        stage.ask("drain")
    dealer.ends(TERMINATED)  # there is no journal: two accepted jobs are lost
    assert ledger.count("end") == 1


def test_two_generators_at_once(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 2)
    runs = [stage.generator("fib", f"{low}-{low + 9}", "--pool", stage.pool) for low in (5, 10, 15)]
    for run in runs:
        assert len(run.ends(OK).lines) == 10
    leave(dealer)
