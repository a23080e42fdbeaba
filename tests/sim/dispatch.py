"""What must hold of a frame when it is sent: that it may be, that it is the turn of its jobs, and that they suit the
worker and one another (docs/protocol.md, section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.attempts import SentFrame
from sim.jobs import Planned
from taskpool import codec, limits
from taskpool.identifiers import Incarnation
from taskpool.messages import Frame, State

if TYPE_CHECKING:
    from sim.host import SimHost
    from sim.platform import SimPlatform


class Dispatch:
    """Judges what the dealer hands out."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._world = host.world
        self._started_ns: dict[int, int] = {}  # by epoch: when an attempt last was
        self.delay_ns = 0

    def check_not_again(self, platform: SimPlatform, job: Planned, n: int, unread: set[Planned]) -> None:
        """Nothing of the job runs, and nothing is known of a result; and its attempt is stored, if it must be."""
        where = f"job {job.number} is sent (attempt {n})"
        if job.live:
            self._world.fail("I7", f"{where} while an earlier attempt lives")
        if job in platform.late_successes:
            self._world.fail("I7", f"{where} though a dead worker's result was read")
        if job in unread:
            self._world.fail("I7", f"{where} while its result is in the queue")
        if platform.writes_ahead and (platform.epoch, n) not in self._host.disk.journal_model.attempts:
            self._world.fail("R2", f"a dealer that writes ahead sends attempt {n} before it is stored")

    def check_may_be_sent(self, platform: SimPlatform, frame: Frame) -> None:
        """Nothing that the dealer was told stands against it."""
        batches = self._host.disk.journal_model.batches
        where = f"frame {frame.first_n} is sent"
        if self.delay_ns and frame.count > 1:
            self._world.fail("I12", f"{where} with {frame.count} jobs, which start one after the other")
        if platform.full:
            self._world.fail("R6", f"{where} while {platform.full} has no room")
        if platform.paused or platform.draining:
            self._world.fail("I9", f"{where} by a dealer that {'drains' if platform.draining else 'is paused'}")
        if frame.slot >= platform.supervision.wanted:
            self._world.fail("I9", f"{where} in slot {frame.slot} of {platform.supervision.wanted}")
        for task in codec.decode_tasks(frame.tasks):
            job = self._host.job(frame.batch, task.seq)
            given_up = job.given_up == platform.epoch or batches[frame.batch].cancelled
            if given_up and not job.requeue_asked:
                self._world.fail("I9", f"{where} with job {job.number}, which was given up")

    def check_turn(self, job: Planned, known: int) -> None:
        """Of equals, who came first goes first; and before them those of higher priority, as far as the dealer
        surely knew them. Those that were sent before may wait for a worker of their own."""
        first, job.sent = not job.sent, True
        if not first or job.spec.kind == "python":  # who wants a worker that loaded its code, or none, is no equal
            return
        mine = self._host.oracle.limits_of(job)
        for seq in range(1, max(job.seq, known + 1)):
            other = self._host.job(job.batch, seq)
            if other.sent or other.cancel_asked or other.spec.kind != job.spec.kind:
                continue
            theirs = self._host.oracle.limits_of(other)
            if theirs.timeout_ns != mine.timeout_ns or (-theirs.priority, seq) > (-mine.priority, job.seq):
                continue
            kept = self._host.disk.journal_model.by_seq.get((job.batch, seq))
            if kept is not None and kept.state is State.QUEUED and kept.attempt == (0, 0):  # never sent
                self._world.fail("order", f"job {job.seq} of {job.batch} is sent before job {seq}")

    def check_company(self, jobs: list[Planned]) -> None:
        """The death of a frame must not leave open which kind of job, or which suspect, was to blame."""
        for job in jobs:
            kept = self._host.disk.journal_model.by_seq[job.batch, job.seq]
            crashed = kept.state in (State.QUEUED, State.RUNNING) and kept.job.counts.crashes
            if crashed or self._host.oracle.limits_of(job).timeout_ns:
                self._world.fail("I4", f"job {job.number}, which must be alone, shares a frame of {len(jobs)}")
            if (job.spec.kind, job.affinity) != (jobs[0].spec.kind, jobs[0].affinity):
                self._world.fail("I4", f"job {job.number} shares a frame with jobs of another kind or path")

    def check_pause(self, epoch: int) -> None:
        """An attempt starts: not too soon after the one before."""
        now_ns = self._world.now_ns
        since_ns = now_ns - self._started_ns.get(epoch, -self.delay_ns)
        if since_ns < self.delay_ns:
            self._world.fail("I12", f"{since_ns / 1e6:.1f} of {self.delay_ns / 1e6:g} ms lie between two starts")
        self._started_ns[epoch] = now_ns

    def check_behind(self, frames: list[SentFrame], jobs: list[Planned]) -> None:
        """A worker that holds a frame gets another."""
        if len(frames) >= limits.FRAMES_IN_FLIGHT_MAX:
            self._world.fail("I6", f"a worker gets frame {len(frames) + 1}")
        for job in (*frames[0].left.values(), *jobs):
            if self._host.oracle.limits_of(job).timeout_ns:
                self._world.fail("I10", f"a frame waits behind another, and job {job.number} has a time-out")

    def check_not_taken_back(self, platform: SimPlatform, incarnation: int, first_n: int) -> None:
        worker = platform.core.supervisor.workers.get(Incarnation(incarnation))
        frame = worker.find(first_n) if worker is not None else None
        if frame is not None and frame.taking_back:
            self._world.fail("I10", f"frame {first_n} was asked back, and is sent after all")

    def check_alone(self, platform: SimPlatform, n: int) -> None:
        """A job that dealer after dealer went down with has the pool to itself."""
        attempts = platform.core.pool.attempts
        if (
            n in attempts
            and attempts[n].job.counts.unclean_exits >= limits.UNCLEAN_EXITS_ALONE_MIN
            and len(attempts) > 1
        ):
            self._world.fail("I4", f"attempt {n} of a job that may end the host runs in company")
