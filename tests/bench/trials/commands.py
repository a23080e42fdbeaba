"""Whole runs of programs, from a cold start to the exit, against the tools that start programs."""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.errors import Wrong
from bench.figures import JOBS_PER_SECOND, SECONDS, Target
from bench.peer import TURN_SECONDS_MAX, run
from bench.setting import WORKERS, Setting
from bench.trial import Row, Side, Trial, Turn
from bench.trials.cpu import fibonacci, missing_kernel
from bench.trials.throughput import JOURNALS, check
from support.source_tree import ROOT

TRUE_JOBS = 2_000
SPOOLED_JOBS = 200
LEAST_JOBS = 20
SPOOLER_SECONDS_MAX = 300.0
CALL_SECONDS_MAX = 60.0  # of `tsp`

DEMO_WORKERS = 4
DEMO_NUMBERS = range(40, 46)
DEMO_REPEAT = 2

Spooler = Callable[..., str]

SUCCEEDED = re.compile(r"^\[TaskGenerator\] (\d+) jobs?: (\d+) succeeded;", re.MULTILINE)


def trials(setting: Setting) -> list[Trial]:
    return [true(setting), spooled(setting), demonstration(setting)]


# --- `true` ----------------------------------------------------------------------------------------


def true(setting: Setting) -> Trial:
    jobs = setting.scaled(TRUE_JOBS, LEAST_JOBS)
    numbers = "".join(f"{number}\n" for number in range(jobs))
    xargs = ["xargs", f"-P{WORKERS}", "-n1", "true"]
    parallel = ["parallel", "--will-cite", f"-j{WORKERS}", "true"]
    peers = setting.peers
    sides = {
        "full": Side("taskpool, journal", our_commands(setting, jobs, "full")),
        "none": Side("taskpool, no journal", our_commands(setting, jobs, "none")),
        "xargs": Side("xargs -P2", whole_run(setting, xargs, numbers, jobs), peers.missing("xargs")),
        "parallel": Side("GNU parallel -j2", whole_run(setting, parallel, numbers, jobs), peers.missing("parallel")),
    }
    what = f"{jobs:,} x `true`"
    rows = [
        Row("true-xargs", f"{what}, journal full", JOBS_PER_SECOND, "full", "xargs", Target("ratio", 0.9)),
        Row("true-xargs-none", f"{what}, no journal", JOBS_PER_SECOND, "none", "xargs"),
        Row("true-parallel", f"{what}, journal full", JOBS_PER_SECOND, "full", "parallel", Target("ratio", 5)),
    ]
    return Trial(
        sides, rows, "from the start of the tool to its exit; ours with a private pool, whose start and end are in it"
    )


def our_commands(setting: Setting, jobs: int, journal: str) -> Turn:
    def turn() -> list[float]:
        command = [setting.programs.path("tp-generator"), "command", "--workers", str(WORKERS), *JOURNALS[journal]]
        numbers = map(str, range(jobs))
        seconds, _ = private_run(setting, [*command, "--progress", "none", "--", "true", "{}", ":::", *numbers], jobs)
        return [jobs / seconds]

    return turn


def private_run(setting: Setting, command: Sequence[str], jobs: int) -> tuple[float, list[str]]:
    """Run a generator with a pool of its own; return the seconds to its exit, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        command,
        env=setting.programs.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TURN_SECONDS_MAX,
    )
    seconds = time.perf_counter() - began
    found = SUCCEEDED.search(done.stderr)
    if done.returncode != 0 or found is None or (int(found[1]), int(found[2])) != (jobs, jobs):
        raise Wrong(f"tp-generator ended with {done.returncode}: {done.stderr[-500:]}")
    return seconds, done.stdout.split()


def whole_run(setting: Setting, command: Sequence[str], stdin: str, jobs: int) -> Turn:
    def turn() -> list[float]:
        began = time.perf_counter()
        run(command, setting.work, env=setting.peers.env, stdin=stdin)  # which looks at the exit code
        return [jobs / (time.perf_counter() - began)]

    return turn


# --- task-spooler ----------------------------------------------------------------------------------


def spooled(setting: Setting) -> Trial:
    jobs = setting.scaled(SPOOLED_JOBS, LEAST_JOBS)
    sides = {
        "full": Side("taskpool, journal", our_commands(setting, jobs, "full")),
        "tsp": Side("task-spooler", lambda: [jobs / spool(setting, jobs)], setting.peers.missing("tsp")),
    }
    rows = [Row("true-tsp", f"{jobs:,} x `true`, journal full", JOBS_PER_SECOND, "full", "tsp")]
    return Trial(
        sides,
        rows,
        "ours from start to exit, with a private pool; theirs from the first call of `tsp`, one a job, to the last end",
    )


def spool(setting: Setting, jobs: int) -> float:
    """Return the seconds from the first call of `tsp` to the end of the last job."""
    with spooler(setting) as tsp:
        began = time.perf_counter()
        for _ in range(jobs):
            tsp("-n", "true")
        codes = await_finished(tsp, jobs)
        seconds = time.perf_counter() - began
    check(codes, [0] * jobs)
    return seconds


@contextmanager
def spooler(setting: Setting) -> Iterator[Spooler]:
    """Start a server of our own; gives what calls `tsp` for it and returns what that prints."""
    env = setting.peers.env | {
        "TS_SOCKET": str(setting.work / f"tsp-{time.monotonic_ns()}"),
        "TS_MAXFINISHED": "100000",
    }

    def tsp(*arguments: str) -> str:
        return subprocess.run(
            ["tsp", *arguments], env=env, check=True, capture_output=True, text=True, timeout=CALL_SECONDS_MAX
        ).stdout

    tsp("-S", str(WORKERS))
    try:
        yield tsp
    finally:
        tsp("-K")


def await_finished(tsp: Spooler, jobs: int) -> list[int]:
    """Wait until so many jobs have ended; return their exit codes. Raises Wrong."""
    deadline = time.monotonic() + SPOOLER_SECONDS_MAX
    while len(codes := finished(tsp("-l"))) < jobs:
        if time.monotonic() > deadline:
            raise Wrong(f"task-spooler: {len(codes)} of {jobs} jobs after {SPOOLER_SECONDS_MAX:g} s")
    return codes


def finished(listing: str) -> list[int]:
    """Read the exit codes of the finished jobs from what `tsp -l` prints."""
    rows = (line.split() for line in listing.splitlines()[1:])
    return [int(row[3]) for row in rows if row[1] == "finished"]


# --- the demonstration -----------------------------------------------------------------------------


def demonstration(setting: Setting) -> Trial:
    # Each number takes 1.6 times as long as the one before: a scale of a tenth is five numbers less.
    down = round(-math.log(setting.scale, (1 + math.sqrt(5)) / 2))
    first, last = DEMO_NUMBERS.start - down, DEMO_NUMBERS.stop - 1 - down
    numbers = [*range(first, last + 1)] * DEMO_REPEAT
    sides = {
        "full": Side("taskpool, journal", our_demonstration(setting, f"{first}-{last}", numbers), missing_kernel()),
        "cpp": Side("C++ -O2, xargs -P4", their_demonstration(setting, numbers), setting.peers.missing("g++", "xargs")),
    }
    what = f"fib {first}-{last} --repeat {DEMO_REPEAT}, 4 workers"
    rows = [Row("demo", what, SECONDS, "full", "cpp", Target("ratio", 1.03))]
    return Trial(sides, rows, "from the start of the tool to its exit; ours with a private pool and its journal")


def our_demonstration(setting: Setting, words: str, numbers: Sequence[int]) -> Turn:
    def turn() -> list[float]:
        command = [setting.programs.path("tp-generator"), "fib", words, "--repeat", str(DEMO_REPEAT)]
        command += ["--workers", str(DEMO_WORKERS), "--progress", "none"]
        seconds, printed = private_run(setting, command, len(numbers))
        check(sorted(map(int, printed)), sorted(map(fibonacci, numbers)))
        return [seconds]

    return turn


def their_demonstration(setting: Setting, numbers: Sequence[int]) -> Turn:
    def turn() -> list[float]:
        command = ["xargs", f"-P{DEMO_WORKERS}", "-n1", str(compiled(setting))]
        began = time.perf_counter()
        printed = run(command, setting.work, env=setting.peers.env, stdin="".join(f"{n}\n" for n in numbers))
        seconds = time.perf_counter() - began
        check(sorted(map(int, printed.split())), sorted(map(fibonacci, numbers)))
        return [seconds]

    return turn


def compiled(setting: Setting) -> Path:
    """Compile the program, unless an earlier turn has."""
    program = setting.work / "fib"
    if not program.exists():
        source = ROOT / "tests" / "bench" / "peers" / "fib.cpp"
        run(["g++", "-O2", "-o", str(program), str(source)], setting.work, env=setting.peers.env)
    return program
