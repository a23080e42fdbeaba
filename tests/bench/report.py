"""What a run came to, as data: build/bench.json is one `Report`."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from bench.figures import Figure, Target, Unit
from bench.machine import Machine
from support.source_tree import ROOT

RESULT = ROOT / "build" / "bench.json"


class RowReport(Struct, kw_only=True):
    """One row of the table."""

    name: str
    what: str
    unit: Unit
    includes: str  # what each side's figure includes
    peer: str | None = None
    ours: Figure | None = None
    theirs: Figure | None = None
    ratio: Figure | None = None  # ours / theirs
    target: Target | None = None
    met: bool | None = None
    text: str | None = None  # what a peer does, where there is nothing to measure
    error: str | None = None  # why there is no ratio
    absent: bool = False  # because a side is not on this machine, which is no failure


class Report(Struct, kw_only=True):
    """One run."""

    taskpool: str
    machine: Machine
    versions: dict[str, str]  # of Python and of each peer
    rounds: int
    scale: float
    rows: list[RowReport]

    @property
    def failed(self) -> list[str]:
        """The names of the rows in which a side gave no result, or a wrong one."""
        return [row.name for row in self.rows if row.error is not None and not row.absent]


def write(report: Report, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def read(path: Path) -> Report:
    """Raises OSError, and msgspec.DecodeError for what is no report."""
    return msgspec.json.decode(path.read_bytes(), type=Report)
