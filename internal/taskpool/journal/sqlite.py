"""The store of a pool with a journal: one SQLite file, written by one thread.

loop --Commit, LoadJobs...--> queue --> thread: engine --> SQLite
     <--Committed, Loaded...-- answers <-'
"""

from __future__ import annotations

import os
from pathlib import Path

from taskpool.clock import MILLISECOND, Clock, SystemClock
from taskpool.core.metric import Histogram, MetricSet, computed, counter, histogram
from taskpool.core.storage import Commit, Restored, StoreEvent, StoreRequest
from taskpool.journal import file
from taskpool.journal.engine import Check, Engine, JournalOptions, Observer, Request
from taskpool.journal.thread import JournalThread

DEFAULTS = JournalOptions()
# A commit is an fdatasync: a tenth of a millisecond on a fast disk, and a second on one that is in trouble.
COMMIT_BUCKETS_NS = tuple(int(n * MILLISECOND) for n in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000))


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
        return _size(self._path) + _size(file.wal_of(self._path))


class SqliteStore:
    """See `store.Store`.

    The constructor opens the journal, or makes it where there is none, and begins this life in it; it may take as long
    as the disk does. It raises JournalError for whatever is wrong with the file. `epoch` is this life's.
    """

    durable = True

    def __init__(
        self,
        path: Path,
        epoch: int,
        options: JournalOptions = DEFAULTS,
        *,
        clock: Clock | None = None,
        observe: Observer | None = None,
    ) -> None:
        """`observe` takes the place of `counters`: see `Engine`."""
        self.path = path
        self.counters = JournalCounters(path)
        # lexists: a link that points nowhere is no missing journal, and is refused as one that cannot be opened.
        if not os.path.lexists(path):
            file.create(path, SystemClock().now().wall)
        self._engine = Engine(path, epoch, options, clock, observe or self.counters.observe)
        self._thread: JournalThread[Request] = JournalThread(self._engine, self._engine.answers)
        # Whether the end before this life was one that speaks against the jobs it found running.
        self._blameless = self._engine.restored is None or not self._engine.restored.unclean_exit
        self._took_over = False
        self._restored = self._engine.restored
        self._closed = False

    def restore(self) -> Restored | None:
        """See `store.Store`. Batches that only have jobs in quarantine are among the batches."""
        restored, self._restored = self._restored, None
        return restored

    def request(self, request: StoreRequest) -> None:
        self._took_over = self._took_over or isinstance(request, Commit)
        self._thread.request(request)

    def answers(self) -> list[StoreEvent]:
        return self._engine.answers.take()

    def fileno(self) -> int:
        return self._engine.answers.fileno()

    def check(self) -> None:
        if self._engine.wants_check():
            self._thread.request(Check())

    def close(self, *, clean: bool, chosen: bool = False) -> None:
        """Wait until everything asked for is stored; if it need not be clean, no longer than some seconds."""
        if self._closed:
            return
        self._closed = True
        # A life that stored nothing has not said yet what the end before it meant for the jobs it found running.
        self._engine.begin_close(clean=clean or (chosen and (self._took_over or self._blameless)))
        self._thread.stop(patient=clean)
        self._engine.answers.close()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # The write-ahead log comes and goes. That the journal itself is there is checked by the store every second.
        return 0
