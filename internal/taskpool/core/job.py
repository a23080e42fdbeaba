"""A job between its acceptance and its outcome.

    queued --dispatch--> running --succeeded-----------------> SUCCEEDED
      ^  ^                |  |  |---failed, no retry left----> FAILED
      |  '--lost, crashed-'  |  |---timed out, no retry left-> TIMED_OUT
      '--due-- delayed <-----'  |---crashed too often--------> QUARANTINED
                retry           '---cancel-------------------> CANCELLED

Rules of this file: `Job.move` is the only writer of a job's state, and it takes the table's word.
"""

from __future__ import annotations

from enum import Enum

from taskpool import limits
from taskpool.core.batch import Batch
from taskpool.core.events import StoredJob, Traits
from taskpool.messages import TERMINAL, End, JobSpec, Limits, Report, State


class JobEvent(Enum):
    DISPATCH = "dispatch"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    CRASHED = "crashed"
    LOST = "lost"
    DUE = "due"
    CANCEL = "cancel"
    REQUEUE = "requeue"


class JobAction(Enum):
    RUN = "run"
    SUCCEED = "succeed"
    RETRY_OR_FAIL = "retry or fail"
    RETRY_OR_TIME_OUT = "retry or time out"
    COUNT_CRASH = "count the crash"
    SEND_AGAIN = "send again"
    ENQUEUE = "enqueue"
    CANCEL = "cancel"
    STOP_ATTEMPT = "stop the attempt"
    NEW_RUN = "start a new run"
    STALE = "stale"  # too late or too early to mean anything: dropped and counted


def _row(**cells: JobAction) -> dict[JobEvent, JobAction]:
    row = dict.fromkeys(JobEvent, JobAction.STALE)
    row.update({JobEvent[name]: action for name, action in cells.items()})
    return row


_ROWS: dict[State, dict[JobEvent, JobAction]] = {
    State.QUEUED: _row(DISPATCH=JobAction.RUN, CANCEL=JobAction.CANCEL),
    State.DELAYED: _row(DUE=JobAction.ENQUEUE, CANCEL=JobAction.CANCEL),
    State.RUNNING: _row(
        SUCCEEDED=JobAction.SUCCEED,
        FAILED=JobAction.RETRY_OR_FAIL,
        TIMED_OUT=JobAction.RETRY_OR_TIME_OUT,
        CRASHED=JobAction.COUNT_CRASH,
        LOST=JobAction.SEND_AGAIN,
        CANCEL=JobAction.STOP_ATTEMPT,
    ),
    State.SUCCEEDED: _row(),
    State.FAILED: _row(),
    State.TIMED_OUT: _row(),
    State.CANCELLED: _row(),
    State.QUARANTINED: _row(REQUEUE=JobAction.NEW_RUN),
}

JOB_TABLE: dict[tuple[State, JobEvent], JobAction] = {
    (state, event): action for state, row in _ROWS.items() for event, action in row.items()
}

END_EVENT: dict[End, JobEvent] = {
    End.SUCCEEDED: JobEvent.SUCCEEDED,
    End.FAILED: JobEvent.FAILED,
    End.CRASHED: JobEvent.CRASHED,
    End.TIMED_OUT: JobEvent.TIMED_OUT,
    End.LOST: JobEvent.LOST,
    End.CANCELLED: JobEvent.CANCEL,
}

_MOVES: frozenset[tuple[State, State]] = frozenset(
    {(State.QUEUED, State.RUNNING), (State.DELAYED, State.QUEUED), (State.QUARANTINED, State.QUEUED)}
    | {(State.QUEUED, State.CANCELLED), (State.DELAYED, State.CANCELLED), (State.QUEUED, State.FAILED)}
    | {(State.RUNNING, state) for state in TERMINAL | {State.QUEUED, State.DELAYED}}
)


class Job:
    """One job in memory. Counts belong to its present run."""

    __slots__ = (
        "alone",
        "attempt_n",
        "batch",
        "cancelled",
        "crashes",
        "failures",
        "limits",
        "lost_at_head",
        "ordinal",
        "queued_wall_ns",
        "recovering",
        "run",
        "seq",
        "spec",
        "state",
        "took_worker",
        "traits",
        "tries",
        "unclean_exits",
    )

    def __init__(self, ordinal: int, batch: Batch, seq: int, spec: JobSpec, traits: Traits, queued_wall_ns: int):
        self.ordinal = ordinal
        self.batch = batch
        self.seq = seq
        self.spec = spec
        self.limits: Limits = spec.limits if spec.limits is not None else batch.limits
        self.traits = traits
        self.queued_wall_ns = queued_wall_ns
        self.state = State.QUEUED
        self.run = 1
        self.tries = 0
        self.failures = 0  # tries that failed or timed out: what --retries is spent on
        self.crashes = 0
        self.took_worker = False  # its last crash was a worker's death, not what a worker reported
        self.lost_at_head = 0
        self.unclean_exits = 0
        self.alone = False  # its frame went silent or died: never again in company
        self.cancelled = False
        self.attempt_n = 0  # the number of the attempt under way
        self.recovering: tuple[int, int] | None = None  # (pid, when its death was seen) until sent again

    @classmethod
    def restored(cls, stored: StoredJob, batch: Batch, state: State = State.QUEUED) -> Job:
        job = cls(stored.ordinal, batch, stored.seq, stored.spec, stored.traits, stored.queued_wall_ns)
        job.state = state
        job.run, job.tries = stored.run, stored.tries
        job.failures, job.crashes, job.unclean_exits = stored.failures, stored.crashes, stored.unclean_exits
        return job

    @property
    def key(self) -> tuple[int, int]:
        """Strict priority, and first come first served inside one."""
        return (-self.limits.priority, self.ordinal)

    @property
    def given_up(self) -> bool:
        """Somebody cancelled it, or its whole batch: whatever its attempt does, there is no other. A person who
        asks for a job of a cancelled batch again wants it to run."""
        return self.cancelled or (self.batch.cancelled and self.run == 1)

    @property
    def shares_frames(self) -> bool:
        """May travel with others: nothing about it calls for a frame, or for blame, of its own."""
        return not (self.limits.timeout_ns or self.crashes or self.lost_at_head or self.unclean_exits or self.alone)

    @property
    def wants_fresh_worker(self) -> bool:
        """A worker died of it, as it seems. An earlier job may have corrupted that process; so that no innocent
        is quarantined, it runs next where nothing else ever ran."""
        return self.crashes > 0 and (self.took_worker or self.traits.in_process)

    @property
    def wants_pool_alone(self) -> bool:
        """Dealer after dealer, or host after host, went down while it ran. It may be the cause: when it runs
        next, nothing else does, so that the next such end speaks of nobody else."""
        return self.unclean_exits >= limits.UNCLEAN_EXITS_ALONE_MIN

    def move(self, state: State) -> None:
        assert (self.state, state) in _MOVES, f"{self.batch.name}/{self.seq}: {self.state} -> {state}"
        self.state = state

    def start_new_run(self) -> None:
        """A person asks for the job again: clean counts, the history stays in the outcomes."""
        self.move(State.QUEUED)
        self.run += 1
        self.tries = self.failures = self.crashes = self.lost_at_head = self.unclean_exits = 0
        self.alone = self.cancelled = self.took_worker = False
        self.recovering = None


def may_retry(job: Job, report: Report) -> bool:
    """Whether a try that failed or timed out, already counted in `job.failures`, leaves another."""
    wanted = job.limits
    if job.failures > wanted.retries:
        return False
    if report.end is End.TIMED_OUT:
        return wanted.retry_timeout
    if report.end is End.CRASHED:
        return report.signal in wanted.retry_signal
    if wanted.retry_failed:
        return True
    return report.exit_status in wanted.retry_exit


def retry_delay_ns(job: Job) -> int:
    """Doubling from backoff_min to backoff_max. No jitter: the backlog already spreads retries."""
    wanted = job.limits
    doublings = min(job.failures - 1, 40)
    return min(wanted.backoff_min_ns << doublings, max(wanted.backoff_max_ns, wanted.backoff_min_ns))


def quarantines(job: Job, *, blamed_alone: bool) -> bool:
    """Whether a crash, already counted, is the last one. `blamed_alone`: nothing but this job ran there."""
    limit = job.limits.crash_limit
    if limit == limits.CRASH_LIMIT_UNLIMITED:
        return False
    return job.crashes >= limit and blamed_alone
