"""How attempts end, and what becomes of their jobs.

Ownership is decided at dispatch: when a worker dies, every job it held without a report goes back. Which job is at
fault is decided at the acknowledgement: only a job that had started, alone in its frame, has crashed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappush

from msgspec import structs

from taskpool import limits
from taskpool.certificate import certificate
from taskpool.clock import SECOND, Instant
from taskpool.core.attempt import Attempt
from taskpool.core.commits import OutcomeStored, RunStored
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
from taskpool.core.worker import StopReason, Worker
from taskpool.messages import NO_OUTPUT, End, JobError, Outcome, Report, State, Try, Usage

# What a worker can say. LOST: it could not begin the job, and another can.
REPORTABLE = frozenset({End.SUCCEEDED, End.FAILED, End.CRASHED, End.TIMED_OUT, End.LOST})
SIGNAL_HINTS = {"SIGKILL": " Perhaps out of memory, or killed by hand."}
# Why the dealer stopped a worker that had done nothing wrong: then no job of it is to blame.
_NOT_AT_FAULT = frozenset({StopReason.UNWANTED, StopReason.PROTOCOL, StopReason.CANCELLED})


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
        """Return a signal's name, empty for none."""
        return "" if number is None else self._signal_names.get(number, f"signal {number}")

    # --- a report ---

    def reported(self, attempt: Attempt, report: Report, now: Instant) -> None:
        """A worker reported the end of an attempt it owns."""
        attempt.frame.hear(now)
        self._end_attempt(attempt, now)
        job = attempt.job
        if report.end is not End.LOST:
            job.run_by_worker()
        elif job.lose_at_head():
            report = structs.replace(report, end=End.CRASHED)
        if report.end is End.CRASHED:
            job.clear_of_death()
        if report.end is End.SUCCEEDED:
            # Only of those that did their work: a crash or a refusal is quick, and says nothing about how long jobs
            # take.
            job.batch.learn_duration(job.spec.kind, report.usage.run_ns)
        if self._pool.config.verbose:  # asked here too: to put the fields together costs as much as the rest
            self._pool.note(
                Level.DEBUG,
                Topic.JOB_REPORTED,
                job=job.name,
                seq=job.seq,
                pid=attempt.worker.pid,
                end=report.end.value,
                value=report.value,
                exit_status=report.exit_status,
                signal=self.signal_name(report.signal),
            )
        self.settle(attempt, report, now)

    # --- a worker's death ---

    def worker_exited(self, worker: Worker, exit: Exited, now: Instant) -> None:
        """The worker is gone: end every attempt it still held."""
        frames = list(worker.frames)
        for index, frame in enumerate(frames):
            for place, n in enumerate(list(frame.jobs)):
                attempt = self._pool.attempts[n]
                if len(frames) > 1:
                    attempt.share_process()  # the worker may have died of the frame behind, which it was decoding
                end = self._end_by_death(attempt, exit, head=index == 0, first=place == 0)
                attempt.job.recover_from(worker.pid, exit.seen_mono_ns)
                if end is End.CRASHED:
                    attempt.job.note_worker_death()
                self._end_attempt(attempt, now)
                self.settle(attempt, self._death_report(attempt, end, exit), now)

    def _end_by_death(self, attempt: Attempt, exit: Exited, *, head: bool, first: bool) -> End:
        """How the death of its worker ends an attempt: `head`, its frame was at the worker's head; `first`, it was
        the frame's first without a report."""
        worker, frame, job = attempt.worker, attempt.frame, attempt.job
        # A frame behind the head was not begun, whatever the worker died of.
        if worker.stop_reason in _NOT_AT_FAULT or not head or not frame.sent:
            return End.LOST
        if not frame.started:
            by_itself = first and worker.stop_reason is None and exit.status != 0  # 0: it chose to run no more jobs
            return End.CRASHED if by_itself and job.lose_at_head() else End.LOST
        job.run_by_worker()
        # Which of its jobs was at fault cannot be told. Sent one by one, the job at fault crashes alone.
        if frame.shared or worker.stop_reason is StopReason.SILENT:
            job.keep_alone()
            return End.LOST
        return End.TIMED_OUT if worker.stop_reason is StopReason.TIMED_OUT else End.CRASHED

    def _death_report(self, attempt: Attempt, end: End, exit: Exited) -> Report:
        """What the worker would have reported of its own death."""
        frame = attempt.frame
        usage = Usage(
            started_wall_ns=frame.started_wall_ns,
            run_ns=max(0, exit.seen_mono_ns - frame.heard_mono_ns) if frame.started else 0,
            cpu_ns=exit.cpu_ns if attempt.fresh else 0,  # the process's whole life: of other jobs too, if it ran any
            max_rss_bytes=exit.max_rss_bytes,
        )
        return Report(
            n=attempt.n,
            end=end,
            exit_status=exit.status if end is End.CRASHED else None,
            signal=exit.signal if end is End.CRASHED else None,
            error=self._death_error(attempt, end, exit),
            usage=usage,
            core_dumped=exit.core_dumped,
            stderr_tail=exit.stderr_tail,
            out_of_memory=exit.out_of_memory,
        )

    def _death_error(self, attempt: Attempt, end: End, exit: Exited) -> JobError:
        pid = attempt.worker.pid
        if end is End.TIMED_OUT:
            allowed = attempt.job.limits.timeout_ns / SECOND
            return JobError("TimedOut", f"ran longer than its {allowed:g} s and was killed with worker PID {pid}")
        name = self.signal_name(exit.signal)
        if name:
            text = f"worker PID {pid} was killed by {name} during this job.{SIGNAL_HINTS.get(name, '')}"
            return JobError(name, text, exit.stderr_tail)
        text = f"worker PID {pid} ended with exit status {exit.status} during this job, without a report"
        return JobError("WorkerExited", text, exit.stderr_tail)

    def _end_attempt(self, attempt: Attempt, now: Instant) -> None:
        """Take the attempt out of its frame: what arrives of it after this is stale."""
        del self._pool.attempts[attempt.n]
        attempt.worker.end_attempt(attempt.frame, attempt.n, now)

    # --- what becomes of the job ---

    def settle(self, attempt: Attempt, report: Report, now: Instant) -> None:
        """Decide by the table what becomes of the job whose attempt ended."""
        job = attempt.job
        action = JOB_TABLE[job.state, END_EVENT[report.end]]
        end = End.CANCELLED if report.end is End.LOST and job.given_up else report.end
        self._pool.counters.attempts[end] += 1
        if report.end is not End.LOST:
            self._pool.counters.ran(job.spec.kind, report.usage.run_ns, report.usage.cpu_ns)
        job.end_attempt()
        # Whatever its end, the dealer lives to record it, so this job did not bring the dealer down.
        job.counts.clear_unclean_exits()
        self._actions[action](attempt, report, now)

    def take_back(self, attempt: Attempt, now: Instant) -> None:
        """The attempt never reached its worker: it did not happen."""
        self._end_attempt(attempt, now)
        attempt.job.take_back_try()
        self._return(attempt.job)

    def lose(self, attempt: Attempt, now: Instant) -> None:
        """The attempt is over, and it is no one's fault."""
        self._end_attempt(attempt, now)
        self.settle(attempt, Report(n=attempt.n, end=End.LOST), now)

    def refuse(self, job: Job, error: JobError, now: Instant) -> None:
        """A job that cannot be run at all."""
        self._finish(job, State.FAILED, None, Report(n=0, end=End.FAILED, error=error), now)

    def recover(self, attempt: Attempt, report: Report | None, *, unclean_exit: bool, now: Instant) -> None:
        """What becomes of an attempt that an earlier life of the dealer left without a report."""
        job = attempt.job
        if report is not None:
            self.settle(attempt, report, now)
            return
        job.take_back_try()
        if unclean_exit:
            job.counts.add_unclean_exit()
        # Counted here and not in `settle`: the attempt belongs to an earlier life, and this one learns nothing from it.
        self._pool.counters.attempts[End.LOST] += 1
        exits = job.counts.unclean_exits
        unlimited = job.limits.crash_limit == limits.CRASH_LIMIT_UNLIMITED
        if exits > limits.UNCLEAN_EXITS_ALONE_MIN and not unlimited:
            text = f"{exits} times in a row the dealer or its host went down while this job ran, at last alone"
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
        job.counts.add_failure(_certificate(attempt, report))
        if job.given_up or not may_retry(job, report):
            self._finish(job, state, attempt, report, now)
            return
        job.resolve_limits()
        self._pool.counters.retries[report.end] += 1
        delay_ns = retry_delay_ns(job)
        self._pool.note(Level.DEBUG, Topic.JOB_RETRIED, job=job.name, end=report.end.value, delay_ns=delay_ns)
        if delay_ns:
            job.move(State.DELAYED)
            job.end_recovery()  # the delay is asked for: it is no part of what recovery took
            # By ordinal among those due at once, so that the order does not depend on how jobs compare.
            heappush(self._pool.delayed, (now.mono + delay_ns, job.ordinal, job))
            self._store_counts(job)
        else:
            self._return(job)

    def _count_crash(self, attempt: Attempt, report: Report, now: Instant) -> None:
        job = attempt.job
        if report.signal is not None and report.signal in job.limits.retry_signal:
            self._retry_or(State.FAILED, attempt, report, now)  # a death its owner expects: spends --retries
            return
        job.counts.add_crash(_certificate(attempt, report))
        blamed_alone = attempt.fresh or not job.wants_fresh_worker
        if job.given_up:
            self._finish(job, State.CANCELLED, attempt, report, now)
        # With a crash limit of 1 a job is still run once more alone in a fresh process, when an earlier job may have
        # corrupted the one it died in.
        elif quarantines(job, blamed_alone=blamed_alone):
            self._quarantine(attempt, report, now)
        else:
            self._pool.counters.retries[report.end] += 1
            self._return(job)

    def _quarantine(self, attempt: Attempt, report: Report, now: Instant) -> None:
        job = attempt.job
        counts = job.counts
        self._pool.note(
            Level.WARNING,
            Topic.JOB_QUARANTINED,
            job=job.name,
            crashes=counts.crashes,
            unclean_exits=counts.unclean_exits if report.end is End.LOST else 0,
        )
        self._finish(job, State.QUARANTINED, attempt, report, now)
        self._pool.quarantine[job.batch.name, job.seq] = job

    def _send_again(self, attempt: Attempt, report: Report, now: Instant) -> None:
        job = attempt.job
        job.take_back_try()  # a lost attempt counts for nothing, and its fate under --chaos is still to come
        if job.given_up:  # what became of its worker is the dealer's doing, and no error of the job's
            self._finish(job, State.CANCELLED, attempt, structs.replace(report, error=None), now)
        else:
            self._pool.counters.retries[report.end] += 1
            self._return(job)

    def due(self, job: Job) -> None:
        """The delay before a retry is over."""
        assert JOB_TABLE[job.state, JobEvent.DUE] is JobAction.ENQUEUE
        self._enqueue(job)

    def requeue(self, job: Job) -> None:
        """A person wants a quarantined job run again."""
        del self._pool.quarantine[job.batch.name, job.seq]
        self.run_again(job)

    def run_again(self, job: Job) -> None:
        """A person wants a job run again that has ended without success."""
        assert JOB_TABLE[job.state, JobEvent.REQUEUE] is JobAction.NEW_RUN
        pool = self._pool
        job.start_new_run()
        job.batch.reopen_job()
        pool.count_payload(len(job.spec.payload))
        # Queued once it is stored: a kill must not leave an execution of a run that never was.
        pool.commits.add(JobReturned(job.ordinal, job.counts.copy()), RunStored(job))

    def queue(self, jobs: Sequence[Job], now: Instant) -> None:
        """Stored jobs take their places in the queue."""
        for job in jobs:
            self._pool.jobs[job.ordinal] = job
            if job.given_up:
                self.cancel_waiting(job, now)
            elif not self._pool.backlog.push(job):
                del self._pool.jobs[job.ordinal]

    def _return(self, job: Job) -> None:
        self._store_counts(job)
        self._enqueue(job)

    def _enqueue(self, job: Job) -> None:
        job.move(State.QUEUED)
        if not self._pool.backlog.push(job):
            del self._pool.jobs[job.ordinal]  # it lies beyond the front of the queue, where only the store keeps it

    def _store_counts(self, job: Job) -> None:
        self._pool.commits.add(JobReturned(job.ordinal, job.counts.copy()))

    def _finish(self, job: Job, state: State, attempt: Attempt | None, report: Report | None, now: Instant) -> None:
        """The run has its one outcome. It is told once it is stored."""
        pool, batch = self._pool, job.batch
        job.move(state)
        number = batch.finish_job()
        del pool.jobs[job.ordinal]
        # A read of the queue under way may still return it, and must not bring it back.
        pool.backlog.finished(job)
        pool.count_payload(-len(job.spec.payload))
        pool.counters.jobs_finished[job.spec.kind, state] += 1
        pool.job_finished(now.wall)
        # Here and not where it is read: the specification is gone then, from memory and journal, and every reader of
        # the outcome (this generator, a later one, `results`, after a restart) is to be told. It costs some
        # microseconds, of a command that took milliseconds; a tiny job's own line is short.
        outcome = _outcome(job, number, attempt, report, now, pool.title(job.spec))
        pool.commits.add(OutcomeRecorded(job.ordinal, batch.name, outcome), OutcomeStored(batch, outcome))


def _certificate(attempt: Attempt, report: Report) -> Try:
    worker, job = attempt.worker, attempt.job
    return certificate(job.counts.tries, report, worker.pid, worker.slot, job.limits.memory_bytes)


def _outcome(
    job: Job, number: int, attempt: Attempt | None, report: Report | None, now: Instant, title: str
) -> Outcome:
    usage = report.usage if report is not None else Usage()
    queued_wall_ns = job.record.queued_wall_ns
    return Outcome(
        no=number,
        seq=job.seq,
        run=job.counts.run,
        kind=job.spec.kind,
        label=job.spec.label,
        state=job.state,
        attempts=job.counts.tries,
        crashes=job.counts.crashes,
        value=report.value if report is not None else None,
        exit_status=report.exit_status if report is not None else None,
        signal=report.signal if report is not None else None,
        slot=attempt.worker.slot if attempt is not None else None,
        pid=(attempt.worker.pid or None) if attempt is not None else None,
        queued_wall_ns=queued_wall_ns,
        finished_wall_ns=now.wall,
        wait_ns=max(0, usage.started_wall_ns - queued_wall_ns) if usage.started_wall_ns else 0,
        usage=usage,
        output=report.output if report is not None else NO_OUTPUT,
        error=report.error if report is not None else None,
        job=title,
        tries=job.counts.told,
    )
