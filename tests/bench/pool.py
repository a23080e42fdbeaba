"""Our side: the real programs, run as users run them.

A `Pool` is a dealer that stays, with its workers ready; a `Stream` is a generator of such a pool that is fed and read
through its pipes, so that the clock can run from the first job that is handed to it to the last outcome it has printed.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bench.errors import Wrong
from bench.peers.work import warm_up_jobs
from support.harness import workers_of

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0
SILENCE_SECONDS_MAX = 120.0  # of a generator that has jobs
POLL_SECONDS = 0.002

RESENT = re.compile(r"^.*\[Recovery\] Resent job .*, (\d+(?:\.\d+)?) ms after its death was seen$", re.MULTILINE)
READY = re.compile(r"\[Supervisor\] Worker PID \d+ is ready$", re.MULTILINE)

_numbers = itertools.count(1)


def resent_milliseconds(log: str) -> list[float]:
    """Return what the dealer's log says of each job that it sent again: how long after the death was seen."""
    return [float(found) for found in RESENT.findall(log)]


class Programs(NamedTuple):
    """The programs of one directory, and where they keep their state."""

    directory: Path
    work: Path

    def path(self, name: str) -> str:
        return str(self.directory / name)

    @property
    def env(self) -> Mapping[str, str]:
        return os.environ | {"XDG_STATE_HOME": str(self.work / "state")}


class Pool:
    """A named pool. Everything of it ends with the `with` statement in which it was made."""

    def __init__(self, programs: Programs, name: str, dealer: subprocess.Popen[bytes], log: Path) -> None:
        self.programs = programs
        self.name = name
        self._dealer = dealer
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def workers(self) -> list[int]:
        """Return the pids of the workers."""
        return workers_of(self._dealer.pid)

    def await_ready(self, workers: int) -> None:
        """Wait until so many workers are ready. Raises Wrong."""
        self._await(lambda: self._ready() == workers, f"{workers} workers are ready")

    def await_ready_ever(self, workers: int) -> None:
        """Wait until so many workers, over the life of a pool with -v, have become ready. Raises Wrong."""
        self._await(lambda: len(READY.findall(self.log)) >= workers, f"{workers} workers have become ready")

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not condition():
            if self._dealer.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"not within {START_SECONDS_MAX:g} s: {what}; the dealer said: {self.log[-500:]}")
            time.sleep(POLL_SECONDS)

    def _ready(self) -> int:
        command = [self.programs.path("tp-generator"), "status", "--pool", self.name, "--json"]
        asked = subprocess.run(
            command, env=self.programs.env, capture_output=True, text=True, timeout=START_SECONDS_MAX
        )
        workers: dict[str, int] = json.loads(asked.stdout)["workers"] if asked.returncode == 0 else {}
        return sum(count for state, count in workers.items() if state != "starting")

    @contextmanager
    def stream(self, *arguments: str) -> Iterator[Stream]:
        command = [self.programs.path("tp-generator"), *arguments, "--pool", self.name, "--progress", "none", "-q"]
        process = subprocess.Popen(
            command, env=self.programs.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            yield Stream(process)
            _, said = process.communicate(timeout=STOP_SECONDS_MAX)
            if process.returncode != 0:
                raise Wrong(f"tp-generator ended with {process.returncode}: {said.decode(errors='replace')[-500:]}")
        finally:
            process.kill()
            process.communicate()


@contextmanager
def pool(programs: Programs, *options: str, workers: int, spares: int = 1) -> Iterator[Pool]:
    """Start a pool and wait until its workers are ready. `-v` is an option for those whose speed is not measured."""
    name = f"bench-{os.getpid()}-{next(_numbers)}"
    log = programs.work / f"{name}.log"
    command = [programs.path("tp-dealer"), "--pool", name, "--workers", str(workers), "--spares", str(spares)]
    command += ["--metrics", "none", "--log-format", "text", *options]
    with log.open("wb") as out:
        dealer = subprocess.Popen(command, env=programs.env, stdout=out, stderr=out)
    started = Pool(programs, name, dealer, log)
    try:
        started.await_ready(workers + spares)
        yield started
    finally:
        dealer.send_signal(signal.SIGTERM)
        try:
            dealer.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            dealer.kill()
            dealer.wait()


class Stream:
    """A generator that reads its jobs from a pipe and prints an outcome a line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._in, self._out = process.stdin.fileno(), process.stdout.fileno()
        self._rest = b""

    def run(self, lines: Sequence[str]) -> tuple[float, list[str]]:
        """Hand in the jobs, one a line; return the seconds until the last outcome is here, and the outcomes."""
        data = "".join(f"{line}\n" for line in lines).encode()
        # From a thread: a pipe takes 64 KiB, and outcomes have to be read before all jobs are written.
        writer = threading.Thread(target=_write, args=(self._in, data), daemon=True)
        began = time.perf_counter()
        writer.start()
        printed = self._read(len(lines))
        seconds = time.perf_counter() - began
        writer.join(STOP_SECONDS_MAX)
        return seconds, printed

    def run_one(self, line: str) -> tuple[float, str]:
        """Hand in one job; return the seconds until its outcome is here, and the outcome."""
        data = f"{line}\n".encode()
        began = time.perf_counter()
        _write(self._in, data)
        [printed] = self._read(1)
        return time.perf_counter() - began, printed

    def warm_up(self, line: str, count: int) -> None:
        """Run what is run before so many jobs are measured, on both sides."""
        self.run([line] * warm_up_jobs(count))

    def _read(self, lines: int) -> list[str]:
        parts = [self._rest]
        found = self._rest.count(b"\n")
        while found < lines:
            if not select.select([self._out], [], [], SILENCE_SECONDS_MAX)[0]:
                raise Wrong(f"{found} of {lines} outcomes, and none in {SILENCE_SECONDS_MAX:g} s")
            if not (part := os.read(self._out, 1 << 20)):
                raise Wrong(f"tp-generator ended after {found} of {lines} outcomes")
            parts.append(part)
            found += part.count(b"\n")
        printed = b"".join(parts).split(b"\n")
        self._rest = b"\n".join(printed[lines:])
        return [line.decode() for line in printed[:lines]]


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    with suppress(BrokenPipeError):  # who waits for the outcomes sees that the generator has ended
        while left:
            left = left[os.write(descriptor, left) :]
