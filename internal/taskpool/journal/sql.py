"""The text of the statements that write and read the journal's tables; `statements` says when each is used."""

from __future__ import annotations

TOGETHER = 32  # rows in one statement: fewer calls, and each gives the interpreter away
TOGETHER_BYTES_MAX = 64 * 1024  # a larger row goes alone: SQLite copies what it is given


def _together(head: str, row: str, tail: str = "") -> tuple[str, str]:
    """A statement for one row, and for as many as go together."""
    return head + row + tail, head + ", ".join([row] * TOGETHER) + tail


INSERT_JOBS = _together(
    "INSERT INTO jobs (ordinal, batch, seq, rank, queued_wall_ns, digest, crc, spec, state, run, tries, failures, "
    "crashes, unclean, epoch, n) VALUES ",
    "(?, ?, ?, ?, ?, ?, ?, ?, 0, 1, 0, 0, 0, 0, 0, 0)",
)
INSERT_OUTCOMES = _together("INSERT INTO outcomes VALUES ", "(?, ?, ?, ?, ?, ?)")
FINISH_JOBS = _together(
    "UPDATE jobs SET state = 3, spec = NULL, told = NULL WHERE ordinal IN (", "?", ") AND state < 3"
)
# A run of a job that has ended without success. What it is stays, for a person may want it to run again.
KEEP_JOB = (
    "UPDATE jobs SET state = 3, told = NULL, run = ? WHERE ordinal = ? AND (state < 3 OR spec IS NOT NULL AND run < ?)"
)
# A later run has succeeded; its beginning may have been coalesced with this end.
FINISH_RUN = (
    "UPDATE jobs SET state = 3, spec = NULL, told = NULL, run = ? "
    "WHERE ordinal = ? AND (state < 3 OR spec IS NOT NULL AND run < ?)"
)
RETURN_JOB = (
    "UPDATE jobs SET state = 0, run = ?, tries = ?, failures = ?, crashes = ?, unclean = ?, told = ? "
    "WHERE ordinal = ? AND (state < 3 OR spec IS NOT NULL AND run < ?)"
)
SEND_JOB = "UPDATE jobs SET state = 1, epoch = ?, n = ?, tries = ? WHERE ordinal = ? AND state < 2"
# A job that has ended may come there by a later run only: its return was coalesced with that run's end.
PARK_JOB = (
    "UPDATE jobs SET state = 2, run = ?, tries = ?, crashes = ?, told = ? "
    "WHERE ordinal = ? AND (state < 2 OR spec IS NOT NULL AND run < ?)"
)
LEAVE_QUARANTINE = (
    "UPDATE batches SET open = open + ?, quarantined = quarantined - 1, changed_wall_ns = ?, "
    "finished_wall_ns = CASE WHEN ? = 0 THEN finished_wall_ns END "
    "WHERE id = (SELECT batch FROM jobs WHERE ordinal = ? AND state = 2)"
)
REOPEN_BATCH = (
    "UPDATE batches SET open = open + 1, changed_wall_ns = ?, finished_wall_ns = NULL "
    "WHERE id = (SELECT batch FROM jobs WHERE ordinal = ? AND state = 3 AND spec IS NOT NULL AND run < ?)"
)
CHANGE_BATCH = (
    "UPDATE batches SET accepted = max(accepted, ?), total = coalesce(?, total), recorded = max(recorded, ?), "
    "acknowledged = max(acknowledged, ?), open = open + ?, quarantined = quarantined + ?, "
    "cancelled = max(cancelled, ?), changed_wall_ns = ? WHERE id = ?"
)
FINISH_BATCH = (
    "UPDATE batches SET finished_wall_ns = CASE WHEN open = 0 AND accepted = total "
    "THEN coalesce(finished_wall_ns, ?) END WHERE id = ?"
)
# A flipped bit can turn a blob into text, which Python would not even let us look at; hence the casts.
# In the order of encoding.JobRow.
JOB = (
    "SELECT j.ordinal, b.name, j.seq, j.run, j.tries, j.failures, j.crashes, j.unclean, -j.rank, j.queued_wall_ns, "
    "CAST(j.spec AS BLOB), j.crc, CAST(b.limits AS BLOB), b.crc, j.epoch, j.n, CAST(j.told AS BLOB) "
    "FROM jobs j JOIN batches b ON b.id = j.batch "
)
# Two statements, because SQLite does not use both columns of the index for (rank, ordinal) > (?, ?).
QUEUED_SAME_RANK = JOB + "WHERE j.state = 0 AND j.state < 3 AND j.rank = ? AND j.ordinal > ? ORDER BY j.ordinal LIMIT ?"
QUEUED_LOWER_RANK = JOB + "WHERE j.state = 0 AND j.state < 3 AND j.rank > ? ORDER BY j.rank, j.ordinal LIMIT ?"
IN_STATE = JOB + "WHERE j.state = ? AND j.state < 3 ORDER BY j.rank, j.ordinal"
ENDED = (
    JOB + "WHERE j.batch = (SELECT id FROM batches WHERE name = ?) AND j.seq >= ? AND j.seq <= ? "
    "AND j.state = 3 AND j.spec IS NOT NULL AND (j.run = ? OR ? = 0) ORDER BY j.seq LIMIT ?"
)
BATCH = "SELECT name, CAST(limits AS BLOB), crc, accepted, total, recorded, acknowledged, open, cancelled FROM batches "
