"""A look at everything in a journal: SQLite's own check, every checksum, and whether the counts add up."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from msgspec import Struct

from taskpool.core.events import StoredBatch
from taskpool.journal import encoding, schema
from taskpool.journal.statements import Statements

_STATES = ("queued", "running", "quarantined", "finished")
_PROBLEMS_MAX = 100

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


class Counts(Struct):
    batches: int = 0
    outcomes: int = 0
    jobs: dict[str, int] = {}


def audit(connection: sqlite3.Connection, path: Path, *, had_wal: bool) -> tuple[list[str], Counts]:
    """(problems, counts). A problem is a line for a person; damage that stops the reading is the last one."""
    problems: list[str] = []
    counts = Counts()
    meta: dict[str, Any] = dict(_rows(connection, "SELECT key, value FROM meta", problems))
    if meta.get("sentinel") != schema.SENTINEL:
        problems.append("its sentinel row is missing")
    if meta.get("wal") and not had_wal:
        problems.append(f"{schema.wal_of(path).name} is missing, and with it the newest commits")
    for (line,) in _rows(connection, f"PRAGMA integrity_check({_PROBLEMS_MAX})", problems):
        if line != "ok":
            problems.append(f"SQLite: {line}")
    try:
        _look(connection, problems, counts)
    except sqlite3.Error as error:
        problems.append(schema.explain(path, error))
    return problems[:_PROBLEMS_MAX], counts


def _look(connection: sqlite3.Connection, problems: list[str], counts: Counts) -> None:
    statements = Statements(connection, 0)
    for batch in statements.batches():
        counts.batches += 1
        _look_at_outcomes(statements, batch, problems, counts)
    problems += [
        f"batch {name}: its limits are damaged; its jobs without limits of their own will be failed"
        for name in statements.batches_without_limits()
    ]
    states = connection.execute("SELECT state, count(*) FROM jobs GROUP BY state")
    counts.jobs = {_STATES[state]: count for state, count in states}
    problems += [
        f"job {job.batch}/{job.seq}: its record is damaged; it will be failed, not run"
        for _, job in statements.waiting()
        if job.corrupt
    ]
    for statement, what in ((_UNBALANCED, "open jobs"), (_GAPS, "jobs or outcomes")):
        problems += [f"batch {name}: its count of {what} is wrong" for (name,) in connection.execute(statement)]


def _look_at_outcomes(statements: Statements, batch: StoredBatch, problems: list[str], counts: Counts) -> None:
    after = 0
    while items := statements.outcomes(batch.name, after, 500, 8 * 1024 * 1024):
        after = items[-1].no
        counts.outcomes += len(items)
        problems += [
            f"outcome {outcome.no} of job {batch.name}/{outcome.seq}: its record is damaged"
            for outcome in items
            if outcome.kind == encoding.CORRUPT
        ]


def _rows(connection: sqlite3.Connection, statement: str, problems: list[str]) -> list[Any]:
    try:
        return connection.execute(statement).fetchall()
    except sqlite3.Error as error:
        problems.append(f"SQLite: {error}")
        return []
