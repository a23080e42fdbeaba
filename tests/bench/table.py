"""A report as a person reads it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from bench.figures import Figure, Target, Unit
from bench.report import Report, RowReport

HEADINGS = ("row", "what", "taskpool", "peer", "the peer's", "ratio (spread)", "target", "met")
WIDTH = 120  # of the footnotes; the table takes what it needs


def render(report: Report) -> Iterator[str]:
    """Yield the lines: the machine, the table, its footnotes, the versions."""
    yield report.machine.text()
    scaled = f", SCALE={report.scale:g}: sizes are shrunk, and so starts weigh more" if report.scale != 1 else ""
    yield f"taskpool {report.taskpool}; {report.rounds} rounds, sides in turn{scaled}"
    yield ""
    notes = list(dict.fromkeys(row.includes for row in report.rows))
    yield from _aligned([HEADINGS, *(_cells(row, notes.index(row.includes) + 1) for row in report.rows)])
    yield ""
    yield "ratio: taskpool's / the peer's, the median of the rounds; in brackets the rounds' least and greatest"
    for number, note in enumerate(notes, 1):
        yield from _wrapped(f"[{number}] {note}")
    yield from _wrapped("versions: " + "; ".join(f"{name} {said}" for name, said in sorted(report.versions.items())))
    if report.machine.busy:
        yield f"busy: the load was {report.machine.load:.2f} before this began; measure again on an idle machine"


def _cells(row: RowReport, note: int) -> Sequence[str]:
    verdict = {True: "met", False: "NOT MET", None: ""}[row.met]
    return (
        f"{row.name} [{note}]",
        row.what,
        figure_text(row.ours, row.unit) + (_spread(row.ours, row.unit) if row.peer is None else ""),
        row.peer or "",
        figure_text(row.theirs, row.unit),
        ratio_text(row.ratio),
        target_text(row.target, row.unit),
        "; ".join(filter(None, (verdict, row.text, row.error))),
    )


def figure_text(figure: Figure | None, unit: Unit) -> str:
    return f"{figure.value:,.{unit.decimals}f} {unit.name}" if figure is not None else ""


def _spread(figure: Figure | None, unit: Unit) -> str:
    return f" ({figure.low:,.{unit.decimals}f}-{figure.high:,.{unit.decimals}f})" if figure is not None else ""


def ratio_text(ratio: Figure | None) -> str:
    return f"{_short(ratio.value)} ({_short(ratio.low)}-{_short(ratio.high)})" if ratio is not None else ""


def _short(ratio: float) -> str:
    """Three significant digits, and no more decimals than two."""
    return f"{ratio:.3g}" if ratio < 0.1 else f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def target_text(target: Target | None, unit: Unit) -> str:
    if target is None:
        return ""
    return f"{'>=' if unit.higher_is_better else '<='} {target.bound:g}{f' {unit.name}' if target.of == 'ours' else ''}"


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, WIDTH, subsequent_indent="    ")


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Pad the columns, but for the last."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
