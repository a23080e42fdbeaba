"""How attempts end, and what becomes of their jobs.

Ownership is decided at dispatch: when a worker dies, every job it held without a report goes back. Guilt is
decided at the acknowledgement: only a job that had started, alone in its frame, has crashed.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush

from msgspec import structs

from taskpool import limits
from taskpool.clock import Instant
from taskpool.core.commits import OutcomeStored
from taskpool.core.effects import Level, Topic
from taskpool.core.entries import JobReturned, OutcomeRecorded
from taskpool.core.events import Exited
from taskpool.core.job import (
    END_EVENT,
    JOB_TABLE,
    Job,
    JobAction,
    JobEvent,
    may_retry,
    quarantines,
    retry_delay_ns,
)
from taskpool.core.state import PoolState
from taskpool.core.worker import Attempt, FrameRecord, StopReason, Worker
from taskpool.messages import NO_OUTPUT, End, JobError, Outcome, Report, State, Usage

REPORTABLE = frozenset({End.SUCCEEDED, End.FAILED, End.CRASHED, End.TIMED_OUT})  # what a worker can say
SIGNAL_HINTS = {"SIGKILL": " Perhaps out of memory, or somebody's kill."}


class Completion:
    """Turns reports and deaths into outcomes, retries and further tries."""

    def __init__(self, pool: PoolState, signal_names: dict[int, str]) -> None:
        self._pool = pool
        self._signal_names = signal_names
        self._actions: dict[JobAction, Callable[[Attempt, Report, Instant], None]] = {
            JobAction.SUCCEED: self._succeed,
            JobAction.RETRY_OR_FAIL: self._retry_or_fail,
            JobAction.RETRY_OR_TIME_OUT: self._retry_or_time_out,
            JobAction.COUNT_CRASH: self._count_crash,
            JobAction.SEND_AGAIN: self._send_again,
        }

    def signal_name(self, number: int | None) -> str:
        return "" if number is None else self._signal_names.get(number, f"signal {number}")

    # --- a worker's word ---

    def reported(self, attempt: Attempt, report: Report, now: Instant) -> None:
        """A worker reported the end of an attempt it owns."""
        frame = attempt.frame
        frame.heard_mono_ns = now.mono
        self._leave_frame(attempt, now)
        attempt.worker.watch()
        job = attempt.job
        job.took_worker &= report.end is not End.CRASHED
        if report.end is End.SUCCEEDED:
            job.batch.learn_duration(job.spec.kind, report.usage.run_ns)
        if self._pool.config.verbose:
            self._pool.note(
                Level.DEBUG,
                Topic.JOB_REPORTED,
                job=f"{job.batch.name}/{job.seq}",
                seq=job.seq,
                pid=attempt.worker.pid,
                end=report.end.value,
                value=report.value,
                exit_status=report.exit_status,
                signal=self.signal_name(report.signal),
            )
        self.settle(attempt, report, now)

    # --- a worker's death ---

    def judge(self, worker: Worker, exit: Exited, now: Instant) -> None:
        """The worker is gone: end every attempt it still held."""
        frames = list(worker.frames)
        for index, frame in enumerate(frames):
            first = True
            for attempt in list(frame.attempts.values()):
                attempt.fresh = attempt.fresh and len(frames) == 1  # else the frame behind may be to blame
                end = self._stop_reason(worker, frame, attempt, head=index == 0, first=first)
                first = False
                attempt.job.recovering = (worker.pid, exit.seen_mono_ns)
                attempt.job.took_worker |= end is End.CRASHED
                self._leave_frame(attempt, now)
                self.settle(attempt, self._death_report(attempt, end, exit, now), now)

    def _stop_reason(self, worker: Worker, frame: FrameRecord, attempt: Attempt, *, head: bool, first: bool) -> End:
        job = attempt.job
        nobodys = worker.stop_reason in (StopReason.UNWANTED, StopReason.PROTOCOL, StopReason.CANCELLED)
        if nobodys or not head or not frame.sent:
            return End.LOST
        if not frame.started:
            return self._lost_at_head(job) if first and worker.stop_reason is None else End.LOST
        if frame.shared or worker.stop_reason is StopReason.SILENT:
            job.alone = True
            return End.LOST
        return End.TIMED_OUT if worker.stop_reason is StopReason.TIMED_OUT else End.CRASHED

    @staticmethod
    def _lost_at_head(job: Job) -> End:
        """Nobody is guilty of a death before the job began. But when worker after worker dies with the same
        job in hand, it is the job (its frame alone may kill a worker), and that counts as one crash."""
        job.lost_at_head += 1
        if job.lost_at_head < limits.LOST_HEAD_MAX:
            return End.LOST
        job.lost_at_head = 0
        job.alone = True
        return End.CRASHED

    def _death_report(self, attempt: Attempt, end: End, exit: Exited, now: Instant) -> Report:
        frame, worker = attempt.frame, attempt.worker
        usage = Usage(
            started_wall_ns=frame.started_wall_ns,
            run_ns=max(0, exit.seen_mono_ns - frame.heard_mono_ns) if frame.started else 0,
            cpu_ns=exit.cpu_ns if attempt.fresh else 0,
            max_rss_bytes=exit.max_rss_bytes,
        )
        return Report(
            n=attempt.n,
            end=end,
            exit_status=exit.status if end is End.CRASHED else None,
            signal=exit.signal if end is End.CRASHED else None,
            error=self._death_error(worker, end, exit, attempt.job),
            usage=usage,
        )

    def _death_error(self, worker: Worker, end: End, exit: Exited, job: Job) -> JobError:
        if end is End.TIMED_OUT:
            allowed = job.limits.timeout_ns / 1e9
            text = f"ran longer than its {allowed:g} s and was killed with worker PID {worker.pid}"
            return JobError("TimedOut", text)
        name = self.signal_name(exit.signal)
        if name:
            text = f"worker PID {worker.pid} was killed by {name} during this job.{SIGNAL_HINTS.get(name, '')}"
            return JobError(name, text, exit.last_words)
        text = f"worker PID {worker.pid} ended with exit status {exit.status} during this job, without a report"
        return JobError("WorkerExited", text, exit.last_words)

    def _leave_frame(self, attempt: Attempt, now: Instant) -> None:
        frame = attempt.frame
        del frame.attempts[attempt.n]
        del self._pool.attempts[attempt.n]
        if not frame.attempts:
            attempt.worker.drop(frame, now.mono)

    # --- what becomes of the job ---

    def settle(self, attempt: Attempt, report: Report, now: Instant) -> None:
        """One attempt ended: let the table decide."""
        job = attempt.job
        action = JOB_TABLE[job.state, END_EVENT[report.end]]
        end = End.CANCELLED if report.end is End.LOST and job.given_up else report.end
        self._pool.counters.attempts[end.value] += 1
        if report.end is not End.LOST:
            self._pool.counters.ran(job.spec.kind, report.usage.run_ns, report.usage.cpu_ns)
        job.attempt_n = 0
        job.unclean_exits = 0  # it ran, and this dealer lived to tell
        self._actions[action](attempt, report, now)

    def take_back(self, attempt: Attempt, now: Instant) -> None:
        """The attempt never reached its worker: it did not happen."""
        self._leave_frame(attempt, now)
        attempt.job.tries -= 1
        attempt.job.attempt_n = 0
        self._return(attempt.job)

    def lose(self, attempt: Attempt, now: Instant) -> None:
        """The attempt is over without anybody's fault."""
        self._leave_frame(attempt, now)
        self.settle(attempt, Report(n=attempt.n, end=End.LOST), now)

    def refuse(self, job: Job, error: JobError, now: Instant) -> None:
        """A job that cannot be run at all."""
        self._finish(job, State.FAILED, None, Report(n=0, end=End.FAILED, error=error), now)

    def restore(self, attempt: Attempt, report: Report | None, *, unclean_exit: bool, now: Instant) -> None:
        """What becomes of an attempt that an earlier life of the dealer left without a report."""
        job = attempt.job
        if report is not None:
            self.settle(attempt, report, now)
            return
        job.tries -= 1
        job.unclean_exits += unclean_exit
        self._pool.counters.attempts[End.LOST.value] += 1
        unlimited = job.limits.crash_limit == limits.CRASH_LIMIT_UNLIMITED
        if job.unclean_exits > limits.UNCLEAN_EXITS_ALONE_MIN and not unlimited:
            text = (
                f"{job.unclean_exits} times in a row the dealer or its host went down while this job ran, at last alone"
            )
            self._quarantine(attempt, Report(n=attempt.n, end=End.LOST, error=JobError("DealerLost", text)), now)
        else:
            self._return(job)

    def cancel_waiting(self, job: Job, now: Instant) -> None:
        """A person cancelled a job that does not run."""
        self._finish(job, State.CANCELLED, None, None, now)

    def _succeed(self, attempt: Attempt, report: Report, now: Instant) -> None:
        self._finish(attempt.job, State.SUCCEEDED, attempt, report, now)

    def _retry_or_fail(self, attempt: Attempt, report: Report, now: Instant) -> None:
        self._retry_or(State.FAILED, attempt, report, now)

    def _retry_or_time_out(self, attempt: Attempt, report: Report, now: Instant) -> None:
        self._retry_or(State.TIMED_OUT, attempt, report, now)

    def _retry_or(self, state: State, attempt: Attempt, report: Report, now: Instant) -> None:
        job = attempt.job
        job.failures += 1
        if job.given_up or not may_retry(job, report):
            self._finish(job, state, attempt, report, now)
            return
        self._pool.counters.retries[report.end.value] += 1
        delay_ns = retry_delay_ns(job)
        self._pool.note(
            Level.DEBUG, Topic.JOB_RETRIED, job=f"{job.batch.name}/{job.seq}", end=report.end.value, delay_ns=delay_ns
        )
        if delay_ns:
            job.move(State.DELAYED)
            job.recovering = None  # the delay is wanted, not ours
            heappush(self._pool.delayed, (now.mono + delay_ns, job.ordinal, job))
            self._store_counts(job)
        else:
            self._return(job)

    def _count_crash(self, attempt: Attempt, report: Report, now: Instant) -> None:
        job = attempt.job
        if report.signal is not None and report.signal in job.limits.retry_signal:
            self._retry_or(State.FAILED, attempt, report, now)  # a death its owner expects: spends --retries
            return
        job.crashes += 1
        blamed_alone = attempt.fresh or not job.wants_fresh_worker
        if job.given_up:
            self._finish(job, State.CANCELLED, attempt, report, now)
        elif quarantines(job, blamed_alone=blamed_alone):
            self._quarantine(attempt, report, now)
        else:
            self._pool.counters.retries[report.end.value] += 1
            self._return(job)

    def _quarantine(self, attempt: Attempt, report: Report, now: Instant) -> None:
        job = attempt.job
        self._pool.note(Level.WARNING, Topic.JOB_QUARANTINED, job=f"{job.batch.name}/{job.seq}", crashes=job.crashes)
        self._finish(job, State.QUARANTINED, attempt, report, now)
        self._pool.quarantine[job.batch.name, job.seq] = job

    def _send_again(self, attempt: Attempt, report: Report, now: Instant) -> None:
        job = attempt.job
        job.tries -= 1  # a lost attempt counts for nothing, and its fate under --chaos is still to come
        if job.given_up:  # what became of its worker is our doing, and no error of the job's
            self._finish(job, State.CANCELLED, attempt, structs.replace(report, error=None), now)
        else:
            self._pool.counters.retries[report.end.value] += 1
            self._return(job)

    def due(self, job: Job) -> None:
        """The delay before a retry is over."""
        assert JOB_TABLE[job.state, JobEvent.DUE] is JobAction.ENQUEUE
        self._enqueue(job)

    def requeue(self, job: Job) -> None:
        """A person wants a quarantined job run again."""
        assert JOB_TABLE[job.state, JobEvent.REQUEUE] is JobAction.NEW_RUN
        pool = self._pool
        del pool.quarantine[job.batch.name, job.seq]
        job.start_new_run()
        job.batch.open += 1
        pool.pending += 1
        pool.jobs[job.ordinal] = job
        self._store_counts(job)
        if not pool.backlog.push(job):
            del pool.jobs[job.ordinal]

    def _return(self, job: Job) -> None:
        self._store_counts(job)
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        job.move(State.QUEUED)
        if not self._pool.backlog.push(job):
            del self._pool.jobs[job.ordinal]

    def _store_counts(self, job: Job) -> None:
        self._pool.commits.add(
            JobReturned(job.ordinal, job.run, job.tries, job.failures, job.crashes, job.unclean_exits)
        )

    def _finish(self, job: Job, state: State, attempt: Attempt | None, report: Report | None, now: Instant) -> None:
        """The run has its one outcome. It is told once it is stored."""
        pool, batch = self._pool, job.batch
        job.move(state)
        batch.numbered += 1
        batch.open -= 1
        pool.pending -= 1
        del pool.jobs[job.ordinal]
        pool.backlog.finished(job)
        pool.counters.jobs_finished[job.spec.kind, state.value] += 1
        pool.last_finished_wall_ns = now.wall
        outcome = _outcome(job, state, attempt, report, now)
        pool.commits.add(OutcomeRecorded(job.ordinal, batch.name, outcome), OutcomeStored(batch, outcome))


def _outcome(job: Job, state: State, attempt: Attempt | None, report: Report | None, now: Instant) -> Outcome:
    usage = report.usage if report is not None else Usage()
    return Outcome(
        no=job.batch.numbered,
        seq=job.seq,
        run=job.run,
        kind=job.spec.kind,
        label=job.spec.label,
        state=state,
        attempts=job.tries,
        crashes=job.crashes,
        value=report.value if report is not None else None,
        exit_status=report.exit_status if report is not None else None,
        signal=report.signal if report is not None else None,
        slot=attempt.worker.slot if attempt is not None else None,
        pid=(attempt.worker.pid or None) if attempt is not None else None,
        queued_wall_ns=job.queued_wall_ns,
        finished_wall_ns=now.wall,
        wait_ns=max(0, usage.started_wall_ns - job.queued_wall_ns) if usage.started_wall_ns else 0,
        usage=usage,
        output=report.output if report is not None else NO_OUTPUT,
        error=report.error if report is not None else None,
    )
