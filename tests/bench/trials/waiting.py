"""What a person waits for, and what waits: a cold start, one job on an idle pool, the memory of an idle worker."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import Wrong
from bench.figures import MEGABYTES, MILLISECONDS, SECONDS, Target
from bench.pool import START_SECONDS_MAX, pool
from bench.setting import WORKERS, Setting
from bench.trial import Row, Side, Trial, Turn
from bench.trials.cpu import fibonacci
from bench.trials.throughput import noop_stream

STARTS = 5  # a round
SUBMISSIONS = 40
LEAST = 2
IDLE_SECONDS = 0.005  # between an outcome and the next submission
START_N = 20


def trials(setting: Setting) -> list[Trial]:
    return [start(setting), latency(setting), memory(setting)]


def frozen_side(setting: Setting, turn: Callable[[Setting], Turn]) -> Side:
    """Make the same side of the frozen programs; of those of the environment, and missing, where none are frozen."""
    frozen = setting.frozen or setting.programs
    return Side("taskpool, frozen", turn(setting._replace(programs=frozen)), None if setting.frozen else "make freeze")


def start(setting: Setting) -> Trial:
    starts = setting.scaled(STARTS, LEAST)
    parallel = Side(
        "GNU parallel echo",
        from_start_to_exit(setting, lambda _: ["parallel", "--will-cite", "echo", ":::", "1"], starts, "1"),
        setting.peers.missing("parallel"),
    )
    sides = {
        "venv": Side("taskpool", our_start(setting, starts)),
        "frozen": frozen_side(setting, lambda frozen: our_start(frozen, starts)),
        "parallel": parallel,
    }
    what = f"tp-generator fib {START_N}, whole run"
    rows = [
        Row("start", what, SECONDS, "venv", "parallel"),
        Row("start-frozen", f"{what}, frozen", SECONDS, "frozen", "parallel", Target("ours", 0.12)),
    ]
    includes = "from the start of the program to its exit, after a start that is not counted; ours with a private pool"
    return Trial(sides, rows, f"{starts} starts a round, {includes} and its journal")


def our_start(setting: Setting, starts: int) -> Turn:
    def command(setting: Setting) -> list[str]:
        return [setting.programs.path("tp-generator"), "fib", str(START_N), "--progress", "none", "-q"]

    return from_start_to_exit(setting, command, starts, str(fibonacci(START_N)))


def from_start_to_exit(setting: Setting, command: Callable[[Setting], Sequence[str]], starts: int, says: str) -> Turn:
    """Return the seconds of each run of a program that prints this."""

    def turn() -> list[float]:
        times = []
        for _ in range(1 + starts):
            began = time.perf_counter()
            done = subprocess.run(
                command(setting),
                env=setting.programs.env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=START_SECONDS_MAX,
            )
            times.append(time.perf_counter() - began)
            if done.returncode != 0 or done.stdout.strip() != says:
                raise Wrong(f"exit code {done.returncode}, printed {done.stdout!r}: {done.stderr[-300:]}")
        return times[1:]  # the first has read the files from the disk, and may have written bytecode

    return turn


def latency(setting: Setting) -> Trial:
    submissions = setting.scaled(SUBMISSIONS, LEAST)

    def turn() -> list[float]:
        times = []
        with noop_stream(setting, "full") as stream:
            stream.warm_up("[0]", submissions)
            for number in range(submissions):
                time.sleep(IDLE_SECONDS)  # until the pool is idle again: nothing says so
                seconds, printed = stream.run_one(f"[{number}]")
                if printed != str(number):
                    raise Wrong(f"job {number} gave {printed}")
                times.append(seconds * 1000)
        return times

    row = Row("latency", "one no-op, idle pool, journal full", MILLISECONDS, "full", target=Target("ours", 3))
    includes = (
        f"{submissions} jobs a round, p50: from a line written to the standard input of a running tp-generator to the "
        "line on its standard output, so the generator and both pipes are in it"
    )
    return Trial({"full": Side("taskpool, journal", turn)}, [row], includes)


def memory(setting: Setting) -> Trial:
    """Frozen where there is a bundle; the name of the row's side says which."""
    programs = setting.frozen or setting.programs

    def turn() -> list[float]:
        with pool(programs, workers=WORKERS) as started:
            return [resident_megabytes(Path(f"/proc/{pid}/status").read_text()) for pid in started.workers()]

    what = f"RSS of an idle worker, {'frozen' if setting.frozen else 'not frozen'}"
    row = Row("memory", what, MEGABYTES, "ours", target=Target("ours", 12))
    return Trial(
        {"ours": Side("taskpool", turn)}, [row], "VmRSS of workers that wait for their first job; 1 MB = 10^6 bytes"
    )


def resident_megabytes(status: str) -> float:
    """Read VmRSS from /proc/PID/status."""
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return kib * 1024 / 1e6
