"""Turns of the sides, and the rows made of them. The sides are functions that write themselves down."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bench.errors import Wrong
from bench.figures import JOBS_PER_SECOND, MILLISECONDS, Figure, Target
from bench.report import RowReport
from bench.trial import Row, Side, Trial, Turn, narrowed, run


class Order:
    """The order in which sides took their turns."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def turn(self, name: str, *results: Sequence[float] | str | Exception) -> Turn:
        """Make a side's turns: each result in its turn, the last one again and again."""
        left = list(results)

        def take() -> Sequence[float] | str:
            self.names.append(name)
            result = left.pop(0) if len(left) > 1 else left[0]
            if isinstance(result, Exception):
                raise result
            return result

        return take


@pytest.fixture
def order() -> Order:
    return Order()


def rows_of(trial: Trial, rounds: int = 2) -> dict[str, RowReport]:
    return {row.name: row for row in run(trial, rounds, lambda _: None)}


def of_two(order: Order, *theirs: Sequence[float] | str | Exception, missing: str | None = None) -> Trial:
    sides = {
        "a": Side("ours", order.turn("a", [10], [12])),
        "b": Side("theirs", order.turn("b", *theirs), missing),
    }
    rows = [
        Row("both", "", JOBS_PER_SECOND, "a", "b", Target("ratio", 2)),
        Row("alone", "", MILLISECONDS, "a", target=Target("ours", 11)),
    ]
    return Trial(sides, rows, "everything")


def test_sides_take_turns(order: Order) -> None:
    rows = rows_of(of_two(order, [5], [4]))
    assert order.names == ["a", "b", "a", "b"]
    assert rows["both"].ratio == Figure(2.5, 2, 3)
    assert rows["both"].met is True
    assert (rows["both"].ours, rows["both"].theirs) == (Figure(11, 10, 12), Figure(4.5, 4, 5))
    assert (rows["alone"].ours, rows["alone"].ratio, rows["alone"].met) == (Figure(11, 10, 12), None, True)


def test_a_target_that_is_not_met(order: Order) -> None:
    assert rows_of(of_two(order, [9]))["both"].met is False


@pytest.mark.parametrize("error", [Wrong("3 of 4 results"), OSError("no such file"), ValueError("no number")])
def test_a_side_that_fails_takes_no_further_turn_and_costs_its_own_rows(order: Order, error: Exception) -> None:
    rows = rows_of(of_two(order, [5], error, [5]), rounds=4)
    assert order.names == ["a", "b", "a", "b", "a", "a"]
    assert rows["both"].error == f"error: {error}"
    assert (rows["both"].ratio, rows["both"].met, rows["both"].absent) == (None, None, False)
    assert (rows["alone"].error, rows["alone"].met) == (None, False)


def test_a_side_that_is_not_here_says_what_to_install(order: Order) -> None:
    rows = rows_of(of_two(order, [5], missing="apt-get install parallel"))
    assert order.names == ["a", "a"]
    assert (rows["both"].error, rows["both"].absent) == ("not here: apt-get install parallel", True)
    assert rows["both"].ours == Figure(11, 10, 12)
    assert not rows["alone"].absent


def test_a_target_for_our_figure_is_judged_without_the_peer(order: Order) -> None:
    sides = {"a": Side("ours", order.turn("a", [10])), "b": Side("theirs", order.turn("b"), "make freeze")}
    row = Row("start", "", MILLISECONDS, "a", "b", Target("ours", 11))
    assert rows_of(Trial(sides, [row], ""))["start"].met is True


def test_what_there_is_only_to_tell_is_told_once(order: Order) -> None:
    trial = Trial({"b": Side("theirs", order.turn("b", "it hangs"))}, [Row("c", "", MILLISECONDS, peer="b")], "")
    row = rows_of(trial, rounds=3)["c"]
    assert order.names == ["b"]
    assert (row.text, row.error, row.ours, row.theirs) == ("it hangs", None, None, None)


def test_words_narrow_the_rows_and_with_them_the_sides(order: Order) -> None:
    trial = of_two(order, [5])
    [kept] = narrowed([trial], ["alo", "nothing"])
    assert [row.name for row in kept.rows] == ["alone"]
    rows_of(kept)
    assert order.names == ["a", "a"]
    assert narrowed([trial], ["nothing"]) == []
    assert narrowed([trial], []) == [trial]
