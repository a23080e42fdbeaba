"""How many jobs a member asks for: those that it can begin at once, and a little more when they are short.

What waits in one member's journal waits there while another member may be idle, so no more is fetched than the free
workers take; a fetch takes about a millisecond, so beside jobs that are as short some are fetched ahead.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from taskpool.clock import MILLISECOND

AHEAD_NS = 50 * MILLISECOND  # of work for each worker, fetched ahead of it being free
AHEAD_JOBS_MAX = 512  # ... and not more: a member that dies leaves them for `ack_wait`
_WEIGHT = 0.1  # of the latest job in the mean
FETCH_JOBS_MAX = 256  # in one request: what its answer takes in memory


class Pace:
    """A running mean of how long jobs take."""

    def __init__(self) -> None:
        self.mean_ns: float | None = None  # None: no job has ended yet

    def add(self, run_ns: int) -> None:
        """Count a job that has ended. One that never began took no time, and says nothing of those that will."""
        if run_ns > 0:
            self.mean_ns = run_ns if self.mean_ns is None else self.mean_ns + _WEIGHT * (run_ns - self.mean_ns)


class Running(msgspec.Struct):
    """A worker's job, in the answer to `status`."""

    job: str


class _Counts(msgspec.Struct, frozen=True):
    queued: int = 0
    delayed: int = 0
    running: int = 0


class Load(msgspec.Struct):
    """What is used of a dealer's answer to `status`."""

    # All have defaults: a status without them is of another version, and asks for no jobs.
    state: str = ""
    workers_wanted: int = 0
    out_of_service: Any = False
    jobs: _Counts = _Counts()
    running: list[Running] = []

    @property
    def draining(self) -> bool:
        """Whether the dealer is about to leave."""
        return self.state == "draining"

    @property
    def pending(self) -> int:
        """How many jobs the dealer has, of ours and of its own generators."""
        return self.jobs.queued + self.jobs.delayed + self.jobs.running

    def running_in(self, batch: str) -> list[int]:
        """Return the numbers of those jobs of a batch that a worker has."""
        prefix = f"{batch}/"
        names = (each.job for each in self.running if each.job.startswith(prefix))
        # A batch may be called as another one with a slash cannot, so what is behind it is a number.
        return [int(name.removeprefix(prefix)) for name in names]


class Share(NamedTuple):
    """A dealer's load, and how much of it is the cluster's."""

    load: Load | None  # None: not known yet
    executing: int  # jobs of the cluster, waiting or running
    executing_then: int  # ... when the load was asked for


def wanted(share: Share, pace: Pace) -> int:
    """Return how many jobs to ask for."""
    load = share.load
    if load is None or load.state != "running" or load.out_of_service:
        return 0
    # What came or ended since the load was told is ours alone to know; that of others is as it was.
    others = max(0, load.pending - share.executing_then)
    room = load.workers_wanted + _ahead(load.workers_wanted, pace) - others - share.executing
    return max(0, min(room, FETCH_JOBS_MAX))


def parse_load(body: bytes) -> Load | None:
    """Return the load of an answer to `status`; None when it is none."""
    try:
        return msgspec.json.decode(body, type=Load)
    except msgspec.MsgspecError:
        return None


def _ahead(workers: int, pace: Pace) -> int:
    if pace.mean_ns is None or pace.mean_ns >= AHEAD_NS:
        return 0
    return min(AHEAD_JOBS_MAX, int(workers * AHEAD_NS / max(pace.mean_ns, 1)))
