"""A job of the cluster as bytes and as a job of one dealer, and the mark that leads from the one to the other.

**The mark.** A member submits a job to its own dealer, whose journal then has it before anything else happens. Which
job of the cluster it is stands in the label of the local one: the journal returns a label with the outcome, and `show`
tells it of a job that has none yet, so the mapping survives what the journal survives, and needs no second store that
could disagree with it. It holds all that is needed to settle with the engine: the run, the token of the hand-out, the
crashes counted before, and the digest. What a person calls the job stands behind.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct, structs

from taskpool import limits
from taskpool.cluster.engine import Delivery, JobKey
from taskpool.cluster.subjects import Lane, Names
from taskpool.errors import MessageError, UsageError
from taskpool.messages import NO_OUTPUT, U32, BatchName, JobError, JobSpec, Limits, Outcome, Seq, State

VERSION = 1  # of what is in the engine: a member of another version says so, and leaves the job to others
DIGEST_BYTES = 16
# The mark in front takes up to 194 of the 256 characters that a label may have.
LABEL_CHARS_MAX = 60
MESSAGE_BYTES_MAX = 1024 * 1024 - 4096  # what the engine takes by default (max_payload), less room for headers

_MARK = re.compile(
    r"(?P<batch>[A-Za-z0-9][A-Za-z0-9._-]{0,63})/(?P<seq>\d{1,16})\.(?P<run>\d{1,10}) (?P<token>[\w.]{1,60}) "
    r"(?P<crashes>\d{1,7}) (?P<digest>[0-9a-f]{32})(?: (?P<label>.*))?\Z",
    re.ASCII | re.DOTALL,
)


class ClusterJob(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The body of a message in JOBS."""

    version: int
    batch: BatchName
    seq: Seq
    run: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    spec: JobSpec  # with limits of its own: the batch's were put in by who submitted it


class ClusterOutcome(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The body of a message in OUT."""

    version: int
    batch: BatchName
    digest: Annotated[bytes, Meta(max_length=DIGEST_BYTES)]  # of the job that was executed
    member: Annotated[str, Meta(max_length=128)]  # the host
    deliveries: U32
    outcome: Outcome  # as the member's dealer told it, under the cluster's seq and run


class Mark(NamedTuple):
    """Which job of the cluster a local one is, as its label says."""

    key: JobKey
    token: str
    crashes: int  # counted by other members
    digest: bytes
    label: str | None  # its own

    def text(self) -> str:
        """Return the label of the local job."""
        key = self.key
        mark = f"{key.batch}/{key.seq}.{key.run} {self.token} {self.crashes} {self.digest.hex()}"
        return mark if self.label is None else f"{mark} {self.label}"

    @classmethod
    def parse(cls, text: str | None) -> Mark | None:
        """Return the mark of a label; None for a job that was not submitted by a member."""
        found = _MARK.match(text or "")
        if found is None:
            return None
        key = JobKey(found["batch"], int(found["seq"]), int(found["run"]))
        return cls(key, found["token"], int(found["crashes"]), bytes.fromhex(found["digest"]), found["label"])


_job_decoder = msgspec.msgpack.Decoder(ClusterJob)
_outcome_decoder = msgspec.msgpack.Decoder(ClusterOutcome)


def digest(spec: JobSpec) -> bytes:
    """Return what tells a job from another one: as the dealer's digest, of its kind and payload alone."""
    return hashlib.blake2b(spec.payload, digest_size=DIGEST_BYTES, person=spec.kind.encode()[:16]).digest()


def encode_job(key: JobKey, spec: JobSpec, batch_limits: Limits) -> bytes:
    """Return the body of a job's message. Raises UsageError for a job, or a label, that there is no room for."""
    if spec.label is not None and len(spec.label) > LABEL_CHARS_MAX:
        raise UsageError(
            f"job {key}: its label has {len(spec.label)} characters, and in a cluster {LABEL_CHARS_MAX} are possible"
        )
    own = structs.replace(spec, limits=spec.limits or batch_limits)
    data = msgspec.msgpack.encode(ClusterJob(VERSION, key.batch, key.seq, key.run, own))
    if len(data) > MESSAGE_BYTES_MAX:
        raise UsageError(
            f"job {key} takes {len(data)} bytes, and in a cluster {MESSAGE_BYTES_MAX} are possible: put what is large "
            "into a file that all hosts can read"
        )
    return data


def decode_job(data: bytes) -> ClusterJob:
    """Return the job of a message. Raises MessageError: what comes from the engine may be of any origin."""
    try:
        job = _job_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise MessageError(f"no job: {error}") from error
    if job.version != VERSION:
        raise MessageError(f"a job of version {job.version}, and this member knows {VERSION}")
    return job


def decode_outcome(data: bytes) -> ClusterOutcome:
    """Return the outcome of a message. Raises MessageError."""
    try:
        return _outcome_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise MessageError(f"no outcome: {error}") from error


def received(delivery: Delivery, names: Names) -> tuple[Mark, JobSpec]:
    """Return a job that was handed out, as its mark and as what the local dealer gets. Raises MessageError."""
    job = decode_job(delivery.data)
    placed = names.parse_job(delivery.subject)
    # The engine keeps one message a subject, so a job under another one's would take its place.
    if placed is None or (placed.batch, placed.seq) != (job.batch, job.seq):
        raise MessageError(f"a job that calls itself {job.batch}/{job.seq}, under the subject {delivery.subject}")
    mark = Mark(JobKey(job.batch, job.seq, job.run), delivery.token, delivery.crashes, digest(job.spec), job.spec.label)
    wanted = _without_crashes(job.spec.limits or Limits(), delivery.crashes)
    return mark, structs.replace(job.spec, label=mark.text(), limits=wanted)


def recorded(mark: Mark, outcome: Outcome, member: str, delivered: int = 0) -> bytes:
    """Return the body of an outcome's message."""
    key = mark.key
    # Its number is the local batch's; a reader of OUT has the engine's order instead.
    told = structs.replace(
        outcome, no=0, seq=key.seq, run=key.run, label=mark.label, crashes=outcome.crashes + mark.crashes
    )
    data = msgspec.msgpack.encode(ClusterOutcome(VERSION, key.batch, mark.digest, member, delivered, told))
    if len(data) <= MESSAGE_BYTES_MAX:
        return data
    # It would be refused for ever, and its job executed for ever. A success without its value is none.
    text = f"its outcome takes {len(data)} bytes, and in a cluster {MESSAGE_BYTES_MAX} are possible: it is left out"
    error = JobError("TooLarge", text)
    kept = structs.replace(told, state=State.FAILED, value=None, output=NO_OUTPUT, error=error, tries=())
    return msgspec.msgpack.encode(ClusterOutcome(VERSION, key.batch, mark.digest, member, delivered, kept))


def corrupt(key: JobKey, delivery: Delivery, text: str, member: str) -> bytes:
    """Return the outcome of a message that is no job: its submitter must not wait for ever."""
    error = JobError("Corrupt", f"the message in the engine is unusable: {text}"[: limits.ERROR_TEXT_BYTES_MAX // 4])
    outcome = Outcome(0, key.seq, key.run, "unknown", None, State.FAILED, 0, 0, error=error)
    return msgspec.msgpack.encode(ClusterOutcome(VERSION, key.batch, b"", member, delivery.delivered, outcome))


def message_id(key: JobKey, spec: JobSpec) -> str:
    """Return the id of a job's message: the same for the same job, another one when its content is another."""
    return f"{key.batch}/{key.seq}.{key.run}/{digest(spec).hex()}"


def lane_of(spec: JobSpec, batch_limits: Limits) -> Lane:
    """Return the lane that a job waits in."""
    return Lane.of((spec.limits or batch_limits).priority)


def _without_crashes(wanted: Limits, crashes: int) -> Limits:
    """Take off what other members have counted: ten workers of one host are enough, there need not be ten of each."""
    if not crashes or wanted.crash_limit == limits.CRASH_LIMIT_UNLIMITED:
        return wanted
    return structs.replace(wanted, crash_limit=max(1, wanted.crash_limit - crashes))
