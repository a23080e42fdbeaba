"""The comparison with a baseline."""

from __future__ import annotations

import pytest

from bench.check import Baseline, Verdict, compare, is_worse, to_baseline
from bench.figures import JOBS_PER_SECOND, MILLISECONDS, SECONDS, Figure, Unit
from bench.machine import Machine
from bench.report import Report, RowReport

BEFORE = Figure(2.0, 1.8, 2.4)


def a_run(*rows: RowReport, cpu: str = "Abacus 3") -> Report:
    machine = Machine(cpu=cpu, cores=2, kernel="6.1", load=0.1, busy=False)
    return Report(taskpool="1.2", machine=machine, versions={}, rounds=5, scale=1, rows=list(rows))


def a_row(name: str, value: float | None, unit: Unit = SECONDS, error: str | None = None) -> RowReport:
    ratio = None if value is None else Figure(value, value, value)
    return RowReport(name=name, what="", unit=unit, includes="", peer="Pool", ratio=ratio, error=error)


def a_baseline(**rows: Figure) -> Baseline:
    return Baseline(taskpool="1.1", cpu="Abacus 3", cores=2, scale=1, rows=rows)


@pytest.mark.parametrize(
    ("unit", "value", "worse"),
    [
        (SECONDS, 2.75, False),  # 2.4, the worst round, and 15 % of it are 2.76
        (SECONDS, 2.77, True),
        (SECONDS, 0.1, False),  # better is never worse
        (JOBS_PER_SECOND, 1.54, False),  # 1.8 without 15 % is 1.53
        (JOBS_PER_SECOND, 1.52, True),
        (JOBS_PER_SECOND, 9, False),
    ],
)
def test_worse_is_behind_the_worst_round_by_more_than_the_tolerance(unit: Unit, value: float, worse: bool) -> None:
    assert is_worse(Figure(value, 0, 9), BEFORE, unit) is worse


def test_each_row_of_the_baseline_is_compared() -> None:
    run = a_run(a_row("same", 2), a_row("slow", 3), a_row("new", 9))
    verdicts = list(compare(run, a_baseline(same=BEFORE, slow=BEFORE, gone=BEFORE)))
    assert verdicts == [
        Verdict("same", "2.00 (2.00-2.00), was 2.00 (1.80-2.40)", worse=False),
        Verdict("slow", "3.00 (3.00-3.00), was 2.00 (1.80-2.40): worse", worse=True),
        Verdict("gone", "not measured", worse=False),
    ]


def test_a_row_that_gives_no_result_any_more_is_worse_unless_its_peer_is_not_here() -> None:
    absent = a_row("absent", None, error="not here: make freeze")
    absent.absent = True
    run = a_run(a_row("wrong", None, error="error: 3 results for 4 jobs"), absent)
    verdicts = {verdict.name: verdict.worse for verdict in compare(run, a_baseline(wrong=BEFORE, absent=BEFORE))}
    assert verdicts == {"wrong": True, "absent": False}


@pytest.mark.parametrize(("cpu", "worse"), [("Abacus 3", True), ("Abacus 4", False)])
def test_a_figure_without_a_ratio_is_compared_on_the_same_machine_only(cpu: str, worse: bool) -> None:
    row = RowReport(name="latency", what="", unit=MILLISECONDS, includes="", ours=Figure(9, 9, 9))
    [verdict] = compare(a_run(row, cpu=cpu), a_baseline(latency=BEFORE))
    assert verdict.worse is worse


def test_a_baseline_keeps_ratios_and_the_figures_of_rows_without_a_peer() -> None:
    alone = RowReport(name="latency", what="", unit=MILLISECONDS, includes="", ours=Figure(9, 8, 10))
    told = RowReport(name="told", what="", unit=MILLISECONDS, includes="", peer="Pool", text="it hangs")
    run = a_run(a_row("ratio", 2), alone, told, a_row("wrong", 2, error="error: no result"))
    assert to_baseline(run) == Baseline(
        taskpool="1.2", cpu="Abacus 3", cores=2, scale=1, rows={"ratio": Figure(2, 2, 2), "latency": Figure(9, 8, 10)}
    )


def test_a_run_is_no_worse_than_itself() -> None:
    run = a_run(a_row("a", 2), a_row("b", 3, JOBS_PER_SECOND))
    assert not any(verdict.worse for verdict in compare(run, to_baseline(run)))
