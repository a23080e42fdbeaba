"""Jobs on a peer's pool: `python -m bench.peers.throughput PEER JOB COUNT WORKERS`.

A pool is started and warmed up, then the clock runs from the first submission to the last result in the hands of the
caller. Prints `{"seconds": ..., "results": ...}`; what the results have to be is judged by who asked.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bench.peers import brokers, executors, work
from bench.peers.executors import Job, Run


@contextmanager
def celery_pool(job: Job, workers: int) -> Iterator[Run]:
    assert job is work.nothing
    with brokers.celery_workers(workers):
        yield brokers.celery_run


@contextmanager
def rq_pool(job: Job, workers: int) -> Iterator[Run]:
    assert job is work.nothing
    with brokers.rq_workers(workers):
        yield brokers.rq_run


POOLS: dict[str, Callable[[Job, int], AbstractContextManager[Run]]] = {
    "multiprocessing": executors.multiprocessing_pool,
    "ProcessPoolExecutor": executors.process_pool_executor,
    "loky": executors.loky_executor,
    "pebble": executors.pebble_pool,
    "joblib": executors.joblib_parallel,
    "dask": executors.dask_client,
    "celery": celery_pool,
    "rq": rq_pool,
}


def main() -> int:
    peer, what, count, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    # `nothing` is called with every number below COUNT; `fib=22` COUNT times, with 22.
    name, _, constant = what.partition("=")
    job: Job = {"nothing": work.nothing, "fib": work.fib}[name]
    arguments = [int(constant)] * count if constant else list(range(count))
    with POOLS[peer](job, workers) as run:
        run(arguments[: work.warm_up_jobs(count)])
        began = time.perf_counter()
        results = run(arguments)
        seconds = time.perf_counter() - began
    json.dump({"seconds": seconds, "results": results}, sys.stdout)
    return 0


if __name__ == "__main__":  # workers that are spawned import this module
    sys.exit(main())
