"""A job of the cluster as bytes, and the mark by which a local job tells which one it is."""

from __future__ import annotations

import msgspec
import pytest

from support.members import spec
from taskpool import limits
from taskpool.cluster.engine import Delivery, JobKey
from taskpool.cluster.job import (
    LABEL_CHARS_MAX,
    MESSAGE_BYTES_MAX,
    VERSION,
    ClusterJob,
    Mark,
    corrupt,
    decode_job,
    decode_outcome,
    digest,
    encode_job,
    message_id,
    received,
    recorded,
)
from taskpool.cluster.subjects import Lane, Names
from taskpool.errors import MessageError, UsageError
from taskpool.messages import DEFAULT_LIMITS, JobSpec, Limits, Outcome, State

NAMES = Names("render")
KEY = JobKey("a.b", 3, 1)


def delivery(data: bytes, **changes: object) -> Delivery:
    fields = {"token": "normal.1.2.3", "subject": NAMES.job(Lane.NORMAL, "a.b", 3), "data": data}
    return Delivery(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_longest_mark_fits_a_label() -> None:
    key = JobKey("B" * 64, limits.JOB_SEQ_MAX, 2**32 - 1)
    token = f"normal.{2**32 - 1}.{2**64 - 1}.{2**64 - 1}"
    mark = Mark(key, token, limits.RETRIES_MAX, b"\xff" * 16, "x" * LABEL_CHARS_MAX)
    assert len(mark.text()) <= 256
    assert Mark.parse(mark.text()) == mark


@pytest.mark.parametrize("label", [None, "", "a person's", "two\nlines", "ends in a space "])
def test_a_mark_is_read_back(label: str | None) -> None:
    mark = Mark(KEY, "high.1.2.3", 0, bytes(16), label)
    assert Mark.parse(mark.text()) == mark


@pytest.mark.parametrize("text", [None, "", "render", "a/1.1 t 0", f"a/1.1 t 0 {'0' * 31}"])
def test_another_label_is_no_mark(text: str | None) -> None:
    assert Mark.parse(text) is None


def test_a_job_comes_with_the_limits_of_its_batch() -> None:
    data = encode_job(KEY, spec(label="mine"), Limits(retries=2, crash_limit=5))
    mark, job = received(delivery(data, crashes=3), NAMES)
    assert mark == Mark(KEY, "normal.1.2.3", 3, digest(spec()), "mine")
    assert job.limits == Limits(retries=2, crash_limit=2), "what others have counted is taken off"
    assert Mark.parse(job.label) == mark
    assert job.payload == spec().payload


@pytest.mark.parametrize(("limit", "left"), [(3, 1), (limits.CRASH_LIMIT_UNLIMITED, limits.CRASH_LIMIT_UNLIMITED)])
def test_a_job_that_has_crashed_often_has_one_more_try(limit: int, left: int) -> None:
    _, job = received(delivery(encode_job(KEY, spec(), Limits(crash_limit=limit)), crashes=9), NAMES)
    assert job.limits is not None
    assert job.limits.crash_limit == left


def test_an_outcome_is_told_under_the_clusters_numbers() -> None:
    mark = Mark(KEY, "normal.1.2.3", 2, digest(spec()), "mine")
    local = Outcome(9, 77, 1, "fib", mark.text(), State.SUCCEEDED, 1, 1, value=b"5")
    told = decode_outcome(recorded(mark, local, "host-a"))
    assert (told.batch, told.digest, told.member) == ("a.b", digest(spec()), "host-a")
    assert (told.outcome.no, told.outcome.seq, told.outcome.run, told.outcome.label) == (0, 3, 1, "mine")
    assert (told.outcome.crashes, told.outcome.value) == (3, b"5")


def test_what_is_no_job_has_an_outcome_that_says_so() -> None:
    told = decode_outcome(corrupt(KEY, delivery(b"x"), "no job", "host-a")).outcome
    assert (told.seq, told.state, told.error is not None and told.error.type) == (3, State.FAILED, "Corrupt")


def of_version(version: int) -> bytes:
    return msgspec.msgpack.encode(ClusterJob(version, "a.b", 3, 1, spec()))


@pytest.mark.parametrize(
    ("data", "subject", "text"),
    [
        (b"", None, "no job"),
        (b"\xc1", None, "no job"),
        (encode_job(KEY, spec(), DEFAULT_LIMITS)[:-1], None, "no job"),
        (of_version(VERSION + 1), None, "version 2"),
        (encode_job(KEY, spec(), DEFAULT_LIMITS), NAMES.job(Lane.LOW, "a.b", 4), "calls itself a.b/3"),
        (encode_job(KEY, spec(), DEFAULT_LIMITS), "tp.other.job.low.a.3", "calls itself a.b/3"),
    ],
)
def test_hostile_bytes_are_refused(data: bytes, subject: str | None, text: str) -> None:
    with pytest.raises(MessageError, match=text):
        received(delivery(data, **({} if subject is None else {"subject": subject})), NAMES)


@pytest.mark.parametrize("data", [b"", b"\x90", b"\xc1"])
def test_hostile_outcomes_are_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode_outcome(data)


def test_a_label_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match=r"has 61 characters, and in a cluster 60"):
        encode_job(KEY, spec(label="x" * 61), DEFAULT_LIMITS)


def test_the_id_of_a_message_is_that_of_its_content() -> None:
    assert message_id(KEY, spec(1)) == message_id(KEY, spec(1, label="other"))
    assert message_id(KEY, spec(1)) != message_id(KEY, spec(2))
    assert decode_job(encode_job(KEY, spec(), DEFAULT_LIMITS)).spec == JobSpec("fib", b"\x01", DEFAULT_LIMITS)


def test_a_job_that_the_engine_would_not_take_is_refused() -> None:
    large = JobSpec("fib", bytes(MESSAGE_BYTES_MAX))
    with pytest.raises(UsageError, match=rf"job a\.b/3 takes \d+ bytes, and in a cluster {MESSAGE_BYTES_MAX}"):
        encode_job(KEY, large, DEFAULT_LIMITS)


def test_an_outcome_that_the_engine_would_not_take_is_told_as_a_failure() -> None:
    mark = Mark(KEY, "normal.1.2.3", 0, digest(spec()), None)
    large = Outcome(9, 77, 1, "fib", mark.text(), State.SUCCEEDED, 1, 0, value=bytes(MESSAGE_BYTES_MAX))
    data = recorded(mark, large, "host-a")
    assert len(data) < 4096
    told = decode_outcome(data).outcome
    assert (told.seq, told.state, told.value) == (3, State.FAILED, None)
    assert told.error is not None
    assert told.error.type == "TooLarge"
