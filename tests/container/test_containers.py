"""The pool in a locked container: no root, nothing to write but its volume, no capabilities, no network."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import pytest

from container.engine import IMAGE, LOCKED, NO_NETWORK, STATE, Container, Host, Ledger, podman
from support.harness import INTERRUPTED, OK, UNREACHABLE, alive, children_of, kill, until

FIB = {20: 6765, 21: 10946, 22: 17711, 23: 28657, 24: 46368, 25: 75025}
KILLS_MIN = 6


@pytest.mark.slow
def test_generator_as_pid_1_with_a_private_pool(host: Host) -> None:
    """A third of the tries crash, and every result is right."""
    options = ["--workers", 2, "--chaos", "crash=0.33,seed=7", "--crash-limit", "unlimited"]
    run = ["run", "--rm", *LOCKED, NO_NETWORK, "--entrypoint", "tp-generator", IMAGE]
    done = podman(*run, "fib", "20-25", "--repeat", 2, *options)
    assert Counter(map(int, done.stdout.split())) == Counter(2 * list(FIB.values()))
    assert "12 jobs: 12 succeeded" in done.stderr
    assert " 0 crashes" not in done.stderr


@pytest.mark.slow
def test_named_pool_with_crashes(host: Host) -> None:
    dealer = host.dealer("--chaos", "crash=0.33,seed=7")
    printed = dealer.generator("fib", "20-25", "--repeat", 2, "--pool", "default", "--crash-limit", "unlimited")
    assert Counter(map(int, printed.split())) == Counter(2 * list(FIB.values()))
    assert "killed by SIGSEGV" in dealer.log


@pytest.mark.slow
def test_workers_killed_from_the_host(host: Host) -> None:
    volume = host.volume()
    ledger = Ledger(volume)
    dealer = host.dealer(options=("--volume", f"{volume}:{STATE}"))
    names = [str(number) for number in range(1, 31)]
    options = ["--pool", "default", "--batch", "killed", "--crash-limit", "unlimited", "--detach"]
    dealer.generator("command", *options, "--", *Ledger.job(0.1), ":::", *names)
    killed = 0
    while killed < KILLS_MIN:
        ledger.wait("end", len(ledger.jobs("end")) + 2)
        killed += sum(kill(pid, SIGKILL) for pid in until(dealer.workers, "workers to kill"))
    dealer.generator("wait", "--pool", "default", "killed")
    outcomes = results(dealer, "killed")
    assert [job["seq"] for job in outcomes] == list(range(1, 31))
    assert {job["state"] for job in outcomes} == {"succeeded"}
    assert set(ledger.jobs("end")) == set(names)


@pytest.mark.slow
def test_health_check(host: Host) -> None:
    dealer = host.dealer(workers=1)
    podman("healthcheck", "run", dealer.name)
    kill(dealer.pid, SIGSTOP)
    podman("healthcheck", "run", dealer.name, code=1)
    kill(dealer.pid, SIGKILL)
    dealer.wait()
    asked = podman("run", "--rm", NO_NETWORK, IMAGE, "--health", code=UNREACHABLE)
    assert "no dealer for pool default in this IPC namespace" in asked.stderr


@pytest.mark.slow
def test_pid_1_reaps_strangers(host: Host) -> None:
    """What is started by exec and loses its parent becomes the dealer's child, and must not stay as a zombie."""
    dealer = host.dealer(workers=1)
    pid = dealer.pid
    own = set(children_of(pid))
    # `own` are the worker; the orphans live until told, so that they are seen before they end.
    dealer.exec("sh", "-c", f"for n in 1 2 3; do (until [ -e {STATE}/go ]; do sleep 0.05; done) & done")
    strangers = until(lambda: set(children_of(pid)) - own, "orphans with the dealer as their parent")
    assert all(map(alive, strangers))
    dealer.exec("touch", f"{STATE}/go")
    until(lambda: not set(children_of(pid)) - own, "the orphans' end, and their reaping")
    assert not any(Path(f"/proc/{stranger}").exists() for stranger in strangers)
    assert dealer.generator("fib", 20, "--pool", "default") == "6765\n"


@pytest.mark.slow
def test_pid_1_leaves_when_interrupted_again_and_again(host: Host) -> None:
    """Signals without a handler do nothing to PID 1, so there has to be one for each."""
    dealer = host.dealer()
    dealer.generator("command", "--pool", "default", "--detach", "--", "sleep", ":::", 3600, 3600)
    dealer.says("Sent job", 2)
    podman("kill", "--signal", "INT", dealer.name)
    dealer.says("Draining")
    for _ in range(2):
        podman("kill", "--signal", "INT", dealer.name, code=None)  # it may have left with the second
    assert dealer.wait() in (OK, INTERRUPTED)  # nothing is lost: the journal has both jobs


def results(dealer: Container, batch: str) -> list[dict[str, object]]:
    """The outcome objects of a batch, in order."""
    printed = dealer.generator("results", "--pool", "default", "--output", "json", batch, code=None)
    return sorted(map(json.loads, printed.splitlines()), key=lambda job: job["seq"])
