"""`kill -9` of a peer's worker: `python -m bench.peers.deaths PEER KILLS WORKERS DIRECTORY`.

A job kills its own worker by SIGKILL, after it has written the time down. Of a peer that survives this, it is measured
how long until the job runs again, or until the caller is told that it failed: `{"milliseconds": [...]}`. Of the others
it is told what happens: `{"text": ...}`.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from bench.peers import brokers, executors, killer, work

Marks = list[str]  # a path for each kill, of a file that is not there
Answer = list[float] | str

BYSTANDERS = 20  # jobs that have done nothing wrong, submitted with the one that kills its worker
HANG_SECONDS = 5.0  # then it is called a hang: every other peer has answered long before
RESULT_SECONDS_MAX = 60.0


def milliseconds_since(mark: str) -> float:
    """From just before the death to now."""
    died = killer.died_at(mark)
    assert died is not None, "the job has not run"
    return (time.monotonic_ns() - died) / 1e6


def pebble(marks: Marks, workers: int) -> Answer:
    """The failure is told; nothing runs again."""
    from pebble import ProcessExpired, ProcessPool

    told = []
    with ProcessPool(max_workers=workers) as pool:
        for mark in marks:
            try:
                pool.schedule(killer.die, args=(mark,)).result(RESULT_SECONDS_MAX)
            except ProcessExpired:
                told.append(milliseconds_since(mark))
    return told


def loky(marks: Marks, workers: int) -> Answer:
    """All futures fail; the caller asks for the executor once more and submits the job again."""
    from loky import get_reusable_executor
    from loky.process_executor import BrokenProcessPool as LokyBroken

    again = []
    for mark in marks:
        try:
            get_reusable_executor(max_workers=workers).submit(killer.die_once, mark).result(RESULT_SECONDS_MAX)
        except LokyBroken:
            pool = get_reusable_executor(max_workers=workers)
            again.append(pool.submit(killer.die_once, mark).result(RESULT_SECONDS_MAX) / 1e6)
    return again


def dask(marks: Marks, workers: int) -> Answer:
    """The nanny starts a worker, and the scheduler sends the job again."""
    with executors.dask_client(work.nothing, workers) as run:
        run([0, 1])
        import distributed

        client = distributed.get_client()
        return [client.submit(killer.die_once, mark, pure=False).result(RESULT_SECONDS_MAX) / 1e6 for mark in marks]


def celery(marks: Marks, workers: int) -> Answer:
    """The job goes back to the queue, as it is acknowledged late and rejected when its worker is lost."""
    with brokers.celery_workers(workers):
        from bench.peers import celery_app

        brokers.celery_run([0, 1])
        return [celery_app.die_once.delay(mark).get(timeout=RESULT_SECONDS_MAX) / 1e6 for mark in marks]


def rq(marks: Marks, workers: int) -> Answer:
    """The worker notices the death of its work-horse, and queues the job again, as it has a retry left."""
    import rq as library

    again = []
    with brokers.rq_workers(workers):
        brokers.rq_run([0, 1])
        queue = brokers.rq_queue()
        for mark in marks:
            job = queue.enqueue(killer.die_once, mark, retry=library.Retry(max=1))
            result = job.latest_result(timeout=int(RESULT_SECONDS_MAX))
            again.append(result.return_value / 1e6)
    return again


def process_pool_executor(marks: Marks, workers: int) -> Answer:
    with ProcessPoolExecutor(workers) as pool:
        return bystanders_text(pool, marks[0], BrokenProcessPool)


def joblib(marks: Marks, workers: int) -> Answer:
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    jobs = [delayed(killer.die)(marks[0]), *(delayed(work.nothing)(number) for number in range(BYSTANDERS))]
    try:
        Parallel(n_jobs=workers)(jobs)
    except TerminatedWorkerError:
        return (
            f"TerminatedWorkerError for the whole call, after {milliseconds_since(marks[0]):.0f} ms: no result of any"
        )
    return "every job got a result"


def multiprocessing_pool(marks: Marks, workers: int) -> Answer:
    with multiprocessing.Pool(workers) as pool:
        lost = pool.apply_async(killer.die, (marks[0],))
        rest = [pool.apply_async(work.nothing, (number,)) for number in range(BYSTANDERS)]
        lost.wait(HANG_SECONDS)
        done = sum(each.ready() for each in rest)
        if lost.ready():
            return f"the job's death was told; {done} of {BYSTANDERS} others done"
    return f"nothing is told: its result was still awaited after {HANG_SECONDS:g} s; {done} of {BYSTANDERS} others done"


def bystanders_text(pool: Executor, mark: str, broken: type[Exception]) -> str:
    """Say what becomes of a job that kills its worker, and of those submitted with it."""
    lost = pool.submit(killer.die, mark)
    rest: list[Future[int]] = []
    try:
        rest += [pool.submit(work.nothing, number) for number in range(BYSTANDERS)]
    except broken:
        pass  # it was noticed before all were submitted
    wait([lost, *rest], RESULT_SECONDS_MAX)
    told = milliseconds_since(mark)
    failed = BYSTANDERS - sum(future.exception() is None for future in rest)
    others = f"for {failed} of {BYSTANDERS} other jobs as well; the pool takes no more"
    return f"{broken.__name__} after {told:.0f} ms, {others}"


PEERS: dict[str, Callable[[Marks, int], Answer]] = {
    "multiprocessing": multiprocessing_pool,
    "ProcessPoolExecutor": process_pool_executor,
    "joblib": joblib,
    "loky": loky,
    "pebble": pebble,
    "dask": dask,
    "celery": celery,
    "rq": rq,
}


def main() -> int:
    peer, kills, workers, directory = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    marks = [str(directory / f"{peer}-{number}-{time.monotonic_ns()}") for number in range(kills)]
    answer = PEERS[peer](marks, workers)
    json.dump({"text": answer} if isinstance(answer, str) else {"milliseconds": answer}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
