"""The store of a pool with a journal: one SQLite file, written by one thread.

    loop --commit, load, find--> queue --> thread --> SQLite
         <--Committed, Loaded...-- answers <-'

What waits in the queue together is stored together: one transaction, one fsync, an answer for each.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from taskpool import limits
from taskpool.clock import Clock, SystemClock
from taskpool.core.entries import Entry
from taskpool.core.events import (
    BatchFound,
    CommitFailed,
    Committed,
    DigestsLoaded,
    DiskFull,
    Loaded,
    OutcomesLoaded,
    Restored,
)
from taskpool.errors import JournalError
from taskpool.journal import schema
from taskpool.journal.ballast import BALLAST_BYTES, Ballast
from taskpool.journal.counters import JournalCounters
from taskpool.journal.retention import AgeClock, Retention
from taskpool.journal.statements import Statements
from taskpool.journal.store import StoreEvent
from taskpool.journal.thread import Answers, JournalThread, Request

_ROWS_TOGETHER_MAX = 20_000  # in one transaction
_FULL_RETRY_SECONDS = 0.25
assert schema.WAL_BYTES_MAX * 2 <= BALLAST_BYTES
_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}

Observer = Callable[[int, int], None]


class _Commit:
    __slots__ = ("number", "rows")

    def __init__(self, number: int, rows: Sequence[Entry]) -> None:
        self.number = number
        self.rows = rows


class _Check:
    pass


_Read = Callable[[Statements], StoreEvent]


class SqliteStore:
    """See `store.Store`.

    The constructor opens the journal, or makes it where there is none, and begins this life in it; it may take as
    long as the disk does. It raises JournalError for whatever is wrong with the file. `epoch` is this life's;
    `sync` is full (what is committed survives a loss of power) or normal (it survives any kill of the process, but
    the last moments before a loss of power may be gone). `observe` is called on the writer's thread after each
    transaction with its number of rows and its duration in nanoseconds; without it, `counters` counts them.
    """

    durable = True

    def __init__(
        self,
        path: Path,
        epoch: int,
        *,
        sync: str = "full",
        retain_ns: int = limits.RETAIN_NS,
        retain_batches: int = limits.RETAIN_BATCHES_MAX,
        retain_grace_ns: int = limits.RETAIN_GRACE_NS,
        clock: Clock | None = None,
        ballast_bytes: int = BALLAST_BYTES,
        observe: Observer | None = None,
    ) -> None:
        self.path = path
        self.counters = JournalCounters(path)
        if not os.path.lexists(path):
            schema.create(path, SystemClock().now().wall)
        connection = schema.connect(path, _SYNCHRONOUS[sync])
        try:
            statements = Statements(connection, epoch)
            # Read before this life begins: then the journal no longer tells how the last one ended.
            self._restored = statements.restore()
            self._innocent = self._restored is None or not self._restored.unclean_exit
            self._took_over = False
            age_clock = self._age_clock = AgeClock(clock)
            retention = Retention(
                connection,
                retain_ns,
                retain_batches,
                grace_ns=retain_grace_ns,
                age_clock=age_clock,
                condemned=statements.forget_ids,
            )
            ballast = Ballast(Path(f"{path}.ballast"), ballast_bytes)
            _begin(connection, path, epoch, ballast)
            self._answers = Answers()
            observe = observe or self.counters.observe
            self._journal = _Journal(
                path, connection, statements, retention, age_clock, ballast, self._answers, observe
            )
            self._writer = JournalThread(self._journal, self._answers)
        except sqlite3.Error as error:
            schema.close(connection, path)
            raise JournalError(schema.explain(path, error)) from error
        except BaseException:
            schema.close(connection, path)
            raise
        self._closed = False

    def restore(self) -> Restored | None:
        """See `store.Store`. Batches that only have jobs in quarantine are among the batches."""
        restored, self._restored = self._restored, None
        return restored

    def commit(self, number: int, rows: Sequence[Entry]) -> None:
        self._took_over = True
        self._writer.ask(_Commit(number, rows))

    def load_jobs(self, after: tuple[int, int], limit: int, bytes_max: int) -> None:
        self._read(lambda statements: Loaded(*statements.queued(after, limit, bytes_max)))

    def load_outcomes(self, batch: str, after: int, limit: int, reader: int) -> None:
        most = limits.OUTCOMES_IN_FLIGHT_BYTES_MAX
        self._read(lambda statements: OutcomesLoaded(batch, statements.outcomes(batch, after, limit, most), reader))

    def find_batch(self, name: str) -> None:
        self._read(lambda statements: BatchFound(name, statements.find(name, self._age_clock.date_ns())))

    def load_digests(self, batch: str, first_seq: int, count: int) -> None:
        self._read(lambda statements: DigestsLoaded(batch, first_seq, statements.digests(batch, first_seq, count)))

    def answers(self) -> list[StoreEvent]:
        return self._answers.take()

    def fileno(self) -> int:
        return self._answers.fileno()

    def check(self) -> None:
        if not self._journal.checking:
            self._journal.checking = True
            self._writer.ask(_Check())

    def close(self, *, clean: bool, chosen: bool = False) -> None:
        """Waits until everything asked for is stored; if it need not be clean, no longer than some seconds."""
        if self._closed:
            return
        self._closed = True
        # A life that stored nothing has not said yet what the end before it meant for the jobs it found running.
        self._journal.clean = clean or (chosen and (self._took_over or self._innocent))
        self._journal.leaving.set()
        self._writer.stop(patient=clean)
        self._answers.close()

    def _read(self, read: _Read) -> None:
        self._writer.ask(read)


class _Journal:
    """What the thread does. See `writer.RequestHandler`."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        statements: Statements,
        retention: Retention,
        age_clock: AgeClock,
        ballast: Ballast,
        answers: Answers,
        observe: Observer | None,
    ) -> None:
        self._path = path
        self._connection = connection
        self._statements = statements
        self._retention = retention
        self._age_clock = age_clock
        self._ballast = ballast
        self._answers = answers
        self._observe = observe
        self._clock = SystemClock()
        # Descriptors that only name the files. To close one that could read would drop SQLite's locks on the file.
        places = (path, schema.wal_of(path))
        self._places = [(place, os.open(place, os.O_PATH | os.O_CLOEXEC)) for place in places]
        self._full = False
        self._failed = False
        self.checking = False
        self.clean = False
        self.leaving = threading.Event()
        if not ballast.take():
            self._say_full()

    # --- requests ---

    def serve(self, requests: Sequence[Request]) -> None:
        """In order; commits that stand side by side share a transaction."""
        commits: list[_Commit] = []
        for request in requests:
            if isinstance(request, _Commit):
                if sum(len(commit.rows) for commit in commits) > _ROWS_TOGETHER_MAX:
                    self._commit(commits)
                    commits = []
                commits.append(request)
            else:
                self._commit(commits)
                commits = []
                self._answer(request)
        self._commit(commits)

    def rest(self) -> float | None:
        if self._failed or self._full:
            return None
        try:
            return self._retention.rest()
        except sqlite3.Error as error:
            self._roll_back()
            if schema.is_full(error):
                return None
            self._fail(0, schema.explain(self._path, error))
            return None

    def leave(self) -> None:
        try:
            if not self._failed:
                self._end()
        finally:
            with suppress(sqlite3.Error):
                schema.close(self._connection, self._path)
            self._ballast.remove()
            for _, fd in self._places:
                os.close(fd)
            self._places = []

    def _end(self) -> None:
        """If this fails, it is as if the process had been killed: the next life reads the WAL."""
        while True:
            try:
                schema.end_life(self._connection, self._path, clean=self.clean)
            except sqlite3.Error as error:
                self._roll_back()
                if schema.is_full(error) and self._ballast.release():
                    continue
                self._fail(0, schema.explain(self._path, error))
            except (JournalError, OSError) as error:
                self._fail(0, str(error))
            return

    def _answer(self, request: Request) -> None:
        if isinstance(request, _Check):
            self.checking = False
            if not self._failed:
                self._look()
        elif not self._failed and callable(request):
            try:
                self._answers.put(request(self._statements))
            except sqlite3.Error as error:
                self._fail(0, schema.explain(self._path, error))

    # --- commits ---

    def _commit(self, commits: list[_Commit]) -> None:
        """Nothing is told of a transaction before it is on the disk."""  # R1, R3
        while commits and not self._failed:
            started = self._clock.now()
            try:
                self._store(commits, self._age_clock.date_ns())
            except sqlite3.Error as error:
                self._roll_back()
                if not schema.is_full(error) or not self._make_room():
                    self._fail(commits[0].number, schema.explain(self._path, error))  # R6
                continue
            except JournalError as error:
                self._roll_back()
                self._fail(commits[0].number, f"the journal {self._path}: {error}")
                continue
            if self._observe is not None:
                self._observe(sum(len(commit.rows) for commit in commits), self._clock.now().mono - started.mono)
            self._answers.put(*[Committed(commit.number) for commit in commits])
            return

    def _store(self, commits: list[_Commit], now_wall_ns: int) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._statements.store((row for commit in commits for row in commit.rows), now_wall_ns)
        self._connection.execute("COMMIT")

    def _roll_back(self) -> None:
        self._statements.forget_ids()
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):  # what could not be written cannot always be taken back in good order
                self._connection.execute("ROLLBACK")

    def _fail(self, number: int, text: str) -> None:
        """Nobody knows what is stored now: nothing more is read or written."""
        if not self._failed:
            self._failed = True
            self._answers.put(CommitFailed(number, text))

    # --- room ---

    def _make_room(self) -> bool:
        """The disk is full: give the ballast, or wait for room. False: the store is being closed.

        With the ballast's room the WAL, which is smaller, fits into the database; then the WAL's is room as well."""
        gave = self._ballast.release()
        self._say_full()
        with schema.tolerating_full():
            schema.checkpoint(self._connection, self._path)
        return gave or not self.leaving.wait(_FULL_RETRY_SECONDS)

    def _say_full(self) -> None:
        if not self._full:
            self._full = True
            text = f"the disk of the journal {self._path} is full: make room; until then no job is accepted or sent"
            self._answers.put(DiskFull(True, text))

    def _look(self) -> None:
        """Commits into a file that has lost its name would be lost with the process."""
        for place, fd in self._places:
            if (trouble := _trouble(place, fd)) is not None:
                self._fail(0, trouble)
                return
        if self._full and self._ballast.retake():
            self._full = False
            self._answers.put(DiskFull(False, f"the disk of the journal {self._path} has room again"))


def _begin(connection: sqlite3.Connection, path: Path, epoch: int, ballast: Ballast) -> None:
    """Begins a life, on a full disk at the cost of the ballast, or of what the WAL takes."""
    last_resort = False
    while True:
        try:
            schema.begin_life(connection, path, epoch)
            return
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not schema.is_full(error) or last_resort:
                raise
            if not ballast.release():
                last_resort = True
                schema.checkpoint(connection, path)


def _trouble(place: Path, fd: int) -> str | None:
    ours = os.fstat(fd)
    what = f"{place} was removed or replaced while the journal was open"
    cure = "what was committed since is in the old file only; restart with the right file in its place"
    try:
        now = os.stat(place)
    except OSError as error:
        return f"{what} ({error.strerror}): {cure}"
    if ours.st_nlink == 0 or (ours.st_dev, ours.st_ino) != (now.st_dev, now.st_ino):
        return f"{what}: {cure}"
    return None
