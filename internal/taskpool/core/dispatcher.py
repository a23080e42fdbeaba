"""The dealer's mind: events in, effects out."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop
from typing import Any

from taskpool.clock import Instant
from taskpool.codec import encode_tasks
from taskpool.core.commands import Commands
from taskpool.core.crew import Crew
from taskpool.core.desk import Desk
from taskpool.core.effects import Effect, Exit, Level, LoadJobs, SendFrame, Topic
from taskpool.core.endings import Endings
from taskpool.core.events import (
    ClientLost,
    CommitFailed,
    Committed,
    Event,
    Exited,
    LifelineClosed,
    Loaded,
    OutcomesLoaded,
    Signalled,
    Spawned,
    SpawnFailed,
    Stalled,
    Submitted,
    TakenBack,
    Tick,
)
from taskpool.core.job import JOB_TABLE, Job, JobAction, JobEvent
from taskpool.core.leaving import Leaving
from taskpool.core.ledger import CloseStored, JobsStored, OutcomeStored
from taskpool.core.pool import Pool, PoolConfig
from taskpool.core.rows import AttemptMade
from taskpool.core.worker import WORKER_TABLE, Attempt, FrameRecord, Verdict, Worker, WorkerAction, WorkerEvent
from taskpool.errors import ExitCode
from taskpool.limits import COMMAND_BACKSTOP_NS, PROTOCOL_ERRORS_PER_WORKER_MAX, TERM_GRACE_NS
from taskpool.messages import Ack, Bye, Close, Command, End, Frame, Hello, Ping, Progress, Ready, State, Task

TASK_OVERHEAD_BYTES = 24  # what a task takes in a frame beside its payload
FRAME_OVERHEAD_BYTES = 112
REPORTABLE = frozenset({End.SUCCEEDED, End.FAILED, End.CRASHED, End.TIMED_OUT})


class Dispatcher:
    """`handle` is total: every event, in every state, from anybody."""

    def __init__(self, config: PoolConfig, signal_names: dict[int, str]) -> None:
        self.pool = Pool(config)
        self.crew = Crew(self.pool)
        self.endings = Endings(self.pool, signal_names)
        self.desk = Desk(self.pool)
        self.leaving = Leaving(self.pool, self.crew)
        self.commands = Commands(self.pool, self.crew, self.endings, self.leaving)
        self._handlers: dict[type, Callable[[Any, Instant], None]] = {
            Hello: self.desk.hello,
            Submitted: self.desk.submit,
            Close: lambda event, now: self.desk.close(event),
            Ack: lambda event, now: self.desk.acknowledge(event),
            Ping: lambda event, now: self.desk.ping(event),
            Bye: lambda event, now: self.desk.bye(event.client),
            ClientLost: lambda event, now: self.desk.bye(event.client),
            Command: self.commands.perform,
            Ready: lambda event, now: self.crew.ready(event),
            Progress: self._on_progress,
            Spawned: lambda event, now: self.crew.spawned(event.incarnation, event.pid),
            SpawnFailed: self._on_spawn_failed,
            Exited: self._on_exited,
            TakenBack: self._on_taken_back,
            Committed: self._on_committed,
            CommitFailed: self._on_commit_failed,
            Loaded: self._on_loaded,
            OutcomesLoaded: lambda event, now: self.desk.outcomes_loaded(event),
            Signalled: self._on_signalled,
            LifelineClosed: lambda event, now: self.leaving.orphaned(now),
            Stalled: self._on_stalled,
            Tick: self._on_tick,
        }

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """What is to be done about an event, in this order."""
        client = getattr(event, "client", None)
        if client is not None:
            self.desk.renew(client, now)
        self._handlers[type(event)](event, now)
        effects, self.pool.out = self.pool.out, []
        return effects

    def next_deadline_ns(self, now: Instant) -> int:
        """When `Tick` must come at the latest, on the monotonic clock."""
        pool = self.pool
        deadlines = [self.crew.next_deadline_ns(now), self.leaving.next_deadline_ns()]
        deadlines += [pool.delayed[0][0]] if pool.delayed else []
        deadlines += (client.lease_mono_ns for client in pool.clients.values())
        return min(deadlines)

    # --- workers speak ---

    def _on_progress(self, message: Progress, now: Instant) -> None:
        worker = self.crew.workers.get(message.incarnation)  # type: ignore[call-overload]
        if worker is None or message.epoch != self.pool.config.epoch:
            self.pool.tally.stale_reports += len(message.reports) or 1
            return
        for report in message.reports:
            attempt = self.pool.attempts.get(report.n)
            if attempt is None or attempt.worker is not worker:
                self._stale(worker, report.n)
            elif report.end not in REPORTABLE or not attempt.frame.started:
                self._protocol_error(worker, f"report {report.end.value} of attempt {report.n}")
            else:
                self.endings.reported(attempt, report, now)
        if not worker.frames and message.reports:
            self.crew.rest(worker)
        if message.started:
            self._on_started(worker, message.started, now)

    def _on_started(self, worker: Worker, first_n: int, now: Instant) -> None:
        if not self.crew.started(worker, first_n, now):
            self._stale(worker, first_n)
        elif any(attempt.job.cancelled for attempt in worker.frames[0].attempts.values()):
            self.crew.stop(worker, Verdict.CANCELLED)  # the wish came too late to take the frame back

    def _stale(self, worker: Worker, n: int) -> None:
        """A word on an attempt that is none of this worker's any more, or never was."""
        self.pool.tally.stale_reports += 1
        self.pool.note(Level.DEBUG, Topic.STALE_REPORT, pid=worker.pid, attempt=n)
        if n > self.pool.attempt_n:
            self._protocol_error(worker, f"attempt {n} was never made")

    def _protocol_error(self, worker: Worker, text: str) -> None:
        self.pool.tally.protocol_errors += 1
        worker.errors += 1
        self.pool.note(Level.WARNING, Topic.WORKER_NOTE, text=f"worker PID {worker.pid} said nonsense: {text}")
        if worker.errors >= PROTOCOL_ERRORS_PER_WORKER_MAX:
            self.crew.stop(worker, Verdict.PROTOCOL)

    # --- workers come and go ---

    def _on_spawn_failed(self, event: SpawnFailed, now: Instant) -> None:
        self.crew.bury(self.crew.workers[event.incarnation])
        self.crew.boot_death(now, None, event.text)

    def _on_exited(self, event: Exited, now: Instant) -> None:
        worker = self.crew.workers[event.incarnation]
        action = WORKER_TABLE[worker.state, WorkerEvent.EXITED]
        signal = self.endings.signal_name(event.signal)
        booting = action is WorkerAction.COUNT_BOOT_DEATH or worker.verdict is Verdict.BOOT
        self.pool.tally.worker_exited(_exit_reason(worker, event, booting=booting), signal)
        unasked = worker.verdict is None
        self.pool.note(
            Level.WARNING if unasked and not booting else Level.DEBUG,
            Topic.WORKER_EXITED,
            pid=worker.pid,
            status=event.status,
            signal=signal,
            asked=not unasked,
        )
        self.endings.judge(worker, event, now)
        self.crew.bury(worker)
        somebodys_will = worker.verdict is None and signal in ("SIGKILL", "SIGTERM")
        if booting and not somebodys_will:
            self.crew.boot_death(now, event.status, _boot_text(worker, event, signal))

    def _on_taken_back(self, event: TakenBack, now: Instant) -> None:
        """These frames never reached the worker; those asked for and not returned did."""
        worker = self.crew.workers.get(event.incarnation)
        if worker is None:
            return
        for first_n in event.first_ns:
            frame = worker.find(first_n)
            for attempt in list(frame.attempts.values()) if frame is not None else []:
                job = attempt.job
                if job.cancelled:
                    self.endings.lose(attempt, now)
                else:
                    self.endings.take_back(attempt, now)
        if not worker.frames:
            self.crew.rest(worker)

    # --- the store answers ---

    def _on_committed(self, event: Committed, now: Instant) -> None:
        recorded = {}
        for told in self.pool.ledger.committed(event.number):
            if isinstance(told, OutcomeStored):
                told.batch.hold(told.outcome)
                recorded[told.batch.name] = told.batch
            elif isinstance(told, JobsStored):
                self.desk.accepted(told.batch, told.jobs)
                for job in told.jobs:
                    self._admit(job, now)
            elif isinstance(told, CloseStored):
                self.desk.closed(told.batch)
        for batch in recorded.values():
            self.desk.deliver(batch)

    def _admit(self, job: Job, now: Instant) -> None:
        """A stored job takes its place in the queue."""
        pool = self.pool
        pool.jobs[job.ordinal] = job
        if job.batch.cancelled:
            self.endings.cancel_waiting(job, now)
        elif not pool.backlog.push(job):
            del pool.jobs[job.ordinal]

    def _on_commit_failed(self, event: CommitFailed, now: Instant) -> None:
        """What failed may be half there: only a restart that reads the journal again can tell."""  # R6
        self.pool.emit(Exit(ExitCode.ENVIRONMENT, f"the journal cannot be written: {event.text}"))

    def _on_loaded(self, event: Loaded, now: Instant) -> None:
        pool = self.pool
        cancelled: list[Job] = []
        jobs: list[Job] = []
        for stored in event.jobs:
            batch = pool.batches.get(stored.batch)
            if batch is None or stored.ordinal in pool.jobs:
                continue
            job = Job.restored(stored, batch)
            pool.jobs[job.ordinal] = job
            (cancelled if batch.cancelled else jobs).append(job)
        last = event.jobs[-1] if event.more and event.jobs else None
        horizon = (-last.priority, last.ordinal) if last is not None else None
        for job in pool.backlog.end_load(jobs, horizon):
            del pool.jobs[job.ordinal]
        for job in cancelled:
            self.endings.cancel_waiting(job, now)

    # --- the outside ---

    def _on_signalled(self, event: Signalled, now: Instant) -> None:
        if event.name in ("TERM", "INT", "QUIT"):
            self.leaving.signalled(event.name, now)
        elif event.name in ("TTIN", "TTOU"):
            self.commands.scale(1 if event.name == "TTIN" else -1)
        elif event.name == "USR1":
            self.pool.note(Level.INFO, Topic.STATUS, **self.commands.status(now))

    def _on_stalled(self, event: Stalled, now: Instant) -> None:
        """We stood still, so everybody else was silent to our ears only."""
        self.pool.note(Level.WARNING, Topic.STALLED, seconds=event.gap_ns / 1e9)
        self.crew.forgive(event.gap_ns)
        self.desk.forgive(event.gap_ns)

    def _on_tick(self, event: Tick, now: Instant) -> None:  # R9: dispatch, then timers
        pool = self.pool
        while pool.delayed and pool.delayed[0][0] <= now.mono:
            job = heappop(pool.delayed)[2]
            if job.state is State.DELAYED:
                self.endings.due(job)
        if not (pool.draining or pool.paused or self.leaving.left or pool.congested()):
            self._dispatch(now)
        self.crew.overdue(now)
        self.desk.lapse(now)
        self.leaving.tick(now)
        if not (pool.draining or self.leaving.left):
            self.crew.reconcile(now)
        for job in pool.backlog.trim():
            del pool.jobs[job.ordinal]
        pool.ledger.flush(pool.out)
        if pool.backlog.wants_more() and pool.ledger.blank:
            pool.emit(LoadJobs(*pool.backlog.begin_load()))

    # --- dispatch ---

    def _dispatch(self, now: Instant) -> None:
        """Hand out jobs, best first, for as long as somebody can take one. A job that no free worker suits
        is passed over, and room is made for a fresh one."""
        backlog = self.pool.backlog
        passed_over: list[Job] = []
        while self.crew.has_capacity() and len(passed_over) <= len(self.crew.workers):
            job = backlog.peek()
            if job is None:
                break
            worker = self.crew.pick(job)
            if worker is not None:
                self._send(worker, self._frame_from(backlog.pop(), worker), now)
            elif not (job.wants_fresh_worker or job.traits.affinity or self._tainted()):
                break  # whoever has capacity left has it for shorter jobs only
            else:
                passed_over.append(backlog.pop())
                self.crew.make_room(len(passed_over))
        for job in passed_over:
            backlog.push(job)

    def _tainted(self) -> bool:
        return any(worker.affinity for worker in self.crew.workers.values())

    def _frame_from(self, first: Job, worker: Worker) -> list[Job]:
        """The job, and as many of its like as may travel with it."""
        jobs = [first]
        if not first.shares_frames:
            return jobs
        backlog = self.pool.backlog
        fair_share = len(backlog) // (2 * self.crew.wanted) + 1
        most = min(first.batch.frame_jobs(first.spec.kind), fair_share)
        room = self.pool.config.frame_bytes - FRAME_OVERHEAD_BYTES - len(first.spec.payload) - TASK_OVERHEAD_BYTES
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
        pool, first_n = self.pool, self.pool.attempt_n + 1
        self.crew.assign(worker)
        frame = FrameRecord(first_n, now.mono)
        frame.shared = len(jobs) > 1
        frame.timeout_ns = _backstop_ns(jobs[0])
        tasks = []
        for job in jobs:
            assert JOB_TABLE[job.state, JobEvent.DISPATCH] is JobAction.RUN
            job.move(State.RUNNING)
            job.tries += 1
            pool.attempt_n += 1
            attempt = Attempt(pool.attempt_n, job, worker, frame, now.mono)
            attempt.fresh = attempt.fresh and not frame.shared
            frame.attempts[attempt.n] = pool.attempts[attempt.n] = job.attempt = attempt
            pool.ledger.add(AttemptMade(attempt.n, job.ordinal, job.tries, worker.incarnation))  # R2
            spec = job.spec
            tasks.append(Task(job.seq, job.tries, spec.kind, spec.payload, job.limits.timeout_ns))
            self._count_sent(job, worker, now)
        worker.hold(frame, jobs)
        assert worker.slot is not None
        body = encode_tasks(tasks)
        name = jobs[0].batch.name
        pool.emit(SendFrame(worker.incarnation, Frame(pool.config.epoch, first_n, len(jobs), worker.slot, name, body)))

    def _count_sent(self, job: Job, worker: Worker, now: Instant) -> None:
        pool = self.pool
        if job.tries == 1:
            pool.tally.waited(job.spec.kind, max(0, now.wall - job.queued_wall_ns))
        recovering, job.recovering = job.recovering, None
        if recovering is not None:
            pid, seen = recovering
            took_ns = max(0, now.mono - seen)
            pool.tally.recovery.add(took_ns)
            pool.note(Level.INFO, Topic.JOB_RESENT, job=job, crashed_pid=pid, pid=worker.pid, took_ns=took_ns)
        elif pool.config.verbose:
            pool.note(Level.DEBUG, Topic.JOB_SENT, job=job, pid=worker.pid)


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


def _exit_reason(worker: Worker, event: Exited, *, booting: bool) -> str:
    if booting:
        return "boot"
    if worker.verdict is Verdict.TIMED_OUT:
        return "timeout"
    if worker.verdict is not None:
        return "stopped"
    if event.signal is not None:
        return "signal"
    return "clean" if event.status == 0 else "error"


def _boot_text(worker: Worker, event: Exited, signal: str) -> str:
    how = f"was killed by {signal}" if signal else f"exited with status {event.status}"
    last = f"; its last words: {event.last_words.strip()}" if event.last_words else ""
    return f"worker PID {worker.pid} {how} before it was ready{last}"
