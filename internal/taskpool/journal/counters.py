"""What the journal's thread counts, and how large the journal is."""

from __future__ import annotations

from pathlib import Path

from taskpool.clock import MILLISECOND
from taskpool.core.metric import Histogram, MetricSet, computed, counter, histogram

# A commit is an fdatasync: a tenth of a millisecond on a fast disk, and a second on one that is in trouble.
COMMIT_BUCKETS_NS = tuple(int(n * MILLISECOND) for n in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000))
WAL_SUFFIX = "-wal"  # SQLite's write-ahead log lies beside the file


class JournalCounters(MetricSet):
    """Counted by the thread that writes the journal, which alone adds to it."""

    commits: Histogram = histogram(
        "taskpool_journal_commit_seconds",
        "How long transactions took, until they were on the disk.",
        COMMIT_BUCKETS_NS,
    )
    rows: int = counter("taskpool_journal_rows_total", "Rows committed.")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def observe(self, rows: int, took_ns: int) -> None:
        """Count a transaction that is on the disk."""
        self.rows += rows
        self.commits.add(took_ns)

    @computed("gauge", "taskpool_journal_bytes", "What the journal takes on the disk, its write-ahead log included.")
    def bytes_on_disk(self) -> int:
        return _size(self._path) + _size(Path(f"{self._path}{WAL_SUFFIX}"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # The write-ahead log comes and goes. That the journal itself is there is checked by the store every second.
        return 0
