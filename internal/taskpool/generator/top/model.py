"""What `top` shows: pools, jobs that run, batches, deaths of workers. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Request(NamedTuple):
    """What a person wants of a pool; see `messages.Command`."""

    pool: str
    verb: str
    batch: str | None = None
    seq: int = 0  # 0: the whole batch


class JobRow(NamedTuple):
    """A worker with the job that it runs."""

    pool: str
    slot: int  # from 1
    pid: int
    job: str
    seconds: float  # since it began
    what: str  # a command line or a call
    started: bool = True
    cpu_percent: float | None = None  # None: /proc does not tell, or not yet
    rss_bytes: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What the row is known by from one refresh to the next."""
        return self.pool, self.job


class BatchRow(NamedTuple):
    """A batch that a pool has in memory."""

    pool: str
    batch: str
    done: int
    accepted: int
    total: int | None  # None: more jobs may come
    rate: float | None = None  # jobs a second, of late; None: not known yet
    left_seconds: float | None = None
    failed: int = 0  # of the outcomes that were looked at
    all_looked_at: bool = True  # else there may have been more

    @property
    def key(self) -> tuple[str, str]:
        """As that of a job."""
        return self.pool, self.batch


class Death(NamedTuple):
    """A try that did not succeed."""

    ended_at: str  # RFC 3339; empty: not known
    pool: str
    job: str
    attempt: int
    cause: str


class PoolRow(NamedTuple):
    """A pool at one moment."""

    name: str
    state: str = ""  # running, paused, draining; empty: it has not answered yet
    problem: str = ""  # why nothing is known of it
    pid: int = 0
    workers_wanted: int = 0
    workers: int = 0  # that live
    spares: int = 0
    queued: int = 0
    delayed: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    quarantined: int = 0
    out_of_service: bool = False
    rates: Sequence[float] = ()  # jobs a second, from one refresh to the next; the last is the newest
    jobs: Sequence[JobRow] = ()
    batches: Sequence[BatchRow] = ()
    deaths: Sequence[Death] = ()  # the newest first

    @property
    def rate(self) -> float:
        """Jobs a second, of late."""
        recent = self.rates[-5:]
        return sum(recent) / len(recent) if recent else 0.0


def without_answer(row: PoolRow, seconds: float) -> PoolRow:
    """Return what is shown of a pool that has not answered for so long: nothing that may be wrong by now."""
    problem = row.problem or f"no answer for {seconds:.0f} s: its dealer has gone, is stopped, or has too much to do"
    return PoolRow(row.name, problem=problem, rates=row.rates, deaths=row.deaths)


Model = Sequence[PoolRow]
"""All pools, in the order of their names."""
