"""The lines of a screen: as many as it has, each as wide as it is, whatever jobs are called."""

from __future__ import annotations

import time

import pytest

from taskpool.generator.top.cells import width
from taskpool.generator.top.model import BatchRow, Death, JobRow, Model, PoolRow, Request
from taskpool.generator.top.screen import Line, Size, Style, screen
from taskpool.generator.top.view import Question, Section, View, follow
from unit.generator.top.test_cells import HOSTILE

SIZES = [Size(24, 80), Size(60, 200), Size(10, 40), Size(11, 41), Size(24, 300)]


def a_pool(name: str = "night", jobs: int = 2, batches: int = 1, deaths: int = 0, text: str = "sleep 300") -> PoolRow:
    return PoolRow(
        name,
        state="running",
        workers_wanted=4,
        workers=4,
        spares=1,
        running=jobs,
        finished=7,
        failed=1,
        rates=[0.0, 1.0, 2.0],
        jobs=[JobRow(name, n, 100 + n, f"b/{n}", 61.0, text, True, 99.6, 2**30) for n in range(1, jobs + 1)],
        batches=[BatchRow(name, f"batch{n}", 3, 10, 10, 0.5, 14.0, 1) for n in range(batches)],
        deaths=[Death("2026-01-31T09:30:00.5Z", name, f"b/{n}", 1, "killed by SIGSEGV") for n in range(deaths)],
    )


def shown(model: Model, view: View | None = None, size: Size = SIZES[0]) -> list[str]:
    return [line.text for line in lines(model, view, size)]


def lines(model: Model, view: View | None = None, size: Size = SIZES[0]) -> list[Line]:
    found = screen(model, follow(view or View(), model), size, "12:00:00")
    assert len(found) == size.rows
    assert [width(line.text) for line in found] == [size.columns] * size.rows
    return found


@pytest.mark.parametrize("size", [*SIZES, Size(1, 1), Size(9, 80), Size(24, 39), Size(3, 200), Size(24, 1)])
@pytest.mark.parametrize("much", [0, 1, 5, 400])
def test_a_screen_is_always_full(size: Size, much: int) -> None:
    lines([a_pool(jobs=much, batches=much, deaths=much)], size=size)
    lines([a_pool(f"pool{n}", jobs=2) for n in range(much)], size=size)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("size", SIZES)
def test_hostile_texts_change_nothing_else(text: str, size: Size) -> None:
    """Wherever a text from outside can stand."""
    began = time.perf_counter()
    pool = a_pool(text=text)
    pool = pool._replace(
        name=text,
        state=text or "running",
        jobs=[row._replace(pool=text, job=text) for row in pool.jobs],
        batches=[row._replace(pool=text, batch=text) for row in pool.batches],
        deaths=[Death(text, text, text, 1, text)],
    )
    for view in (View(), View(filter=text[:64]), View(message=text), View(section=Section.BATCHES)):
        for line in lines([pool, a_pool()], view, size):
            assert "\x1b" not in line.text
            assert "\n" not in line.text
    lines([PoolRow(text, problem=text)], View(question=Question(Request(text, "cancel", text, 3))), size)
    assert time.perf_counter() - began < 30, "a text of 4 MiB is not worked through"


def test_what_runs_is_told() -> None:
    text = shown([a_pool()])
    row = next(line for line in text if "b/1" in line)
    assert row.split() == ["1", "101", "b/1", "1:01", "100", "1.0G", "sleep", "300"]
    assert " night running  workers 4/4+1  0 queued  2 running  7 done  1 failed" in text[1]
    assert "1 pool, 2 of 4 slots busy" in text[0]
    assert text[0].endswith("12:00:00")
    assert "█" in text[2]


def test_batches_and_deaths_are_told() -> None:
    text = "\n".join(shown([a_pool(deaths=1)]))
    assert "batch0" in text
    assert "3/10 [###.......]   0.50   14.0s       1" in text
    assert "09:30:00 b/0 try 1" in text
    assert "killed by SIGSEGV" in text


def test_failures_that_may_be_more_are_marked() -> None:
    pool = a_pool()
    row = pool.batches[0]._replace(total=None, failed=3, all_looked_at=False)
    text = "\n".join(shown([pool._replace(batches=[row])]))
    assert "3/10+" in text
    assert "3+" in text


def test_many_jobs_leave_room_for_batches_and_deaths() -> None:
    text = shown([a_pool(jobs=100, batches=10, deaths=10)])
    assert sum("batch" in line for line in text) >= 3
    assert sum("SIGSEGV" in line for line in text) >= 3
    assert any("more)" in line for line in text)


def test_the_cursor_is_seen_wherever_it_is() -> None:
    model = [a_pool(jobs=100)]
    for place in (0, 50, 99):
        view = View(cursor=("night", f"b/{place + 1}"))
        chosen = [line.text for line in lines(model, view) if line.style is Style.CHOSEN]
        assert len(chosen) == 1
        assert f"b/{place + 1} " in chosen[0]


def test_pools_are_named_where_there_are_several() -> None:
    text = shown([a_pool("day"), a_pool("night")])
    assert sum("POOL" in line for line in text) == 2
    assert any("day" in line and "b/1" in line for line in text)


@pytest.mark.parametrize("columns", [80, 200])
def test_questions_fit_a_small_terminal(columns: int) -> None:
    for asked in (1, 2):
        question = Question(Request("night", "cancel", "a-batch-of-mine", 12), asked)
        last = shown([a_pool()], View(question=question), Size(24, columns))[-1]
        assert last.startswith(" y/n  ")
        assert "a-batch-of-mine/12" in last
        assert "~" not in last


def test_what_is_wrong_with_a_pool_is_told() -> None:
    assert "gone: no dealer answers" in shown([PoolRow("gone", problem="no dealer answers")])[1]
    assert "no pool of yours runs here" in shown([])[0]
    (broken,) = [line for line in lines([a_pool()._replace(out_of_service=True)]) if "workers die" in line.text]
    assert broken.style is Style.BAD
