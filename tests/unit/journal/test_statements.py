"""The journal's statements find their rows without a look at the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.journals import open_store
from taskpool.journal import file, statements

STATEMENTS = {
    "queued": (statements._QUEUED_SAME_RANK, (0, 0, 10), "jobs_live (state=? AND rank=? AND ordinal>?)"),
    "queued lower": (statements._QUEUED_LOWER_RANK, (0, 10), "jobs_live (state=? AND rank>?)"),
    "in state": (statements._IN_STATE, (1,), "jobs_live (state=?)"),
    "live batches": (statements._BATCH + "WHERE open > 0 OR quarantined > 0 ORDER BY id", (), "INDEX batches_live"),
}


@pytest.mark.parametrize(("statement", "values", "expected"), STATEMENTS.values(), ids=STATEMENTS)
def test_the_statements_find_their_rows_by_an_index(
    tmp_path: Path, statement: str, values: tuple[int, ...], expected: str
) -> None:
    path = tmp_path / "journal.db"
    open_store(path).close(clean=True)
    connection = file.connect(path, "NORMAL")
    plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, values)]
    assert any(expected in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan
    file.close(connection, path)
