"""What a person can do with a journal while no dealer has it open: look, take out, let go, copy.

Everything here needs the pool to be down and says so when it is not: a second connection to a journal in use could
damage it (schema.py). Only `prune` and `accept_loss` write.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from taskpool.clock import rfc3339
from taskpool.errors import JournalError
from taskpool.journal import audit, schema
from taskpool.journal.retention import Retention
from taskpool.journal.statements import Statements
from taskpool.messages import Outcome

_OUTCOMES_AT_ONCE = 500
_BYTES_AT_ONCE = 8 * 1024 * 1024


class Findings(Struct):
    """What a check found."""

    problems: list[str]
    batches: int
    jobs: dict[str, int]  # by state
    outcomes: int
    bytes: int

    @property
    def text(self) -> str:
        jobs = ", ".join(f"{count} {state}" for state, count in self.jobs.items() if count) or "none"
        facts = f"{self.batches} batches, jobs: {jobs}, {self.outcomes} outcomes, {self.bytes} bytes"
        return "\n".join([*self.problems, facts])


def check(path: Path, lock: Path | None = None) -> Findings:
    """Looks at every page and every record. `lock` is the pool's lock file, held meanwhile.

    Raises JournalError when the file cannot be read at all, or is in use.
    """
    had_wal = os.path.exists(schema.wal_of(path))
    with _reading(path, lock) as connection:
        problems, counts = audit.audit(connection, path, had_wal=had_wal)
        size = sum(place.stat().st_size for place in (path, schema.wal_of(path)) if place.exists())
        return Findings(problems, counts.batches, counts.jobs, counts.outcomes, size)


def accept_loss(path: Path, lock: Path | None = None) -> None:
    """The -wal is gone and is not coming back: go on with what the database has."""
    with _held(path, lock):
        try:
            schema.accept_loss(path)
        except sqlite3.Error as error:
            raise JournalError(schema.explain(path, error)) from error


def export(path: Path, write: Callable[[bytes], object], lock: Path | None = None) -> None:
    """Everything as JSON Lines: each batch, then its outcomes; at the end the jobs that wait, run or are in
    quarantine. Bytes are base64. Of a damaged journal, what can be read; then JournalError."""
    with _reading(path, lock) as connection:
        statements = Statements(connection, 0)
        try:
            for batch in statements.batches():
                write(_line("batch", _plain(batch)))
                for outcome in _outcomes(statements, batch.name):
                    write(_line("outcome", _presented(outcome), batch=batch.name))
            for state, job in statements.waiting():
                write(_line("job", _plain(job), state=state.value))
        except sqlite3.Error as error:
            raise JournalError(f"the export is not complete: {schema.explain(path, error)}") from error


def prune(path: Path, retain_ns: int, retain_batches: int, lock: Path | None = None) -> int:
    """Removes batches as the dealer's retention would, without its period of grace, and gives their space back to
    the disk. How many batches went."""
    with _held(path, lock):
        connection = schema.connect(path, "FULL")
        try:
            before = _batches(connection)
            retention = Retention(connection, retain_ns, retain_batches, grace_ns=0)
            retention.condemn(most=before + 1)
            while retention.remove():
                pass
            connection.execute("VACUUM")
            after = _batches(connection)
            schema.end_life(connection, path, clean=False)  # how the last life ended is still to be told
        except sqlite3.Error as error:
            raise JournalError(schema.explain(path, error)) from error
        finally:
            schema.close(connection, path)
        return before - after


def backup(path: Path, target: Path, lock: Path | None = None) -> None:
    """A copy in one file, whole and without gaps; `target` must not exist."""
    if os.path.lexists(target):
        raise JournalError(f"{target} is there already: name a file that is not")
    with _reading(path, lock) as connection:
        try:
            connection.execute("VACUUM INTO ?", (str(target),))
        except sqlite3.Error as error:
            raise JournalError(f"the copy {target} could not be made: {schema.explain(path, error)}") from error
    target.chmod(0o600)
    schema.accept_loss(target)  # the copy has no -wal and needs none: all of it is inside


def remove(path: Path) -> None:
    """Removes a journal that nobody needs any more, and what belongs to it."""
    for place in (path, schema.wal_of(path), Path(f"{path}-shm"), Path(f"{path}.ballast"), Path(f"{path}.new")):
        place.unlink(missing_ok=True)


@contextmanager
def _reading(path: Path, lock: Path | None) -> Iterator[sqlite3.Connection]:
    with _held(path, lock):
        had_wal = os.path.exists(schema.wal_of(path))  # unlike Path.exists it does not raise
        connection = schema.read_only(path)
        try:
            yield connection
        finally:
            schema.stop_reading(connection, path, had_wal=had_wal)


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
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(
            f"the journal {path} is in use by the dealer that holds {lock}: stop it first (tp-generator drain)"
        ) from None


def _batches(connection: sqlite3.Connection) -> int:
    return sum(1 for _ in Statements(connection, 0).batches())


def _outcomes(statements: Statements, batch: str) -> Iterator[Outcome]:
    after = 0
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
    values = ((name, getattr(item, name)) for name in item.__struct_fields__)
    return {name: _plain(value) if isinstance(value, Struct) else value for name, value in values}


def _line(record: str, fields: dict[str, Any], **more: str) -> bytes:
    return msgspec.json.encode({"record": record, **more, **fields}) + b"\n"
