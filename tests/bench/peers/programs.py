"""Calls of a Python program, by an Executor of ours or the standard library's: `python -m bench.peers.programs`.

Arguments: taskpool, taskpool-journal, fork or spawn (the last two are ProcessPoolExecutor's); submit, map, array or
first; how many; how many workers. Both run in the same Python. Prints `{"seconds": ..., "results": ...}`; for `first`,
where the clock is the asker's, a line when the result is there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, as_completed
from typing import Any

CHUNK = 64
WARM_UP = 500


def nothing(number: int) -> int:
    """Do nothing; the number comes back, so that a lost or doubled result shows."""
    return number


def add_one(array: Any) -> Any:
    """Write to an array, so that both ways carry it."""
    array += 1
    return array


def executor(which: str, workers: int) -> Executor:
    if which in ("fork", "spawn"):
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(which))
    import taskpool

    if which == "taskpool":
        return taskpool.Executor(workers)
    return taskpool.Executor(workers, journal=True, batch=f"bench-{os.getpid()}")


def submit(pool: Executor, count: int) -> list[int]:
    futures = [pool.submit(nothing, number) for number in range(count)]
    return [future.result() for future in as_completed(futures)]


def map_chunks(pool: Executor, count: int) -> list[int]:
    return list(pool.map(nothing, range(count), chunksize=CHUNK))


def array(pool: Executor, megabytes: int) -> tuple[float, list[int]]:
    """Send so many megabytes there and back; return the seconds, and how many numbers came back as they should."""
    import numpy

    sent = numpy.arange(megabytes * 125_000, dtype=numpy.float64)
    began = time.perf_counter()
    back = pool.submit(add_one, sent).result()
    seconds = time.perf_counter() - began
    return seconds, [int((back == sent + 1).sum())]


def timed(run: Callable[[Executor, int], list[int]]) -> Callable[[Executor, int], tuple[float, list[int]]]:
    def measure(pool: Executor, count: int) -> tuple[float, list[int]]:
        began = time.perf_counter()
        results = run(pool, count)
        return time.perf_counter() - began, results

    return measure


MEASURED = {"submit": timed(submit), "map": timed(map_chunks), "array": array}


def main() -> int:
    which, what, count, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if directory := os.environ.get("TP_BENCH_ARRAYS"):
        sys.path.append(directory)
    if what == "first":
        with executor(which, workers) as pool:
            sys.stdout.write(f"{pool.submit(nothing, count).result()}\n")
            sys.stdout.flush()
        return 0
    run = MEASURED[what]
    with executor(which, workers) as pool:
        run(pool, 1 if what == "array" else WARM_UP)
        seconds, results = run(pool, count)
    json.dump({"seconds": seconds, "results": results}, sys.stdout)
    return 0


if __name__ == "__main__":  # workers that are spawned import this module
    sys.exit(main())
