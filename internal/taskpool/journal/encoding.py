"""What a row of the journal carries as bytes, and the checksum that tells when they are damaged.

Rules of this file:
1. Every record that is read is checked: SQLite does not see a bit that flips inside a blob.
2. A damaged record never looks like a good one. A damaged job comes back marked `corrupt`, and of a kind that no worker
   runs; a damaged outcome comes back as failed, with an error of the type CORRUPT_ERROR.
3. The bytes are the messages' own arrays. Another shape of JobSpec, Limits or Outcome is another `schema.VERSION`; a
   test compares with bytes written down.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import msgspec
from msgspec import Struct

from taskpool.core.entries import JobCounts, JobRecord, Traits
from taskpool.core.storage import StoredJob
from taskpool.messages import JobError, JobSpec, Limits, Outcome, State, Try

CORRUPT_KIND = "corrupt"  # in place of a job's kind
CORRUPT_ERROR = "Corrupt"


class JobRow(NamedTuple):
    """A job's row, joined with its batch's, in the order in which `statements` selects the columns."""

    ordinal: int
    batch: str
    seq: int
    run: int
    tries: int
    failures: int
    crashes: int
    unclean_exits: int
    priority: int
    queued_wall_ns: int
    body: bytes | None
    crc: int
    limits: bytes
    limits_crc: int
    epoch: int  # of the attempt under way
    n: int
    told: bytes | None = None  # of the tries of its run that did not succeed


class OutcomeRow(NamedTuple):
    """An outcome's row, in the order in which `statements` selects the columns."""

    no: int
    seq: int
    run: int
    body: bytes
    crc: int


class _Body(Struct, frozen=True, array_like=True):
    """What of a job is bytes; the columns beside it have the rest."""

    spec: JobSpec
    in_process: bool
    affinity: str


# Built once: an encoder or decoder that is made for each record costs more than the record.
_encode = msgspec.msgpack.Encoder().encode
_decode_body = msgspec.msgpack.Decoder(_Body).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_decode_limits = msgspec.msgpack.Decoder(Limits).decode
_decode_tries = msgspec.msgpack.Decoder(tuple[Try, ...]).decode
_CRC = struct.Struct("<L")
_job_head = struct.Struct("<qqqq").pack
_outcome_head = struct.Struct("<qqq").pack


def pack_job(job: JobRecord) -> tuple[bytes, int]:
    """(body, checksum). The checksum covers the columns beside it that never change as well."""
    body = _encode(_Body(job.spec, job.traits.in_process, job.traits.affinity))
    return body, zlib.crc32(body, zlib.crc32(_job_head(job.ordinal, job.seq, job.priority, job.queued_wall_ns)))


def unpack_job(row: JobRow, *, limits_lost: bool) -> StoredJob:
    """The job of a row. `limits_lost`: those of its batch are damaged, so it cannot run unless it has its own."""
    spec, traits, corrupt = JobSpec(CORRUPT_KIND, b"", Limits(priority=row.priority)), Traits(False, ""), True
    # The checksum is over the columns too: a flipped bit in `seq` would give the job to another place of its batch.
    head = _job_head(row.ordinal, row.seq, row.priority, row.queued_wall_ns)
    if row.body is not None and zlib.crc32(row.body, zlib.crc32(head)) == row.crc:
        body = _decode_body(row.body)
        # Without its limits a job would run without its time-out and its crash limit.
        if body.spec.limits is not None or not limits_lost:
            spec, traits, corrupt = body.spec, Traits(body.in_process, body.affinity), False
    record = JobRecord(row.ordinal, row.batch, row.seq, row.priority, spec, traits, row.queued_wall_ns)
    counts = JobCounts(row.run, row.tries, row.failures, row.crashes, row.unclean_exits, unpack_tries(row.told))
    return StoredJob(record, counts, corrupt)


def pack_outcome(outcome: Outcome) -> tuple[bytes, int]:
    """(body, checksum). The checksum covers the columns beside it as well."""
    body = _encode(outcome)
    return body, zlib.crc32(body, zlib.crc32(_outcome_head(outcome.no, outcome.seq, outcome.run)))


def unpack_outcome(row: OutcomeRow) -> Outcome:
    """Return the outcome; one that says it is lost when the checksum does not match."""
    if zlib.crc32(row.body, zlib.crc32(_outcome_head(row.no, row.seq, row.run))) == row.crc:
        return _decode_outcome(row.body)
    text = "the journal's record of this outcome is damaged: what became of the job is not known"
    return Outcome(
        no=row.no,
        # The column may be what is damaged, and a message has no job 0.
        seq=max(row.seq, 1),
        run=row.run,
        kind=CORRUPT_KIND,
        label=None,
        state=State.FAILED,
        attempts=0,
        crashes=0,
        error=JobError(CORRUPT_ERROR, text),
    )


def pack_tries(tries: tuple[Try, ...]) -> bytes | None:
    """Return what is told of tries with its checksum; None when there are none."""
    if not tries:
        return None
    body = _encode(tries)
    return _CRC.pack(zlib.crc32(body)) + body


def unpack_tries(told: bytes | None) -> tuple[Try, ...]:
    """Return them; none when they are damaged: the job is whole, and its counts are, so it runs."""
    if told is None or len(told) < _CRC.size or _CRC.pack(zlib.crc32(told[_CRC.size :])) != told[: _CRC.size]:
        return ()
    return _decode_tries(told[_CRC.size :])


def pack_limits(limits: Limits) -> tuple[bytes, int]:
    """(body, checksum)"""
    body = _encode(limits)
    return body, zlib.crc32(body)


def unpack_limits(body: bytes, crc: int) -> Limits | None:
    """None: damaged."""
    return _decode_limits(body) if zlib.crc32(body) == crc else None
