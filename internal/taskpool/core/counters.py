"""Plain counters. The loop adds to integers; whoever serves metrics reads them.

Every label value is known here in advance, so that a counter exists before it first counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from taskpool.clock import MILLISECOND, SECOND

LONG_BUCKETS_NS = tuple(
    [n * MILLISECOND for n in (1, 5, 10, 25, 50, 100, 250, 500)]
    + [int(n * SECOND) for n in (1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)]
)
RECOVERY_BUCKETS_NS = tuple(int(n * MILLISECOND) for n in (0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 5000))
BOOT_BUCKETS_NS = tuple(int(n * MILLISECOND) for n in (10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 20_000))
FINE_BUCKETS_NS = tuple(int(n * MILLISECOND) for n in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000))
COMMIT_BUCKETS_NS = LAG_BUCKETS_NS = FINE_BUCKETS_NS

EXIT_REASONS = ("clean", "error", "signal", "timeout", "stopped", "boot")
SIGNALS = ("", "SIGSEGV", "SIGKILL", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTERM", "other")
REFUSALS = ("malformed", "unknown_kind", "unknown_batch", "conflict", "gap", "closed", "full", "draining", "gone")
HEARD_QUEUES = ("intake", "control", "events")  # that the dealer reads


class Histogram:
    """Durations in nanoseconds, counted in fixed buckets."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value_ns: int) -> None:
        self.counts[bisect_left(self.bounds, value_ns)] += 1
        self.total += value_ns


class Counters:
    """Everything the core counts, since this epoch began."""

    def __init__(self) -> None:
        self.jobs_accepted: Counter[str] = Counter()  # by kind
        self.jobs_finished: Counter[tuple[str, str]] = Counter()  # by kind and state
        self.attempts: Counter[str] = Counter()  # by end
        self.retries: Counter[str] = Counter()  # by end of the attempt before
        self.refusals: Counter[str] = Counter(dict.fromkeys(REFUSALS, 0))
        self.worker_exits: Counter[tuple[str, str]] = Counter()  # by reason and signal
        self.cpu_ns: Counter[str] = Counter()  # of attempts that ended, by kind
        self.jobs_restored = 0
        self.worker_spawns = 0
        self.worker_respawns = 0
        self.journal_errors = 0  # a full disk included
        self.stale_reports = 0
        self.protocol_errors = 0
        self.wait: dict[str, Histogram] = {}
        self.run: dict[str, Histogram] = {}
        self.recovery = Histogram(RECOVERY_BUCKETS_NS)
        self.boot = Histogram(BOOT_BUCKETS_NS)

    def waited(self, kind: str, duration_ns: int) -> None:
        self._of(self.wait, kind).add(duration_ns)

    def ran(self, kind: str, duration_ns: int, cpu_ns: int = 0) -> None:
        self._of(self.run, kind).add(duration_ns)
        self.cpu_ns[kind] += cpu_ns

    def worker_exited(self, reason: str, signal: str) -> None:
        self.worker_exits[reason, signal if signal in SIGNALS else "other"] += 1

    @staticmethod
    def _of(family: dict[str, Histogram], kind: str) -> Histogram:
        histogram = family.get(kind)
        if histogram is None:
            histogram = family[kind] = Histogram(LONG_BUCKETS_NS)
        return histogram


class JournalCounters:
    """What the thread that writes the journal counts; nobody else adds."""

    def __init__(self) -> None:
        self.rows = 0
        self.commits = Histogram(COMMIT_BUCKETS_NS)

    def observe(self, rows: int, took_ns: int) -> None:
        """A transaction is on the disk."""
        self.rows += rows
        self.commits.add(took_ns)


class LoopCounters:
    """What the dealer's loop counts of itself."""

    def __init__(self) -> None:
        self.turns = 0
        self.stalls = 0
        self.busy_ns = 0
        self.turned_wall_ns = 0  # when the last turn began
        self.lag = Histogram(LAG_BUCKETS_NS)
        self.received: Counter[str] = Counter(dict.fromkeys(HEARD_QUEUES, 0))  # messages, by queue
        self.full: Counter[str] = Counter(dict.fromkeys(HEARD_QUEUES, 0))

    def turned(self, busy_ns: int, overslept_ns: int) -> None:
        """A turn is over and the next one due. What happened meanwhile has waited for the longer of the two."""
        self.turns += 1
        self.busy_ns += busy_ns
        self.lag.add(max(busy_ns, overslept_ns))

    def heard(self, queue: str, messages: int, capacity: int) -> None:
        """A queue was read. One that gave as much as it holds may have kept its senders waiting."""
        self.received[queue] += messages
        self.full[queue] += messages >= capacity
