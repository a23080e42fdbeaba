"""What a person can do with a journal while no dealer has it open: look, take out, let go, copy.

Everything here needs the pool to be down and says so when it is not: a second connection to a journal in use could
damage it (file.py, rule 4). Only `prune` and `accept_loss` write.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from taskpool.clock import rfc3339
from taskpool.core.entries import BatchRecord
from taskpool.core.storage import StoredJob
from taskpool.errors import JournalError, counted
from taskpool.journal import file, indexes, schema, trouble
from taskpool.journal.ballast import Ballast
from taskpool.journal.encoding import CORRUPT_KIND
from taskpool.journal.retention import Retention
from taskpool.journal.seal import Examination
from taskpool.journal.statements import WAITING, Statements
from taskpool.messages import Outcome, State

# An export must not hold a batch of a million outcomes in memory.
_OUTCOMES_AT_ONCE = 500
_SINGLY_MAX = 1_000_000  # records that are tried one by one where a page cannot be read
_BYTES_AT_ONCE = 8 * 1024 * 1024
_STATES = ("queued", "running", "quarantined", "finished")
_PROBLEMS_MAX = 100
_BESIDE = ("-shm", ".ballast", ".new", ".seal", ".seal.new")  # what may lie beside a journal and its -wal

_Item = TypeVar("_Item")

_UNBALANCED = (
    "SELECT name FROM (SELECT b.name, b.open, b.quarantined, "
    "(SELECT count(*) FROM jobs j WHERE j.batch = b.id AND j.state < 2) AS open_found, "
    "(SELECT count(*) FROM jobs j WHERE j.batch = b.id AND j.state = 2) AS parked_found "
    "FROM batches b WHERE b.name IS NOT NULL) WHERE open <> open_found OR quarantined <> parked_found"
)
_GAPS = (
    "SELECT name FROM (SELECT b.name, b.accepted, b.recorded, "
    "(SELECT count(*) FROM jobs j WHERE j.batch = b.id) AS jobs_found, "
    "(SELECT count(*) FROM outcomes o WHERE o.batch = b.id) AS outcomes_found "
    "FROM batches b WHERE b.name IS NOT NULL) WHERE accepted <> jobs_found OR recorded <> outcomes_found"
)


class Findings(Struct):
    """What a check found. A problem is a line for a person; damage that stops the reading is the last one."""

    bytes: int
    problems: list[str] = []
    batches: int = 0
    jobs: dict[str, int] = {}  # by state
    outcomes: int = 0

    @property
    def text(self) -> str:
        jobs = ", ".join(f"{count} {state}" for state, count in self.jobs.items() if count) or "none"
        batches = counted(self.batches, "batch", "batches")
        facts = f"{batches}, jobs: {jobs}, {counted(self.outcomes, 'outcome')}, {self.bytes} bytes"
        return "\n".join([*self.problems, facts])


def check(path: Path, lock: Path | None = None) -> Findings:
    """Looks at every page and every record. `lock` is the pool's lock file, held meanwhile.

    Raises JournalError when the file cannot be read at all, or is in use.
    """
    with _reading(path, lock) as (connection, found):
        return Inspection(connection, path, found).findings()


def accept_loss(path: Path, lock: Path | None = None) -> None:
    """Go on with what the database has: its -wal is lost for good. Raises JournalError."""
    with _held(path, lock):
        try:
            file.accept_loss(path)
        except trouble.UNREADABLE as error:
            raise JournalError(trouble.explain(path, error)) from error


def export(path: Path, write: Callable[[bytes], object], lock: Path | None = None, *, failed: bool = False) -> None:
    """Everything as JSON Lines: each batch, then its outcomes; at the end the jobs that wait, run or are in
    quarantine. Bytes are base64. Of a damaged journal, what can be read; then JournalError. `failed`: nothing but
    outcomes of jobs that did not succeed."""
    with _reading(path, lock) as (connection, found):
        salvage = Salvage(connection, path, found.problems)
        salvage.look_for_wal(found)
        for line in salvage.failures() if failed else salvage.lines():
            write(line)
    if salvage.problems:
        raise JournalError(f"the export may lack records: {trouble.damaged(path, '; '.join(salvage.problems))}")


def prune(path: Path, retain_ns: int, retain_batches: int, lock: Path | None = None) -> int:
    """Remove batches as the dealer's retention would, without its period of grace, and give their space back to the
    disk. Return how many batches went. Raises JournalError."""
    with _held(path, lock):
        # On a full disk the dealer has left it: what removes rows needs room first.
        Ballast(Path(f"{path}.ballast")).remove()
        connection = file.connect(path, "FULL")
        try:
            before = _batches(connection)
            retention = Retention(connection, retain_ns, retain_batches, grace_ns=0)
            # All in one go: no dealer waits meanwhile.
            retention.choose(most=before + 1)
            while retention.remove():
                pass
            # The only way to give pages back: SQLite keeps those it has freed for later rows.
            connection.execute("VACUUM")
            after = _batches(connection)
            file.end_life(connection, path, clean=False)  # how the last life ended is still to be told
        except trouble.UNREADABLE as error:
            raise JournalError(trouble.explain(path, error)) from error
        finally:
            file.close(connection, path)
        return before - after


def backup(path: Path, target: Path, lock: Path | None = None) -> None:
    """Copy the journal into one file, whole and without gaps; `target` must not exist. Raises JournalError."""
    try:
        # Made before SQLite opens it, which would make it by the umask: a journal holds arguments and output of jobs,
        # which at no moment may be read by others. An empty file it takes (https://www.sqlite.org/lang_vacuum.html).
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise JournalError(f"{target} is there already: name a file that is not") from None
    except OSError as error:
        raise JournalError(f"the copy {target} could not be made: {error.strerror}") from error
    try:
        with _reading(path, lock) as (connection, found):
            problems = found.problems
            if found.lacks_log(told=any(Statements(connection, 0).in_use())):
                problems = [_missing(path)]
            if problems:
                raise JournalError(trouble.damaged(path, "; ".join(problems)))
            connection.execute("VACUUM INTO ?", (str(target),))
    except (*trouble.UNREADABLE, JournalError) as error:
        target.unlink()  # made here: what is left of it is no copy
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"the copy {target} could not be made: {trouble.explain(path, error)}") from error
    file.accept_loss(target)  # the copy has no -wal and needs none: all of it is inside


def remove(path: Path) -> None:
    """Remove a journal that is not needed any more, and what belongs to it."""
    for place in (path, file.wal_of(path), *(Path(f"{path}{end}") for end in _BESIDE)):
        place.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path, lock: Path | None) -> Iterator[tuple[sqlite3.Connection, Examination]]:
    with _held(path, lock):
        had_wal = os.path.exists(file.wal_of(path))  # unlike Path.exists it does not raise
        found = file.examine(path)
        try:
            connection = file.read_only(path)
        except JournalError as error:
            # SQLite's own words for it are of less use.
            raise JournalError(trouble.damaged(path, "; ".join(found.problems))) if found.problems else error from error
        try:
            with suppress(*trouble.UNREADABLE):  # of what cannot be read it is told by those who read it
                found.problems.extend(indexes.incomplete(connection, whole=True))
            yield connection, found
        finally:
            file.stop_reading(connection, path, had_wal=had_wal)


@contextmanager
def _held(path: Path, lock: Path | None) -> Iterator[None]:
    """Keeps dealers out meanwhile. Without a lock file there was never a dealer."""
    if lock is None or not lock.exists():
        yield
        return
    fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        _take(fd, path, lock)
        yield
    finally:
        os.close(fd)


def _take(fd: int, path: Path, lock: Path) -> None:
    try:
        # The dealer's own lock: while this holds it, none comes up.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(
            f"the journal {path} is in use by the dealer that holds {lock}: stop it first (tp-generator drain)"
        ) from None


def _missing(path: Path) -> str:
    return f"{file.wal_of(path).name} is missing, and with it the newest commits"


def _batches(connection: sqlite3.Connection) -> int:
    return sum(1 for _ in Statements(connection, 0).batches())


def _outcomes(statements: Statements, batch: str, after: int = 0) -> Iterator[Outcome]:
    while items := statements.outcomes(batch, after, _OUTCOMES_AT_ONCE, _BYTES_AT_ONCE):
        yield from items
        after = items[-1].no


def _presented(outcome: Outcome) -> dict[str, Any]:
    fields = _plain(outcome)
    fields["value"] = None if outcome.value is None else msgspec.Raw(outcome.value)  # is JSON already
    for moment in ("queued", "finished"):
        fields[f"{moment}_at"] = rfc3339(fields.pop(f"{moment}_wall_ns"))
    return fields


def _plain(item: Struct) -> dict[str, Any]:
    """With names for all fields, also of what travels as an array."""
    return {name: _plain_value(getattr(item, name)) for name in item.__struct_fields__}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Struct):
        return _plain(value)
    return [_plain_value(each) for each in value] if isinstance(value, tuple) else value


def _line(record: str, fields: dict[str, Any], **more: str) -> bytes:
    return msgspec.json.encode({"record": record, **more, **fields}) + b"\n"


class Salvage:
    """Reads a journal out, past what cannot be read of it, which it adds to `problems`."""

    def __init__(self, connection: sqlite3.Connection, path: Path, problems: list[str]) -> None:
        self._statements = Statements(connection, 0)
        self._path = path
        self._stopped = False  # what was read last did not get to its end
        self.problems = list(problems)

    def look_for_wal(self, found: Examination) -> None:
        """`found` before SQLite opened the file."""
        for told in self._read(self._statements.in_use):
            if found.lacks_log(told=told):
                self.problems.append(_missing(self._path))

    def lines(self) -> Iterator[bytes]:
        """See `export`."""
        for batch in self._read(self._statements.batches):
            yield _line("batch", _plain(batch))
            for outcome in self._outcomes(batch):
                yield _line("outcome", _presented(outcome), batch=batch.name)
        for state in WAITING:
            for job in self._jobs(state):
                fields = {**_plain(job.record), **_plain(job.counts), "corrupt": job.corrupt}
                yield _line("job", fields, state=_STATES[state])

    def failures(self) -> Iterator[bytes]:
        """The outcomes of jobs that did not succeed; not of those that were cancelled, which was asked for."""
        for batch in self._read(self._statements.batches):
            for outcome in self._outcomes(batch):
                if outcome.state not in (State.SUCCEEDED, State.CANCELLED):
                    yield _line("outcome", _presented(outcome), batch=batch.name)

    def _outcomes(self, batch: BatchRecord) -> Iterator[Outcome]:
        last = 0
        for outcome in self._read(lambda: _outcomes(self._statements, batch.name)):
            last = outcome.no
            yield outcome
        if self._stopped:  # a page cannot be read, and behind it there are more
            for no in range(last + 1, min(batch.recorded, last + _SINGLY_MAX) + 1):
                yield from self._read(partial(self._statements.outcomes, batch.name, no - 1, 1, 1, upto=no))

    def _jobs(self, state: int) -> Iterator[StoredJob]:
        told: set[int] = set()
        for job in self._read(partial(self._statements.in_state, state)):
            told.add(job.record.ordinal)
            yield job
        if self._stopped:
            last = max(self._read(self._statements.last_ordinal), default=0)
            for ordinal in range(1, min(last, _SINGLY_MAX) + 1):
                if ordinal not in told:
                    yield from self._read(partial(self._statements.in_state, state, ordinal))

    def _read(self, items: Callable[[], Iterable[_Item]]) -> Iterator[_Item]:
        self._stopped = False
        try:
            yield from items()
        except trouble.UNREADABLE as error:
            self._stopped = True
            if (said := trouble.said(error)) not in self.problems:
                self.problems.append(said)


# --- the check ---


class Inspection:
    """Looks at everything in a journal: SQLite's own check, every checksum, and whether the counts add up."""

    def __init__(self, connection: sqlite3.Connection, path: Path, found: Examination) -> None:
        """`found` before SQLite opened the file."""
        self._connection = connection
        self._path = path
        self._found = found
        self._problems = list(found.problems)
        self._batches = 0
        self._outcomes = 0
        self._jobs: dict[str, int] = {}

    def findings(self) -> Findings:
        self._look_at_file()
        try:
            self._look_at_records()
        except trouble.UNREADABLE as error:
            self._problems.append(trouble.said(error))
        size = sum(place.stat().st_size for place in (self._path, file.wal_of(self._path)) if place.exists())
        return Findings(size, self._problems[:_PROBLEMS_MAX], self._batches, self._jobs, self._outcomes)

    def _look_at_file(self) -> None:
        meta: dict[Any, Any] = dict(self._rows("SELECT key, value FROM meta"))
        if meta.get("sentinel") != schema.SENTINEL:
            self._problems.append("its sentinel row is missing")
        if self._found.lacks_log(told=bool(meta.get("wal"))):
            self._problems.append(_missing(self._path))
        lines = [line for (line,) in self._rows(f"PRAGMA integrity_check({_PROBLEMS_MAX})")]
        self._problems += [f"SQLite: {line}" for line in lines if line != "ok"]

    def _look_at_records(self) -> None:
        statements, problems = Statements(self._connection, 0), self._problems
        for batch in statements.batches():
            self._batches += 1
            self._look_at_outcomes(statements, batch)
        problems += [
            f"batch {name}: its limits are damaged; its jobs without limits of their own will be failed"
            for name in statements.batches_without_limits()
        ]
        states = self._connection.execute("SELECT state, count(*) FROM jobs GROUP BY state")
        self._jobs = {_STATES[state]: count for state, count in states}
        problems += [
            f"job {job.record.batch}/{job.record.seq}: its record is damaged; it will be failed, not run"
            for state in WAITING
            for job in statements.in_state(state)
            if job.corrupt
        ]
        for statement, what in ((_UNBALANCED, "open jobs"), (_GAPS, "jobs or outcomes")):
            names = self._connection.execute(statement)
            problems += [f"batch {name}: its count of {what} is wrong" for (name,) in names]

    def _look_at_outcomes(self, statements: Statements, batch: BatchRecord) -> None:
        for outcome in _outcomes(statements, batch.name):
            self._outcomes += 1
            if outcome.kind == CORRUPT_KIND:
                where = f"outcome {outcome.no} of job {batch.name}/{outcome.seq}"
                self._problems.append(f"{where}: its record is damaged")

    def _rows(self, statement: str) -> list[Any]:
        try:
            return self._connection.execute(statement).fetchall()
        except trouble.UNREADABLE as error:
            self._problems.append(trouble.said(error))
            return []
