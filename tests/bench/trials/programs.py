"""`taskpool.Executor` beside `concurrent.futures.ProcessPoolExecutor`, both in one program of the same Python."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from bench.errors import Wrong
from bench.figures import JOBS_PER_SECOND, SECONDS, Target, Unit
from bench.peer import find_arrays, run
from bench.setting import WORKERS, Setting
from bench.trial import Row, Side, Trial, Turn
from bench.trials.throughput import check
from support.source_tree import ROOT

SUBMIT_CALLS = 10_000
MAP_CALLS = 200_000
ARRAY_MEGABYTES = 200
STARTS = 5
LEAST_CALLS = 40
LEAST = 2

CALLS_PER_SECOND = Unit("calls/s", higher_is_better=True, decimals=0)
MEGABYTES_PER_SECOND = Unit("MB/s", higher_is_better=True, decimals=0)
OURS, PEER = "taskpool.Executor", "ProcessPoolExecutor"
CLOCK = "both sides started and warmed up; from the first submission to the last result in the program's hands"


def trials(setting: Setting) -> list[Trial]:
    return [submit(setting), map_chunks(setting), array(setting), first_result(setting)]


def submit(setting: Setting) -> Trial:
    calls = setting.scaled(SUBMIT_CALLS, LEAST_CALLS)
    sides = {
        "none": Side(OURS, calls_per_second(setting, "taskpool", "submit", calls)),
        "journal": Side(f"{OURS}, journal", calls_per_second(setting, "taskpool-journal", "submit", calls)),
        "peer": Side(PEER, calls_per_second(setting, "fork", "submit", calls)),
    }
    rows = [
        Row("program-submit-none", f"submit, {calls:,} no-ops", JOBS_PER_SECOND, "none", "peer", Target("ratio", 2)),
        Row(
            "program-submit-journal",
            f"submit, {calls:,} no-ops, journal",
            JOBS_PER_SECOND,
            "journal",
            "peer",
            Target("ratio", 1),
        ),
    ]
    return Trial(sides, rows, CLOCK)


def map_chunks(setting: Setting) -> Trial:
    calls = setting.scaled(MAP_CALLS, LEAST_CALLS)
    sides = {
        "ours": Side(OURS, calls_per_second(setting, "taskpool", "map", calls)),
        "peer": Side(PEER, calls_per_second(setting, "fork", "map", calls)),
    }
    what = f"map(chunksize=64), {calls:,} no-ops"
    row = Row("program-map", what, CALLS_PER_SECOND, "ours", "peer", Target("ratio", 1))
    return Trial(sides, [row], CLOCK)


def array(setting: Setting) -> Trial:
    megabytes = setting.scaled(ARRAY_MEGABYTES, LEAST)
    arrays = find_arrays()
    missing = None if arrays is not None else "pip install numpy (make bench does)"

    def turn(which: str) -> Turn:
        def measure() -> list[float]:
            said = ask(setting, which, "array", megabytes, {"TP_BENCH_ARRAYS": str(arrays)})
            check(said["results"], [megabytes * 125_000])
            return [2 * megabytes / float(said["seconds"])]

        return measure

    sides = {"ours": Side(OURS, turn("taskpool"), missing), "peer": Side(PEER, turn("fork"), missing)}
    what = f"a numpy array of {megabytes} MB, there and back"
    row = Row("program-array", what, MEGABYTES_PER_SECOND, "ours", "peer", Target("ratio", 1.5))
    includes = "both sides started and warmed up; one call that writes to all of it, which it gives back"
    return Trial(sides, [row], f"{includes}; megabytes of both ways")


def first_result(setting: Setting) -> Trial:
    starts = setting.scaled(STARTS, LEAST)
    sides = {
        "ours": Side(OURS, seconds_to_first_result(setting, "taskpool", starts)),
        "peer": Side(f"{PEER}(spawn)", seconds_to_first_result(setting, "spawn", starts)),
    }
    row = Row("program-start", "start to first result", SECONDS, "ours", "peer", Target("ratio", 1.5))
    includes = f"{starts} starts a round, from the start of the program to its first result, after one not counted"
    return Trial(sides, [row], includes)


def calls_per_second(setting: Setting, which: str, what: str, calls: int) -> Turn:
    def turn() -> list[float]:
        said = ask(setting, which, what, calls, {})
        check(sorted(said["results"]), list(range(calls)))
        return [calls / float(said["seconds"])]

    return turn


def seconds_to_first_result(setting: Setting, which: str, starts: int) -> Turn:
    def once(number: int) -> float:
        began = time.perf_counter()
        with subprocess.Popen(
            command(which, "first", number), env=environment(setting), stdout=subprocess.PIPE, text=True
        ) as program:
            assert program.stdout is not None
            printed = program.stdout.readline().strip()
            seconds = time.perf_counter() - began
        if printed != str(number) or program.returncode != 0:
            raise Wrong(f"exit code {program.returncode}, printed {printed!r}")
        return seconds

    return lambda: [once(number) for number in range(1 + starts)][1:]


def ask(setting: Setting, which: str, what: str, count: int, env: dict[str, str]) -> Any:
    return json.loads(run(command(which, what, count), setting.work, env=environment(setting) | env))


def command(which: str, what: str, count: int) -> list[str]:
    return [sys.executable, "-m", "bench.peers.programs", which, what, str(count), str(WORKERS)]


def environment(setting: Setting) -> dict[str, str]:
    return {**setting.programs.env, "PYTHONPATH": str(ROOT / "tests")}
