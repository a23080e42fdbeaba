"""The journal's statements find their rows without a look at the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.journals import open_store
from taskpool.journal import file, sql

STATEMENTS = {
    "queued": (sql.QUEUED_SAME_RANK, (0, 0, 10), "jobs_live (state=? AND rank=? AND ordinal>?)"),
    "queued lower": (sql.QUEUED_LOWER_RANK, (0, 10), "jobs_live (state=? AND rank>?)"),
    "in state": (sql.IN_STATE, (1,), "jobs_live (state=?)"),
    "live batches": (sql.BATCH + "WHERE open > 0 OR quarantined > 0 ORDER BY id", (), "INDEX batches_live"),
    "ended": (sql.ENDED, ("b", 1, 9, 0, 0, 10), "jobs_by_seq (batch=? AND seq>? AND seq<?)"),
}


@pytest.mark.parametrize(("statement", "values", "expected"), STATEMENTS.values(), ids=STATEMENTS)
def test_the_statements_find_their_rows_by_an_index(
    tmp_path: Path, statement: str, values: tuple[object, ...], expected: str
) -> None:
    path = tmp_path / "journal.db"
    open_store(path).close(clean=True)
    connection = file.connect(path, "NORMAL")
    plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, values)]
    assert any(expected in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan
    file.close(connection, path)
