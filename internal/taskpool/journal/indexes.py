"""Whether each index has an entry for each row.

SQLite finds by an index what it is asked for: a row whose entry is lost is there and not found, without an error, and
its job would wait for ever.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import NamedTuple

from taskpool.journal import trouble


class _Index(NamedTuple):
    """An index, and the rows that it is of."""

    name: str
    table: str
    rows: str


_BATCHES = (
    _Index("sqlite_autoindex_batches_1", "batches", "name IS NULL OR name IS NOT NULL"),
    _Index("batches_live", "batches", "open > 0 OR quarantined > 0"),
    _Index("batches_idle", "batches", "open = 0 AND quarantined = 0 AND name IS NOT NULL"),
)
_LIVE = _Index("jobs_live", "jobs", "state < 3")
_BY_SEQ = _Index("jobs_by_seq", "jobs", "batch IS NOT NULL")

# What the batches say of their jobs, against the entries of those jobs.
_LIVE_DIFFERS = (
    "SELECT (SELECT coalesce(sum(open + quarantined), 0) FROM batches NOT INDEXED) <> "
    "(SELECT count(*) FROM jobs INDEXED BY jobs_live WHERE state < 3)"
)
# A count of everything in an index without conditions looks at no entry, only at pages.
_BY_SEQ_DIFFERS = (
    "SELECT (SELECT coalesce(sum(accepted), 0) FROM batches NOT INDEXED WHERE name IS NOT NULL) <> "
    "(SELECT count(*) FROM jobs INDEXED BY jobs_by_seq)"
)


def incomplete(connection: sqlite3.Connection, *, whole: bool = False) -> list[str]:
    """Return which indexes have more or fewer entries than there are rows, each a line for a person.

    The rows of jobs, finished ones among them, are only counted for an index whose entries are not as many as the
    batches say; with `whole` always. Raises what is in `trouble.UNREADABLE`.
    """
    looked_at = [*_BATCHES]
    for index, differs in ((_LIVE, _LIVE_DIFFERS), (_BY_SEQ, _BY_SEQ_DIFFERS)):
        if whole or connection.execute(differs).fetchone() != (0,):
            looked_at.append(index)
    counted = [(index, *_count(connection, index)) for index in looked_at]
    cure = "`journal check --accept-loss` builds it anew from the rows"
    return [
        f"the index {index.name} has {entries} entries for {rows} rows: {cure}"
        for index, entries, rows in counted
        if entries != rows
    ]


def rebuild(connection: sqlite3.Connection) -> None:
    """Build the indexes anew if one is incomplete. Of a database that cannot be read so far, none. Raises
    sqlite3.Error."""
    lines: list[str] = []
    with suppress(*trouble.UNREADABLE):
        lines = incomplete(connection, whole=True)
    if lines:
        connection.execute("REINDEX")


def _count(connection: sqlite3.Connection, index: _Index) -> tuple[int, int]:
    entries, rows = (
        connection.execute(f"SELECT count(*) FROM {index.table} {how} WHERE {index.rows}").fetchone()[0]
        for how in (f"INDEXED BY {index.name}", "NOT INDEXED")
    )
    return int(entries), int(rows)
