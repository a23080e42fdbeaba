"""Render one line of the log for people, as text or as JSON.

A worker writes such lines straight to its log descriptor; dealer and generator put a `logging` handler
around this. It stays this small because every worker loads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from taskpool.clock import SystemClock, rfc3339

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
Fact = str | int | float | None


def render(fmt: Format, who: str, text: str, fields: Mapping[str, Fact] | None = None, level: Level = "info") -> str:
    """Render one event as exactly one line, newline included.

    Text form: `[who] text`. JSON form: an object with ts (RFC 3339, UTC), level, who and text, then
    `fields`: the facts of the text again, for programs. A field cannot replace one of those four.
    """
    if fmt == "text":
        return f"[{printable(who)}] {printable(text)}\n"
    record: dict[str, Fact] = {"ts": rfc3339(SystemClock().now().wall), "level": level, "who": who, "text": text}
    for name, value in (fields or {}).items():
        record.setdefault(name, value)
    # By msgspec and not json, which a worker would have to import for this alone.
    return msgspec.json.encode({name: _utf8(value) for name, value in record.items()}).decode() + "\n"


def printable(text: str) -> str:
    """Return the text with all that could break the line, or control a terminal, shown as escapes."""
    if text.isprintable():  # nearly always: spares the loop below
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def excerpt(text: str, bytes_max: int) -> str:
    """Return the text as `printable` shows it, in at most `bytes_max` bytes of UTF-8; `...` stands for what is cut."""
    if len(text) <= bytes_max and text.isascii() and text.isprintable():  # nearly always, and made for every outcome
        return text
    pieces: list[str] = []
    size = kept = 0
    for char in text:
        pieces.append(printable(char))
        size += len(pieces[-1].encode())
        if size > bytes_max:
            return "".join(pieces[:kept]) + "..."
        if size <= bytes_max - 3:
            kept = len(pieces)
    return "".join(pieces)


def _utf8(value: Fact) -> Fact:
    """Escape surrogates, each of which stands for a byte of a file name that is no UTF-8; JSON cannot carry them."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
