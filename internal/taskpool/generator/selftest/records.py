"""The records of one self-test, read: what jobs wrote down, what was told, and what the journal has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import msgspec

from taskpool.generator.selftest.workload import LINES


class Recorded(msgspec.Struct):
    """What is used of an outcome: of the object of `--results`, and of the journal's export."""

    label: str | None
    seq: int
    run: int
    state: str
    attempts: int
    crashes: int
    value: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def name(self) -> str:
        """The job."""
        return self.label or f"number {self.seq}"


class _Line(msgspec.Struct):
    """What tells the lines of an export apart."""

    record: str


class Execution(NamedTuple):
    """A line that a job wrote."""

    word: str  # start, end, overlap
    job: str
    pid: int


class Journal(NamedTuple):
    """What is in the journal."""

    outcomes: list[Recorded]
    waiting: int  # jobs without an outcome, or in quarantine
    problem: str = ""  # why it could not be read, or is not whole


def executions(directory: Path) -> list[Execution]:
    """Read what jobs have written down so far."""
    # Up to the last line's end: one may just be written.
    whole = (directory / LINES).read_bytes().rpartition(b"\n")[0].decode()
    words = (line.split() for line in whole.splitlines())
    return [Execution(each[0], each[1], int(each[2])) for each in words if len(each) == 3 and each[2].isdecimal()]


def told(path: Path) -> list[Recorded]:
    """Read the outcomes that the submitter has been told so far."""
    try:
        whole = path.read_bytes().rpartition(b"\n")[0]
    except FileNotFoundError:  # it is made with the first welcome
        return []
    return [msgspec.json.decode(line, type=Recorded) for line in whole.splitlines()]


def read_journal(data: bytes, problem: str = "") -> Journal:
    """Read a journal's export."""
    outcomes, waiting = [], 0
    for line in data.splitlines():
        try:
            record = msgspec.json.decode(line, type=_Line).record
            if record == "outcome":
                outcomes.append(msgspec.json.decode(line, type=Recorded))
            waiting += record == "job"
        except msgspec.MsgspecError as error:
            problem = problem or f"its export is not readable: {error}"
    return Journal(outcomes, waiting, problem)


def count(lines: list[Execution], word: str) -> Counter[str]:
    """Return how often each job has said a word."""
    return Counter(line.job for line in lines if line.word == word)
