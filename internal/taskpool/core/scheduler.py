"""Which jobs go to which worker, and in which company.

A frame carries several jobs when they are tiny, and a worker holds a second frame while jobs are short. Never in
company: jobs with a time-out, with a crash behind them, or of another batch, kind or user code.
"""

from __future__ import annotations

from taskpool.clock import Instant
from taskpool.codec import encode_tasks
from taskpool.core.commits import FrameStored
from taskpool.core.effects import Level, SendFrame, Topic
from taskpool.core.entries import AttemptMade
from taskpool.core.job import JOB_TABLE, Job, JobAction, JobEvent
from taskpool.core.state import PoolState
from taskpool.core.supervisor import Supervisor
from taskpool.core.worker import Attempt, FrameRecord, Worker
from taskpool.limits import COMMAND_BACKSTOP_NS, TERM_GRACE_NS
from taskpool.messages import Frame, State, Task

TASK_OVERHEAD_BYTES = 24  # what a task takes in a frame beside its payload
FRAME_OVERHEAD_BYTES = 112


class Scheduler:
    """Hands out jobs."""

    def __init__(self, pool: PoolState, supervisor: Supervisor) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self.write_ahead_until_ns = 0  # until then every attempt is stored before it is sent
        self._alone: Job | None = None  # the last job sent that wanted the pool for itself

    def deal(self, now: Instant) -> None:
        """Hand out jobs, best first, for as long as somebody can take one. A job that no free worker suits
        is passed over, and room is made for a fresh one."""
        backlog = self._pool.backlog
        passed_over: list[Job] = []
        while self._supervisor.has_capacity() and len(passed_over) <= len(self._supervisor.workers):
            job = backlog.peek()
            if job is None or self._must_wait(job):
                break
            worker = self._supervisor.pick(job, now)
            if worker is not None:
                self._send(worker, self._frame_from(backlog.pop()), now)
            elif not (job.wants_fresh_worker or job.traits.affinity or self._tainted()):
                break  # whoever has capacity left has it for shorter jobs only
            else:
                passed_over.append(backlog.pop())
                self._supervisor.make_room(len(passed_over))
        for job in reversed(passed_over):  # the last first: should that fill the front, the others are not beyond it
            backlog.push(job)

    def _must_wait(self, job: Job) -> bool:
        """While a job that may bring down the host runs, nothing else does; before it starts, all must end."""
        if self._alone is not None and self._alone.attempt_n:
            return True
        return job.wants_pool_alone and bool(self._pool.attempts)

    def _tainted(self) -> bool:
        return any(worker.affinity for worker in self._supervisor.workers.values())

    def _frame_from(self, first: Job) -> list[Job]:
        """The job, and as many of its like as may travel with it."""
        jobs = [first]
        if not first.shares_frames:
            return jobs
        backlog = self._pool.backlog
        fair_share = len(backlog) // (2 * self._supervisor.wanted) + 1
        most = min(first.batch.frame_jobs(first.spec.kind), fair_share)
        room = self._pool.config.frame_bytes - FRAME_OVERHEAD_BYTES - len(first.spec.payload) - TASK_OVERHEAD_BYTES
        while len(jobs) < most:
            job = backlog.peek()
            if job is None or not _may_travel(job, first):
                break
            room -= len(job.spec.payload) + TASK_OVERHEAD_BYTES
            if room < 0:
                break
            jobs.append(backlog.pop())
        return jobs

    def _send(self, worker: Worker, jobs: list[Job], now: Instant) -> None:
        """Ownership is decided here: these jobs are this worker's from now on."""
        pool, first_n = self._pool, self._pool.attempt_n + 1
        self._supervisor.assign(worker)
        frame = FrameRecord(first_n, now.mono)
        frame.shared = len(jobs) > 1
        frame.timeout_ns = _backstop_ns(jobs[0])
        frame.sent = now.mono >= self.write_ahead_until_ns
        tasks = []
        for job in jobs:
            assert JOB_TABLE[job.state, JobEvent.DISPATCH] is JobAction.RUN
            job.move(State.RUNNING)
            job.tries += 1
            pool.attempt_n += 1
            job.attempt_n = pool.attempt_n
            attempt = Attempt(pool.attempt_n, job, worker, frame)
            attempt.fresh = attempt.fresh and not frame.shared
            frame.attempts[attempt.n] = pool.attempts[attempt.n] = attempt
            spec = job.spec
            tasks.append(Task(job.seq, job.tries, spec.kind, spec.payload, job.limits.timeout_ns))
            self._count_sent(job, worker, now)
        worker.hold(frame, jobs)
        assert worker.slot is not None
        self._alone = jobs[0] if jobs[0].wants_pool_alone else None
        body = encode_tasks(tasks)
        name = jobs[0].batch.name
        frame_out = Frame(pool.config.epoch, first_n, len(jobs), worker.slot, name, body)
        self._hand_over(SendFrame(worker.incarnation, frame_out), frame)

    def _hand_over(self, effect: SendFrame, frame: FrameRecord) -> None:
        """Attempts ride the next commit. While careful they are stored first: a job that brings everything
        down at once must be found in the journal."""  # R2
        attempts = list(frame.attempts.values())
        for attempt in attempts:
            row = AttemptMade(attempt.n, attempt.job.ordinal, attempt.job.tries, effect.incarnation)
            stored = FrameStored(effect) if not frame.sent and attempt is attempts[-1] else None
            self._pool.commits.add(row, stored)
        if frame.sent:
            self._pool.emit(effect)

    def _count_sent(self, job: Job, worker: Worker, now: Instant) -> None:
        pool = self._pool
        if job.tries == 1:
            pool.counters.waited(job.spec.kind, max(0, now.wall - job.queued_wall_ns))
        recovering, job.recovering = job.recovering, None
        if recovering is not None:
            pid, seen = recovering
            took_ns = max(0, now.mono - seen)
            pool.counters.recovery.add(took_ns)
            pool.note(Level.INFO, Topic.JOB_RESENT, job=job, crashed_pid=pid, pid=worker.pid, took_ns=took_ns)
        elif pool.config.verbose:
            pool.note(Level.DEBUG, Topic.JOB_SENT, job=job, pid=worker.pid)

    def send_stored(self, effect: SendFrame, now: Instant) -> None:
        """A careful dealer's frame is stored: send it, if its worker still lives. One asked back goes back."""
        worker = self._supervisor.workers.get(effect.incarnation)
        frame = worker.find(effect.frame.first_n) if worker is not None else None
        if worker is not None and frame is not None and not frame.taking_back:
            frame.sent = True
            frame.heard_mono_ns = now.mono
            worker.watch()
            self._pool.emit(effect)


def _may_travel(job: Job, first: Job) -> bool:
    return (
        job.shares_frames
        and job.batch is first.batch
        and job.spec.kind == first.spec.kind
        and job.traits.affinity == first.traits.affinity
    )


def _backstop_ns(job: Job) -> int:
    """When the dealer itself ends an attempt: at the time-out, or later when the worker does it first."""
    if not job.limits.timeout_ns or job.traits.in_process:
        return job.limits.timeout_ns
    return job.limits.timeout_ns + TERM_GRACE_NS + COMMAND_BACKSTOP_NS
