"""What a long queue costs: a dealer with many queued jobs, against one with few, side by side in one run.

For each depth a journaled pool is paused and filled by a real generator. Its dealer is killed, and started again on
that journal: how long until its first job is dispatched, how much memory it holds, and what it spends on a job.

    make depth QUEUED=1000000
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support.harness import program, until

SHALLOW = 10_000
SAMPLE = 5_000  # jobs over which the cost of one is measured
START_SECONDS = 120.0
FILL_SECONDS = 1800.0
TICKS = os.sysconf("SC_CLK_TCK")


class Depth(NamedTuple):
    """What was measured at one depth."""

    jobs: int
    filled_seconds: float
    first_dispatch_seconds: float  # from the start of the process to the first `sent` of its log
    peak_mib: float
    queued_mib: float
    cpu_us_per_job: float

    def text(self) -> str:
        return (
            f"{self.jobs:>9} queued in {self.filled_seconds:.0f} s: dealer {self.queued_mib:.1f} MiB while they wait, "
            f"{self.peak_mib:.1f} MiB at most after its restart; first dispatch {self.first_dispatch_seconds:.2f} s "
            f"after the start; {self.cpu_us_per_job:.0f} us of CPU a job"
        )


class Pool:
    """A named pool with a journal, in a directory of its own."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.env = os.environ | {"XDG_STATE_HOME": str(directory / "state")}

    @contextmanager
    def dealer(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [program("tp-dealer"), "--pool", self.name, "--workers", "2", "--metrics", "none", *options]
        with (self.directory / "dealer.log").open("wb") as log:
            started = subprocess.Popen([*command, "--log-format", "json"], env=self.env, stdout=log, stderr=log)
        try:
            yield started
        finally:
            started.send_signal(signal.SIGTERM)
            started.wait(60)

    def ask(self, *arguments: str) -> str:
        command = [program("tp-generator"), *arguments, "--pool", self.name]
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True).stdout

    def fill(self, jobs: int) -> float:
        """Seconds until all of them are accepted."""
        before = time.monotonic()
        self.ask("fib", "30", "--repeat", str(jobs), "--batch", "deep", "--detach", "--progress", "none")
        return time.monotonic() - before

    def finished(self) -> int:
        """In this life of the dealer."""
        return int(json.loads(self.ask("status", "--json"))["finished"].get("succeeded", 0))

    def said(self, topic: str) -> bool:
        """Whether the present dealer's log, with -v, has it."""
        return f'"{topic}"' in (self.directory / "dealer.log").read_text(errors="replace")


def measure(jobs: int, directory: Path) -> Depth:
    """Fill, kill, start again, kill again, run a sample."""
    directory.mkdir()
    pool = Pool(f"depth-{os.getpid()}-{jobs}", directory)
    with pool.dealer("-v") as dealer:
        until(lambda: pool.said("worker-ready"), "a worker", START_SECONDS)
        pool.ask("pause")
        filled = pool.fill(jobs)
        queued = resident_mib(dealer.pid, "VmRSS")
        dealer.kill()  # it must find its way back without being told to go
        dealer.wait()
    began = time.monotonic()
    with pool.dealer("-v") as dealer:
        until(lambda: pool.said("job-sent"), "the first dispatch", START_SECONDS)
        first = time.monotonic() - began
        dealer.kill()
        dealer.wait()
    with pool.dealer() as dealer:  # what -v writes for every job is no cost of dispatch
        begun, used = pool.finished(), cpu_seconds(dealer.pid)
        until(lambda: pool.finished() - begun >= SAMPLE, "the sample", FILL_SECONDS)
        ran, spent = pool.finished() - begun, cpu_seconds(dealer.pid) - used
        peak = resident_mib(dealer.pid, "VmHWM")
    return Depth(jobs, filled, first, peak, queued, spent / ran * 1e6)


def resident_mib(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended by TERM too, it ends what it started
    with tempfile.TemporaryDirectory(prefix="tp-depth-") as directory:
        depths = []
        for jobs in (SHALLOW, args.jobs):
            depths.append(measure(jobs, Path(directory, str(jobs))))
            sys.stdout.write(f"{depths[-1].text()}\n")
            sys.stdout.flush()
    shallow, deep = depths
    sys.stdout.write(f"cost of a job, deep against shallow: {deep.cpu_us_per_job / shallow.cpu_us_per_job:.2f}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
