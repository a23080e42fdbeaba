"""The jobs that wait, in the order in which they run: higher priority first, then first come.

Memory holds the front of the queue only: every waiting job whose key is at most the *horizon*, and none
beyond it. What lies beyond waits in the store and is read when the front runs low, so a million waiting
jobs cost disk, not memory. Without anything beyond, the horizon is infinite.

While a read is under way, jobs beyond the horizon that come in are held aside: they may be in its answer as well.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from taskpool import limits
from taskpool.core.job import Job
from taskpool.messages import State

Key = tuple[int, int]
INFINITE: Key = (limits.PRIORITY_MAX + 1, 0)
_START: Key = (-limits.PRIORITY_MAX - 1, 0)


class Backlog:
    """Waiting jobs. A cancelled job stays in the heap until it surfaces and is passed over."""

    def __init__(self, jobs_max: int = limits.BACKLOG_JOBS_MAX, bytes_max: int = limits.BACKLOG_BYTES_MAX) -> None:
        # The run beside the key: one that was cancelled may still be in it when the job's next run comes.
        self._heap: list[tuple[Key, int, Job]] = []
        # A heap cannot give up an entry in its middle; what is not in here is skipped when it surfaces.
        self._waiting: dict[int, Job] = {}  # by ordinal: what in the heap still counts
        self._held: list[Job] = []
        self._jobs_max = jobs_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self.horizon: Key = INFINITE
        self.loading = False
        self.gone: set[int] = set()  # finished since the read began: its answer may still have them

    def __len__(self) -> int:
        return len(self._waiting) + len(self._held)

    def __iter__(self) -> Iterator[Job]:
        yield from self._waiting.values()
        yield from self._held

    def push(self, job: Job) -> bool:
        """Take a waiting job. False: it lies beyond the horizon and must be forgotten, the store has it."""
        if job.key > self.horizon:
            if self.loading:
                self._held.append(job)
            return self.loading
        self._add(job)
        # Full: from here on later jobs stay in the store. The horizon is the last key that is in memory whole, so
        # nothing between two of them is missed by the next read.
        if self.horizon == INFINITE and (len(self._waiting) >= self._jobs_max or self._bytes >= self._bytes_max):
            self.horizon = max(job.key for job in self._waiting.values())
        return True

    def trim(self) -> list[Job]:
        """Give up the back of the queue when jobs of high priority have crowded it; returns who must go."""
        if self.loading or (len(self._waiting) <= 2 * self._jobs_max and self._bytes <= 2 * self._bytes_max):
            return []  # the answer to a read begins at the horizon as it was
        # Sorting costs n log n, so it is done at twice the limit only, and then pays for as many pushes.
        ordered = sorted(self._waiting.values(), key=lambda job: job.key)
        keep = self._fitting(ordered)
        for job in ordered[keep:]:
            self.discard(job)
        self._heap = [(job.key, job.counts.run, job) for job in ordered[:keep]]  # sorted, hence a heap
        self.horizon = ordered[keep - 1].key
        return ordered[keep:]

    def peek(self) -> Job | None:
        """The next job, left where it is."""
        while self._heap:
            job = self._heap[0][2]
            if self._waiting.get(job.ordinal) is job:
                return job
            heapq.heappop(self._heap)
        return None

    def pop(self) -> Job:
        """Take the next job. There must be one."""
        job = self.peek()
        assert job is not None
        heapq.heappop(self._heap)
        self.discard(job)
        return job

    def discard(self, job: Job) -> None:
        """The job waits no more."""
        if self._waiting.pop(job.ordinal, None) is not None:
            self._bytes -= len(job.spec.payload)
        elif job in self._held:
            self._held.remove(job)

    def finished(self, job: Job) -> None:
        """The job has its outcome, wherever it was."""
        if self.loading:
            # Only while a read is under way: its answer was put together before this end was stored.
            self.gone.add(job.ordinal)

    def wants_more(self) -> bool:
        """Whether the front runs low and the store has more."""
        # Early enough that the read comes back before the front is empty: workers must not wait for the disk.
        low = len(self._waiting) < min(limits.BACKLOG_REFILL_JOBS_MIN, self._jobs_max)
        low = low and self._bytes <= self._bytes_max // 4  # few large jobs are no reason to read more of them
        return self.horizon != INFINITE and not self.loading and low

    def begin_load(self) -> tuple[Key, int, int]:
        """(after, jobs, bytes) to ask the store for."""
        self.loading = True
        return self.horizon, self._jobs_max, self._bytes_max

    def end_load(self, jobs: list[Job], horizon: Key | None) -> list[Job]:
        """Put in what the store had, up to `horizon` (None: that was all), and what came meanwhile; returns
        what of the latter lies beyond all the same."""
        self.loading = False
        self.gone.clear()
        for job in jobs:
            self._add(job)
        self.horizon = INFINITE if horizon is None else horizon
        # They may lie within the new horizon or beyond it; only now that is known.
        held, self._held = self._held, []
        return [job for job in held if not self.push(job)]

    def empty_front(self) -> None:
        """Nothing is known yet and all of it lies in the store: how a restarted dealer begins."""
        self.horizon = _START

    def _add(self, job: Job) -> None:
        assert job.state is State.QUEUED
        heapq.heappush(self._heap, (job.key, job.counts.run, job))
        self._waiting[job.ordinal] = job
        self._bytes += len(job.spec.payload)

    def _fitting(self, ordered: list[Job]) -> int:
        total = 0
        for index, job in enumerate(ordered[: self._jobs_max]):
            total += len(job.spec.payload)
            # At least one, however large: a job beyond the limit could otherwise never run.
            if total > self._bytes_max and index:
                return index
        return min(len(ordered), self._jobs_max)
