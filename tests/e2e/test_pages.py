"""The dealer's pages: what they say agrees with what was run."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from signal import SIGTERM

from support.harness import ENVIRONMENT, OK, QUARANTINED, Stage, until
from support.pages import free_port, get, scrape, value

UNBOUNDED = {"pid", "worker", "incarnation", "batch", "job", "seq", "client", "label"}  # no labels of a metric
PROBE_SECONDS = 10.0  # it takes milliseconds, but on a busy machine
FREE_TEXT = {"version", "le", "pool"}


def test_metrics_agree_with_the_run(stage: Stage) -> None:
    port = free_port()
    dealer = stage.dealer("--workers", 2, "--metrics", f"127.0.0.1:{port}")
    command = [["true"]] * 4 + [["false"]] * 3
    jobs: list[dict[str, object]] = [{"kind": "fib", "n": n} for n in range(20, 25)]
    jobs += [{"kind": "command", "argv": argv} for argv in command]
    jobs += [{"kind": "command", "argv": ["sleep", "60"], "timeout": "0.2s"}]
    jobs += [{"kind": "python", "call": "os:_exit", "args": [9], "crash_limit": 1}]
    text = "\n".join(map(json.dumps, jobs)).encode()
    run = stage.generator("jobs", "--pool", stage.pool, "--output", "json", "-", stdin=text).ends(QUARANTINED)
    found = scrape(port)
    finished = "taskpool_jobs_finished_total"
    assert value(found, finished, kind="fib", outcome="succeeded") == 5
    assert value(found, finished, kind="command", outcome="succeeded") == 4
    assert value(found, finished, kind="command", outcome="failed") == 3
    assert value(found, finished, kind="command", outcome="timed_out") == 1
    assert value(found, finished, kind="python", outcome="quarantined") == 1
    assert sum(found[finished].values()) == len(jobs)
    crashes = sum(job["crashes"] for job in run.objects())
    assert value(found, "taskpool_attempts_total", end="crashed") == crashes > 0
    assert value(found, "taskpool_jobs_quarantined") == 1
    assert value(found, "taskpool_recovery_seconds_count") >= 1
    assert value(found, "taskpool_workers_wanted") == 2
    check_names(found)
    dealer.send(SIGTERM)
    dealer.ends(OK)


def check_names(found: dict[str, dict[frozenset[tuple[str, str]], float]]) -> None:
    for name, by_labels in found.items():
        # process_ and python_: what every Prometheus client says of its own process
        assert re.fullmatch(r"(taskpool|process|python)_[a-z_]+", name), name
        for labels in by_labels:
            assert not {label for label, _ in labels} & UNBOUNDED, (name, labels)
            assert not any("-" in word for label, word in labels if label not in FREE_TEXT), (name, labels)


def test_the_other_pages(stage: Stage) -> None:
    port = free_port()
    dealer = stage.dealer("--workers", 1, "--metrics", f"127.0.0.1:{port}")
    until(lambda: get(port, "/-/ready")[0] == 200, "a pool that is ready")
    assert get(port, "/-/healthy")[0] == 200
    status, body = get(port, "/api/status.json")
    assert (status, json.loads(body)["pool"]) == (200, stage.pool)
    assert get(port, "/")[0] == 200
    assert get(port, "/etc/passwd")[0] == 404
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_clients_that_say_nothing_stop_nobody(stage: Stage) -> None:
    port = free_port()
    dealer = stage.dealer("--workers", 1, "--metrics", f"127.0.0.1:{port}")
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(10)]
    try:
        assert stage.generator("fib", "20", "--pool", stage.pool).ends(OK).lines == ["6765"]
        assert get(port, "/-/healthy")[0] == 200
        dealer.send(SIGTERM)
        dealer.ends(OK)
    finally:
        for client in silent:
            client.close()


def test_a_port_in_use_is_an_error_at_the_start(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        dealer = stage.dealer("--metrics", f"127.0.0.1:{port}", ready=0).ends(ENVIRONMENT)
    assert f"--metrics 127.0.0.1:{port} cannot be served" in dealer.stderr
    assert "Traceback" not in dealer.stderr


def test_a_private_pool_serves_when_asked(stage: Stage) -> None:
    port = free_port()
    run = stage.private("command", "--metrics", f"127.0.0.1:{port}", "--", "sleep", ":::", "2")
    until(lambda: answers(port) or run.popen.poll() is not None, "metrics of a private pool")
    assert run.popen.poll() is None, run.stderr
    run.ends(OK)


def answers(port: int) -> bool:
    try:
        return get(port, "/metrics")[0] == 200
    except OSError:
        return False


def test_a_probe_is_answered_beside_three_hundred_slow_clients(stage: Stage) -> None:
    """Half of them have sent half a request, the others have asked for a page that they do not read."""
    port = free_port()
    dealer = stage.dealer("--workers", 1, "--metrics", f"127.0.0.1:{port}")
    with ExitStack() as clients:
        slow = [clients.enter_context(asking(port)) for _ in range(300)]
        # Where the server does not take them all, some connect never: those are as good.
        for number, client in enumerate(slow):
            with suppress(OSError):
                client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"\r\n" * (number % 2))
        for path in ("/-/healthy", "/-/ready"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PROBE_SECONDS) as answer:
                assert answer.status == 200
        stage.generator("fib", "--pool", stage.pool, "20-24").ends(OK)
        dealer.send(SIGTERM)
        dealer.ends(OK)


@contextmanager
def asking(port: int) -> Iterator[socket.socket]:
    """A connection under way, which takes as little of an answer as there may be."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        yield client
