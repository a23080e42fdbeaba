"""Containers stop, die and are started again; what was accepted is done, on the same volume, in the same pod."""

from __future__ import annotations

import urllib.request
from collections import Counter
from signal import SIGKILL
from typing import Any

import pytest
import yaml

from container.engine import STATE, Container, Host, Ledger, podman
from container.test_containers import results
from support.harness import OK, TERMINATED, kill, until
from support.pages import free_port
from support.source_tree import ROOT

GRACE_SECONDS = 10
POD = ROOT / "deploy" / "container" / "pod.yaml"
FIB_30_35 = [832040, 1346269, 2178309, 3524578, 5702887, 9227465]


def submit(dealer: Container, seconds: float, jobs: int) -> list[str]:
    names = [str(number) for number in range(1, jobs + 1)]
    options = ["--pool", "default", "--batch", "work", "--detach"]
    dealer.generator("command", *options, "--", *Ledger.job(seconds), ":::", *names)
    return names


def check_all_done(dealer: Container, names: list[str]) -> None:
    dealer.generator("wait", "--pool", "default", "work")
    outcomes = results(dealer, "work")
    assert [(job["seq"], job["state"]) for job in outcomes] == [(int(name), "succeeded") for name in names]


@pytest.mark.slow
def test_stop_drains_and_start_goes_on(host: Host) -> None:
    """What runs is finished within the grace, what waits is done in the next life, and nothing is done twice."""
    volume = host.volume()
    ledger = Ledger(volume)
    dealer = host.dealer(options=("--volume", f"{volume}:{STATE}"))
    names = submit(dealer, 2, 6)
    ledger.wait("start", 2)
    podman("stop", "--time", GRACE_SECONDS, dealer.name)
    assert dealer.wait() == OK, dealer.log  # after the grace it would have been killed
    assert len(ledger.jobs("start")) == len(ledger.jobs("end")) == 2

    podman("start", dealer.name)
    check_all_done(dealer, names)
    assert Counter(ledger.jobs("end")) == Counter(names)
    assert "epoch 2" in dealer.log


@pytest.mark.slow
def test_stop_puts_back_what_takes_too_long(host: Host) -> None:
    volume = host.volume()
    ledger = Ledger(volume)
    dealer = host.dealer("--drain-timeout", "0.5s", options=("--volume", f"{volume}:{STATE}"))
    submit(dealer, 3600, 2)
    ledger.wait("start", 2)
    podman("stop", "--time", GRACE_SECONDS, dealer.name)
    assert dealer.wait() in (OK, TERMINATED), "137 would be podman's SIGKILL"

    podman("start", dealer.name)
    ledger.wait("start", 4)
    assert len(ledger.jobs("end")) == 0


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_killed_dealer_goes_on_where_it_was(host: Host) -> None:
    """In a pod, with a generator that waits in another container: it notices nothing but the time."""
    volume = host.volume()
    ledger = Ledger(volume)
    place = ("--pod", host.pod(), "--volume", f"{volume}:{STATE}")
    dealer = host.dealer(options=place)
    names = [str(number) for number in range(1, 13)]
    work = ["command", "--pool", "default", "--batch", "work", "--", *Ledger.job(0.3), ":::", *names]
    generator = host.start(*work, options=(*place, "--entrypoint", "tp-generator"), what="generator")
    ledger.wait("end", 4)
    podman("kill", "--signal", "KILL", dealer.name)
    assert dealer.wait() == 128 + SIGKILL
    told = len(ledger.jobs("end"))

    podman("start", dealer.name)
    assert generator.wait() == OK, generator.log
    assert Counter(podman("logs", generator.name).stdout.split()) == Counter(names)
    assert "12 jobs: 12 succeeded" in generator.log
    ends = Counter(ledger.jobs("end"))
    assert set(ends) == set(names)
    # At least once is the promise: only what ran when the dealer died may have been done again.
    assert sum(ends.values()) <= len(names) + 2, (told, ends)
    assert "epoch 2" in dealer.log


def own_pod(host: Host) -> tuple[dict[str, Any], int]:
    """deploy/container/pod.yaml with names of this test and a port that is free."""
    pod = yaml.safe_load(POD.read_text())
    name, port = host.name("kube"), free_port()
    pod["metadata"]["name"] = name
    pod["spec"]["containers"][0]["ports"][0]["hostPort"] = port
    pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = f"{name}-state"
    host.follow(pods=[name], names=[f"{name}-dealer", f"{name}-generator"], volumes=[f"{name}-state"])
    return pod, port


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_pod_is_played(host: Host) -> None:
    pod, port = own_pod(host)
    name = pod["metadata"]["name"]
    podman("play", "kube", "-", stdin=yaml.safe_dump(pod))
    generator, dealer = Container(f"{name}-generator"), Container(f"{name}-dealer")
    assert generator.wait() == OK, generator.log
    assert sorted(map(int, podman("logs", generator.name).stdout.split())) == FIB_30_35
    found = dealer.inspect()
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["EffectiveCaps"] in (None, [])
    assert found["Config"]["StopTimeout"] > 8, "longer than the drain"
    check_pages(port)

    killed = dealer.pid
    assert kill(killed)  # not by podman, which would not start again what it has stopped itself
    until(lambda: dealer.pid not in (0, killed), "the restart of a dealer that was killed")
    until(lambda: "epoch 2" in dealer.log, "its next life")
    assert dealer.generator("fib", 20, "--pool", "default", "--dealer-timeout", "30s") == "6765\n"
    check_pages(port)


def check_pages(port: int) -> None:
    """What a probe and Prometheus see from outside, at the address that the image listens on."""
    until(lambda: page(port, "/-/ready") is not None, "readiness")
    assert page(port, "/-/healthy") is not None
    assert b"taskpool_build_info{" in (page(port, "/metrics") or b"")


def page(port: int, path: str) -> bytes | None:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.read()  # type: ignore[no-any-return]
    except OSError:
        return None
