"""Encode messages to bytes, and decode bytes that came off a queue, which are hostile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from taskpool.errors import MessageError
from taskpool.messages import Message, Task

PROTOCOL_VERSION = 2  # the first byte of every message: a program of another version is told, not misunderstood

# Made once: msgspec compiles the types into a decoder.
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
_tasks = msgspec.msgpack.Decoder(list[Task])
_PREFIX = bytes([PROTOCOL_VERSION])


def encode(message: Any) -> bytes:
    """Return the message's bytes, its version byte in front. Any message: what may be sent is the sender's to know."""
    return _PREFIX + _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Return the message in `data`.

    Raises MessageError for all else: garbage, another version, unknown or missing fields, values
    out of range, text that is not UTF-8, nesting too deep.
    """
    if not data:
        raise MessageError("an empty message")
    if data[0] != PROTOCOL_VERSION:
        raise MessageError(f"protocol version {data[0]}; this program speaks {PROTOCOL_VERSION}")
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
