"""A job between its acceptance and its outcome.

    queued --dispatch--> running --succeeded-----------------> SUCCEEDED
      ^  ^                |  |  |---failed, no retry left----> FAILED
      |  '--lost, crashed-'  |  |---timed out, no retry left-> TIMED_OUT
      '--due-- delayed <-----'  |---crashed too often--------> QUARANTINED
                retry           '---cancel-------------------> CANCELLED

    all of these but SUCCEEDED --requeue--> queued, as a new run

Rules of this file: `Job.move` is the only writer of a job's state, and the table must allow the move.
"""

from __future__ import annotations

from enum import Enum

from msgspec.structs import replace

from taskpool import limits
from taskpool.core.batch import Batch
from taskpool.core.entries import JobCounts, JobRecord, Traits
from taskpool.core.storage import StoredJob
from taskpool.messages import TERMINAL, End, JobSpec, Limits, Report, State, Try


class _Word(Enum):
    __hash__ = object.__hash__  # Enum's own is written in Python, and each job is looked up in the table several times


class JobEvent(_Word):
    DISPATCH = "dispatch"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    CRASHED = "crashed"
    LOST = "lost"
    DUE = "due"
    CANCEL = "cancel"
    REQUEUE = "requeue"


class JobAction(_Word):
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
    State.FAILED: _row(REQUEUE=JobAction.NEW_RUN),
    State.TIMED_OUT: _row(REQUEUE=JobAction.NEW_RUN),
    State.CANCELLED: _row(REQUEUE=JobAction.NEW_RUN),
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
}

_MOVES: frozenset[tuple[State, State]] = frozenset(
    {(State.QUEUED, State.RUNNING), (State.DELAYED, State.QUEUED)}
    | {(ended, State.QUEUED) for ended in TERMINAL - {State.SUCCEEDED}}
    | {(State.QUEUED, State.CANCELLED), (State.DELAYED, State.CANCELLED), (State.QUEUED, State.FAILED)}
    | {(State.RUNNING, state) for state in TERMINAL | {State.QUEUED, State.DELAYED}}
)


class Job:
    """One job in memory: its record, the counts of its present run, and where it stands."""

    __slots__ = (
        "alone",
        "attempt_n",
        "batch",
        "cancelled",
        "counts",
        "limits",
        "lost_at_head",
        "record",
        "recovering",
        "state",
        "took_worker",
    )

    def __init__(
        self, record: JobRecord, batch: Batch, counts: JobCounts | None = None, state: State = State.QUEUED
    ) -> None:
        self.record = record
        self.batch = batch
        # Its own object: only its methods change it, and the store gets copies.
        self.counts = counts if counts is not None else JobCounts()
        self.resolve_limits()
        self.state = state
        self.took_worker = False  # its last crash was a worker's death, not what a worker reported
        self.lost_at_head = 0  # workers in a row that had it at the head, and died or gave it back before it ran
        self.alone = False  # its frame went silent or died: it shares no frame again
        self.cancelled = False
        self.attempt_n = 0  # the number of the attempt under way
        self.recovering: tuple[int, int] | None = None  # (pid, when its death was seen) until sent again

    @classmethod
    def restored(cls, stored: StoredJob, batch: Batch, state: State = State.QUEUED) -> Job:
        """As the store has it. The counts are copied: the store must not see those of a run that goes on."""
        return cls(stored.record, batch, stored.counts.copy(), state)

    # --- what it is ---

    @property
    def ordinal(self) -> int:
        return self.record.ordinal

    @property
    def seq(self) -> int:
        return self.record.seq

    @property
    def spec(self) -> JobSpec:
        return self.record.spec

    @property
    def traits(self) -> Traits:
        return self.record.traits

    @property
    def name(self) -> str:
        """As people write it: `batch/seq`."""
        return f"{self.record.batch}/{self.record.seq}"

    @property
    def key(self) -> tuple[int, int]:
        """Its place in the queue: strict priority, and first come first served inside one."""
        return (-self.record.priority, self.record.ordinal)

    # --- what follows from its past ---

    @property
    def given_up(self) -> bool:
        """It or its whole batch was cancelled: whatever its attempt does, there is no other. A job of a cancelled
        batch that a person gives a new run is meant to run."""
        return self.cancelled or (self.batch.cancelled and self.counts.run == 1)

    @property
    def shares_frames(self) -> bool:
        """May travel with others: nothing about it calls for a frame, or for blame, of its own."""
        # In a frame of several, the death of one cannot be told from the death of another.
        suspect = self.counts.crashes or self.counts.unclean_exits or self.lost_at_head or self.alone
        return not (self.limits.timeout_ns or suspect)

    @property
    def wants_fresh_worker(self) -> bool:
        """A worker died of it, as it seems. An earlier job may have corrupted that process; so that no job is
        quarantined for another's fault, it runs next where nothing else ever ran."""
        return self.counts.crashes > 0 and (self.took_worker or self.traits.in_process)

    @property
    def wants_pool_alone(self) -> bool:
        """Several dealers or hosts in a row ended while it ran, perhaps because of it. It runs next with nothing else
        beside it, so that another such end points to this job."""
        return self.counts.unclean_exits >= limits.UNCLEAN_EXITS_ALONE_MIN

    # --- what happens to it ---

    def move(self, state: State) -> None:
        """Change the state; the table must have this transition."""
        assert (self.state, state) in _MOVES, f"{self.name}: {self.state} -> {state}"
        self.state = state

    def begin(self, n: int) -> None:
        """It is sent, as attempt `n`."""
        assert JOB_TABLE[self.state, JobEvent.DISPATCH] is JobAction.RUN
        self.move(State.RUNNING)
        self.counts.begin_try()
        self.attempt_n = n

    def end_attempt(self) -> None:
        self.attempt_n = 0

    def take_back_try(self) -> None:
        """The attempt did not happen."""
        self.attempt_n = 0
        self.counts.take_back_try()

    def resolve_limits(self) -> None:
        """Work out the limits of its next try, which are asked for at each dispatch and each end."""
        spec = self.record.spec
        self.limits: Limits = _with_more_memory(spec.limits or self.batch.limits, self.counts.told)

    def run_by_worker(self) -> None:
        """A worker ran it after all, however it ended: no loss before counts against it any more."""
        self.lost_at_head = 0

    def lose_at_head(self) -> bool:
        """A worker died with it at the head and not started, or could not begin it; whether that was once too often to
        be chance.

        One such loss is no job's fault. But when worker after worker goes with the same job in hand, it is the job
        (its frame alone may end a worker), and the run of losses counts as one crash.
        """
        self.lost_at_head += 1
        if self.lost_at_head < limits.LOST_HEAD_MAX:
            return False
        self.lost_at_head = 0
        self.alone = True
        return True

    def keep_alone(self) -> None:
        """Its frame died or went silent: to learn which job of it did that, each goes alone from now on."""
        self.alone = True

    def note_worker_death(self) -> None:
        self.took_worker = True

    def clear_of_death(self) -> None:
        """A worker lived to report its crash: what crashed was a process of its own."""
        self.took_worker = False

    def cancel(self) -> None:
        self.cancelled = True

    def recover_from(self, pid: int, seen_mono_ns: int) -> None:
        """Its worker died; the time until it is sent again is measured from when that was seen."""
        self.recovering = (pid, seen_mono_ns)

    def end_recovery(self) -> tuple[int, int] | None:
        """(pid, when its death was seen) of the worker it is recovered from, if it is; told once."""
        recovering, self.recovering = self.recovering, None
        return recovering

    def start_new_run(self) -> None:
        """A person asks for the job again: nothing of its past counts against it."""
        self.move(State.QUEUED)
        self.counts.begin_run()
        self.resolve_limits()
        self.lost_at_head = 0
        self.alone = self.cancelled = self.took_worker = False
        self.recovering = None


def _with_more_memory(wanted: Limits, told: tuple[Try, ...]) -> Limits:
    """Raise the memory limit over that of the last try which it ended, when that is asked for."""
    if not wanted.memory_growth_percent:
        return wanted
    had = next((each.memory_limit_bytes for each in reversed(told) if each.out_of_memory), None)
    if not had:
        return wanted
    raised = min(had * wanted.memory_growth_percent // 100, wanted.memory_bytes_max or limits.MEMORY_BYTES_MAX)
    return replace(wanted, memory_bytes=max(raised, wanted.memory_bytes))


def may_retry(job: Job, report: Report) -> bool:
    """Whether a try that failed or timed out, already counted as a failure, leaves another."""
    wanted = job.limits
    if job.counts.failures > wanted.retries:
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
    doublings = min(job.counts.failures - 1, 40)
    return min(wanted.backoff_min_ns << doublings, max(wanted.backoff_max_ns, wanted.backoff_min_ns))


def quarantines(job: Job, *, blamed_alone: bool) -> bool:
    """Whether a crash, already counted, is the last one. `blamed_alone`: nothing but this job ran there."""
    limit = job.limits.crash_limit
    if limit == limits.CRASH_LIMIT_UNLIMITED:
        return False
    return job.counts.crashes >= limit and blamed_alone
