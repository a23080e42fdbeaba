"""The journal's tables and their version.

A new shape of the tables, or of the records in them (encoding.py), is a new VERSION:
1. Raise VERSION, change TABLES, and add `VERSION - 1: (statements...)` to MIGRATIONS. Old statements stay as they are
   for ever: they lead from one past version to the next.
2. Keep a file of the old version among the tests' fixtures and let a test migrate it.
At opening, a copy of the older file is kept beside it as PATH.v<old>, then all steps run in one transaction (file.py).
"""

from __future__ import annotations

from collections.abc import Mapping

APPLICATION_ID = 0x74706A6C  # "tpjl"; file(1) can be taught it
VERSION = 2
SENTINEL = "this is a journal of taskpool"  # a row that is always there: a file without it was cut or replaced
PAGE_BYTES = 4096  # SQLite's default, fixed: the ballast and the limit of the WAL are counted in pages

TABLES = """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    -- name NULL: forgotten, its rows are being removed
    -- open: jobs without an outcome of their present run
    CREATE TABLE batches (
        id INTEGER PRIMARY KEY, name TEXT UNIQUE, limits BLOB NOT NULL, crc INTEGER NOT NULL,
        accepted INTEGER NOT NULL DEFAULT 0, total INTEGER, recorded INTEGER NOT NULL DEFAULT 0,
        acknowledged INTEGER NOT NULL DEFAULT 0, open INTEGER NOT NULL DEFAULT 0,
        quarantined INTEGER NOT NULL DEFAULT 0, cancelled INTEGER NOT NULL DEFAULT 0,
        changed_wall_ns INTEGER NOT NULL, finished_wall_ns INTEGER
    );
    CREATE INDEX batches_live ON batches (id) WHERE open > 0 OR quarantined > 0;
    CREATE INDEX batches_idle ON batches (changed_wall_ns)
        WHERE open = 0 AND quarantined = 0 AND name IS NOT NULL;
    -- state: 0 queued, 1 running, 2 quarantined, 3 finished (then the spec of one that succeeded is gone, the digest
    -- stays)
    -- rank: minus the priority; epoch, n: the attempt under way; told: of tries that did not succeed, with a checksum
    CREATE TABLE jobs (
        ordinal INTEGER PRIMARY KEY, batch INTEGER NOT NULL, seq INTEGER NOT NULL, rank INTEGER NOT NULL,
        state INTEGER NOT NULL, run INTEGER NOT NULL, tries INTEGER NOT NULL, failures INTEGER NOT NULL,
        crashes INTEGER NOT NULL, unclean INTEGER NOT NULL, epoch INTEGER NOT NULL, n INTEGER NOT NULL,
        queued_wall_ns INTEGER NOT NULL, digest BLOB NOT NULL, crc INTEGER NOT NULL, spec BLOB, told BLOB
    );
    CREATE UNIQUE INDEX jobs_by_seq ON jobs (batch, seq);
    CREATE INDEX jobs_live ON jobs (state, rank, ordinal) WHERE state < 3;
    CREATE TABLE outcomes (
        batch INTEGER NOT NULL, no INTEGER NOT NULL, seq INTEGER NOT NULL, run INTEGER NOT NULL,
        crc INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (batch, no)
    ) WITHOUT ROWID;
"""

MIGRATIONS: Mapping[int, tuple[str, ...]] = {
    1: ("ALTER TABLE jobs ADD COLUMN told BLOB",),
}
"""From a version to the next: SQL statements."""

READINGS: Mapping[int, tuple[str, ...]] = {
    1: ("CREATE TEMP VIEW jobs AS SELECT *, NULL AS told FROM main.jobs",),
}
"""From a version to the next, for a connection that only reads: what it sees, nothing of the file changes."""
