"""What the journal's thread does: group commits, reads, a full disk, and a look whether the file is still there.

Commits that wait together share one transaction, so one sync; each has an answer of its own.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from taskpool import limits
from taskpool.clock import Clock, SystemClock
from taskpool.core.storage import Commit, CommitFailed, Committed, DiskFull, FindBatch, Question, StoreRequest
from taskpool.errors import JournalError
from taskpool.journal import file, trouble
from taskpool.journal.ballast import BALLAST_BYTES, Ballast
from taskpool.journal.retention import AgeClock, Retention
from taskpool.journal.seal import Seal
from taskpool.journal.statements import Statements
from taskpool.journal.thread import Answers

_ENTRIES_TOGETHER_MAX = 20_000  # in one transaction: more would hold the answers of the first for too long
# Short enough that work goes on soon after room was made, long enough that a full disk costs no processor time.
_FULL_RETRY_SECONDS = 0.25
_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}  # https://www.sqlite.org/pragma.html#pragma_synchronous
assert file.WAL_BYTES_MAX * 2 <= BALLAST_BYTES  # what the ballast gives takes the WAL into the database

Observer = Callable[[int, int], None]


class JournalOptions(Struct, frozen=True):
    """How a journal is kept. `sync` is full (what is committed survives a loss of power) or normal (it survives any
    kill of the process, but the last moments before a loss of power may be gone)."""

    sync: str = "full"
    retain_ns: int = limits.RETAIN_NS
    retain_batches: int = limits.RETAIN_BATCHES_MAX
    retain_grace_ns: int = limits.RETAIN_GRACE_NS
    ballast_bytes: int = BALLAST_BYTES


class Check:
    """A request that only the engine knows: look at the file."""


Request = StoreRequest | Check


class Engine:
    """One life of a journal, from the opening of its file on. `restored` is what the life before left.

    The constructor may take as long as the disk does; it raises JournalError for whatever is wrong with the file. After
    it, everything but the attributes is the thread's.
    """

    def __init__(self, path: Path, epoch: int, options: JournalOptions, clock: Clock | None, observe: Observer) -> None:
        """`observe` is called on the thread after each transaction: (entries, duration in nanoseconds)."""
        self._path = path
        self._observe = observe
        self._clock = SystemClock()
        # One connection for everything, used by one thread: SQLite then needs no locks against ourselves, and a
        # commit's sync is the only wait.
        self._connection = file.connect(path, _SYNCHRONOUS[options.sync])
        try:
            self._statements = Statements(self._connection, epoch)
            # Read before this life begins: then the journal no longer tells how the last one ended.
            self.restored = self._statements.restore()
            self._age_clock = AgeClock(clock)
            self._retention = Retention(
                self._connection,
                options.retain_ns,
                options.retain_batches,
                grace_ns=options.retain_grace_ns,
                age_clock=self._age_clock,
                on_choice=self._statements.forget_ids,
            )
            self._ballast = Ballast(Path(f"{path}.ballast"), options.ballast_bytes)
            self._epoch = epoch
            # From here on a crash of this dealer is an unclean end for the next one. On a full disk that comes with the
            # first commit: until then nothing of this life is stored or sent.
            self._begun = _begin(self._connection, path, epoch, self._ballast)
            self.answers = Answers()
            # Descriptors that only name the files. To close one that could read would drop SQLite's locks on the file,
            # because POSIX locks go with any descriptor of the process (fcntl(2)).
            # Both: a -wal that was removed takes the newest commits with it, whatever becomes of the database.
            places = (path, file.wal_of(path))
            self._places = [(place, os.open(place, os.O_PATH | os.O_CLOEXEC)) for place in places]
            self._seal = Seal(path, file.wal_of(path))
        except trouble.UNREADABLE as error:
            file.close(self._connection, path)
            raise JournalError(trouble.explain(path, error)) from error
        except BaseException:
            file.close(self._connection, path)
            raise
        self._full = False
        self._failed = False
        self._checking = False
        self._clean = False
        # Set by the loop and waited for by the thread: the only thing besides the answers that both touch.
        self._closing = threading.Event()
        # Without it a full disk would leave no room for outcomes of jobs that run already.
        if not (self._ballast.take() and self._begun):
            self._say_full()

    # --- called by the loop ---

    def wants_check(self) -> bool:
        """Whether no look is under way: one that a slow disk holds up must not be followed by a line of others."""
        if self._checking:
            return False
        self._checking = True
        return True

    def begin_close(self, *, clean: bool) -> None:
        """The last request is on its way. A wait for room on the disk ends now."""
        self._clean = clean
        self._closing.set()

    # --- requests, on the thread ---

    def handle(self, requests: Sequence[Request]) -> None:
        """In order; commits that stand side by side share a transaction."""
        commits: list[Commit] = []
        for request in requests:
            if isinstance(request, Commit):
                # A transaction of any size would let the loop wait for its first answer for ever longer.
                if sum(len(commit.entries) for commit in commits) > _ENTRIES_TOGETHER_MAX:
                    self._commit(commits)
                    commits = []
                commits.append(request)
            else:
                self._commit(commits)  # a read sees every commit requested before it
                commits = []
                self._answer(request)
        self._commit(commits)

    def idle(self) -> float | None:
        """Do a little retention; return the seconds until more may be due, None when nothing is."""
        # Nothing may be written after a failure, and retention needs room itself: to remove rows fills the WAL first.
        if self._failed or self._full:
            return None
        before = self._connection.total_changes
        try:
            due = self._retention.step()
        except sqlite3.Error as error:
            self._roll_back()
            if not self._lacks_room(error):
                self._fail(trouble.explain(self._path, error))
            return None
        if self._connection.total_changes != before:
            self._note()
        return due

    def close(self) -> None:
        try:
            if not self._failed:
                self._end_life()
        finally:
            with suppress(sqlite3.Error):
                file.close(self._connection, self._path)
            self._seal.close()
            # On a full disk it is what the next life can begin with.
            if not self._full:
                self._ballast.remove()
            for _, fd in self._places:
                os.close(fd)
            self._places = []

    def _end_life(self) -> None:
        """If this fails, it is as if the process had been killed: the next life reads the WAL."""
        while self._begun:
            try:
                file.end_life(self._connection, self._path, clean=self._clean)
            except sqlite3.Error as error:
                self._roll_back()
                # The last checkpoint writes into the database; the ballast is there for just that.
                if self._lacks_room(error) and self._ballast.release():
                    continue
                self._fail(trouble.explain(self._path, error))
            except (JournalError, OSError) as error:
                self._fail(str(error))
            return

    def _answer(self, request: Question | Check) -> None:
        if isinstance(request, Check):
            self._checking = False
            if not self._failed:
                self._look()
        elif not self._failed:
            try:
                self.answers.put(self._statements.answer(request, self._age_clock.date_ns()))
                if isinstance(request, FindBatch):  # which dates the batch
                    self._note()
            except trouble.UNREADABLE as error:
                self._fail(trouble.explain(self._path, error))

    # --- commits ---

    def _commit(self, commits: list[Commit]) -> None:
        """Store them; nothing is told of a transaction before it is on the disk."""
        # R1, R3 (docs/protocol.md, 11)
        while commits and not self._failed:
            # Per try: a wait for room on the disk is no commit time.
            started = self._clock.now()
            try:
                self._begin()
                self._store(commits, self._age_clock.date_ns())
            except (sqlite3.Error, OSError) as error:
                self._roll_back()
                # Anything but a full disk: SQLite cannot tell how much of the transaction is on it, and nor can this
                # thread.
                if not self._lacks_room(error) or not self._make_room():
                    self._fail(trouble.explain(self._path, error))  # R6 (docs/protocol.md, 11)
                continue
            except JournalError as error:
                self._roll_back()
                self._fail(f"the journal {self._path}: {error}")
                continue
            self._note()  # before the answers: what is told of is never less than what the seal claims
            self._observe(sum(len(commit.entries) for commit in commits), self._clock.now().mono - started.mono)
            self.answers.put(*[Committed(commit.number) for commit in commits])
            return

    def _begin(self) -> None:
        if not self._begun:
            file.begin_life(self._connection, self._path, self._epoch)
            self._begun = True

    def _store(self, commits: list[Commit], now_wall_ns: int) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._statements.store((entry for commit in commits for entry in commit.entries), now_wall_ns)
        self._connection.execute("COMMIT")

    def _note(self) -> None:
        """Tell the seal of what was just stored, and copy the WAL into the database when it is long enough."""
        try:
            with suppress(OSError):  # what the seal told before is still true
                self._seal.note()
            if self._seal.frames < file.WAL_PAGES_MAX:
                return
            with trouble.tolerating_full():
                self._seal.fold(file.copy_wal(self._connection), emptied=False)
        except (sqlite3.Error, OSError) as error:
            self._fail(trouble.explain(self._path, error))

    def _roll_back(self) -> None:
        self._statements.forget_ids()
        if self._connection.in_transaction:
            # SQLite may have rolled back by itself already
            # (https://www.sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction).
            with suppress(sqlite3.Error):  # what could not be written cannot always be taken back in good order
                self._connection.execute("ROLLBACK")

    def _fail(self, text: str) -> None:
        """What is stored is unknown now: nothing more is read or written."""
        if not self._failed:
            self._failed = True
            self.answers.put(CommitFailed(text))

    # --- room ---

    def _lacks_room(self, error: sqlite3.Error | OSError) -> bool:
        return _is_full(error, self._ballast)

    def _make_room(self) -> bool:
        """The disk is full: give the ballast, or wait for room. False: the store is being closed.

        With the ballast's room the WAL, which is smaller, fits into the database; then the WAL's is room as well."""
        gave = self._ballast.release()
        self._say_full()
        with trouble.tolerating_full():
            file.checkpoint(self._connection, self._path, self._seal)
        return gave or not self._closing.wait(_FULL_RETRY_SECONDS)

    def _say_full(self) -> None:
        if not self._full:
            self._full = True
            text = (
                f"the disk of the journal {self._path} is full{self._ballast.reason}: make room, "
                f"{self._ballast.need >> 20} MiB; until then no job is accepted or sent"
            )
            self.answers.put(DiskFull(True, text))

    def _look(self) -> None:
        """Commits into a file that has lost its name would be lost with the process."""
        for place, fd in self._places:
            if (lost := _lost_name(place, fd)) is not None:
                self._fail(lost)
                return
        if self._full and self._ballast.retake():
            try:
                self._begin()
            except (sqlite3.Error, OSError, JournalError) as error:
                self._roll_back()
                if isinstance(error, JournalError) or not self._lacks_room(error):
                    self._fail(trouble.explain(self._path, error))
                return
            self._full = False
            self.answers.put(DiskFull(False, f"the disk of the journal {self._path} has room again"))


def _is_full(error: sqlite3.Error | OSError, ballast: Ballast) -> bool:
    return trouble.is_full(error) or (trouble.is_refused(error) and ballast.is_refused())


def _begin(connection: sqlite3.Connection, path: Path, epoch: int, ballast: Ballast) -> bool:
    """Begin a life, on a full disk at the cost of the ballast, or of what the WAL takes. Whether there was room."""
    last_resort = False
    while True:
        try:
            file.begin_life(connection, path, epoch)
            return True
        except (sqlite3.Error, OSError) as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if not _is_full(error, ballast):
                raise
            if last_resort:
                return False
            if not ballast.release():
                # With the WAL copied into the database its room is free; there is nothing else to give.
                last_resort = True
                with trouble.tolerating_full():
                    file.checkpoint(connection, path)


def _lost_name(place: Path, fd: int) -> str | None:
    # By inode and not by name: a backup tool may put a copy under the name, and commits would go to the file that lost
    # it.
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
