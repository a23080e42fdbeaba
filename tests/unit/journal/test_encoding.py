"""Bit rot is found when a record is read, and the bytes of a record stay what they are (journal/encoding.py)."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from support.journals import Asked, accepted, attempted, open_store, opened, recorded, run_sql
from taskpool.core.entries import JobRecord
from taskpool.journal import encoding, schema
from taskpool.journal.encoding import JobRow
from taskpool.messages import End, JobSpec, Limits, State, Try


def every_flip(body: bytes) -> list[bytes]:
    return [body[:at] + bytes([body[at] ^ 1 << bit]) + body[at + 1 :] for at in range(len(body)) for bit in range(8)]


def row_of(job: JobRecord, body: bytes | None, crc: int, **changes: Any) -> JobRow:
    row = JobRow(
        ordinal=job.ordinal,
        batch=job.batch,
        seq=job.seq,
        run=1,
        tries=0,
        failures=0,
        crashes=0,
        unclean_exits=0,
        priority=job.priority,
        queued_wall_ns=job.queued_wall_ns,
        body=body,
        crc=crc,
        limits=b"",
        limits_crc=0,
        epoch=0,
        n=0,
    )
    return row._replace(**changes)


def test_every_flipped_bit_of_a_job_is_found() -> None:
    record = accepted(1).job
    body, crc = encoding.pack_job(record)
    assert encoding.unpack_job(row_of(record, body, crc), limits_lost=False).record == record
    for damaged in [*every_flip(body), None]:
        job = encoding.unpack_job(row_of(record, damaged, crc), limits_lost=False)
        assert job.corrupt
        assert job.record.spec == JobSpec(encoding.CORRUPT_KIND, b"", Limits(priority=0))


@pytest.mark.parametrize("column", ["ordinal", "seq", "priority", "queued_wall_ns"])
def test_what_stands_beside_a_job_and_never_changes_is_covered_too(column: str) -> None:
    record = accepted(1).job
    body, crc = encoding.pack_job(record)
    assert encoding.unpack_job(row_of(record, body, crc, **{column: 12345}), limits_lost=False).corrupt


def test_a_job_that_needs_lost_limits_is_as_good_as_damaged() -> None:
    record = accepted(1).job
    body, crc = encoding.pack_job(record)
    assert encoding.unpack_job(row_of(record, body, crc), limits_lost=True).corrupt


def test_every_flipped_bit_of_an_outcome_is_found() -> None:
    recorded_outcome = recorded(1).outcome
    body, crc = encoding.pack_outcome(recorded_outcome)
    assert encoding.unpack_outcome(encoding.OutcomeRow(1, 1, 1, body, crc)) == recorded_outcome
    for damaged in every_flip(body):
        outcome = encoding.unpack_outcome(encoding.OutcomeRow(1, 1, 1, damaged, crc))
        assert (outcome.no, outcome.seq, outcome.run, outcome.state) == (1, 1, 1, State.FAILED)
        assert outcome.error is not None
        assert outcome.error.type == encoding.CORRUPT_ERROR
    assert encoding.unpack_outcome(encoding.OutcomeRow(2, 1, 1, body, crc)).kind == encoding.CORRUPT_KIND


def test_the_bytes_are_those_written_down() -> None:
    """If this fails, JobSpec, Limits or Outcome has another shape: raise schema.VERSION, and migrate.

    Unless it is a field more at the end, with a default: then older bytes are read as they were.
    """
    assert encoding.pack_job(accepted(1).job)[0].hex() == GOLDEN_JOB
    assert encoding.pack_outcome(recorded(1).outcome)[0].hex() == GOLDEN_OUTCOME
    assert encoding.pack_limits(Limits())[0].hex() == GOLDEN_LIMITS
    assert schema.VERSION == 2


GOLDEN_JOB = "9394a3666962c4077061796c6f6164c0c0c3a0"
GOLDEN_OUTCOME = "dc0015010101a3666962c0a97375636365656465640100c4023535c0c0c0c0000000940000000094c0c0c0c0c0a090"
# Of version 0.2: without what the job is, and without its tries.
GOLDEN_OUTCOME_OLD = "dc0013010101a3666962c0a97375636365656465640100c4023535c0c0c0c0000000940000000094c0c0c0c0c0"
GOLDEN_LIMITS = "9e000000009090c3c3030000000090"
# Of version 0.2: without memory, and without the signals of its end.
GOLDEN_LIMITS_OLD = "9a000000009090c3c30300"


def test_every_flipped_bit_of_what_is_told_of_tries_is_found() -> None:
    tries = (Try(1, End.FAILED, exit_status=3), Try(2, End.CRASHED, signal=11, stderr_tail="last words"))
    told = encoding.pack_tries(tries)
    assert told is not None and encoding.unpack_tries(told) == tries
    assert all(encoding.unpack_tries(damaged) == () for damaged in [*every_flip(told), told[:3], b"", None])
    assert encoding.pack_tries(()) is None


def test_an_outcome_that_an_earlier_version_wrote_is_read() -> None:
    body = bytes.fromhex(GOLDEN_OUTCOME_OLD)
    crc = zlib.crc32(body, zlib.crc32(struct.pack("<qqq", 1, 1, 1)))
    assert encoding.unpack_outcome(encoding.OutcomeRow(1, 1, 1, body, crc)) == recorded(1).outcome


def test_limits_that_an_earlier_version_wrote_are_read() -> None:
    body = bytes.fromhex(GOLDEN_LIMITS_OLD)
    assert encoding.unpack_limits(body, zlib.crc32(body)) == Limits()


# --- in a file ------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two jobs queued, one running, one finished; then the pool went down."""
    store = open_store(path := tmp_path / "journal.db")
    asked = Asked(store)
    asked.commit(opened(), *(accepted(n) for n in range(1, 5)))
    asked.commit(attempted(3), recorded(4, 1))
    store.close(clean=True)
    return path


def test_a_damaged_job_does_not_come_back_as_one_to_run(path: Path) -> None:
    run_sql(
        path,
        "UPDATE jobs SET spec = substr(spec, 1, length(spec) - 1) || x'00' WHERE ordinal <> 2",
    )
    store = open_store(path)
    restored = store.restore()
    assert restored is not None
    assert [(each.job.record.seq, each.job.corrupt) for each in restored.in_flight] == [(3, True)]
    assert [(job.record.seq, job.corrupt) for job in Asked(store).jobs()] == [(1, True), (2, False)]
    store.close(clean=False)


def test_a_blob_that_became_text_is_damage_like_any_other(path: Path) -> None:
    run_sql(path, "UPDATE jobs SET spec = CAST(spec AS TEXT)")
    run_sql(path, "UPDATE outcomes SET body = CAST(body AS TEXT)")
    store = open_store(path)
    asked = Asked(store)
    assert len(asked.jobs()) == 2
    assert len(asked.outcomes()) == 1
    store.close(clean=False)


def test_a_damaged_outcome_says_so(path: Path) -> None:
    run_sql(path, "UPDATE outcomes SET body = substr(body, 1, length(body) - 1)")
    store = open_store(path)
    (outcome,) = Asked(store).outcomes()
    assert (outcome.seq, outcome.state) == (4, State.FAILED)
    assert outcome.error is not None
    assert "what became of the job is not known" in outcome.error.message
    store.close(clean=False)


def test_without_their_limits_the_jobs_of_a_batch_do_not_run(path: Path) -> None:
    run_sql(path, "UPDATE batches SET crc = crc + 1")
    store = open_store(path)
    assert all(job.corrupt for job in Asked(store).jobs())
    store.close(clean=False)
