"""The entry of the core: routes each event to the part that decides about it, and ticks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop
from typing import Any

from taskpool import limits
from taskpool.clock import SECOND, Instant
from taskpool.core.clients import Clients
from taskpool.core.commands import Commands
from taskpool.core.commits import CloseStored, JobsStored, OutcomeStored, RunStored
from taskpool.core.completion import REPORTABLE, SIGNAL_HINTS, Completion
from taskpool.core.delivery import Delivery
from taskpool.core.effects import Effect, Exit, Level, Topic
from taskpool.core.events import (
    ClientLost,
    Event,
    Exited,
    LifelineClosed,
    ReadyUnreadable,
    Reconfigured,
    ReportLost,
    Signalled,
    Spawned,
    SpawnFailed,
    Stalled,
    Submitted,
    TakenBack,
    Tick,
)
from taskpool.core.intake import Intake
from taskpool.core.job import Job
from taskpool.core.recovery import CORRUPT_JOB, Recovery
from taskpool.core.reruns import Reruns
from taskpool.core.scheduler import Scheduler
from taskpool.core.shutdown import Shutdown
from taskpool.core.state import JobTitles, PoolConfig, PoolState
from taskpool.core.storage import (
    BatchFound,
    CommitFailed,
    Committed,
    DigestsLoaded,
    DiskFull,
    EndedLoaded,
    Loaded,
    LoadJobs,
    OutcomesLoaded,
    Restored,
    StoredJob,
)
from taskpool.core.supervisor import Supervisor
from taskpool.core.worker import StopReason, Worker, WorkerState
from taskpool.errors import ExitCode
from taskpool.messages import Ack, Bye, Close, Command, Hello, Ping, Progress, Ready, Report, State


class Reactor:
    """`handle` is total: it takes every event, in every state, from any sender."""

    def __init__(
        self, config: PoolConfig, signal_names: dict[int, str], title: JobTitles = lambda spec: spec.kind
    ) -> None:
        """`title` says what a job is; without it, its kind is all that is said."""
        self.pool = PoolState(config, title)
        self.supervisor = Supervisor(self.pool)
        self.scheduler = Scheduler(self.pool, self.supervisor)
        self.completion = Completion(self.pool, signal_names)
        self.delivery = Delivery(self.pool)
        self.clients = Clients(self.pool, self.delivery)
        self.intake = Intake(self.pool)
        self.recovery = Recovery(self.pool, self.completion)
        self.shutdown = Shutdown(self.pool, self.supervisor)
        self._heard = True  # whether the last turn read all that workers had said
        self.commands = Commands(self.pool, self.supervisor, self.completion, self.delivery, self.shutdown)
        self.reruns = Reruns(self.pool, self.completion, self.delivery, self.clients)
        self._spool_looked_mono_ns = 0  # when the spool was last found unusable
        self._handlers: dict[type, Callable[[Any, Instant], None]] = {
            Hello: self.clients.hello,
            Submitted: self.intake.submit,
            Close: lambda event, now: self.intake.close(event),
            Ack: lambda event, now: self.delivery.acknowledge(event),
            Ping: lambda event, now: self.clients.ping(event),
            Bye: lambda event, now: self.clients.bye(event.client),
            ClientLost: lambda event, now: self.clients.bye(event.client),
            Command: self._on_command,
            Ready: self.supervisor.ready,
            ReadyUnreadable: self.supervisor.ready_unreadable,
            Progress: self._on_progress,
            Spawned: lambda event, now: self.supervisor.spawned(event.incarnation, event.pid),
            SpawnFailed: self._on_spawn_failed,
            Exited: self._on_exited,
            TakenBack: self._on_taken_back,
            ReportLost: lambda event, now: self._on_report_lost(event),
            Restored: self._on_restored,
            Committed: self._on_committed,
            CommitFailed: self._on_commit_failed,
            DiskFull: self._on_disk_full,
            Loaded: self._on_loaded,
            BatchFound: self.clients.batch_found,
            DigestsLoaded: self.intake.digests_loaded,
            EndedLoaded: lambda event, now: self.reruns.ended_loaded(event),
            OutcomesLoaded: lambda event, now: self.delivery.outcomes_loaded(event),
            Signalled: self._on_signalled,
            Reconfigured: self._on_reconfigured,
            LifelineClosed: lambda event, now: self.shutdown.orphaned(now),
            Stalled: self._on_stalled,
            Tick: self._on_tick,
        }

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """What is to be done about an event, in this order."""
        # By attribute and not by type: a new message of generators is not forgotten here.
        client = getattr(event, "client", None)
        if client is not None:  # all that comes from a generator names it, and shows that it lives
            self.clients.renew(client, now)
        self._handlers[type(event)](event, now)
        return self.pool.take_effects()

    def next_deadline_ns(self, now: Instant) -> int:
        """When `Tick` must come at the latest, on the monotonic clock."""
        pool = self.pool
        deadlines = [self.shutdown.next_deadline_ns()]
        deadlines += [self.supervisor.next_deadline_ns(now)] if self._heard else []
        deadlines += [pool.delayed[0][0]] if pool.delayed else []
        deadlines += [self.scheduler.pacing.next_deadline_ns(now)] if pool.config.delay_ns else []
        deadlines += (client.lease_mono_ns for client in pool.clients.values())
        return min(deadlines)

    @property
    def wants_reports(self) -> bool:
        """Whether workers' messages are to be read, and their ends looked at: else they wait, for the store to take
        what was read. A pool that leaves must see its jobs end, whatever they bring."""
        pool = self.pool
        return pool.draining or pool.commits.bytes <= limits.UNSTORED_REPORTS_BYTES_MAX

    def _on_command(self, command: Command, now: Instant) -> None:
        if command.verb == "batch" or self.reruns.concerns(command):
            self.clients.about_batch(command)
        else:
            self.commands.perform(command, now)

    # --- messages of workers ---

    def _on_progress(self, message: Progress, now: Instant) -> None:
        worker = self.supervisor.workers.get(message.incarnation)  # type: ignore[call-overload]
        # Of an earlier life whose queue was kept, or of a worker whose death is handled already.
        if worker is None or message.epoch != self.pool.config.epoch:
            self.pool.counters.stale_reports += len(message.reports) or 1
            return
        self._take_reports(worker, message.reports, now)
        if not worker.frames and message.reports:
            self.supervisor.done(worker)
        if message.started:  # behind the reports: a worker sends those of a frame before it begins the next one
            self._on_started(worker, message.started, now)

    def _take_reports(self, worker: Worker, reports: Sequence[Report], now: Instant) -> None:
        for report in reports:
            attempt = self.pool.attempts.get(report.n)
            if attempt is None or attempt.worker is not worker:
                self._stale(worker, report.n)
            # CANCELLED is for the dealer to decide, and an attempt that was not started cannot have ended.
            elif report.end not in REPORTABLE or not attempt.frame.started:
                self._protocol_error(worker, f"report {report.end.value} of attempt {report.n}")
            else:
                self.completion.reported(attempt, report, now)

    def _on_started(self, worker: Worker, first_n: int, now: Instant) -> None:
        if not worker.start(first_n, now):
            self._stale(worker, first_n)
            return
        self.scheduler.pacing.started()
        cancelled = next((job for job in worker.frames[0].jobs.values() if job.cancelled), None)
        if cancelled is not None:
            self.supervisor.cancel(worker, cancelled, now)  # the wish came too late to take the frame back

    def _stale(self, worker: Worker, n: int) -> None:
        """The worker told of an attempt that is none of its own any more, or never was."""
        self.pool.counters.stale_reports += 1
        self.pool.note(Level.DEBUG, Topic.STALE_REPORT, pid=worker.pid, attempt=n)
        if n > self.pool.attempt_n:
            self._protocol_error(worker, f"attempt {n} was never made")

    def _protocol_error(self, worker: Worker, text: str) -> None:
        self.pool.counters.protocol_errors += 1
        self.pool.note(Level.WARNING, Topic.WORKER_NOTE, text=f"worker PID {worker.pid} broke the protocol: {text}")
        if worker.count_error() >= limits.PROTOCOL_ERRORS_PER_WORKER_MAX:
            self.supervisor.stop(worker, StopReason.PROTOCOL)

    def _on_report_lost(self, event: ReportLost) -> None:
        """The attempts of such a worker would never end, so they are lost with it, and their jobs sent again."""
        worker = self.supervisor.workers.get(event.incarnation)
        if worker is not None:
            text = f"a report of worker PID {worker.pid} is gone from the spool: what it held is sent again"
            self.pool.note(Level.WARNING, Topic.WORKER_NOTE, text=text)
            self.supervisor.stop(worker, StopReason.PROTOCOL)

    # --- processes of workers ---

    def _on_spawn_failed(self, event: SpawnFailed, now: Instant) -> None:
        self.supervisor.remove(self.supervisor.workers[event.incarnation])
        self.supervisor.boot_death(now, None, event.text)

    def _on_exited(self, event: Exited, now: Instant) -> None:
        """Take what the worker had not sent, count the exit, end its attempts, free its slot; in this order, since the
        slot is part of what is told of its attempts."""
        worker = self.supervisor.workers[event.incarnation]
        # R4 (docs/protocol.md, 11): these jobs had ended before the one that its worker died of.
        self._take_reports(worker, event.held, now)
        worker.died_in_time(event.seen_mono_ns)
        signal = self.completion.signal_name(event.signal)
        booting = worker.state is WorkerState.STARTING or worker.stop_reason is StopReason.BOOT
        self.pool.counters.worker_exited(_exit_reason(worker, event, booting=booting), signal)
        asked = worker.stop_reason is not None
        self.pool.note(
            Level.DEBUG if asked or booting else Level.WARNING,
            Topic.WORKER_EXITED,
            pid=worker.pid,
            status=event.status,
            signal=signal,
            asked=asked,
        )
        self.completion.worker_exited(worker, event, now)
        self.supervisor.remove(worker)
        # One kill from outside does not show a broken program; many in a row show a machine without memory.
        killed = not asked and signal in ("SIGKILL", "SIGTERM")
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
            # A frame asked for and not found in the queue was received: its worker starts it, and is stopped then if it
            # must be.
            for n in list(frame.jobs) if frame is not None else []:
                attempt = self.pool.attempts[n]
                if attempt.job.given_up:
                    self.completion.lose(attempt, now)
                else:
                    self.completion.take_back(attempt, now)
        if not worker.frames:
            self.supervisor.done(worker)

    # --- answers of the store ---

    def _on_restored(self, event: Restored, now: Instant) -> None:
        self.recovery.take_over(event, now)
        if event.unclean_exit:
            self.scheduler.write_ahead(now)
        if event.ordinal:  # it may have started a job just before its end
            self.scheduler.pacing.started()

    def _on_committed(self, event: Committed, now: Instant) -> None:
        """What hung on the commit may follow. Outcomes are delivered behind all of it: as few messages as fit."""
        recorded = {}
        for stored in self.pool.commits.committed(event.number):
            match stored:
                case OutcomeStored(batch, outcome):
                    batch.record(outcome)
                    recorded[batch.name] = batch
                case JobsStored(batch, jobs):
                    self.intake.accepted(batch, jobs)
                    self.completion.queue(jobs, now)
                case RunStored(job):
                    self.completion.queue([job], now)
                case CloseStored(batch):
                    self.intake.closed(batch)
                    recorded[batch.name] = batch
                case _:
                    self.scheduler.send_stored(stored.effect, now)
        for batch in recorded.values():
            self.delivery.deliver(batch)
            self.delivery.forget_if_done(batch)

    def _on_commit_failed(self, event: CommitFailed, now: Instant) -> None:
        """What failed may be half there: only a restart that reads the journal again can tell."""
        # R6 (docs/protocol.md, 11)
        self.pool.counters.journal_errors += 1
        self.pool.emit(Exit(ExitCode.ENVIRONMENT, f"the journal cannot be written: {event.text}"))

    def _on_disk_full(self, event: DiskFull, now: Instant) -> None:
        told = event.where in self.pool.full
        if event.where != "journal":
            # A worker whose report waits for the spool is not silent, and its job has perhaps ended in time.
            self.supervisor.extend_deadlines(now.mono - self._spool_looked_mono_ns if told else 0)
            self._spool_looked_mono_ns = now.mono
        elif event.full:
            self.pool.counters.journal_errors += 1
        if event.full:
            self.pool.set_full(event.where, event.text)
        else:
            self.pool.set_roomy(event.where)
        if not (told and event.full):
            self.pool.note(Level.ERROR if event.full else Level.INFO, Topic.DISK, text=event.text)

    def _on_loaded(self, event: Loaded, now: Instant) -> None:
        """Queued jobs from behind the front. Those in memory, or finished since the read began, are passed over."""
        pool = self.pool
        dropped: list[tuple[StoredJob, Job]] = []
        jobs: list[Job] = []
        for stored in event.jobs:
            record = stored.record
            batch = pool.batches.get(record.batch)
            if batch is None or record.ordinal in pool.jobs or record.ordinal in pool.backlog.gone:
                continue
            job = Job.restored(stored, batch)
            pool.jobs[job.ordinal] = job
            if job.given_up or stored.corrupt:
                dropped.append((stored, job))
            else:
                jobs.append(job)
        last = event.jobs[-1].record if event.more and event.jobs else None
        horizon = (-last.priority, last.ordinal) if last is not None else None
        # Jobs that came in during the read and lie beyond the new horizon: only the store keeps them.
        for job in pool.backlog.end_load(jobs, horizon):
            del pool.jobs[job.ordinal]
        for stored, job in dropped:  # behind the load: an outcome ends a job that the backlog may not know of yet
            if stored.corrupt:
                self.completion.refuse(job, CORRUPT_JOB, now)
            else:
                self.completion.cancel_waiting(job, now)

    # --- signals, configuration, time ---

    def _on_signalled(self, event: Signalled, now: Instant) -> None:
        if event.name in ("TERM", "INT", "QUIT"):
            self.shutdown.signalled(event.name, now)
        elif event.name in ("TTIN", "TTOU"):
            self.commands.scale(1 if event.name == "TTIN" else -1)
        elif event.name == "USR1":
            self.pool.note(Level.INFO, Topic.STATUS, **self.commands.status(now))

    def _on_reconfigured(self, event: Reconfigured, now: Instant) -> None:
        self.pool.set_drain_timeout(event.drain_timeout_ns)
        if event.workers != self.supervisor.wanted:
            self.commands.scale(event.workers - self.supervisor.wanted)

    def _on_stalled(self, event: Stalled, now: Instant) -> None:
        self.pool.note(Level.WARNING, Topic.STALLED, seconds=event.gap_ns / SECOND)

    def _on_tick(self, event: Tick, now: Instant) -> None:
        # R9 (docs/protocol.md, 11): dispatch, then timers
        pool = self.pool
        while pool.delayed and pool.delayed[0][0] <= now.mono:
            job = heappop(pool.delayed)[2]
            if job.state is State.DELAYED:
                self.completion.due(job)
        if not (pool.draining or pool.paused or pool.disk_full or self.shutdown.exiting or pool.congested):
            self.scheduler.dispatch(now)
        self._heard = event.heard
        # Deadlines behind dispatch: a frame sent in this turn has its whole time before it.
        if event.heard:
            self.supervisor.overdue(now)
        self.clients.lapse(now)
        self.shutdown.tick(now)
        if not (pool.draining or self.shutdown.exiting):
            self.supervisor.reconcile(now)
        self._ask_store()

    def _ask_store(self) -> None:
        """Hand over what gathered in the turn; then read more of the queue, if its front runs low."""
        pool = self.pool
        # Behind the dispatch, which may have taken many: to trim before would give up jobs that are about to run.
        for job in pool.backlog.trim():
            del pool.jobs[job.ordinal]
        commit = pool.commits.flush()
        if commit is not None:
            pool.emit(commit)
        # The read must see every job that was ever accepted, and so must run behind all that gathered.
        if pool.backlog.wants_more() and pool.commits.handed_over:
            pool.emit(LoadJobs(*pool.backlog.begin_load()))
        if pool.commits.handed_over and (question := self.reruns.question()) is not None:
            pool.emit(question)


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
    last = f" The end of its standard error: {event.stderr_tail.strip()}" if event.stderr_tail else ""
    return f"worker PID {worker.pid} {how} before it was ready.{SIGNAL_HINTS.get(signal, '')}{last}"
