"""A pool's answers over time: how fast it is, when a batch will be done, which tries died last. Pure.

Rules of this file:
1. Times are monotonic nanoseconds, handed in; what is kept is bounded.
2. Counters go back to nothing when a dealer is started again: that is a new beginning, and no negative speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from taskpool.clock import SECOND
from taskpool.generator.top.answers import PoolStatus
from taskpool.generator.top.model import BatchRow, Death, JobRow, PoolRow

RATES_KEPT = 120
DEATHS_KEPT = 50
_WINDOW_NS = 30 * SECOND  # over which the speed of a batch is taken
_SAMPLES_KEPT = 64
_BATCHES_KEPT = 1_000


class Use(NamedTuple):
    """What a worker uses, with all that it has started."""

    cpu_percent: float | None
    rss_bytes: int | None


class _Sample(NamedTuple):
    at: int
    done: int


class Failures(NamedTuple):
    """What is known of a batch's failures."""

    failed: int = 0
    whole: bool = True  # every outcome was looked at


class PoolHistory:
    """What one pool has answered so far."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self._finished: _Sample | None = None
        self._rates: deque[float] = deque(maxlen=RATES_KEPT)
        self._batches: dict[str, deque[_Sample]] = {}
        self._failures: dict[str, Failures] = {}
        self._deaths: deque[Death] = deque(maxlen=DEATHS_KEPT)

    def take(self, status: PoolStatus, uses: Mapping[int, Use], now: int) -> PoolRow:
        """Take an answer to `status`; return what is to be shown. `uses`: by the workers' pids."""
        finished = sum(status.finished.values())
        self._note_rate(finished, now)
        batches = [self._batch_row(each.batch, each.accepted, each.total, each.open, now) for each in status.batches]
        for gone in self._batches.keys() - {each.batch for each in status.batches}:
            del self._batches[gone]
            self._failures.pop(gone, None)
        return PoolRow(
            name=self.pool,
            state=status.state,
            pid=status.pid,
            workers_wanted=status.workers_wanted,
            workers=sum(status.workers.values()) - status.workers.get("spare", 0),
            spares=status.workers.get("spare", 0),
            queued=status.jobs.get("queued", 0),
            delayed=status.jobs.get("delayed", 0),
            running=status.jobs.get("running", 0),
            finished=finished,
            failed=finished - status.finished.get("succeeded", 0) - status.finished.get("cancelled", 0),
            quarantined=status.quarantined,
            out_of_service=status.out_of_service,
            rates=tuple(self._rates),
            jobs=list(self._job_rows(status, uses)),
            batches=batches,
            deaths=tuple(self._deaths),
        )

    def note_deaths(self, deaths: Iterable[Death]) -> None:
        """Take deaths; those that are known already are passed over."""
        # Known by the try and not by when: `show` and an outcome tell the same one in different words.
        known = {(death.job, death.attempt) for death in self._deaths}
        for death in deaths:
            if (death.job, death.attempt) not in known:
                known.add((death.job, death.attempt))
                self._deaths.appendleft(death)

    def note_failures(self, batch: str, failed: int, *, whole: bool) -> None:
        """Count more failures of a batch; `whole`: no outcome was passed over before these."""
        before = self._failures.get(batch, Failures())
        self._failures[batch] = Failures(before.failed + failed, before.whole and whole)

    def _note_rate(self, finished: int, now: int) -> None:
        before, self._finished = self._finished, _Sample(now, finished)
        if before is None or finished < before.done or now <= before.at:
            return
        self._rates.append((finished - before.done) * SECOND / (now - before.at))

    def _batch_row(self, name: str, accepted: int, total: int | None, still_open: int, now: int) -> BatchRow:
        done = max(0, accepted - still_open)
        rate = self._rate_of(name, done, now)
        # Of a batch that may still grow no end can be told.
        left = (total - done) / rate if total is not None and rate else None
        failures = self._failures.get(name, Failures())
        return BatchRow(self.pool, name, done, accepted, total, rate, left, failures.failed, failures.whole)

    def _rate_of(self, name: str, done: int, now: int) -> float | None:
        if name not in self._batches and len(self._batches) >= _BATCHES_KEPT:
            return None
        samples = self._batches.setdefault(name, deque(maxlen=_SAMPLES_KEPT))
        if samples and done < samples[-1].done:  # jobs of it run again
            samples.clear()
        samples.append(_Sample(now, done))
        while len(samples) > 2 and samples[0].at < now - _WINDOW_NS:
            samples.popleft()
        first = samples[0]
        return (done - first.done) * SECOND / (now - first.at) if now > first.at else None

    def _job_rows(self, status: PoolStatus, uses: Mapping[int, Use]) -> Iterable[JobRow]:
        for job in status.running:
            use = uses.get(job.pid, Use(None, None))
            yield JobRow(
                self.pool,
                job.slot or 0,
                job.pid,
                job.job,
                job.seconds,
                job.description,
                job.started,
                use.cpu_percent,
                use.rss_bytes,
            )
