"""The families about the journal. A pool without one has none of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client.core import Metric

from taskpool.core.counters import Counters, JournalCounters
from taskpool.metrics.families import counter, gauge, histogram

LOG_SUFFIX = "-wal"  # SQLite's write-ahead log lies beside the file


class Journal(NamedTuple):
    """What its writer counts, and where it lies."""

    counters: JournalCounters
    path: Path


def families(journal: Journal | None, counters: Counters) -> Iterator[Metric]:
    if journal is None:
        return
    yield histogram(
        "taskpool_journal_commit_seconds",
        "How long transactions took, until they were on the disk.",
        journal.counters.commits,
    )
    yield counter("taskpool_journal_rows_total", "Rows committed.", journal.counters.rows)
    yield gauge(
        "taskpool_journal_bytes",
        "What the journal takes on the disk, its write-ahead log included.",
        _size(journal.path) + _size(Path(f"{journal.path}{LOG_SUFFIX}")),
    )
    yield counter(
        "taskpool_journal_errors_total", "Times the disk was full or a commit failed.", counters.journal_errors
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # the log comes and goes; the loop watches over the journal itself
        return 0
