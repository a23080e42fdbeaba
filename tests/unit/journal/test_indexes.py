"""A row whose entry in an index is lost is there and not found: noticed at the start, and built anew (indexes.py)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from support.journals import Asked, accepted, open_store, opened, recorded, run_sql
from taskpool.errors import JournalError
from taskpool.journal import file, indexes, tools
from taskpool.journal.seal import seal_of

INDEXES = ("batches_live", "batches_idle", "jobs_by_seq", "jobs_live", "sqlite_autoindex_batches_1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Forty jobs, two of them finished, and a batch that is over."""
    store = open_store(path := tmp_path / "journal.db")
    asked = Asked(store)
    asked.commit(opened(), *(accepted(n) for n in range(1, 41)))
    asked.commit(recorded(1), recorded(2))
    asked.commit(opened("over"), accepted(41, "over", 1), recorded(41, 1, batch="over", seq=1))
    store.close(clean=True)
    return path


def lose_entry(path: Path, index: str) -> None:
    """Take one row's entry out of one index: the row is written while SQLite does not know of the index."""
    table = "jobs" if index.startswith("jobs") else "batches"
    row = {"jobs": 20, "batches": 2 if index == "batches_idle" else 1}[table]
    values = change(path, f"SELECT * FROM {table} WHERE rowid = {row}")[0]
    change(path, f"DELETE FROM {table} WHERE rowid = {row}")
    (hidden,) = change(path, f"SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = '{index}'")
    (kept,) = change(path, f"SELECT sql FROM sqlite_schema WHERE name = '{table}'")
    change(path, f"DELETE FROM sqlite_schema WHERE name = '{index}'")
    # An index without a statement of its own is one that this word asks for.
    change(path, f"UPDATE sqlite_schema SET sql = replace(sql, ' UNIQUE', '') WHERE name = '{table}'")
    change(path, f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)
    change(path, f"UPDATE sqlite_schema SET sql = ? WHERE name = '{table}'", kept)
    change(path, "INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", hidden)
    seal_of(path).unlink()


def change(path: Path, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
    """Run one statement in a connection of its own, which reads the schema as it is now."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        return connection.execute(statement, values).fetchall()


@pytest.mark.parametrize("index", INDEXES)
def test_a_start_refuses_it_and_rebuilding_loses_nothing(path: Path, index: str) -> None:
    lose_entry(path, index)
    before = path.read_bytes()
    said = rf"the index {index} has \d+ entries for \d+ rows: `journal check --accept-loss` builds it anew"
    with pytest.raises(JournalError, match=said):
        open_store(path, 2)
    assert path.read_bytes() == before
    assert any(index in line for line in tools.check(path).problems)
    with pytest.raises(JournalError, match=said):
        tools.export(path, lambda line: None)
    with pytest.raises(JournalError, match=said):
        tools.backup(path, path.with_name("copy"))
    tools.accept_loss(path)
    assert tools.check(path).problems == []
    store = open_store(path, 2)
    asked = Asked(store)
    assert [job.record.ordinal for job in asked.jobs()] == [*range(3, 41)]
    assert [found.accepted for found in (asked.batch(), asked.batch("over")) if found is not None] == [40, 1]
    store.close(clean=True)


def test_a_count_that_is_wrong_is_no_lost_entry(path: Path) -> None:
    """As in a journal that went on without its -wal: it was told of then, and a dealer goes on."""
    run_sql(path, "UPDATE batches SET open = open + 1, accepted = accepted + 1")
    open_store(path, 2).close(clean=True)
    assert tools.check(path).problems
    tools.accept_loss(path)
    open_store(path, 3).close(clean=True)


def test_finished_jobs_are_counted_only_when_something_is_wrong(path: Path) -> None:
    """The rows of jobs are many, and a start reads of them what waits: the count of them all goes by an index."""
    connection = file.connect(path, "FULL")
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    assert indexes.incomplete(connection) == []
    assert not any("FROM jobs NOT INDEXED" in statement for statement in statements)
    plans = [str(row[3]) for each in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {each}")]
    connection.set_trace_callback(None)
    file.close(connection, path)
    assert [plan for plan in plans if " jobs" in plan] == [
        "SEARCH jobs USING COVERING INDEX jobs_live (state<?)",
        "SCAN jobs USING COVERING INDEX jobs_by_seq",
    ]
