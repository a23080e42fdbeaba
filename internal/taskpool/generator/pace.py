"""How fast a batch goes, and how long the rest of it takes. Pure: monotonic nanoseconds are handed in."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from taskpool.clock import SECOND
from taskpool.messages import JobSpec, Outcome

RECENT_NS = 10 * SECOND  # what a person sees as the speed of now


class Pace:
    """Learns from the outcomes of this life of the program; those of earlier ones only count as done."""

    def __init__(self, now: int) -> None:
        self._began = now
        self._submitted: Counter[str] = Counter()  # jobs, by kind
        self._finished: Counter[str] = Counter()  # of them, in any life
        self._ended: Counter[str] = Counter()  # runs, in this one
        self._worked_ns: Counter[str] = Counter()
        self._recent: deque[tuple[int, int]] = deque([(now, 0)])  # when, and how many runs had ended by then

    def begin(self, now: int) -> None:
        """Count from now on: the pool is there, and jobs can run."""
        self._began = now
        self._recent = deque([(now, 0)])

    def submit(self, jobs: Iterable[JobSpec]) -> None:
        """Note what kinds of jobs there are to do."""
        self._submitted.update(job.kind for job in jobs)

    def add(self, outcome: Outcome, *, earlier: bool = False) -> None:
        """Note what a job took. `earlier`: in an earlier life, on another day perhaps."""
        self._finished[outcome.kind] += 1
        if not earlier:
            self._ended[outcome.kind] += 1
            self._worked_ns[outcome.kind] += outcome.usage.run_ns

    def rate(self, now: int) -> float:
        """Give the jobs that ended per second, of late."""
        ended = self._ended.total()
        self._recent.append((now, ended))
        # One sample from before the window stays: the window is to be full.
        while len(self._recent) > 2 and self._recent[1][0] <= now - RECENT_NS:
            self._recent.popleft()
        since, before = self._recent[0]
        return (ended - before) * SECOND / max(now - since, 1)

    def left_ns(self, missing: int, now: int) -> int | None:
        """Estimate how long `missing` jobs take; None while nothing has ended to judge by.

        Each kind is taken to last as long as its jobs did, on as many workers as were busy so far.
        """
        ended, elapsed = self._ended.total(), now - self._began
        if not ended or not missing:
            return None
        worked = self._worked_ns.total()
        if not worked:  # cancelled before they ran, say: then jobs count alike
            return elapsed * missing // ended
        ahead = missing * worked // ended
        for kind, submitted in self._submitted.items():
            known = max(0, submitted - self._finished[kind])
            if own := self._ended[kind]:
                ahead += known * (self._worked_ns[kind] // own - worked // ended)
        return max(0, ahead) * elapsed // worked
