"""What is written to the journal's tables and read from them.

Rules of this file:
1. Writing happens inside a transaction that the caller begins and ends; a read is one statement.
2. No statement costs more when more jobs wait or more outcomes are kept: each finds its rows by an index.
3. A job has one outcome per run: a second one is an error of the program and ends the transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from taskpool.core.entries import AttemptMade, Entry, JobAccepted, OutcomeRecorded
from taskpool.core.events import InFlight, Restored, StoredBatch, StoredJob
from taskpool.errors import JournalError
from taskpool.journal import encoding
from taskpool.journal.coalesce import BatchChange, Changes, fold
from taskpool.journal.schema import tolerating_full
from taskpool.messages import DEFAULT_LIMITS, Outcome, State

_BATCHES_KNOWN_MAX = 1024

_TOGETHER = 32  # rows in one statement: fewer calls, and each gives the interpreter away


def _together(head: str, row: str, tail: str = "") -> tuple[str, str]:
    """A statement for one row, and for as many as go together."""
    return head + row + tail, head + ", ".join([row] * _TOGETHER) + tail


_INSERT_JOBS = _together(
    "INSERT INTO jobs (ordinal, batch, seq, rank, queued_wall_ns, digest, crc, spec, state, run, tries, failures, "
    "crashes, unclean, epoch, n) VALUES ",
    "(?, ?, ?, ?, ?, ?, ?, ?, 0, 1, 0, 0, 0, 0, 0, 0)",
)
_INSERT_OUTCOMES = _together("INSERT INTO outcomes VALUES ", "(?, ?, ?, ?, ?, ?)")
_FINISH_JOBS = _together("UPDATE jobs SET state = 3, spec = NULL WHERE ordinal IN (", "?", ") AND state < 3")
_RETURN_JOB = (
    "UPDATE jobs SET state = 0, run = ?, tries = ?, failures = ?, crashes = ?, unclean = ? "
    "WHERE ordinal = ? AND state < 3"
)
_SEND_JOB = "UPDATE jobs SET state = 1, epoch = ?, n = ?, tries = ? WHERE ordinal = ? AND state < 2"
# A job that is in quarantine may come there again by a later run only, when its return was folded into that run's end.
_PARK_JOB = (
    "UPDATE jobs SET state = 2, run = ?, tries = ?, crashes = ? "
    "WHERE ordinal = ? AND (state < 2 OR state = 2 AND run < ?)"
)
_LEAVE_QUARANTINE = (
    "UPDATE batches SET open = open + ?, quarantined = quarantined - 1, changed_wall_ns = ?, "
    "finished_wall_ns = CASE WHEN ? = 0 THEN finished_wall_ns END "
    "WHERE id = (SELECT batch FROM jobs WHERE ordinal = ? AND state = 2)"
)
_CHANGE_BATCH = (
    "UPDATE batches SET accepted = max(accepted, ?), total = coalesce(?, total), recorded = max(recorded, ?), "
    "acknowledged = max(acknowledged, ?), open = open + ?, quarantined = quarantined + ?, "
    "cancelled = max(cancelled, ?), changed_wall_ns = ? WHERE id = ?"
)
_FINISH_BATCH = (
    "UPDATE batches SET finished_wall_ns = CASE WHEN open = 0 AND accepted = total "
    "THEN coalesce(finished_wall_ns, ?) END WHERE id = ?"
)
# A flipped bit can turn a blob into text, which Python would not even let us look at; hence the casts.
_JOB = (
    "SELECT j.ordinal, b.name, j.seq, j.run, j.tries, j.failures, j.crashes, j.unclean, -j.rank, j.queued_wall_ns, "
    "CAST(j.spec AS BLOB), j.crc, CAST(b.limits AS BLOB), b.crc, j.epoch, j.n "
    "FROM jobs j JOIN batches b ON b.id = j.batch "
)
# Two statements, because SQLite does not use both columns of the index for (rank, ordinal) > (?, ?).
_QUEUED_SAME_RANK = (
    _JOB + "WHERE j.state = 0 AND j.state < 3 AND j.rank = ? AND j.ordinal > ? ORDER BY j.ordinal LIMIT ?"
)
_QUEUED_LOWER_RANK = _JOB + "WHERE j.state = 0 AND j.state < 3 AND j.rank > ? ORDER BY j.rank, j.ordinal LIMIT ?"
_IN_STATE = _JOB + "WHERE j.state = ? AND j.state < 3 ORDER BY j.rank, j.ordinal"
_BATCH = (
    "SELECT name, CAST(limits AS BLOB), crc, accepted, total, recorded, acknowledged, open, cancelled FROM batches "
)


class Statements:
    """The journal's content, over the one connection."""

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        self._connection = connection
        self._epoch = epoch
        self._ids: dict[str, int] = {}  # of batches; a copy, so that a row need not look its batch up
        self._limits: tuple[bytes, int, bool] = (b"", 0, False)  # those looked at last, and whether they are lost

    # --- writing ---

    def store(self, rows: Iterable[Entry], now_wall_ns: int) -> None:
        """Raises sqlite3.Error, or JournalError for rows that contradict what is stored."""
        for changes in fold(rows):
            self._apply(changes, now_wall_ns)
            if changes.forgotten is not None:
                self._connection.execute("UPDATE batches SET name = NULL WHERE name = ?", (changes.forgotten,))
                self._ids.pop(changes.forgotten, None)

    def forget_ids(self) -> None:
        """After a roll-back, and when batches were let go of: what was learnt may hold no more."""
        self._ids.clear()

    def _apply(self, changes: Changes, now_wall_ns: int) -> None:
        many = self._connection.executemany
        for row in changes.opened:
            limits = (row.batch, *encoding.pack_limits(row.limits), now_wall_ns)
            self._connection.execute(
                "INSERT INTO batches (name, limits, crc, changed_wall_ns) VALUES (?, ?, ?, ?)", limits
            )
        if changes.accepted:
            self._write(_INSERT_JOBS, [self._job_values(row) for row in changes.accepted])
        if changes.leaving_quarantine:
            # Plain question marks, with values said twice: Python 3.12.0 to 3.12.3 warn of numbered ones.
            left = [(opened, now_wall_ns, opened, ordinal) for opened, ordinal in changes.leaving_quarantine]
            many(_LEAVE_QUARANTINE, left)
        if changes.returned:
            returned = changes.returned.values()
            many(_RETURN_JOB, [(r.run, r.tries, r.failures, r.crashes, r.unclean_exits, r.ordinal) for r in returned])
        sent = [row for row in changes.last.values() if isinstance(row, AttemptMade)]
        if sent:
            many(_SEND_JOB, [(self._epoch, row.n, row.try_, row.ordinal) for row in sent])
        if changes.outcomes:
            self._write(_INSERT_OUTCOMES, [self._outcome_values(row) for row in changes.outcomes])
            self._end_jobs([row for row in changes.last.values() if isinstance(row, OutcomeRecorded)])
        if changes.dropped:
            self._write(_FINISH_JOBS, [(ordinal,) for ordinal in changes.dropped])
        for name, change in changes.batches.items():
            self._count(name, change, now_wall_ns)

    def _end_jobs(self, rows: list[OutcomeRecorded]) -> None:
        finished: list[tuple[Any, ...]] = [(row.ordinal,) for row in rows if row.outcome.state is not State.QUARANTINED]
        parked = [
            (row.outcome.run, row.outcome.attempts, row.outcome.crashes, row.ordinal, row.outcome.run)
            for row in rows
            if row.outcome.state is State.QUARANTINED
        ]
        changed = self._write(_FINISH_JOBS, finished)
        if parked:
            changed += self._connection.executemany(_PARK_JOB, parked).rowcount
        if changed != len(rows):
            raise JournalError(
                f"{len(rows) - changed} outcomes are of jobs that have one already, or that were never accepted"
            )

    def _write(self, statements: tuple[str, str], rows: list[tuple[Any, ...]]) -> int:
        """How many rows were written."""
        single, together = statements
        whole = len(rows) - len(rows) % _TOGETHER
        written = 0
        for start in range(0, whole, _TOGETHER):
            values = [value for row in rows[start : start + _TOGETHER] for value in row]
            written += self._connection.execute(together, values).rowcount
        if whole < len(rows):
            written += self._connection.executemany(single, rows[whole:]).rowcount
        return written

    def _count(self, name: str, change: BatchChange, now_wall_ns: int) -> None:
        if change.only_marks and self.batch(name) is None:
            return  # retention was quicker than its reader, or than whoever cancels it
        batch_id = self._id(name)
        levels = (change.accepted, change.total, change.recorded, change.acknowledged)
        steps = (change.open, change.quarantined, change.cancelled)
        self._connection.execute(_CHANGE_BATCH, (*levels, *steps, now_wall_ns, batch_id))
        self._connection.execute(_FINISH_BATCH, (now_wall_ns, batch_id))

    def _job_values(self, row: JobAccepted) -> tuple[Any, ...]:
        spec, crc = encoding.pack_job(row)
        return row.ordinal, self._id(row.batch), row.seq, -row.priority, row.queued_wall_ns, row.digest, crc, spec

    def _outcome_values(self, row: OutcomeRecorded) -> tuple[Any, ...]:
        body, crc = encoding.pack_outcome(row)
        return self._id(row.batch), row.outcome.no, row.outcome.seq, row.outcome.run, crc, body

    def _id(self, name: str) -> int:
        known = self._ids.get(name)
        if known is not None:
            return known
        row = self._connection.execute("SELECT id FROM batches WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise JournalError(f"batch {name} is not in the journal")
        if len(self._ids) >= _BATCHES_KNOWN_MAX:
            self._ids.clear()
        self._ids[name] = row[0]
        return int(row[0])

    # --- reading ---

    def restore(self) -> Restored | None:
        """None: nothing was ever accepted into what is kept."""
        (clean,) = self._connection.execute("SELECT value FROM meta WHERE key = 'clean'").fetchone()
        (ordinal,) = self._connection.execute("SELECT coalesce(max(ordinal), 0) FROM jobs").fetchone()
        in_flight = [InFlight(row[14], row[15], self._job(row)) for row in self._connection.execute(_IN_STATE, (1,))]
        quarantined = [self._job(row) for row in self._connection.execute(_IN_STATE, (2,))]
        live = self._connection.execute(_BATCH + "WHERE open > 0 OR quarantined > 0 ORDER BY id")
        batches = [self._stored_batch(row) for row in live]
        if clean and not ordinal:
            return None
        return Restored(not clean, ordinal, batches, in_flight, quarantined, [])

    def queued(self, after: tuple[int, int], limit: int, bytes_max: int) -> tuple[list[StoredJob], bool]:
        """(jobs, whether there are more)"""
        jobs: list[StoredJob] = []
        bytes_left = bytes_max
        for row in self._queued(after, limit + 1):
            job = self._job(row)
            bytes_left -= len(job.spec.payload)
            if len(jobs) == limit or (jobs and bytes_left < 0):
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _queued(self, after: tuple[int, int], limit: int) -> Iterator[Any]:
        rank, ordinal = after
        yield from self._connection.execute(_QUEUED_SAME_RANK, (rank, ordinal, limit))
        yield from self._connection.execute(_QUEUED_LOWER_RANK, (rank, limit))

    def outcomes(self, batch: str, after: int, limit: int, bytes_max: int) -> list[Outcome]:
        """As many as are asked for and fit, but at least one if there is one."""
        cursor = self._connection.execute(
            "SELECT no, seq, run, CAST(body AS BLOB), crc FROM outcomes "
            "WHERE batch = (SELECT id FROM batches WHERE name = ?) AND no > ? ORDER BY no LIMIT ?",
            (batch, after, limit),
        )
        items: list[Outcome] = []
        for row in cursor:
            bytes_max -= len(row[3])
            if items and bytes_max < 0:
                break
            items.append(encoding.unpack_outcome(*row))
        return items

    def batch(self, name: str) -> StoredBatch | None:
        row = self._connection.execute(_BATCH + "WHERE name = ?", (name,)).fetchone()
        return None if row is None else self._stored_batch(row)

    def find(self, name: str, now_wall_ns: int) -> StoredBatch | None:
        """The batch, which counts as used now: retention must not take it from whoever is about to read it."""
        found = self.batch(name)
        if found is not None:
            with tolerating_full():
                self._connection.execute("UPDATE batches SET changed_wall_ns = ? WHERE name = ?", (now_wall_ns, name))
        return found

    def batches(self) -> Iterator[StoredBatch]:
        """All of them, in the order in which they were opened."""
        for row in self._connection.execute(_BATCH + "WHERE name IS NOT NULL ORDER BY id"):
            yield self._stored_batch(row)

    def batches_without_limits(self) -> list[str]:
        """Those whose limits are damaged."""
        rows = self._connection.execute("SELECT name, CAST(limits AS BLOB), crc FROM batches WHERE name IS NOT NULL")
        return [name for name, body, crc in rows if encoding.unpack_limits(body, crc) is None]

    def waiting(self) -> Iterator[tuple[State, StoredJob]]:
        """Every job without an outcome of its present run, and those in quarantine."""
        for number, state in enumerate((State.QUEUED, State.RUNNING, State.QUARANTINED)):
            for row in self._connection.execute(_IN_STATE, (number,)):
                yield state, self._job(row)

    def digests(self, batch: str, first_seq: int, count: int) -> list[bytes]:
        rows = self._connection.execute(
            "SELECT digest FROM jobs WHERE batch = (SELECT id FROM batches WHERE name = ?) AND seq >= ? AND seq < ? "
            "ORDER BY seq",
            (batch, first_seq, first_seq + count),
        )
        return [digest for (digest,) in rows]

    def _job(self, row: Any) -> StoredJob:
        return encoding.unpack_job(row[:10], row[10], row[11], limits_lost=self._are_lost(row[12], row[13]))

    def _are_lost(self, limits: bytes, crc: int) -> bool:
        """Jobs of one batch come in a row, so their batch's limits are looked at once."""
        known, known_crc, lost = self._limits
        if limits != known or crc != known_crc:
            lost = encoding.unpack_limits(limits, crc) is None
            self._limits = limits, crc, lost
        return lost

    @staticmethod
    def _stored_batch(row: Any) -> StoredBatch:
        """Jobs that need limits which are lost come back as corrupt, so that nothing runs without its own."""
        name, limits, crc, accepted, total, recorded, acknowledged, open_jobs, cancelled = row
        known = encoding.unpack_limits(limits, crc) or DEFAULT_LIMITS
        return StoredBatch(name, known, accepted, total, recorded, acknowledged, open_jobs, cancelled == 1)
