"""A deep queue costs disk, not time: portions and commits beside a million jobs, timed against ten thousand.

`make times` runs it. It is no part of `make test`, because it compares times: on a machine that others use as well a
measurement may be off by more than the margin. That the statements use their indexes is tested without a clock in
tests/unit/journal/test_statements.py.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.journals import FIRST, MANY, accepted, open_store, recorded
from taskpool.core.entries import AttemptMade
from taskpool.journal import encoding, file, tools
from taskpool.journal.statements import Statements
from taskpool.messages import Limits

DEEP, SHALLOW = 1_000_000, 10_000
PORTION = 2_000
RATIO_MAX = 2.5  # the machine is shared; a scan would make it a hundred


def deep_queue(path: Path, jobs: int) -> sqlite3.Connection:
    """A journal with so many queued jobs, half of them of a higher priority, written without our code."""
    open_store(path).close(clean=True)
    body, _ = encoding.pack_job(accepted(1).job)
    head = encoding._job_head
    connection = file.connect(path, "NORMAL")
    connection.create_function("crc", 2, lambda n, p: zlib.crc32(body, zlib.crc32(head(n, n, p, 5))))
    connection.execute("BEGIN")
    limits = encoding.pack_limits(Limits())
    connection.execute(
        "INSERT INTO batches (name, limits, crc, accepted, open, changed_wall_ns) VALUES ('b', ?, ?, ?, ?, 0)",
        (*limits, jobs, jobs),
    )
    connection.execute(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) INSERT INTO jobs "
        "SELECT n, 1, n, -(n % 2), 0, 1, 0, 0, 0, 0, 0, 0, 5, zeroblob(32), crc(n, n % 2), ? FROM c",
        (jobs, body),
    )
    connection.execute("COMMIT")
    return connection


def cost(connection: sqlite3.Connection, after: tuple[int, int]) -> float:
    """Seconds for one portion, the best of some."""
    found = Statements(connection, 1)
    best = float("inf")
    for _ in range(5):
        before = time.perf_counter()
        jobs, more = found.queued(after, PORTION, MANY)
        best = min(best, time.perf_counter() - before)
        assert len(jobs) == PORTION
        assert more
        assert not jobs[0].corrupt
    return best


@pytest.fixture(scope="module")
def queues(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, sqlite3.Connection]]:
    """A shallow one and a deep one."""
    paths = {jobs: tmp_path_factory.mktemp("depth") / "journal.db" for jobs in (SHALLOW, DEEP)}
    connections = {jobs: deep_queue(path, jobs) for jobs, path in paths.items()}
    yield connections
    for jobs, path in paths.items():
        file.close(connections[jobs], path)
        tools.remove(path)


def test_a_portion_of_a_million_costs_what_one_of_ten_thousand_does(queues: dict[int, sqlite3.Connection]) -> None:
    usual = cost(queues[SHALLOW], FIRST)
    for after in (FIRST, (-1, DEEP // 3), (-1, DEEP - 10), (0, DEEP // 2)):
        ratio = cost(queues[DEEP], after) / usual
        assert ratio < RATIO_MAX, f"{ratio:.1f} times as much after {after}"
    before = time.perf_counter()
    assert Statements(queues[DEEP], 2).restore() is not None
    assert time.perf_counter() - before < 1, "the restart looks at every job"


def test_a_commit_beside_a_million_costs_what_one_beside_ten_thousand_does(
    queues: dict[int, sqlite3.Connection],
) -> None:
    costs = {}
    for jobs, connection in queues.items():
        found = Statements(connection, 1)
        best = float("inf")
        for start in range(1, 6 * 500, 500):
            ordinals = range(start, start + 500)
            before = time.perf_counter()
            connection.execute("BEGIN")
            found.store([*(AttemptMade(n, n, 1) for n in ordinals), *map(recorded, ordinals)], 1)
            connection.execute("COMMIT")
            best = min(best, time.perf_counter() - before)
        costs[jobs] = best
    assert costs[DEEP] / costs[SHALLOW] < RATIO_MAX
