"""A trial: sides that do the same work in turn, and the rows of the table that are made of them.

A trial that is narrowed runs only the sides that the wanted rows need. A side that fails, or that is not on this
machine, costs the rows that name it and no other.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench import figures
from bench.errors import Wrong
from bench.figures import Rounds, Target, Unit
from bench.report import RowReport

# A side's turn gives its samples in the row's unit, or a text where there is nothing to measure.
Turn = Callable[[], Sequence[float] | str]


class Side(NamedTuple):
    """One of those that do the work."""

    name: str
    turn: Turn
    missing: str | None = None  # what to install, where it is not on this machine


class Row(NamedTuple):
    """One row: our side, and the side beside it."""

    name: str
    what: str
    unit: Unit
    ours: str | None = None  # a key of the trial's sides; None where there is only to tell what a peer does
    peer: str | None = None
    target: Target | None = None
    quantile: float = figures.MEDIAN


class Trial(NamedTuple):
    """Sides that take turns."""

    sides: Mapping[str, Side]
    rows: Sequence[Row]
    includes: str  # what each side's figure includes: the footnote


def narrowed(trials: Sequence[Trial], words: Sequence[str]) -> list[Trial]:
    """Keep the rows with one of the words in their name; all of them without words."""
    kept = []
    for trial in trials:
        rows = [row for row in trial.rows if not words or any(word in row.name for word in words)]
        if rows:
            kept.append(trial._replace(rows=rows))
    return kept


@dataclass
class Turns:
    """What the turns of one side came to."""

    rounds: list[Sequence[float]] = field(default_factory=list)
    text: str | None = None
    error: str | None = None

    def take(self, side: Side) -> None:
        """Take one turn. A side that has failed takes none, and one that only tells what happens takes one."""
        if self.error is not None or self.text is not None:
            return
        if side.missing is not None:
            self.error = f"not here: {side.missing}"
            return
        try:
            result = side.turn()
        # What a program prints is not what was expected: a number that is none, a key that is missing.
        except (Wrong, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
            self.error = f"error: {str(error) or type(error).__name__}"
            return
        if isinstance(result, str):
            self.text = result
        else:
            self.rounds.append(result)


def run(trial: Trial, rounds: int, say: Callable[[str], None]) -> list[RowReport]:
    """Let the sides take their turns, one after the other in each round, and make the rows."""
    needed = {key for row in trial.rows for key in (row.ours, row.peer) if key is not None}
    turns = {key: Turns() for key in trial.sides if key in needed}
    for number in range(rounds):
        for key, taken in turns.items():
            say(f"round {number + 1} of {rounds}: {trial.rows[0].name}: {trial.sides[key].name}")
            taken.take(trial.sides[key])
    return [report_row(trial, row, turns) for row in trial.rows]


def report_row(trial: Trial, row: Row, turns: Mapping[str, Turns]) -> RowReport:
    """Make a row of what its two sides came to."""
    ours, theirs = (turns[key] if key is not None else Turns() for key in (row.ours, row.peer))
    report = RowReport(
        name=row.name,
        what=row.what,
        unit=row.unit,
        peer=trial.sides[row.peer].name if row.peer is not None else None,
        includes=trial.includes,
        target=row.target,
        ours=_figure(ours.rounds, row.quantile),
        theirs=_figure(theirs.rounds, row.quantile),
        text=theirs.text,
        error=ours.error or theirs.error,
        absent=any(side.missing for key, side in trial.sides.items() if key in (row.ours, row.peer)),
    )
    if report.error is None and ours.rounds and theirs.rounds:
        report.ratio = figures.compare(ours.rounds, theirs.rounds, row.quantile)
    judged = report.ours if row.target is not None and row.target.of == "ours" else report.ratio
    if row.target is not None and judged is not None:
        report.met = figures.meets(judged, row.target, row.unit)
    return report


def _figure(rounds: Rounds, share: float) -> figures.Figure | None:
    return figures.summarize(rounds, share) if rounds else None
