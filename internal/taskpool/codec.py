"""Encode messages to bytes, and decode bytes that came off a queue, which are hostile."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from taskpool import limits
from taskpool.errors import MessageError
from taskpool.messages import U32, U63, Message, ReplySlot, Report, Task

PROTOCOL_VERSION = 3  # the first byte of every message: a program of another version is told, not misunderstood

# What every version reads in messages of any other (docs/protocol.md, 4); not changed by a new version.


class Head(Struct, frozen=True, array_like=True):
    """Base of the first fields of a message, which all versions share. What follows them may be anything."""


class HelloHead(Head, frozen=True, tag=1):
    """By it a dealer can answer a Hello."""

    client: U63
    slot: ReplySlot
    pid: U32


class ReadyHead(Head, frozen=True, tag=60):
    """By it a dealer can tell which of its workers it does not understand."""

    incarnation: U63
    epoch: U63
    pid: U32
    version: Annotated[str, Meta(max_length=64)]


class VersionRefused(Head, frozen=True, tag=26):
    """Answers the Hello of another version; the version byte in front of it is the dealer's."""

    client: U63
    pid: U32
    version: Annotated[str, Meta(max_length=64)]


# Made once: msgspec compiles the types into a decoder.
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
_heads = msgspec.msgpack.Decoder(HelloHead | ReadyHead | VersionRefused)
_tasks = msgspec.msgpack.Decoder(list[Task])
_reports = msgspec.msgpack.Decoder(Annotated[list[Report], msgspec.Meta(max_length=limits.FRAME_JOBS_MAX)])
_PREFIX = bytes([PROTOCOL_VERSION])
_ARRAY_32 = b"\xdd"  # an array of MessagePack, with 4 bytes for its length


class OtherVersion(MessageError):
    """A message of another version of the protocol: which version, and its head when it has one that all share."""

    def __init__(self, data: bytes) -> None:
        """`data` is the message, which begins with another version byte than ours."""
        self.version = data[0]
        super().__init__(f"protocol version {self.version}; this program speaks {PROTOCOL_VERSION}")
        self.head: HelloHead | ReadyHead | VersionRefused | None = None
        with suppress(msgspec.MsgspecError, ValueError, RecursionError):
            self.head = _heads.decode(memoryview(data)[1:])


def encode(message: Any) -> bytes:
    """Return the message's bytes, its version byte in front. Any message: what may be sent is the sender's to know."""
    return _PREFIX + _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Return the message in `data`.

    Raises OtherVersion for a message of another version, MessageError for all else: garbage, unknown or missing fields,
    values out of range, text that is not UTF-8, nesting too deep.
    """
    if not data:
        raise MessageError("an empty message")
    if data[0] != PROTOCOL_VERSION:
        raise OtherVersion(data)
    # R8 (docs/protocol.md, 11)
    # msgspec raises more than its own errors: UnicodeDecodeError, a ValueError, for text, RecursionError for nesting.
    try:
        return _decoder.decode(memoryview(data)[1:])  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(str(error) or type(error).__name__) from None


def encode_tasks(tasks: Sequence[Task]) -> msgspec.Raw:
    """Encode the body of a Frame. Apart, so that a worker can say `started` before it decodes this (docs/adr/0001)."""
    return msgspec.Raw(_encoder.encode(tasks))


def decode_tasks(raw: msgspec.Raw) -> list[Task]:
    """Return the tasks in a Frame's body. Raises MessageError."""
    try:
        return _tasks.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(str(error) or type(error).__name__) from None


def encode_report(report: Report) -> bytes:
    """Encode a part of a Progress, before it is known which others go with it."""
    return _encoder.encode(report)


def decode_reports(count: int, data: bytes) -> list[Report]:
    """Return the reports in the bytes of `encode_report`, so many behind one another. Raises MessageError."""
    # R8 (docs/protocol.md, 11)
    try:
        return _reports.decode(_ARRAY_32 + count.to_bytes(4, "big") + data)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(str(error) or type(error).__name__) from None
