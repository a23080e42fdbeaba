"""Task queues with a broker: their workers as processes, and how jobs are submitted to them and awaited.

The broker is the redis-server that TP_BENCH_REDIS names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bench.peers import work

POLL_SECONDS = 0.005
RESULT_SECONDS_MAX = 300.0
STOP_SECONDS_MAX = 30.0


@contextmanager
def running(commands: Sequence[Sequence[str]]) -> Iterator[None]:
    """Run worker processes; what they print goes to standard error."""
    started = [subprocess.Popen([sys.executable, "-m", *command], stdout=sys.stderr) for command in commands]
    try:
        yield
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(STOP_SECONDS_MAX)


@contextmanager
def celery_workers(workers: int) -> Iterator[None]:
    """One worker with so many child processes, without the traffic that only several workers need."""
    options = ["--pool=prefork", f"--concurrency={workers}", "--loglevel=ERROR"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    with running([["celery", "--app=bench.peers.celery_app", "worker", *options, *quiet]]):
        yield


def celery_run(arguments: list[int]) -> list[int]:
    from bench.peers import celery_app

    sent = [celery_app.nothing.delay(argument) for argument in arguments]
    return [result.get(timeout=RESULT_SECONDS_MAX) for result in sent]


@contextmanager
def rq_workers(workers: int) -> Iterator[None]:
    """So many workers, each of which forks for every job: what survives a crash."""
    url = os.environ["TP_BENCH_REDIS"]
    with running([["rq.cli", "worker", "--quiet", "--url", url, "--path", os.getcwd()] for _ in range(workers)]):
        yield


def rq_queue() -> Any:
    import redis
    import rq

    return rq.Queue(connection=redis.Redis.from_url(os.environ["TP_BENCH_REDIS"]))


def rq_run(arguments: list[int]) -> list[int]:
    queue = rq_queue()
    finished = queue.finished_job_registry
    before = finished.count
    jobs = [queue.enqueue(work.nothing, argument) for argument in arguments]
    deadline = time.monotonic() + RESULT_SECONDS_MAX
    while finished.count - before < len(jobs):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{finished.count - before} of {len(jobs)} jobs after {RESULT_SECONDS_MAX:g} s")
        time.sleep(POLL_SECONDS)  # RQ has nothing to wait on
    return [int(job.return_value()) for job in jobs]
