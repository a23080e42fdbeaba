"""Many schedules, on several cores, until a count or a time is reached, or one fails."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from typing import NamedTuple

from sim.faults import NAMES
from sim.schedule import run

CHUNK = 25
JUDGED_FROM = 5_000  # schedules; fewer may miss the rarest fault by chance


class Campaign(NamedTuple):
    """What came of it."""

    schedules: int
    jobs: int
    seconds: float
    virtual_hours: float
    seen: Counter[str]
    failures: list[tuple[int, str]]  # (seed, what was broken)

    @property
    def never_seen(self) -> list[str]:
        """Faults and situations that no schedule had: a promise that they are survived would be empty."""
        return [name for name in NAMES if not self.seen[name]]

    @property
    def missing(self) -> list[str]:
        """Those that were never seen, where there were schedules enough to have them all."""
        return self.never_seen if self.schedules >= JUDGED_FROM else []

    def summary(self) -> str:
        rate = self.schedules / self.seconds if self.seconds else 0
        return (
            f"{self.schedules} schedules of {self.jobs} jobs and {self.virtual_hours:.1f} simulated hours "
            f"in {self.seconds:.1f} s ({rate:.0f}/s), {sum(self.seen.values())} faults and situations, "
            f"{len(self.failures)} failed"
        )


def campaign(first: int, count: int, *, cores: int, seconds: float = 1e9, failures_max: int = 1) -> Campaign:
    """Schedules first, first+1, ... as far as time goes."""
    began = time.monotonic()
    chunks = [range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK)]
    seen: Counter[str] = Counter()
    failures: list[tuple[int, str]] = []
    schedules = jobs = virtual_ns = 0
    for done in _chunks(chunks, cores):
        schedules += done[0]
        jobs += done[1]
        virtual_ns += done[2]
        seen += done[3]
        failures += done[4]
        if len(failures) >= failures_max or time.monotonic() - began > seconds:
            break
    return Campaign(schedules, jobs, time.monotonic() - began, virtual_ns / 3.6e12, seen, sorted(failures))


Chunk = tuple[int, int, int, Counter[str], list[tuple[int, str]]]


def _chunks(chunks: list[range], cores: int) -> Iterator[Chunk]:
    if cores == 1:
        yield from map(_run_chunk, chunks)
        return
    with get_context("spawn").Pool(cores) as pool:
        yield from pool.imap_unordered(_run_chunk, chunks)


def _run_chunk(seeds: range) -> Chunk:
    seen: Counter[str] = Counter()
    failures = []
    jobs = virtual_ns = 0
    for seed in seeds:
        result = run(seed)
        seen += result.seen
        jobs += result.jobs
        virtual_ns += result.virtual_ns
        if result.violation is not None:
            failures.append((seed, result.violation))
    return len(seeds), jobs, virtual_ns, seen, failures
