"""A worker that is being traced, by a tracer that does nothing, is ended as any other."""

from __future__ import annotations

import json
from signal import SIGTERM

import pytest

from support.harness import FAILED, OK, Stage, children_of, until, workers_of
from support.ledger import WORKLOAD, Ledger
from support.tracer import traced


@pytest.mark.parametrize("at_exit", [True, False])
@pytest.mark.parametrize("kind", ["python", "command"])
def test_a_time_out_in_a_traced_worker(stage: Stage, ledger: Ledger, kind: str, at_exit: bool) -> None:
    """It has its tracer before it has the job. The first signal stops it: TERM, or the end of its command."""
    if kind == "python":
        arguments = [str(ledger.directory), "long", "hang"]
        long = {"kind": "python", "call": "workload:work", "path": [str(WORKLOAD)], "args": arguments}
    else:
        words = [word.replace("{}", "long") for word in ledger.command("sleep=3600")]
        long = {"kind": "command", "argv": words}
    jobs = [{**long, "timeout": "1s"}, {"kind": "fib", "n": 10}]
    text = "\n".join(map(json.dumps, jobs)).encode()
    dealer = stage.dealer("--workers", 1, "--spares", 0)
    (worker,) = workers_of(dealer.pid)
    with traced(worker, at_exit=at_exit):
        run = stage.generator("jobs", "--pool", stage.pool, "--output", "json", "-", stdin=text).ends(FAILED)
        assert {each["seq"]: each["state"] for each in run.objects()} == {1: "timed-out", 2: "succeeded"}
        assert worker in children_of(dealer.pid), "its tracer has it still"
    until(lambda: worker not in children_of(dealer.pid), "the dealer to reap what the tracer let go of")
    dealer.send(SIGTERM)
    dealer.ends(OK)


@pytest.mark.parametrize("at_exit", [True, False])
def test_a_dealer_leaves_in_spite_of_a_tracer(stage: Stage, at_exit: bool) -> None:
    dealer = stage.dealer("--workers", 1, "--spares", 0)
    with traced(workers_of(dealer.pid)[0], at_exit=at_exit):
        dealer.send(SIGTERM)
        dealer.ends(OK)
