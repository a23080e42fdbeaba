"""The families about jobs, their attempts, and those who submit and read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric

from taskpool.clock import SECOND
from taskpool.core.counters import LONG_BUCKETS_NS, REFUSALS, Histogram
from taskpool.core.state import PoolState
from taskpool.messages import TERMINAL, End, State
from taskpool.metrics.families import counter, counter_by, gauge, gauge_by, histogram, histogram_by, label, timestamp

_NONE_YET = Histogram(LONG_BUCKETS_NS)  # of a kind that nobody has used yet; never added to


def families(pool: PoolState, kinds: Sequence[str]) -> Iterator[Metric]:
    yield from _in_and_out(pool, kinds)
    yield from _now(pool)
    yield from _attempts(pool, kinds)
    yield from _durations(pool, kinds)
    yield from _readers(pool)


def _in_and_out(pool: PoolState, kinds: Sequence[str]) -> Iterator[Metric]:
    counters = pool.counters
    yield counter_by(
        "taskpool_jobs_accepted_total",
        "Jobs taken in, by kind.",
        ["kind"],
        [([kind], counters.jobs_accepted[kind]) for kind in kinds],
    )
    yield counter_by(
        "taskpool_jobs_finished_total",
        "Runs of jobs that got their one outcome, by kind and outcome.",
        ["kind", "outcome"],
        [
            ([kind, label(state)], counters.jobs_finished[kind, state.value])
            for kind in kinds
            for state in State
            if state in TERMINAL
        ],
    )
    yield counter(
        "taskpool_jobs_restored_total",
        "Unfinished jobs that the journal had when this dealer started.",
        counters.jobs_restored,
    )
    yield counter_by(
        "taskpool_submissions_refused_total",
        "Messages of generators refused or dropped, by reason.",
        ["reason"],
        [([reason], counters.refusals[reason]) for reason in REFUSALS],
    )


def _now(pool: PoolState) -> Iterator[Metric]:
    running = list(pool.attempts.values())  # copies: the loop goes on meanwhile
    delayed = sum(job.state is State.DELAYED for _, _, job in list(pool.delayed))
    counts = {
        State.QUEUED: max(0, pool.pending - len(running) - delayed),
        State.DELAYED: delayed,
        State.RUNNING: len(running),
    }
    yield gauge_by(
        "taskpool_jobs",
        "Jobs without an outcome, by state.",
        ["state"],
        [([label(state)], count) for state, count in counts.items()],
    )
    yield gauge(
        "taskpool_jobs_quarantined",
        "Jobs that crashed too often and wait for a person.",
        len(pool.quarantine),
    )
    yield gauge(
        "taskpool_oldest_queued_job_timestamp_seconds",
        "Unix time at which the oldest queued job was taken in, of those in memory; absent when none is queued.",
        timestamp(oldest_queued_wall_ns(pool)),
    )
    started = [attempt.frame.started_wall_ns for attempt in running if attempt.frame.started]
    yield gauge(
        "taskpool_oldest_running_job_timestamp_seconds",
        "Unix time at which the attempt that runs longest was begun; absent when none runs.",
        timestamp(min(started, default=None)),
    )
    yield gauge(
        "taskpool_last_job_finished_timestamp_seconds",
        "Unix time of the last outcome; absent before the first.",
        timestamp(pool.last_finished_wall_ns or None),
    )


def oldest_queued_wall_ns(pool: PoolState) -> int | None:
    """What lies beyond the backlog's horizon is in the store, and with one priority it is younger."""
    queued = (job.record.queued_wall_ns for job in list(pool.jobs.values()) if job.state is State.QUEUED)
    return min(queued, default=None)


def _attempts(pool: PoolState, kinds: Sequence[str]) -> Iterator[Metric]:
    counters = pool.counters
    yield counter_by(
        "taskpool_attempts_total",
        "Attempts that ended, by how.",
        ["end"],
        [([label(end)], counters.attempts[end.value]) for end in End],
    )
    yield counter_by(
        "taskpool_retries_total",
        "Jobs that went back for another attempt, by how the last one ended.",
        ["end"],
        [([label(end)], counters.retries[end.value]) for end in End],
    )
    yield counter_by(
        "taskpool_job_cpu_seconds_total",
        "CPU time, user and system, of attempts that ended, by kind.",
        ["kind"],
        [([kind], counters.cpu_ns[kind] / SECOND) for kind in kinds],
    )
    yield counter(
        "taskpool_stale_reports_total",
        "Reports of attempts that were over already.",
        counters.stale_reports,
    )
    yield counter(
        "taskpool_protocol_errors_total",
        "Messages of workers that made no sense.",
        counters.protocol_errors,
    )


def _durations(pool: PoolState, kinds: Sequence[str]) -> Iterator[Metric]:
    counters = pool.counters
    yield histogram_by(
        "taskpool_job_wait_seconds",
        "From a job's acceptance until it is first sent, by kind.",
        ["kind"],
        [([kind], counters.wait.get(kind, _NONE_YET)) for kind in kinds],
    )
    yield histogram_by(
        "taskpool_job_run_seconds",
        "How long attempts ran, by kind.",
        ["kind"],
        [([kind], counters.run.get(kind, _NONE_YET)) for kind in kinds],
    )
    yield histogram(
        "taskpool_recovery_seconds",
        "From a worker's death seen until its job is sent again.",
        counters.recovery,
    )


def _readers(pool: PoolState) -> Iterator[Metric]:
    batches = list(pool.batches.values())
    yield gauge("taskpool_generators", "Generators in conversation with the dealer.", len(pool.clients))
    yield gauge("taskpool_batches", "Batches the dealer holds in memory.", len(batches))
    yield gauge(
        "taskpool_outcomes_unread",
        "Outcomes that their readers have not acknowledged.",
        sum(batch.unread for batch in batches),
    )
