"""What jobs say of themselves: a file they append to, and locks that only the living hold.

A line is appended in one write with O_APPEND, so the order of the lines is the order of events. Each
execution holds an flock on its job's own file, which its children inherit: as long as any process of an
execution lives, another execution of the same job finds the lock taken and says `overlap`.
"""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.harness import until

WORKLOAD = Path(__file__).parent / "workload"  # what a `python` job gets as its path
SCRIPT = str(WORKLOAD / "job.sh")


class Ledger:
    """`<word> <job> <pid>` a line; words: start, end, overlap and what a test's own jobs say."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "locks").mkdir(parents=True)
        self.path = directory / "lines"
        self.path.touch()
        (directory / "gate").touch()

    def command(self, *work: str) -> list[str]:
        """Return the words of a command job that writes itself down; `{}` is its name, `work` what it does."""
        return ["sh", SCRIPT, str(self.directory), "{}", *work]

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()]

    def count(self, word: str) -> int:
        return sum(line[0] == word for line in self.lines())

    def jobs(self, word: str) -> Counter[str]:
        """Count how often each job has said this word."""
        return Counter(line[1] for line in self.lines() if line[0] == word)

    def pids(self, word: str) -> list[int]:
        return [int(line[2]) for line in self.lines() if line[0] == word]

    def wait(self, word: str, number: int) -> None:
        until(lambda: self.count(word) >= number, f"{number} jobs that say {word!r}")

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Shut the gate: until it opens again, jobs with the work `gate` start and then wait."""
        descriptor = os.open(self.directory / "gate", os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def check_no_start_behind_an_end(self, jobs: Container[str]) -> None:
        """Fail when one of these jobs was executed again though it had come to its end."""
        ended: set[str] = set()
        again = []
        for word, job, *_ in self.lines():
            if word == "end":
                ended.add(job)
            elif word == "start" and job in ended and job in jobs:
                again.append(job)
        assert not again, f"jobs that had ended and were executed again: {again}"

    def check_no_overlap(self) -> None:
        overlaps = [line for line in self.lines() if line[0] == "overlap"]
        assert not overlaps, f"executions of a job that overlap: {overlaps}"
