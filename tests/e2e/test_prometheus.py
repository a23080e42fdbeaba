"""A real Prometheus scrapes a real dealer with the rules we ship, and a crowd of clients does not slow it down."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from support.exposition import golden, shape
from support.harness import DEADLINE_SECONDS, ENVIRONMENT, OK, Program, Stage, until
from support.pages import free_port
from support.source_tree import ROOT

SHIPPED = ROOT / "deploy" / "prometheus"
FASTER = 60  # a minute of the shipped rules is a second here
SCRAPE = "250ms"

CLIENTS = 50
SCRAPE_EVERY_SECONDS = 5.0  # of one client; a Prometheus usually asks every 15
JOBS = 2_000


def watched(stage: Stage, *options: object) -> tuple[Program, tuple[str, int]]:
    """A dealer with pages, and where they are."""
    dealer = stage.dealer("--metrics", "127.0.0.1:0", *options)
    return dealer, ("127.0.0.1", int(dealer.says(r"metrics on http://127\.0\.0\.1:(\d+)/metrics")[1]))


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=DEADLINE_SECONDS) as answer:
        return answer.read()  # type: ignore[no-any-return]


# --- Prometheus --------------------------------------------------------------------------------------------


def scaled(rules: str) -> str:
    """The rules with nothing but their durations changed."""

    def shorten(match: re.Match[str]) -> str:
        unit = {"s": 1, "m": 60, "h": 3600}[match["unit"]]
        return f"{match['before']}{int(match['n']) * unit * 1000 // FASTER}ms"

    return re.sub(r"(?P<before>\[|\bfor: )(?P<n>\d+)(?P<unit>[smh])\b", shorten, rules)


class Prometheus:
    """A server of this test's own, with the rules we ship."""

    def __init__(self, stage: Stage, target: tuple[str, int]) -> None:
        place = stage.directory / "prometheus"
        place.mkdir()
        (place / "taskpool.rules.yml").write_text(scaled((SHIPPED / "taskpool.rules.yml").read_text()))
        config = (SHIPPED / "prometheus.yml").read_text()
        config = re.sub(r"interval: \w+", f"interval: {SCRAPE}", config)
        config = config.replace("127.0.0.1:9743", f"{target[0]}:{target[1]}", 2)
        (place / "prometheus.yml").write_text(re.sub(r"^#.*\n", "", config, flags=re.M))
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        options: dict[str, object] = {"config.file": place / "prometheus.yml", "storage.tsdb.path": place / "data"}
        options["web.listen-address"] = f"127.0.0.1:{port}"
        self.program = stage.start(["prometheus", *(f"--{name}={value}" for name, value in options.items())])
        self.program.says("Server is ready to receive web requests")

    def ask(self, path: str, **query: str) -> Any:
        body = fetched(f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}")
        return json.loads(body)["data"]

    def value(self, query: str) -> float | None:
        found = self.ask("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> set[str]:
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"] if alert["state"] == "firing"}


def test_only_durations_are_scaled() -> None:
    text = 'expr: rate(a_total{le="5m"}[5m]) > 3600\nfor: 2m\n# for 5m'
    assert scaled(text) == 'expr: rate(a_total{le="5m"}[5000ms]) > 3600\nfor: 2000ms\n# for 5m'


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.needs_tool("prometheus")
def test_an_alert_fires_while_workers_crash_and_no_longer(stage: Stage) -> None:
    dealer, target = watched(stage, "--workers", 2, "--spares", 2)
    prometheus = Prometheus(stage, target)
    until(lambda: prometheus.value("taskpool_dealer_ready") == 1, "a first scrape")
    assert prometheus.firing() == set()

    crashing = {"kind": "python", "call": "signal:raise_signal", "args": [11]}
    stage.generator(
        *("jobs", "--pool", stage.pool, "--batch", "storm", "--crash-limit", "unlimited", "--detach", "-"),
        stdin=f"{json.dumps(crashing)}\n{json.dumps(crashing)}\n".encode(),
    ).ends(OK)
    until(lambda: "TaskpoolCrashLoop" in prometheus.firing(), "an alert about the crashes")
    ratio = prometheus.value("instance:taskpool_attempts_crashed_per_attempts:ratio_rate10m")
    assert ratio is not None
    assert ratio > 0.2

    stage.ask("cancel", "storm")
    until(lambda: "TaskpoolCrashLoop" not in prometheus.firing(), "the end of the alert")
    assert (prometheus.value('taskpool_worker_exits_total{reason="signal",signal="SIGSEGV"}') or 0) > 5
    assert prometheus.ask("targets")["activeTargets"][0]["health"] == "up"

    dealer.send(SIGTERM)
    dealer.ends(OK)
    until(lambda: "TaskpoolDealerDown" in prometheus.firing(), "an alert about a dealer that is gone")


# --- the page ----------------------------------------------------------------------------------------------


def test_a_real_dealer_serves_the_golden_page(stage: Stage) -> None:
    _, (host, port) = watched(stage, "--workers", 2)
    found = shape(fetched(f"http://{host}:{port}/metrics").decode())
    assert found == [line for line in golden() if not line.startswith("taskpool_journal_")]


def test_a_real_dealer_with_a_journal_counts_its_commits(stage: Stage, tmp_path: Path) -> None:
    _, (host, port) = watched(stage, "--workers", 2, "--journal", tmp_path / "journal")
    stage.generator("fib", "1", "--repeat", "10", "--pool", stage.pool).ends(OK)
    page = fetched(f"http://{host}:{port}/metrics").decode()
    assert shape(page) == golden()
    (rows,) = re.findall(r"^taskpool_journal_rows_total (\S+)$", page, re.M)
    (commits,) = re.findall(r"^taskpool_journal_commit_seconds_count (\S+)$", page, re.M)
    assert float(rows) >= 20, "ten jobs and ten outcomes"
    assert 0 < float(commits) <= float(rows)


def test_secrets_guard_a_real_dealer(stage: Stage) -> None:
    secrets = stage.directory / "auth"
    secrets.write_text("bearer s3cret\n")
    stage.dealer("--metrics", "127.0.0.1:0", "--metrics-auth-file", secrets, ready=0).ends(ENVIRONMENT)
    secrets.chmod(0o600)
    _, (host, port) = watched(stage, "--metrics-auth-file", secrets)
    asked = urllib.request.Request(f"http://{host}:{port}/metrics", headers={"Authorization": "Bearer s3cret"})
    with urllib.request.urlopen(asked, timeout=DEADLINE_SECONDS) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        fetched(f"http://{host}:{port}/metrics")
    refused.value.close()
    assert fetched(f"http://{host}:{port}/-/healthy") == b"the loop turns\n"


# --- a crowd -----------------------------------------------------------------------------------------------


class Crowd:
    """Half of its clients stall half-way through their request and come again when they are thrown out; the
    others scrape, each in its own time."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._gone = threading.Event()
        self.answers = 0
        clients = [self._stall] * (CLIENTS // 2) + [self._scrape] * (CLIENTS - CLIENTS // 2)
        self._threads = [threading.Thread(target=client, args=(n,)) for n, client in enumerate(clients)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._gone.set()
        for thread in self._threads:
            thread.join()

    def _stall(self, number: int) -> None:
        while not self._gone.is_set():
            with socket.create_connection(self._target, timeout=DEADLINE_SECONDS) as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: te")
                client.settimeout(0.2)
                self._hold(client)

    def _hold(self, client: socket.socket) -> None:
        while not self._gone.is_set():
            try:
                client.recv(1000)
                return
            except TimeoutError:
                continue

    def _scrape(self, number: int) -> None:
        self._gone.wait(SCRAPE_EVERY_SECONDS * (number % (CLIENTS // 2)) / (CLIENTS // 2))  # not all at once
        while not self._gone.wait(SCRAPE_EVERY_SECONDS if self.answers else 0):
            assert b"taskpool_jobs" in fetched(f"http://{self._target[0]}:{self._target[1]}/metrics")
            self.answers += 1


@contextmanager
def crowd(target: tuple[str, int]) -> Iterator[Crowd]:
    with ExitStack() as cleanup:
        found = Crowd(target)
        cleanup.callback(found.close)
        yield found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_crowd_of_clients_gets_its_answers_and_no_thread_of_its_own(stage: Stage) -> None:
    """By how much a crowd slows dispatch is measured by `make storm`."""
    dealer, target = watched(stage, "--workers", 2)
    stage.generator("fib", "1", "--repeat", JOBS, "--pool", stage.pool).ends(OK)  # threads that come with work
    threads = len(list(Path(f"/proc/{dealer.pid}/task").iterdir()))
    with crowd(target) as clients:
        until(lambda: clients.answers, "an answer to one of the crowd")
        done = stage.generator("fib", "1", "--repeat", JOBS, "--pool", stage.pool).ends(OK)
        until(lambda: fetched(f"http://{target[0]}:{target[1]}/-/healthy"), "an answer amid the crowd")
        assert len(list(Path(f"/proc/{dealer.pid}/task").iterdir())) <= threads
    assert len(done.lines) == JOBS
