"""The families about the journal, from what its store counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import Metric

from taskpool.core.tally import Histogram
from taskpool.metrics.families import counter, gauge, histogram


class JournalStats(Protocol):
    """What a store that keeps a journal counts: its attribute `stats`. A store without one has no such attribute,
    and its dealer no such families.

    Plain numbers, written by the one thread that writes the journal and read by another one whenever it likes.
    """

    commits: int  # transactions that were made durable
    commit_ns: Histogram  # how long each of them took, begin to durable; bounds: core.tally.COMMIT_BUCKETS_NS
    rows: int  # rows committed
    bytes: int  # what the journal takes on disk now, write-ahead log included
    errors: int  # operations that failed, a full disk included


def families(stats: JournalStats | None) -> Iterator[Metric]:
    if stats is None:
        return
    yield histogram("taskpool_journal_commit_seconds", "How long commits to the journal took.", stats.commit_ns)
    yield counter("taskpool_journal_commits_total", "Transactions made durable.", stats.commits)
    yield counter("taskpool_journal_rows_total", "Rows committed to the journal.", stats.rows)
    yield gauge("taskpool_journal_bytes", "What the journal takes on disk, its log included.", stats.bytes)
    yield counter(
        "taskpool_journal_errors_total", "Operations of the journal that failed, a full disk included.", stats.errors
    )
