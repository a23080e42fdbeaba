"""What a storm of scrapers costs: batches with and without it, in turn, in one run.

Half of the clients send half a request and stall; the others scrape /metrics, each again as soon as it is answered, at
most ten times a second. The jobs only sleep, so that scrapers and pool do not fight for the processors, and what is
measured is the dealer.

    make storm CLIENTS=50
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from support.harness import program, until
from support.pages import free_port

JOBS = 2_000
WORKERS = 4
JOB_SECONDS = "0.004"
SCRAPE_SECONDS = 0.1
START_SECONDS = 60.0
SLOWER_MAX = 1.10  # on an idle machine


@contextmanager
def storm(port: int, clients: int) -> Iterator[None]:
    """The clients, in a process of their own: they must not share an interpreter with who measures."""
    command = [sys.executable, "-m", "proof.storm", "--blow", str(port), "--clients", str(clients)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert started.stdout is not None
    started.stdout.readline()  # all are connected
    try:
        yield
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def blow(port: int, clients: int) -> None:
    """Until killed."""
    stalled = [_stall(port) for _ in range(clients // 2)]
    for _ in range(clients - len(stalled)):
        threading.Thread(target=_scrape, args=(port,), daemon=True).start()
    sys.stdout.write("blowing\n")
    sys.stdout.flush()
    while True:
        time.sleep(SCRAPE_SECONDS)
        for number, connection in enumerate(stalled):
            with suppress(OSError):
                connection.recv(1, socket.MSG_DONTWAIT)  # raises while it has not been sent away
                connection.close()
                stalled[number] = _stall(port)


def _stall(port: int) -> socket.socket:
    """Half a request."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
    return connection


def _scrape(port: int) -> None:
    while True:
        with suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read()
        time.sleep(SCRAPE_SECONDS)


def jobs_per_second(pool: str, env: dict[str, str]) -> float:
    """Of one batch, by its generator's clock."""
    jobs = f"[{JOB_SECONDS}]\n" * JOBS
    command = [program("tp-generator"), "python", "time:sleep", "--pool", pool, "--progress", "none"]
    began = time.monotonic()
    subprocess.run(command, env=env, input=jobs, text=True, check=True, capture_output=True)
    return JOBS / (time.monotonic() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--blow", type=int, metavar="PORT", help=argparse.SUPPRESS)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended by TERM too, it ends what it started
    if args.blow:
        blow(args.blow, args.clients)
    pool, port = f"storm-{os.getpid()}", free_port()
    with tempfile.TemporaryDirectory(prefix="tp-storm-") as directory:
        env = os.environ | {"XDG_STATE_HOME": directory}
        log = Path(directory, "log")
        command = [program("tp-dealer"), "--pool", pool, "--workers", str(WORKERS), "--metrics", f"127.0.0.1:{port}"]
        with log.open("wb") as out:
            dealer = subprocess.Popen([*command, "-v"], env=env, stdout=out, stderr=out)
        try:
            until(lambda: "is ready" in log.read_text(), "a worker", START_SECONDS)
            jobs_per_second(pool, env)
            calm, stormy = [], []
            for _ in range(args.rounds):
                calm.append(jobs_per_second(pool, env))
                with storm(port, args.clients):
                    stormy.append(jobs_per_second(pool, env))
        finally:
            dealer.send_signal(signal.SIGTERM)
            dealer.wait(60)
    before, during = statistics.median(calm), statistics.median(stormy)
    sys.stdout.write(f"jobs a second, medians of {args.rounds}: {before:.0f} in calm, {during:.0f} in the storm\n")
    sys.stdout.write(f"storm against calm: {during / before:.3f}\n")
    if before / during > SLOWER_MAX:
        sys.stderr.write(f"storm: more than {SLOWER_MAX} times slower; on a busy machine, measure again\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
