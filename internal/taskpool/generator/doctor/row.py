"""One thing that was looked at: its value, whether it is as a pool needs it, and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec

from taskpool.generator.output.formats import lay_out


class Status(StrEnum):
    """A warning costs time or comfort; with a fault a pool does not start, or loses what it has."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


class Row(NamedTuple):
    """The answer of one check. `cure` can be pasted; `why` and `cure` are empty where the status is OK."""

    check: str
    value: str
    status: Status = Status.OK
    why: str = ""
    cure: str = ""


def warning(check: str, value: str, why: str, cure: str) -> Row:
    """Return a row for what costs time or comfort."""
    return Row(check, value, Status.WARNING, why, cure)


def fault(check: str, value: str, why: str, cure: str) -> Row:
    """Return a row for what keeps a pool from starting, or has it lose what it has."""
    return Row(check, value, Status.FAULT, why, cure)


def has_fault(rows: Sequence[Row]) -> bool:
    """Say whether one of the rows is a fault."""
    return any(row.status is Status.FAULT for row in rows)


def as_json(rows: Sequence[Row]) -> bytes:
    """Return an object for each row, a line each; what does not apply is null."""
    objects = ({key: _text(value) or None for key, value in row._asdict().items()} for row in rows)
    return b"".join(msgspec.json.encode(each) + b"\n" for each in objects)


def as_table(rows: Sequence[Row]) -> bytes:
    """Return the rows as a table, and below it the reason and the cure of each that is not ok."""
    table = [{"check": row.check, "status": row.status.value, "value": row.value} for row in rows]
    told = "".join(f"\n{_advice(row)}\n" for row in rows if row.status is not Status.OK)
    return _text(lay_out(table) + told).encode()


def _text(value: str) -> str:
    # Paths and what the kernel tells need not be UTF-8.
    return value.encode(errors="backslashreplace").decode()


def in_a_line(row: Row) -> str:
    """Return what a person is told of a row that is not ok."""
    cure = row.cure.replace("\n    ", "; ")
    return f"{row.status.value}: {row.check}: {row.why}. Cure: {cure}"


def _advice(row: Row) -> str:
    return f"{row.status.value}: {row.check}: {row.why}\n    {row.cure}"
