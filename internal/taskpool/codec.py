"""Messages to bytes and back. Everything decoded here is hostile until it has passed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from taskpool.errors import MessageError
from taskpool.messages import Message, Task

PROTOCOL_VERSION = 2

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
_tasks = msgspec.msgpack.Decoder(list[Task])
_PREFIX = bytes([PROTOCOL_VERSION])


def encode(message: Any) -> bytes:
    """The message with its version byte in front."""
    return _PREFIX + _encoder.encode(message)


def decode(data: bytes) -> Message:
    """The message in `data`.

    Raises MessageError for anything else: garbage, another version, unknown or missing fields, values
    out of range, text that is not UTF-8, nesting too deep.
    """
    if not data:
        raise MessageError("an empty message")
    if data[0] != PROTOCOL_VERSION:
        raise MessageError(f"protocol version {data[0]}; this program speaks {PROTOCOL_VERSION}")
    try:
        return _decoder.decode(memoryview(data)[1:])  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(str(error) or type(error).__name__) from None


def encode_tasks(tasks: Sequence[Task]) -> msgspec.Raw:
    """The body of a Frame."""
    return msgspec.Raw(_encoder.encode(tasks))


def decode_tasks(raw: msgspec.Raw) -> list[Task]:
    """The tasks in a Frame's body. Raises MessageError."""
    try:
        return _tasks.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(str(error) or type(error).__name__) from None
