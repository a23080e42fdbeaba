"""What a row of the journal carries as bytes, and the checksum that tells when those have rotted.

Rules of this file:
1. Whatever is read is checked: SQLite does not see a bit that flips inside a blob.
2. A damaged record never looks like a good one. A damaged job comes back marked `corrupt`, and of a kind that no
   worker runs; a damaged outcome comes back as failed, with an error of the type CORRUPT_ERROR.
3. The bytes are the messages' own arrays. Another shape of JobSpec, Limits or Outcome is another
   `schema.VERSION`; a test compares with bytes written down.
"""

from __future__ import annotations

import struct
import zlib

import msgspec
from msgspec import Struct

from taskpool.core.entries import JobAccepted, OutcomeRecorded
from taskpool.core.events import StoredJob, Traits
from taskpool.messages import JobError, JobSpec, Limits, Outcome, State

CORRUPT = "corrupt"  # in place of a job's kind
CORRUPT_ERROR = "Corrupt"


class _Job(Struct, frozen=True, array_like=True):
    spec: JobSpec
    in_process: bool
    affinity: str


_encode = msgspec.msgpack.Encoder().encode
_decode_job = msgspec.msgpack.Decoder(_Job).decode
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_decode_limits = msgspec.msgpack.Decoder(Limits).decode
_job_head = struct.Struct("<qqqq").pack
_outcome_head = struct.Struct("<qqq").pack


def pack_job(row: JobAccepted) -> tuple[bytes, int]:
    """(body, checksum). The checksum covers the columns beside it that never change as well."""
    body = _encode(_Job(row.spec, row.traits.in_process, row.traits.affinity))
    return body, zlib.crc32(body, zlib.crc32(_job_head(row.ordinal, row.seq, row.priority, row.queued_wall_ns)))


def unpack_job(
    job: tuple[int, str, int, int, int, int, int, int, int, int], body: bytes | None, crc: int, *, limits_lost: bool
) -> StoredJob:
    """The job of these columns: ordinal, batch, seq, run, tries, failures, crashes, unclean_exits, priority and
    queued_wall_ns. `limits_lost`: those of its batch are damaged, so it cannot run unless it has its own."""
    ordinal, batch, seq, run, tries, failures, crashes, unclean_exits, priority, queued_wall_ns = job
    spec, traits, corrupt = JobSpec(CORRUPT, b"", Limits(priority=priority)), Traits(False, ""), True
    head = _job_head(ordinal, seq, priority, queued_wall_ns)
    if body is not None and zlib.crc32(body, zlib.crc32(head)) == crc:
        stored = _decode_job(body)
        if stored.spec.limits is not None or not limits_lost:
            spec, traits, corrupt = stored.spec, Traits(stored.in_process, stored.affinity), False
    return StoredJob(
        ordinal,
        batch,
        seq,
        run,
        tries,
        failures,
        crashes,
        unclean_exits,
        priority,
        spec,
        traits,
        queued_wall_ns,
        corrupt,
    )


def pack_outcome(row: OutcomeRecorded) -> tuple[bytes, int]:
    """(body, checksum)"""
    outcome = row.outcome
    body = _encode(outcome)
    return body, zlib.crc32(body, zlib.crc32(_outcome_head(outcome.no, outcome.seq, outcome.run)))


def unpack_outcome(no: int, seq: int, run: int, body: bytes, crc: int) -> Outcome:
    if zlib.crc32(body, zlib.crc32(_outcome_head(no, seq, run))) == crc:
        return _decode_outcome(body)
    text = "the journal's record of this outcome is damaged: what became of the job is not known"
    return Outcome(
        no=no,
        seq=max(seq, 1),
        run=run,
        kind=CORRUPT,
        label=None,
        state=State.FAILED,
        attempts=0,
        crashes=0,
        error=JobError(CORRUPT_ERROR, text),
    )


def pack_limits(limits: Limits) -> tuple[bytes, int]:
    """(body, checksum)"""
    body = _encode(limits)
    return body, zlib.crc32(body)


def unpack_limits(body: bytes, crc: int) -> Limits | None:
    """None: damaged."""
    return _decode_limits(body) if zlib.crc32(body) == crc else None
