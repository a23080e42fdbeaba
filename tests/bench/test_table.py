"""The report as a table, and as JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import report, table
from bench.figures import JOBS_PER_SECOND, MILLISECONDS, SECONDS, Figure, Target
from bench.machine import Machine
from bench.report import Report, RowReport

MACHINE = Machine(cpu="Abacus 3", cores=2, kernel="6.1", load=0.25, busy=False)
ROWS = [
    RowReport(
        name="noop",
        what="no-op",
        unit=JOBS_PER_SECOND,
        includes="from A to B",
        peer="Pool",
        ours=Figure(20_000.4, 19_000, 21_000),
        theirs=Figure(9_876, 9_000, 11_000),
        ratio=Figure(2.03, 1.9, 2.1),
        target=Target("ratio", 2),
        met=True,
    ),
    RowReport(
        name="latency",
        what="one job",
        unit=MILLISECONDS,
        includes="from B to C",
        ours=Figure(3.456, 3, 4),
        target=Target("ours", 3),
        met=False,
    ),
    RowReport(
        name="frozen",
        what="start",
        unit=SECONDS,
        includes="from B to C",
        peer="echo",
        theirs=Figure(0.1234, 0.1, 0.2),
        target=Target("ours", 0.12),
        error="not here: freeze",
        absent=True,
    ),
    RowReport(name="death", what="kill -9", unit=SECONDS, includes="one", peer="Pool", text="it hangs"),
]


def a_report(machine: Machine = MACHINE, *, scale: float = 1) -> Report:
    return Report(taskpool="1.2", machine=machine, versions={"rq": "3", "loky": "2"}, rounds=5, scale=scale, rows=ROWS)


def test_the_table() -> None:
    assert list(table.render(a_report())) == [
        "Abacus 3, 2 cores, Linux 6.1; load at start 0.25 (idle)",
        "taskpool 1.2; 5 rounds, sides in turn",
        "",
        "row          what     taskpool             peer  the peer's    ratio (spread)    target     met",
        "noop [1]     no-op    20,000 jobs/s        Pool  9,876 jobs/s  2.03 (1.90-2.10)  >= 2       met",
        "latency [2]  one job  3.46 ms (3.00-4.00)                                        <= 3 ms    NOT MET",
        "frozen [2]   start                         echo  0.123 s                         <= 0.12 s  not here: freeze",
        "death [3]    kill -9                       Pool                                             it hangs",
        "",
        "ratio: taskpool's / the peer's, the median of the rounds; in brackets the rounds' least and greatest",
        "[1] from A to B",
        "[2] from B to C",
        "[3] one",
        "versions: loky 2; rq 3",
    ]


def test_a_busy_machine_and_a_shrunk_run_are_marked() -> None:
    busy = Machine(cpu="Abacus 3", cores=2, kernel="6.1", load=7.5, busy=True)
    lines = list(table.render(a_report(busy, scale=0.1)))
    assert lines[0].endswith("load at start 7.50 (busy: its figures prove nothing)")
    assert "SCALE=0.1" in lines[1]
    assert lines[-1].startswith("busy: the load was 7.50 before this began")


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (Figure(1, 0.5, 2), "1.00 (0.50-2.00)"),
        (Figure(0.01234, 0.00056, 0.0999), "0.0123 (0.00056-0.0999)"),
        (Figure(1234.5, 99.99, 100), "1234 (99.99-100)"),
        (None, ""),
    ],
)
def test_ratios_of_all_sizes_can_be_told_apart(ratio: Figure | None, text: str) -> None:
    assert table.ratio_text(ratio) == text


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "build" / "bench.json"
    report.write(a_report(), path)
    assert report.read(path) == a_report()
    assert '"busy": false' in path.read_text()


def test_footnotes_are_wrapped() -> None:
    run = a_report()
    run.rows = [RowReport(name="noop", what="", unit=SECONDS, includes="from here to there " * 15)]
    first, second, third = (line for line in table.render(run) if "there" in line)
    assert first.startswith("[1] from here")
    assert second.startswith("    ") and third.startswith("    ")
    assert max(map(len, (first, second, third))) <= 120


def test_a_row_without_its_peer_has_not_failed() -> None:
    wrong = RowReport(name="wrong", what="", unit=SECONDS, includes="", error="error: 3 results for 4 jobs")
    run = a_report()
    run.rows = [*ROWS, wrong]
    assert run.failed == ["wrong"]
