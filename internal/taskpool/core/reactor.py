"""The dealer's mind: events in, effects out."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop
from typing import Any

from taskpool.clock import Instant
from taskpool.core.commands import Commands
from taskpool.core.commits import CloseStored, JobsStored, OutcomeStored
from taskpool.core.completion import REPORTABLE, SIGNAL_HINTS, Completion
from taskpool.core.effects import Effect, Exit, Level, LoadJobs, Topic
from taskpool.core.events import (
    BatchFound,
    ClientLost,
    CommitFailed,
    Committed,
    DigestsLoaded,
    DiskFull,
    Event,
    Exited,
    LifelineClosed,
    Loaded,
    OutcomesLoaded,
    Reconfigured,
    Restored,
    Signalled,
    Spawned,
    SpawnFailed,
    Stalled,
    StoredJob,
    Submitted,
    TakenBack,
    Tick,
)
from taskpool.core.intake import Intake
from taskpool.core.job import Job
from taskpool.core.recovery import CORRUPT, restore
from taskpool.core.scheduler import Scheduler
from taskpool.core.shutdown import Shutdown
from taskpool.core.state import PoolConfig, PoolState
from taskpool.core.supervisor import Supervisor
from taskpool.core.worker import WORKER_TABLE, StopReason, Worker, WorkerAction, WorkerEvent
from taskpool.errors import ExitCode
from taskpool.limits import PROTOCOL_ERRORS_PER_WORKER_MAX, WRITE_AHEAD_NS
from taskpool.messages import Ack, Bye, Close, Command, Hello, Ping, Progress, Ready, State


class Reactor:
    """`handle` is total: every event, in every state, from anybody."""

    def __init__(self, config: PoolConfig, signal_names: dict[int, str]) -> None:
        self.pool = PoolState(config)
        self.supervisor = Supervisor(self.pool)
        self.scheduler = Scheduler(self.pool, self.supervisor)
        self.completion = Completion(self.pool, signal_names)
        self.intake = Intake(self.pool)
        self.shutdown = Shutdown(self.pool, self.supervisor)
        self.commands = Commands(self.pool, self.supervisor, self.intake, self.completion, self.shutdown)
        self._handlers: dict[type, Callable[[Any, Instant], None]] = {
            Hello: self.intake.hello,
            Submitted: self.intake.submit,
            Close: lambda event, now: self.intake.close(event),
            Ack: lambda event, now: self.intake.acknowledge(event),
            Ping: lambda event, now: self.intake.ping(event),
            Bye: lambda event, now: self.intake.bye(event.client),
            ClientLost: lambda event, now: self.intake.bye(event.client),
            Command: self.commands.perform,
            Ready: self.supervisor.ready,
            Progress: self._on_progress,
            Spawned: lambda event, now: self.supervisor.spawned(event.incarnation, event.pid),
            SpawnFailed: self._on_spawn_failed,
            Exited: self._on_exited,
            TakenBack: self._on_taken_back,
            Restored: self._on_restored,
            Committed: self._on_committed,
            CommitFailed: self._on_commit_failed,
            DiskFull: self._on_disk_full,
            Loaded: self._on_loaded,
            BatchFound: self.intake.batch_found,
            DigestsLoaded: self.intake.digests_loaded,
            OutcomesLoaded: lambda event, now: self.intake.outcomes_loaded(event),
            Signalled: self._on_signalled,
            Reconfigured: self._on_reconfigured,
            LifelineClosed: lambda event, now: self.shutdown.orphaned(now),
            Stalled: self._on_stalled,
            Tick: self._on_tick,
        }

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """What is to be done about an event, in this order."""
        client = getattr(event, "client", None)
        if client is not None:
            self.intake.renew(client, now)
        self._handlers[type(event)](event, now)
        effects, self.pool.out = self.pool.out, []
        return effects

    def next_deadline_ns(self, now: Instant) -> int:
        """When `Tick` must come at the latest, on the monotonic clock."""
        pool = self.pool
        deadlines = [self.supervisor.next_deadline_ns(now), self.shutdown.next_deadline_ns()]
        deadlines += [pool.delayed[0][0]] if pool.delayed else []
        deadlines += (client.lease_mono_ns for client in pool.clients.values())
        return min(deadlines)

    # --- workers speak ---

    def _on_progress(self, message: Progress, now: Instant) -> None:
        worker = self.supervisor.workers.get(message.incarnation)  # type: ignore[call-overload]
        if worker is None or message.epoch != self.pool.config.epoch:
            self.pool.counters.stale_reports += len(message.reports) or 1
            return
        for report in message.reports:
            attempt = self.pool.attempts.get(report.n)
            if attempt is None or attempt.worker is not worker:
                self._stale(worker, report.n)
            elif report.end not in REPORTABLE or not attempt.frame.started:
                self._protocol_error(worker, f"report {report.end.value} of attempt {report.n}")
            else:
                self.completion.reported(attempt, report, now)
        if not worker.frames and message.reports:
            self.supervisor.rest(worker)
        if message.started:
            self._on_started(worker, message.started, now)

    def _on_started(self, worker: Worker, first_n: int, now: Instant) -> None:
        if not self.supervisor.started(worker, first_n, now):
            self._stale(worker, first_n)
            return
        jobs = [attempt.job for attempt in worker.frames[0].attempts.values()]
        jobs[0].lost_at_head = 0  # it began after all
        if any(job.cancelled for job in jobs):
            self.supervisor.stop(worker, StopReason.CANCELLED)  # the wish came too late to take the frame back

    def _stale(self, worker: Worker, n: int) -> None:
        """A word on an attempt that is none of this worker's any more, or never was."""
        self.pool.counters.stale_reports += 1
        self.pool.note(Level.DEBUG, Topic.STALE_REPORT, pid=worker.pid, attempt=n)
        if n > self.pool.attempt_n:
            self._protocol_error(worker, f"attempt {n} was never made")

    def _protocol_error(self, worker: Worker, text: str) -> None:
        self.pool.counters.protocol_errors += 1
        worker.errors += 1
        self.pool.note(Level.WARNING, Topic.WORKER_NOTE, text=f"worker PID {worker.pid} said nonsense: {text}")
        if worker.errors >= PROTOCOL_ERRORS_PER_WORKER_MAX:
            self.supervisor.stop(worker, StopReason.PROTOCOL)

    # --- workers come and go ---

    def _on_spawn_failed(self, event: SpawnFailed, now: Instant) -> None:
        self.supervisor.bury(self.supervisor.workers[event.incarnation])
        self.supervisor.boot_death(now, None, event.text)

    def _on_exited(self, event: Exited, now: Instant) -> None:
        worker = self.supervisor.workers[event.incarnation]
        if event.seen_mono_ns < worker.overdue_mono_ns:
            worker.stop_reason = None  # it was dead already, and only waited for its descendants' end
        action = WORKER_TABLE[worker.state, WorkerEvent.EXITED]
        signal = self.completion.signal_name(event.signal)
        booting = action is WorkerAction.COUNT_BOOT_DEATH or worker.stop_reason is StopReason.BOOT
        self.pool.counters.worker_exited(_exit_reason(worker, event, booting=booting), signal)
        unasked = worker.stop_reason is None
        self.pool.note(
            Level.WARNING if unasked and not booting else Level.DEBUG,
            Topic.WORKER_EXITED,
            pid=worker.pid,
            status=event.status,
            signal=signal,
            asked=not unasked,
        )
        self.completion.judge(worker, event, now)
        self.supervisor.bury(worker)
        killed = worker.stop_reason is None and signal in ("SIGKILL", "SIGTERM")
        if booting and not (killed and self.supervisor.respawn.tolerates_kill()):
            hung = worker.stop_reason is StopReason.BOOT
            self.supervisor.boot_death(now, event.status, _boot_text(worker, event, signal), hung=hung)

    def _on_taken_back(self, event: TakenBack, now: Instant) -> None:
        """These frames never reached the worker, nor did those not sent yet; others asked for, not returned, did."""
        worker = self.supervisor.workers.get(event.incarnation)
        if worker is None:
            return
        unsent = [frame.first_n for frame in worker.frames if frame.taking_back and not frame.sent]
        for first_n in (*event.first_ns, *unsent):
            frame = worker.find(first_n)
            for attempt in list(frame.attempts.values()) if frame is not None else []:
                if attempt.job.given_up:
                    self.completion.lose(attempt, now)
                else:
                    self.completion.take_back(attempt, now)
        if not worker.frames:
            self.supervisor.rest(worker)

    # --- the store answers ---

    def _on_restored(self, event: Restored, now: Instant) -> None:
        restore(self.pool, self.completion, event, now)
        if event.unclean_exit:
            self.scheduler.write_ahead_until_ns = now.mono + WRITE_AHEAD_NS

    def _on_committed(self, event: Committed, now: Instant) -> None:
        recorded = {}
        for told in self.pool.commits.committed(event.number):
            if isinstance(told, OutcomeStored):
                told.batch.hold(told.outcome)
                recorded[told.batch.name] = told.batch
            elif isinstance(told, JobsStored):
                self.intake.accepted(told.batch, told.jobs)
                for job in told.jobs:
                    self._admit(job, now)
            elif isinstance(told, CloseStored):
                self.intake.closed(told.batch)
                recorded[told.batch.name] = told.batch
            else:
                self.scheduler.send_stored(told.effect, now)
        for batch in recorded.values():
            self.intake.deliver(batch)
            self.intake.forget_if_done(batch)

    def _admit(self, job: Job, now: Instant) -> None:
        """A stored job takes its place in the queue."""
        pool = self.pool
        pool.jobs[job.ordinal] = job
        if job.batch.cancelled:
            self.completion.cancel_waiting(job, now)
        elif not pool.backlog.push(job):
            del pool.jobs[job.ordinal]

    def _on_commit_failed(self, event: CommitFailed, now: Instant) -> None:
        """What failed may be half there: only a restart that reads the journal again can tell."""  # R6
        self.pool.counters.journal_errors += 1
        self.pool.emit(Exit(ExitCode.ENVIRONMENT, f"the journal cannot be written: {event.text}"))

    def _on_disk_full(self, event: DiskFull, now: Instant) -> None:
        if event.full:
            self.pool.counters.journal_errors += event.where == "journal"
            self.pool.full[event.where] = event.text
        else:
            self.pool.full.pop(event.where, None)
        self.pool.note(Level.ERROR if event.full else Level.INFO, Topic.DISK, text=event.text)

    def _on_loaded(self, event: Loaded, now: Instant) -> None:
        pool = self.pool
        dropped: list[tuple[StoredJob, Job]] = []
        jobs: list[Job] = []
        for stored in event.jobs:
            batch = pool.batches.get(stored.batch)
            if batch is None or stored.ordinal in pool.jobs or stored.ordinal in pool.backlog.gone:
                continue
            job = Job.restored(stored, batch)
            pool.jobs[job.ordinal] = job
            if batch.cancelled or stored.corrupt:
                dropped.append((stored, job))
            else:
                jobs.append(job)
        last = event.jobs[-1] if event.more and event.jobs else None
        horizon = (-last.priority, last.ordinal) if last is not None else None
        for job in pool.backlog.end_load(jobs, horizon):
            del pool.jobs[job.ordinal]
        for stored, job in dropped:
            if stored.corrupt:
                self.completion.refuse(job, CORRUPT, now)
            else:
                self.completion.cancel_waiting(job, now)

    # --- the outside ---

    def _on_signalled(self, event: Signalled, now: Instant) -> None:
        if event.name in ("TERM", "INT", "QUIT"):
            self.shutdown.signalled(event.name, now)
        elif event.name in ("TTIN", "TTOU"):
            self.commands.scale(1 if event.name == "TTIN" else -1)
        elif event.name == "USR1":
            self.pool.note(Level.INFO, Topic.STATUS, **self.commands.status(now))

    def _on_reconfigured(self, event: Reconfigured, now: Instant) -> None:
        self.pool.drain_timeout_ns = event.drain_timeout_ns
        if event.workers != self.supervisor.wanted:
            self.commands.scale(event.workers - self.supervisor.wanted)

    def _on_stalled(self, event: Stalled, now: Instant) -> None:
        """We stood still, so everybody else was silent to our ears only."""
        self.pool.note(Level.WARNING, Topic.STALLED, seconds=event.gap_ns / 1e9)
        self.supervisor.extend_deadlines(event.gap_ns)
        self.intake.extend_deadlines(event.gap_ns)

    def _on_tick(self, event: Tick, now: Instant) -> None:  # R9: dispatch, then timers
        pool = self.pool
        while pool.delayed and pool.delayed[0][0] <= now.mono:
            job = heappop(pool.delayed)[2]
            if job.state is State.DELAYED:
                self.completion.due(job)
        if not (pool.draining or pool.paused or pool.disk_full or self.shutdown.left or pool.congested()):
            self.scheduler.deal(now)
        self.supervisor.overdue(now)
        self.intake.lapse(now)
        self.shutdown.tick(now)
        if not (pool.draining or self.shutdown.left):
            self.supervisor.reconcile(now)
        for job in pool.backlog.trim():
            del pool.jobs[job.ordinal]
        pool.commits.flush(pool.out)
        if pool.backlog.wants_more() and pool.commits.blank:
            pool.emit(LoadJobs(*pool.backlog.begin_load()))


def _exit_reason(worker: Worker, event: Exited, *, booting: bool) -> str:
    if booting:
        return "boot"
    if worker.stop_reason is StopReason.TIMED_OUT:
        return "timeout"
    if worker.stop_reason is not None:
        return "stopped"
    if event.signal is not None:
        return "signal"
    return "clean" if event.status == 0 else "error"


def _boot_text(worker: Worker, event: Exited, signal: str) -> str:
    how = f"was killed by {signal}" if signal else f"exited with status {event.status}"
    last = f" Its last words: {event.last_words.strip()}" if event.last_words else ""
    return f"worker PID {worker.pid} {how} before it was ready.{SIGNAL_HINTS.get(signal, '')}{last}"
