"""Jobs that keep a processor busy, of four lengths: how much of the processors a pool leaves to them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from bench.figures import SECONDS, Target
from bench.peers import work
from bench.pool import pool
from bench.setting import WORKERS, Setting
from bench.trial import Row, Side, Trial, Turn
from bench.trials.throughput import JOURNALS, check

LEAST_JOBS = 20
CALIBRATION_RUNS = 7
FIRST_N = 12  # a few microseconds


class Length:
    """How long a job takes, how many there are, and the target of the whole run against the bare work."""

    def __init__(self, milliseconds: float, jobs: int, bound: float) -> None:
        self.milliseconds, self.jobs, self.bound = milliseconds, jobs, bound


LENGTHS = (Length(13.6, 600, 1.02), Length(5, 1_500, 1.03), Length(1.2, 6_000, 1.1), Length(0.28, 20_000, 1.3))

INCLUDES = (
    "from the first job handed over to the last outcome in hand, on started and warmed-up processes: a named pool, fed "
    "through a tp-generator's pipes; a multiprocessing.Pool; two processes that run half of the jobs each"
)


def trials(setting: Setting) -> list[Trial]:
    return [trial(setting, length) for length in LENGTHS]


def trial(setting: Setting, length: Length) -> Trial:
    jobs = setting.scaled(length.jobs, LEAST_JOBS)
    seconds = length.milliseconds / 1000
    missing = missing_kernel()
    sides = {
        "full": Side("taskpool, journal", ours(setting, seconds, jobs, "full"), missing),
        "none": Side("taskpool, no journal", ours(setting, seconds, jobs, "none"), missing),
        "bare": Side("the bare work", theirs(setting, seconds, jobs, "bare"), missing),
        "pool": Side("multiprocessing.Pool", theirs(setting, seconds, jobs, "multiprocessing"), missing),
    }
    name, what = f"cpu-{length.milliseconds:g}ms", f"{jobs:,} x {length.milliseconds:g} ms"
    rows = [
        Row(f"{name}-full", f"{what}, journal full", SECONDS, "full", "bare", Target("ratio", length.bound)),
        Row(f"{name}-none", f"{what}, no journal", SECONDS, "none", "bare"),
        Row(f"{name}-pool", f"{what}, journal full", SECONDS, "full", "pool"),
    ]
    return Trial(sides, rows, INCLUDES)


def ours(setting: Setting, job_seconds: float, jobs: int, journal: str) -> Turn:
    def turn() -> list[float]:
        n = calibrated(job_seconds)
        line = json.dumps({"kind": "fib", "n": n})
        with (
            pool(setting.programs, *JOURNALS[journal], workers=WORKERS) as started,
            started.stream("jobs", "-") as stream,
        ):
            stream.warm_up(line, jobs)
            seconds, printed = stream.run([line] * jobs)
        check(printed, [str(fibonacci(n))] * jobs)
        return [seconds]

    return turn


def theirs(setting: Setting, job_seconds: float, jobs: int, peer: str) -> Turn:
    def turn() -> list[float]:
        n = calibrated(job_seconds)
        if peer == "bare":
            said: Any = setting.peers.ask("bare", n, jobs, WORKERS)
        else:
            said = setting.peers.ask("throughput", peer, f"fib={n}", jobs, WORKERS)
        check(said["results"], [fibonacci(n)] * jobs)
        return [float(said["seconds"])]

    return turn


def missing_kernel() -> str | None:
    """Say what to install where the kernel is plain Python: it is 50 times slower, and no program to compare with."""
    try:
        work.kernel()
    except ImportError as error:
        return str(error)
    return None


@cache
def calibrated(seconds: float) -> int:
    """Return the n for which the kernel takes about so long here; both sides then compute that one."""
    return nearest_n(seconds, lambda n: shortest(partial(work.fib, n)))


def nearest_n(seconds: float, time_of: Callable[[int], float]) -> int:
    """Find the n whose time is nearest; each n takes 1.6 times as long as the one before, so it is at most 27 % off."""
    n, took = FIRST_N, time_of(FIRST_N)
    while took < seconds:
        n, before, took = n + 1, took, time_of(n + 1)
        if took >= seconds and before * took > seconds * seconds:
            return n - 1
    return n


def shortest(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few runs: what else the machine does only ever adds to one."""
    times = []
    for _ in range(CALIBRATION_RUNS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def fibonacci(n: int) -> int:
    """Compute the number in another way than the kernel does."""
    low, high = 0, 1
    for _ in range(n):
        low, high = high, low + high
    return low
