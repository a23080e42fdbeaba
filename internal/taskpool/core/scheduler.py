"""Which jobs go to which worker, and which of them share a frame.

A frame carries several jobs when they are tiny, and a worker holds a second frame while jobs are short. Jobs never
share one when they have a time-out, have crashed before, or are of different batch, kind, limits or user code: then the
worker's silence or death would not tell which of them is to blame.
"""

from __future__ import annotations

from taskpool.clock import Instant
from taskpool.codec import encode_tasks
from taskpool.core.attempt import Attempt
from taskpool.core.commits import FrameStored
from taskpool.core.effects import Level, SendFrame, Topic
from taskpool.core.entries import AttemptMade
from taskpool.core.frame import FrameRecord
from taskpool.core.job import Job
from taskpool.core.pacing import Pacing
from taskpool.core.state import PoolState
from taskpool.core.supervisor import Supervisor
from taskpool.core.worker import Worker
from taskpool.limits import COMMAND_BACKSTOP_NS, WRITE_AHEAD_NS
from taskpool.messages import Frame, Task

TASK_OVERHEAD_BYTES = 24  # what a task takes in a frame beside its payload
FRAME_OVERHEAD_BYTES = 160  # with limits that name few ends to retry


class Scheduler:
    """Hands out jobs."""

    def __init__(self, pool: PoolState, supervisor: Supervisor) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self.pacing = Pacing(pool)
        self._write_ahead_until_ns = 0  # until then every attempt is stored before it is sent
        self._alone: Job | None = None  # the last job sent that wanted the pool for itself

    def write_ahead(self, now: Instant) -> None:
        """For a while, store each attempt before its frame is sent. The dealer before this one ended without a clean
        shutdown, perhaps by a job that brings everything down at once: such a job must be found in the journal."""
        self._write_ahead_until_ns = now.mono + WRITE_AHEAD_NS

    def dispatch(self, now: Instant) -> None:
        """Hand out jobs, best first, for as long as a worker can take one. A job that no free worker suits is passed
        over, and room is made for a fresh one."""
        backlog = self._pool.backlog
        passed_over: list[Job] = []
        paced = self.pacing.active
        if paced:
            self.pacing.tick(now)
        while self._supervisor.has_capacity() and len(passed_over) <= len(self._supervisor.workers):
            if paced and self.pacing.must_wait(now):
                break
            job = backlog.peek()
            # Strict priority: the best job waits for its turn, and nothing overtakes it meanwhile.
            if job is None or self._must_wait(job):
                break
            worker = self._supervisor.pick(job, now, seconds=not paced)
            if worker is not None:
                self._send(worker, self._frame_from(backlog.pop()), now)
            elif not (job.wants_fresh_worker or job.traits.affinity or self._supervisor.any_affinity):
                break  # what capacity is left is left for shorter jobs only
            else:
                passed_over.append(backlog.pop())
                self._supervisor.make_room(len(passed_over))
        # The last first: should that fill the front of the queue, the others are not beyond it.
        for job in reversed(passed_over):
            backlog.push(job)

    def _must_wait(self, job: Job) -> bool:
        """While a job that may bring down the host runs, nothing else does; before it starts, all must end."""
        if self._alone is not None and self._alone.attempt_n:
            return True
        return job.wants_pool_alone and bool(self._pool.attempts)

    def _frame_from(self, first: Job) -> list[Job]:
        """The job, and those behind it that may share its frame."""
        jobs = [first]
        if not first.shares_frames or self.pacing.active:
            return jobs
        backlog = self._pool.backlog
        # A worker must not take so much that another one idles while these wait in its frame.
        fair_share = len(backlog) // (2 * self._supervisor.wanted) + 1
        most = min(first.batch.frame_jobs(first.spec.kind), fair_share)
        # A frame that fits its queue needs no file in the spool; a file costs more than what sharing a frame saves.
        room = self._pool.config.frame_bytes - FRAME_OVERHEAD_BYTES - len(first.spec.payload) - TASK_OVERHEAD_BYTES
        while len(jobs) < most:
            job = backlog.peek()
            if job is None or not _may_share(job, first):
                break
            room -= len(job.spec.payload) + TASK_OVERHEAD_BYTES
            if room < 0:
                break
            jobs.append(backlog.pop())
        return jobs

    def _send(self, worker: Worker, jobs: list[Job], now: Instant) -> None:
        """Ownership is decided here: these jobs are this worker's from now on."""
        self._supervisor.assign(worker)
        frame = self._frame(jobs, now)
        tasks = [self._begin(job, worker, frame, now) for job in jobs]
        worker.hold(frame, jobs)
        self.pacing.sent(frame)
        assert worker.slot is not None
        # Remembered until it ends: what is dispatched next must wait for it.
        self._alone = jobs[0] if jobs[0].wants_pool_alone else None
        body, name = encode_tasks(tasks), jobs[0].batch.name
        message = Frame(self._pool.config.epoch, frame.first_n, len(jobs), worker.slot, name, body, jobs[0].limits)
        self._hand_over(SendFrame(worker.incarnation, message), frame)

    def _frame(self, jobs: list[Job], now: Instant) -> FrameRecord:
        sent = now.mono >= self._write_ahead_until_ns
        first_n = self._pool.attempt_n + 1
        return FrameRecord(first_n, now, size=len(jobs), timeout_ns=_backstop_ns(jobs[0]), sent=sent)

    def _begin(self, job: Job, worker: Worker, frame: FrameRecord, now: Instant) -> Task:
        """Begin the job's next attempt; what the worker is told of it."""
        attempt = Attempt(self._pool.next_attempt(), job, worker, frame)
        job.begin(attempt.n)
        self._pool.attempts[attempt.n] = attempt
        frame.jobs[attempt.n] = job
        self._count_sent(job, worker, now)
        return Task(job.seq, job.counts.tries, job.spec.kind, job.spec.payload)

    def _hand_over(self, effect: SendFrame, frame: FrameRecord) -> None:
        """Attempts ride the next commit; a dealer that writes ahead sends the frame only behind that commit."""
        # R2 (docs/protocol.md, 11)
        last = next(reversed(frame.jobs))
        for n, job in frame.jobs.items():
            entry = AttemptMade(n, job.ordinal, job.counts.tries)
            stored = FrameStored(effect) if not frame.sent and n == last else None
            self._pool.commits.add(entry, stored)
        if frame.sent:
            self._pool.emit(effect)

    def _count_sent(self, job: Job, worker: Worker, now: Instant) -> None:
        pool = self._pool
        if job.counts.tries == 1:
            pool.counters.waited(job.spec.kind, max(0, now.wall - job.record.queued_wall_ns))
        recovering = job.end_recovery()
        if recovering is not None:
            pid, seen = recovering
            took_ns = max(0, now.mono - seen)
            pool.counters.recovery.add(took_ns)
            pool.note(Level.INFO, Topic.JOB_RESENT, job=job, crashed_pid=pid, pid=worker.pid, took_ns=took_ns)
        elif pool.config.verbose:  # asked here too: a note for every job costs more than a job that does nothing
            pool.note(Level.DEBUG, Topic.JOB_SENT, job=job, pid=worker.pid)

    def send_stored(self, effect: SendFrame, now: Instant) -> None:
        """The attempts of a frame are stored: send it, if its worker still lives and it was not asked back."""
        worker = self._supervisor.workers.get(effect.incarnation)
        frame = worker.find(effect.frame.first_n) if worker is not None else None
        if worker is not None and frame is not None and not frame.taking_back:
            worker.send_stored(frame, now)
            self._pool.emit(effect)


def _may_share(job: Job, first: Job) -> bool:
    return (
        job.shares_frames
        and job.batch is first.batch
        and job.spec.kind == first.spec.kind
        and (job.limits is first.limits or job.limits == first.limits)
        and job.traits.affinity == first.traits.affinity
    )


def _backstop_ns(job: Job) -> int:
    """When the dealer itself ends an attempt: at the time-out, or later when the worker does it first."""
    if not job.limits.timeout_ns or job.traits.in_process:
        return job.limits.timeout_ns
    return job.limits.timeout_ns + job.limits.grace_ns + COMMAND_BACKSTOP_NS
