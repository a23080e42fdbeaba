"""What is written to the journal's tables and read from them.

Rules of this file:
1. Writing happens inside a transaction that the caller begins and ends; a read is one statement.
2. No statement costs more when more jobs wait or more outcomes are kept: each finds its rows by an index.
3. A job has one outcome per run: a second one is an error of the program and ends the transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from taskpool import limits
from taskpool.core.entries import AttemptMade, BatchRecord, Entry, JobAccepted, JobReturned, OutcomeRecorded
from taskpool.core.storage import (
    BatchFound,
    DigestsLoaded,
    EndedLoaded,
    FindBatch,
    InFlight,
    LoadDigests,
    Loaded,
    LoadEnded,
    LoadJobs,
    LoadOutcomes,
    OutcomesLoaded,
    Question,
    Restored,
    StoredJob,
    StoreEvent,
)
from taskpool.errors import JournalError
from taskpool.journal import encoding, sql
from taskpool.journal.coalesce import BatchChange, Changes, coalesce
from taskpool.journal.encoding import JobRow, OutcomeRow
from taskpool.journal.trouble import tolerating_full
from taskpool.messages import DEFAULT_LIMITS, Outcome, State

WAITING = (0, 1, 2)  # the states of jobs that are not finished (schema.py)
# Batches whose row id is kept in memory.
_BATCHES_KNOWN_MAX = 1024


class _BatchRow(NamedTuple):
    """A batch's row, in the order of `sql.BATCH`."""

    name: str
    limits: bytes
    crc: int
    accepted: int
    total: int | None
    recorded: int
    acknowledged: int
    open: int
    cancelled: int


class Statements:
    """The journal's content, over the one connection."""

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        self._connection = connection
        self._epoch = epoch
        self._ids: dict[str, int] = {}  # of batches; a copy, so that a row need not look its batch up
        self._limits: tuple[bytes, int, bool] = (b"", 0, False)  # those looked at last, and whether they are lost

    # --- writing ---

    def store(self, entries: Iterable[Entry], now_wall_ns: int) -> None:
        """Raises sqlite3.Error, or JournalError for entries that contradict what is stored."""
        for changes in coalesce(entries):
            self._apply(changes, now_wall_ns)
            if changes.forgotten is not None:
                self._connection.execute("UPDATE batches SET name = NULL WHERE name = ?", (changes.forgotten,))
                # Its rows are removed later, by retention; only the name is free at once.
                self._ids.pop(changes.forgotten, None)

    def forget_ids(self) -> None:
        """After a roll-back, and when batches were let go of: what was learnt may hold no more."""
        self._ids.clear()

    def _apply(self, changes: Changes, now_wall_ns: int) -> None:
        """Rows before what refers to them: batches, jobs, what became of jobs, and the batches' counts last."""
        many = self._connection.executemany
        for entry in changes.opened:
            # The limits are stored once for the batch; a job without its own refers to them.
            values = (entry.batch, *encoding.pack_limits(entry.limits), now_wall_ns)
            self._connection.execute(
                "INSERT INTO batches (name, limits, crc, changed_wall_ns) VALUES (?, ?, ?, ?)", values
            )
        if changes.accepted:
            self._write(sql.INSERT_JOBS, map(self._job_values, changes.accepted))
        if changes.again:
            # A job is in quarantine or has ended otherwise, so one of the two finds it. Plain question marks, with
            # values said twice: Python 3.12.0 to 3.12.3 warn of numbered ones.
            many(sql.REOPEN_BATCH, [(now_wall_ns, ordinal, run) for ordinal, run in changes.again if run])
            many(sql.LEAVE_QUARANTINE, [(run > 0, now_wall_ns, run, ordinal) for ordinal, run in changes.again])
        if changes.returned:
            many(sql.RETURN_JOB, map(_return_values, changes.returned.values()))
        sent = [entry for entry in changes.last.values() if isinstance(entry, AttemptMade)]
        if sent:
            many(sql.SEND_JOB, [(self._epoch, entry.n, entry.try_, entry.ordinal) for entry in sent])
        if changes.outcomes:
            self._write(sql.INSERT_OUTCOMES, map(self._outcome_values, changes.outcomes))
            self._end_jobs([entry for entry in changes.last.values() if isinstance(entry, OutcomeRecorded)])
        if changes.dropped:
            self._write(sql.FINISH_JOBS, [(ordinal,) for ordinal in changes.dropped])
        # One statement a batch and commit, however many of its jobs changed.
        for name, change in changes.batches.items():
            self._count(name, change, now_wall_ns)

    def _end_jobs(self, entries: list[OutcomeRecorded]) -> None:
        """Raises JournalError when a job has an outcome of this run already: rule 3 is checked by counting rows."""
        finished: list[tuple[Any, ...]] = []
        others: dict[str, list[tuple[Any, ...]]] = {}
        for entry in entries:
            outcome = entry.outcome
            run, ordinal = outcome.run, entry.ordinal
            if outcome.state is State.QUARANTINED:
                told = encoding.pack_tries(outcome.tries)
                values = (run, outcome.attempts, outcome.crashes, told, ordinal, run)
                others.setdefault(sql.PARK_JOB, []).append(values)
            elif outcome.state is not State.SUCCEEDED:
                others.setdefault(sql.KEEP_JOB, []).append((run, ordinal, run))
            elif run > 1:
                others.setdefault(sql.FINISH_RUN, []).append((run, ordinal, run))
            else:
                finished.append((ordinal,))
        # The conditions in the statements let a row change once; a second outcome changes none and is missed in the
        # sum.
        changed = self._write(sql.FINISH_JOBS, finished)
        for statement, values_of_each in others.items():
            changed += self._connection.executemany(statement, values_of_each).rowcount
        if changed != len(entries):
            raise JournalError(
                f"{len(entries) - changed} outcomes are of jobs that have one already, or that were never accepted"
            )

    def _write(self, statements: tuple[str, str], rows: Iterable[tuple[Any, ...]]) -> int:
        """How many rows were written. The last value of a row is its bytes, if it has any."""
        single, together = statements
        group: list[tuple[Any, ...]] = []
        written = 0
        for row in rows:  # made one by one: a commit of large ones is in memory already
            if isinstance(row[-1], bytes) and len(row[-1]) > sql.TOGETHER_BYTES_MAX:
                written += self._connection.execute(single, row).rowcount
                continue
            group.append(row)
            # Only whole groups: sqlite3 keeps prepared statements by their text, and each other length is one more.
            if len(group) == sql.TOGETHER:
                written += self._connection.execute(together, [value for each in group for value in each]).rowcount
                group.clear()
        return written + self._connection.executemany(single, group).rowcount if group else written

    def _count(self, name: str, change: BatchChange, now_wall_ns: int) -> None:
        if change.only_marks and self.batch(name) is None:
            return  # retention was quicker than the reader of the batch, or than the person who cancels it
        batch_id = self._id(name)
        levels = (change.accepted, change.total, change.recorded, change.acknowledged)
        steps = (change.open, change.quarantined, change.cancelled)
        self._connection.execute(sql.CHANGE_BATCH, (*levels, *steps, now_wall_ns, batch_id))
        self._connection.execute(sql.FINISH_BATCH, (now_wall_ns, batch_id))

    def _job_values(self, entry: JobAccepted) -> tuple[Any, ...]:
        job = entry.job
        body, crc = encoding.pack_job(job)
        return job.ordinal, self._id(job.batch), job.seq, -job.priority, job.queued_wall_ns, entry.digest, crc, body

    def _outcome_values(self, entry: OutcomeRecorded) -> tuple[Any, ...]:
        outcome = entry.outcome
        body, crc = encoding.pack_outcome(outcome)
        return self._id(entry.batch), outcome.no, outcome.seq, outcome.run, crc, body

    def _id(self, name: str) -> int:
        known = self._ids.get(name)
        if known is not None:
            return known
        row = self._connection.execute("SELECT id FROM batches WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise JournalError(f"batch {name} is not in the journal")
        # Emptied whole: batches come and go one after the other, so those in use are soon known again.
        if len(self._ids) >= _BATCHES_KNOWN_MAX:
            self._ids.clear()
        self._ids[name] = row[0]
        return int(row[0])

    # --- reading ---

    def answer(self, request: Question, now_wall_ns: int) -> StoreEvent:
        """Answer a question of the core. `now_wall_ns` dates the use of a batch that is asked for."""
        match request:
            case LoadJobs(after, limit, bytes_max):
                return Loaded(*self.queued(after, limit, bytes_max))
            case LoadOutcomes(batch, after_no, limit, reader):
                most = limits.OUTCOMES_IN_FLIGHT_BYTES_MAX
                return OutcomesLoaded(batch, self.outcomes(batch, after_no, limit, most), reader)
            case FindBatch(name):
                return BatchFound(name, self.find(name, now_wall_ns))
            case LoadDigests(batch, first_seq, count):
                return DigestsLoaded(batch, first_seq, self.digests(batch, first_seq, count))
            case LoadEnded():
                return EndedLoaded(self.ended(request))

    def restore(self) -> Restored | None:
        """None: nothing was ever accepted into what is kept."""
        (clean,) = self._connection.execute("SELECT value FROM meta WHERE key = 'clean'").fetchone()
        # Of all jobs ever accepted: an ordinal that is given twice would put two jobs in one place of the queue.
        (ordinal,) = self._connection.execute("SELECT coalesce(max(ordinal), 0) FROM jobs").fetchone()
        running = map(JobRow._make, self._connection.execute(sql.IN_STATE, (1,)))
        in_flight = [InFlight(row.epoch, row.n, self._job(row)) for row in running]
        quarantined = [self._job(row) for row in map(JobRow._make, self._connection.execute(sql.IN_STATE, (2,)))]
        live = self._connection.execute(sql.BATCH + "WHERE open > 0 OR quarantined > 0 ORDER BY id")
        batches = [_batch_record(row) for row in live]
        if clean and not ordinal:
            return None
        return Restored(not clean, ordinal, batches, in_flight, quarantined, [])

    def queued(self, after: tuple[int, int], limit: int, bytes_max: int) -> tuple[list[StoredJob], bool]:
        """(jobs, whether there are more); see `storage.LoadJobs`."""
        jobs: list[StoredJob] = []
        bytes_left = bytes_max
        # One more than wanted tells whether there are more.
        for row in self._queued(after, limit + 1):
            job = self._job(row)
            bytes_left -= len(job.record.spec.payload)
            if len(jobs) == limit or (jobs and bytes_left < 0):
                return jobs, True
            jobs.append(job)
        return jobs, False

    def ended(self, request: LoadEnded) -> list[StoredJob]:
        """Return jobs that have ended without success; see `storage.LoadEnded`."""
        jobs: list[StoredJob] = []
        bytes_left = limits.BACKLOG_BYTES_MAX
        for first, last in request.ranges:
            within = (request.batch, max(first, request.after + 1), last)
            cursor = self._connection.execute(sql.ENDED, (*within, request.run, request.run, request.limit - len(jobs)))
            for job in map(self._job, map(JobRow._make, cursor)):
                bytes_left -= len(job.record.spec.payload)
                if len(jobs) == request.limit or (jobs and bytes_left < 0):
                    return jobs
                jobs.append(job)
        return jobs

    def _queued(self, after: tuple[int, int], limit: int) -> Iterator[JobRow]:
        # A key is (-priority, ordinal); the column `rank` holds -priority, so that one index serves the order.
        rank, ordinal = after
        yield from map(JobRow._make, self._connection.execute(sql.QUEUED_SAME_RANK, (rank, ordinal, limit)))
        yield from map(JobRow._make, self._connection.execute(sql.QUEUED_LOWER_RANK, (rank, limit)))

    def outcomes(self, batch: str, after: int, limit: int, bytes_max: int, *, upto: int = 2**63 - 1) -> list[Outcome]:
        """As many as are asked for and fit, but at least one if there is one."""
        cursor = self._connection.execute(
            "SELECT no, seq, run, CAST(body AS BLOB), crc FROM outcomes "
            "WHERE batch = (SELECT id FROM batches WHERE name = ?) AND no > ? AND no <= ? "
            "ORDER BY no LIMIT ?",
            (batch, after, upto, limit),
        )
        items: list[Outcome] = []
        for row in map(OutcomeRow._make, cursor):
            bytes_max -= len(row.body)
            if items and bytes_max < 0:
                break
            items.append(encoding.unpack_outcome(row))
        return items

    def batch(self, name: str) -> BatchRecord | None:
        row = self._connection.execute(sql.BATCH + "WHERE name = ?", (name,)).fetchone()
        return None if row is None else _batch_record(row)

    def find(self, name: str, now_wall_ns: int) -> BatchRecord | None:
        """The batch, which counts as used now: retention must not take it from the generator that is about to read
        it."""
        found = self.batch(name)
        if found is not None:
            with tolerating_full():
                self._connection.execute("UPDATE batches SET changed_wall_ns = ? WHERE name = ?", (now_wall_ns, name))
        return found

    def batches(self) -> Iterator[BatchRecord]:
        """All of them, in the order in which they were opened."""
        for row in self._connection.execute(sql.BATCH + "WHERE name IS NOT NULL ORDER BY id"):
            yield _batch_record(row)

    def batches_without_limits(self) -> list[str]:
        """Those whose limits are damaged."""
        rows = self._connection.execute("SELECT name, CAST(limits AS BLOB), crc FROM batches WHERE name IS NOT NULL")
        return [name for name, body, crc in rows if encoding.unpack_limits(body, crc) is None]

    def in_state(self, state: int, ordinal: int | None = None) -> Iterator[StoredJob]:
        """All jobs in one of the states WAITING, or one of them if it is."""
        if ordinal is None:
            rows = self._connection.execute(sql.IN_STATE, (state,))
        else:
            rows = self._connection.execute(sql.JOB + "WHERE j.ordinal = ? AND j.state = ?", (ordinal, state))
        return map(self._job, map(JobRow._make, rows))

    def in_use(self) -> list[bool]:
        """Whether there must be a -wal."""
        return [bool(value) for (value,) in self._connection.execute("SELECT value FROM meta WHERE key = 'wal'")]

    def last_ordinal(self) -> list[int]:
        """Of all jobs ever accepted; [] if there was none."""
        return [number for (number,) in self._connection.execute("SELECT max(ordinal) FROM jobs") if number]

    def digests(self, batch: str, first_seq: int, count: int) -> list[bytes]:
        rows = self._connection.execute(
            "SELECT digest FROM jobs WHERE batch = (SELECT id FROM batches WHERE name = ?) AND seq >= ? AND seq < ? "
            "ORDER BY seq",
            (batch, first_seq, first_seq + count),
        )
        return [digest for (digest,) in rows]

    def _job(self, row: JobRow) -> StoredJob:
        return encoding.unpack_job(row, limits_lost=self._are_lost(row.limits, row.limits_crc))

    def _are_lost(self, body: bytes, crc: int) -> bool:
        """Jobs of one batch come in a row, so their batch's limits are looked at once."""
        known, known_crc, lost = self._limits
        if body != known or crc != known_crc:
            lost = encoding.unpack_limits(body, crc) is None
            self._limits = body, crc, lost
        return lost


def _return_values(entry: JobReturned) -> tuple[Any, ...]:
    counts = entry.counts
    numbers = (counts.run, counts.tries, counts.failures, counts.crashes, counts.unclean_exits)
    return *numbers, encoding.pack_tries(counts.told), entry.ordinal, counts.run


def _batch_record(columns: Sequence[Any]) -> BatchRecord:
    """Jobs that need limits which are lost come back as corrupt, so that nothing runs without its own."""
    row = _BatchRow._make(columns)
    return BatchRecord(
        name=row.name,
        limits=encoding.unpack_limits(row.limits, row.crc) or DEFAULT_LIMITS,
        accepted=row.accepted,
        total=row.total,
        recorded=row.recorded,
        acknowledged=row.acknowledged,
        open=row.open,
        cancelled=row.cancelled == 1,
    )
