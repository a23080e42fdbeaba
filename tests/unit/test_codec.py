"""Messages to bytes and back, and everything that is no message refused."""

from __future__ import annotations

import tracemalloc
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskpool import codec, limits
from taskpool.errors import MessageError
from taskpool.messages import (
    Accepted,
    Ack,
    Answer,
    Bye,
    Close,
    Command,
    End,
    Frame,
    Hello,
    JobError,
    JobSpec,
    Limits,
    Message,
    Outcome,
    Outcomes,
    Output,
    Ping,
    Pong,
    Progress,
    Ready,
    Refused,
    Report,
    Spilled,
    State,
    Submit,
    Task,
    Usage,
    Welcome,
)

REPORT = Report(
    7, End.CRASHED, b"{}", 3, 11, JobError("E", "m", "t"), Usage(1, 2, 3, 4), Output("o", None, None, "/state/7.err")
)
OUTCOME = Outcome(1, 2, 1, "fib", "label", State.QUARANTINED, 3, 3, b"1", None, 9, 0, 101, 5, 6, 7, Usage(), Output())
TASKS = [Task(1, 1, "fib", b"\x28"), Task(2, 3, "command", b"")]

ONE_OF_EACH: list[Any] = [
    Hello(1, 31, 2, "b", Limits(retries=1, retry_exit=(1, 75)), 9),
    Submit(1, "b", 1, [JobSpec("fib", b"\x28"), JobSpec("command", b"", Limits(), "x")]),
    Close(1, "b", 0),
    Ack(1, "b", 2**63 - 1),
    Ping(0),
    Bye(1),
    Command(1, "scale", None, 0, -3),
    Welcome(1, 3, 7, "/spool", 5, None, 2, True),
    Accepted(1, "b", 2, True),
    Refused(1, None, 0, 0, "full", "text"),
    Outcomes(1, "b", [OUTCOME]),
    Pong(1),
    Answer(1, "status", True, b"{}"),
    Frame(3, 1, 2, 0, "b", codec.encode_tasks(TASKS)),
    Ready(1, 3, 101, "1.0", ["fib"], ["slow"]),
    Progress(1, 3, [REPORT], 9),
    Spilled("0" * 32, 5, bytes(32)),
]


def test_there_is_one_of_each() -> None:
    assert {type(message) for message in ONE_OF_EACH} == set(Message.__args__)


@pytest.mark.parametrize("message", ONE_OF_EACH, ids=lambda message: type(message).__name__)
def test_there_and_back(message: Any) -> None:
    data = codec.encode(message)
    assert data[0] == codec.PROTOCOL_VERSION
    back = codec.decode(data)
    assert type(back) is type(message)
    assert codec.encode(back) == data


def test_the_tasks_of_a_frame_are_decoded_apart() -> None:
    frame = codec.decode(codec.encode(ONE_OF_EACH[13]))
    assert isinstance(frame, Frame)
    assert codec.decode_tasks(frame.tasks) == TASKS


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x91\x01", b"\x91\x94\x00\x01\xa3fib\xc4\x00", b"\x91" * 100_000])
def test_tasks_that_are_none(body: bytes) -> None:
    with pytest.raises(MessageError):
        codec.decode_tasks(msgspec.Raw(body))


def test_trailing_fields_with_a_default_may_be_left_out() -> None:
    assert codec.decode(b"\x03\x94\x07\x05\xa6status\xc0") == Command(5, "status")


def data_of(*fields: object) -> bytes:
    return bytes([codec.PROTOCOL_VERSION]) + msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (data_of()[:1], "no message"),
        (b"\x01" + codec.encode(Ping(1))[1:], "version 1"),
        (b"\x00", "version 0"),
        (data_of(99, 1), "unknown tag"),
        (data_of(), "no tag"),
        (data_of(5), "field missing"),
        (data_of(5, 1, 2), "field too many"),
        (data_of(5, "1"), "wrong type"),
        (data_of(5, -1), "below the range"),
        (data_of(5, 2**63), "above the range"),
        (data_of(5, 1.0), "no integer"),
        (data_of(4, 1, "no/slash", 1), "batch name"),
        (data_of(4, 1, "b\n", 1), "batch name with a line end"),
        (data_of(4, 1, "", 1), "no batch name"),
        (data_of(1, 1, 32, 2, "1"), "reply slot"),
        (data_of(2, 1, "b", 1, []), "no jobs"),
        (data_of(2, 1, "b", 0, [["fib", b""]]), "jobs count from 1"),
        (data_of(2, 1, "b", 1, [["fib", b""]] * (limits.SUBMIT_JOBS_MAX + 1)), "too many jobs"),
        (data_of(2, 1, "b", 1, [["fib", "text"]]), "payload is bytes"),
        (data_of(2, 1, "b", 1, [["Fib!", b""]]), "kind name"),
        (data_of(2, 1, "b", 1, [["fib", bytes(limits.PAYLOAD_BYTES_MAX + 1)]]), "payload too long"),
        (data_of(40, 1, 1, 0, 0, "b", []), "a frame without attempts"),
        (data_of(61, 1, 1, [[1, "exploded"]]), "unknown end"),
        (data_of(80, "../../../../../etc/passwd0000000", 1, bytes(32)), "spool file name"),
        (b"\x02\x92\x05\x01\x00", "bytes behind the message"),
        (b"\x02\x94\x07\x05\xa6st\xfftus\xc0", "not UTF-8"),
        (b"\x02" + b"\x91" * 100_000, "nested too deep"),
        (b"\x01\x81\x05\x01", "a map"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_message_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(MessageError) as caught:
        codec.decode(data)
    assert str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x94\x17\x01\xa1b\xdd\xff\xff\xff\xff",
        b"\x01\x97\x01\x01\x00\x01\xa1v\xc0\x96\x00\x00\x00\x00\xdd\x0f\xff\xff\xff",
        b"\x01\xdd\xff\xff\xff\xff",
        b"\x01\x97\x28\x01\x01\x01\x00\xa1b\xc6\xff\xff\xff\xff",
    ],
)
def test_a_length_that_is_a_lie_costs_no_memory(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            codec.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_garbage_is_refused_or_is_a_message(data: bytes) -> None:
    for candidate in (data, b"\x01" + data):
        try:
            message = codec.decode(candidate)
        except MessageError:
            continue
        assert isinstance(message, Message)


@pytest.mark.parametrize("seed", range(3))
def test_a_message_with_flipped_bytes_is_refused_or_is_a_message(seed: int) -> None:
    random = Random(seed)
    for _ in range(1500):
        data = bytearray(codec.encode(random.choice(ONE_OF_EACH)))
        for _ in range(random.randrange(1, 4)):
            data[random.randrange(len(data))] = random.randrange(256)
        try:
            message = codec.decode(bytes(data[: random.randrange(1, len(data) + 1)]))
            if isinstance(message, Frame):
                codec.decode_tasks(message.tasks)
        except MessageError:
            continue
