"""`make bench-check`: the ratios of the last `make bench` against those of a stored one.

A row has got worse when its ratio lies behind the worst round of the baseline by more than 15 %: so a row whose
rounds differ much may differ much. A row without a ratio is compared by its figure, but only on the machine of the
baseline. Exits with 1 when a row got worse, or gave no result where the baseline has one.

    make bench-check
    make bench-check BASELINE=write
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import report
from bench.figures import Figure, Unit
from bench.report import RESULT, Report, RowReport
from bench.table import ratio_text
from support.source_tree import ROOT

BASELINE = ROOT / "tests" / "bench" / "baseline.json"
TOLERANCE = 0.15  # beside the baseline's spread


class Baseline(msgspec.Struct):
    """What is kept of a run: enough to judge another by."""

    taskpool: str
    cpu: str
    cores: int
    scale: float
    rows: dict[str, Figure]  # by name: the ratio, or the figure of a row that has no ratio


class Verdict(NamedTuple):
    """What the comparison says of one row."""

    name: str
    text: str
    worse: bool


def judged_by(row: RowReport) -> Figure | None:
    return row.ratio if row.peer is not None else row.ours


def to_baseline(run: Report) -> Baseline:
    rows = {row.name: figure for row in run.rows if row.error is None and (figure := judged_by(row)) is not None}
    return Baseline(run.taskpool, run.machine.cpu, run.machine.cores, run.scale, rows)


def is_worse(now: Figure, before: Figure, unit: Unit) -> bool:
    """Whether the median lies behind the baseline's worst round by more than the tolerance."""
    if unit.higher_is_better:
        return now.value < before.low * (1 - TOLERANCE)
    return now.value > before.high * (1 + TOLERANCE)


def compare(run: Report, baseline: Baseline) -> Iterator[Verdict]:
    """Yield what there is to say of each row of the baseline."""
    same_machine = (run.machine.cpu, run.machine.cores) == (baseline.cpu, baseline.cores)
    rows = {row.name: row for row in run.rows}
    for name, before in baseline.rows.items():
        row = rows.get(name)
        now = judged_by(row) if row is not None else None
        if row is None:
            yield Verdict(name, "not measured", worse=False)
        elif now is None or row.error is not None:
            yield Verdict(name, row.error or "no figure", worse=not row.absent)
        elif row.peer is None and not same_machine:
            yield Verdict(name, "not compared: it has no ratio, and the baseline's machine is another", worse=False)
        else:
            worse = is_worse(now, before, row.unit)
            yield Verdict(name, f"{ratio_text(now)}, was {ratio_text(before)}{': worse' if worse else ''}", worse)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make bench-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="store the last run as the baseline")
    options = parser.parse_args()
    if not RESULT.exists():
        parser.error(f"{_below(RESULT)} is not there: make bench")
    run = report.read(RESULT)
    if options.write:
        BASELINE.write_bytes(msgspec.json.format(msgspec.json.encode(to_baseline(run)), indent=2) + b"\n")
        sys.stdout.write(f"{_below(BASELINE)} has the ratios of {run.machine.text()}\n")
        return 0
    if not BASELINE.exists():
        parser.error(f"{_below(BASELINE)} is not there: make bench-check BASELINE=write")
    baseline = msgspec.json.decode(BASELINE.read_bytes(), type=Baseline)
    if run.scale != baseline.scale:
        parser.error(f"the last run has SCALE={run.scale:g}, the baseline {baseline.scale:g}: they cannot be compared")
    verdicts = list(compare(run, baseline))
    sys.stdout.writelines(f"{verdict.name}: {verdict.text}\n" for verdict in verdicts)
    if run.machine.busy:
        sys.stdout.write(f"the last run is one of a busy machine: load {run.machine.load:.2f}\n")
    if worse := [verdict.name for verdict in verdicts if verdict.worse]:
        sys.stderr.write(f"bench-check: worse than the baseline: {', '.join(worse)}\n")
        return 1
    return 0


def _below(path: Path) -> str:
    return str(path.relative_to(ROOT))


if __name__ == "__main__":
    sys.exit(main())
