"""What the core counts. The loop adds to plain integers; a page thread reads them (see `metric`).

All counts are of this epoch: they begin at zero with each life of the dealer, as Prometheus expects of a counter.
"""

from __future__ import annotations

from collections import Counter

from taskpool.clock import MILLISECOND, SECOND
from taskpool.core.metric import Histogram, Histograms, MetricSet, counter, histogram
from taskpool.messages import TERMINAL, End, State

# Bounds of histograms, each around what its durations usually are. More buckets would cost a series each per kind.
LONG_BUCKETS_NS = tuple(
    [n * MILLISECOND for n in (1, 5, 10, 25, 50, 100, 250, 500)]
    + [int(n * SECOND) for n in (1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)]
)
RECOVERY_BUCKETS_NS = tuple(int(n * MILLISECOND) for n in (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 5000))
BOOT_BUCKETS_NS = tuple(int(n * MILLISECOND) for n in (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 20_000))

# Closed sets of label values.
ENDS = tuple(end.value for end in End)
OUTCOMES = tuple(state.value for state in State if state in TERMINAL)
EXIT_REASONS = ("clean", "error", "signal", "timeout", "stopped", "boot")
SIGNALS = ("", "SIGSEGV", "SIGKILL", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTERM", "other")
REFUSALS = ("malformed", "unknown_kind", "unknown_batch", "conflict", "gap", "closed", "full", "draining", "gone")

_WITHOUT_SIGNAL = frozenset({"clean", "error"})  # exits by exit status only


def _kinds(counters: Counters) -> tuple[str, ...]:
    return counters.kinds


def _possible_exit(reason: str, signal: str) -> bool:
    """An exit by status has no signal, and one by a signal has."""
    return bool(signal) if reason == "signal" else not (signal and reason in _WITHOUT_SIGNAL)


class Counters(MetricSet):
    """Everything the core counts, since this epoch began."""

    jobs_accepted: Counter[str] = counter(
        "taskpool_jobs_accepted_total", "Jobs taken in, by kind.", labels={"kind": _kinds}
    )
    jobs_finished: Counter[tuple[str, str]] = counter(
        "taskpool_jobs_finished_total",
        "Runs of jobs that got their one outcome, by kind and outcome.",
        labels={"kind": _kinds, "outcome": OUTCOMES},
    )
    jobs_restored: int = counter(
        "taskpool_jobs_restored_total", "Unfinished jobs that the journal had when this dealer started."
    )
    refusals: Counter[str] = counter(
        "taskpool_submissions_refused_total",
        "Messages of generators refused or dropped, by reason.",
        labels={"reason": REFUSALS},
    )
    attempts: Counter[str] = counter("taskpool_attempts_total", "Attempts that ended, by how.", labels={"end": ENDS})
    retries: Counter[str] = counter(
        "taskpool_retries_total",
        "Jobs that went back for another attempt, by how the last one ended.",
        labels={"end": ENDS},
    )
    cpu_ns: Counter[str] = counter(
        "taskpool_job_cpu_seconds_total",
        "CPU time, user and system, of attempts that ended, by kind.",
        labels={"kind": _kinds},
        unit=SECOND,
    )
    stale_reports: int = counter("taskpool_stale_reports_total", "Reports of attempts that were over already.")
    protocol_errors: int = counter("taskpool_protocol_errors_total", "Messages of workers that made no sense.")
    wait: Histograms = histogram(
        "taskpool_job_wait_seconds",
        "From a job's acceptance until it is first sent, by kind.",
        LONG_BUCKETS_NS,
        labels={"kind": _kinds},
    )
    run: Histograms = histogram(
        "taskpool_job_run_seconds", "How long attempts ran, by kind.", LONG_BUCKETS_NS, labels={"kind": _kinds}
    )
    recovery: Histogram = histogram(
        "taskpool_recovery_seconds", "From a worker's death seen until its job is sent again.", RECOVERY_BUCKETS_NS
    )
    worker_spawns: int = counter("taskpool_worker_starts_total", "Worker processes started.")
    worker_respawns: int = counter("taskpool_worker_respawns_total", "Workers started in place of another.")
    worker_exits: Counter[tuple[str, str]] = counter(
        "taskpool_worker_exits_total",
        "Worker processes that ended, by why and by signal.",
        labels={"reason": EXIT_REASONS, "signal": SIGNALS},
        possible=_possible_exit,
    )
    boot: Histogram = histogram(
        "taskpool_worker_boot_seconds", "From a worker's start until it is ready.", BOOT_BUCKETS_NS
    )
    # A pool without a journal has none of its families: a zero would say that it has one, and that it is well.
    journal_errors: int = counter(
        "taskpool_journal_errors_total",
        "Times the disk was full or a commit failed.",
        when=lambda counters: counters.journaled,
    )

    def __init__(self, kinds: tuple[str, ...] = (), *, journaled: bool = False) -> None:
        super().__init__()
        self.kinds = kinds  # of jobs that there can be
        self.journaled = journaled

    def waited(self, kind: str, duration_ns: int) -> None:
        self.wait[kind].add(duration_ns)

    def ran(self, kind: str, duration_ns: int, cpu_ns: int = 0) -> None:
        self.run[kind].add(duration_ns)
        self.cpu_ns[kind] += cpu_ns

    def worker_exited(self, reason: str, signal: str) -> None:
        self.worker_exits[reason, signal if signal in SIGNALS else "other"] += 1
