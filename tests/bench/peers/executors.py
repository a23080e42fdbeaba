"""The pools of Python processes: each a context manager that starts one and gives what runs jobs on it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager

Job = Callable[[int], int]
Run = Callable[[list[int]], list[int]]  # the arguments to the results, in any order


@contextmanager
def multiprocessing_pool(job: Job, workers: int) -> Iterator[Run]:
    with multiprocessing.Pool(workers) as pool:
        yield lambda arguments: list(pool.imap_unordered(job, arguments, chunksize=1))


def submit_all(pool: Executor, job: Job, arguments: list[int]) -> list[int]:
    futures = [pool.submit(job, argument) for argument in arguments]
    return [future.result() for future in as_completed(futures)]


@contextmanager
def process_pool_executor(job: Job, workers: int) -> Iterator[Run]:
    with ProcessPoolExecutor(workers) as pool:
        yield lambda arguments: submit_all(pool, job, arguments)


@contextmanager
def loky_executor(job: Job, workers: int) -> Iterator[Run]:
    import loky

    # Longer than any run: a worker that leaves for idleness in the warm-up would be started within the measure.
    with loky.get_reusable_executor(max_workers=workers, timeout=600) as pool:
        yield lambda arguments: submit_all(pool, job, arguments)


@contextmanager
def pebble_pool(job: Job, workers: int) -> Iterator[Run]:
    import pebble

    def run(arguments: list[int]) -> list[int]:
        futures = [pool.schedule(job, args=(argument,)) for argument in arguments]
        return [future.result() for future in as_completed(futures)]

    with pebble.ProcessPool(max_workers=workers) as pool:
        yield run


@contextmanager
def joblib_parallel(job: Job, workers: int) -> Iterator[Run]:
    """As its users have it: batches of a size that joblib chooses."""
    import joblib

    with joblib.Parallel(n_jobs=workers) as parallel:
        yield lambda arguments: list(parallel(joblib.delayed(job)(argument) for argument in arguments))


@contextmanager
def dask_client(job: Job, workers: int) -> Iterator[Run]:
    """A local cluster of single-threaded processes; the scheduler is in the caller's process."""
    import distributed

    def run(arguments: list[int]) -> list[int]:
        # Not pure: equal arguments are different jobs, whose results must not be shared.
        futures = [client.submit(job, argument, pure=False) for argument in arguments]
        return list(client.gather(futures))

    cluster = distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    )
    with cluster, distributed.Client(cluster) as client:
        yield run
