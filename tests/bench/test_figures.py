"""Medians, spreads, ratios of pairs, targets."""

from __future__ import annotations

import pytest

from bench.figures import (
    JOBS_PER_SECOND,
    MILLISECONDS,
    SECONDS,
    Figure,
    Target,
    Unit,
    compare,
    meets,
    quantile,
    summarize,
)


@pytest.mark.parametrize(
    ("samples", "share", "expected"),
    [
        ([3, 1, 2], 0.5, 2),
        ([4, 1, 2, 3], 0.5, 2.5),
        ([7], 0.5, 7),
        ([7], 0.99, 7),
        (range(1, 101), 0.99, 99),
        (range(1, 51), 0.99, 50),  # of fifty samples, the worst
        (range(200, 0, -1), 0.99, 198),
        (range(1, 11), 0.25, 3),
    ],
)
def test_a_quantile_is_the_median_or_a_sample_by_the_nearest_rank(
    samples: range, share: float, expected: float
) -> None:
    assert quantile(list(samples), share) == expected


def test_a_figure_is_of_all_samples_and_its_spread_of_the_rounds() -> None:
    assert summarize([[1, 2, 9], [3, 4, 5]]) == Figure(3.5, 2, 4)
    assert summarize([[1, 2, 9], [3, 4, 5]], 0.99) == Figure(9, 5, 9)


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that slows down between two rounds changes both sides of each, and no ratio."""
    assert compare([[10], [1], [4]], [[5], [0.5], [2]]) == Figure(2, 2, 2)
    assert compare([[10], [3], [4]], [[5], [1], [1]]) == Figure(3, 2, 4)


def test_a_ratio_compares_the_quantiles_of_a_round() -> None:
    assert compare([[1, 2, 30]], [[4, 8, 10]]) == Figure(0.25, 0.25, 0.25)
    assert compare([[1, 2, 30]], [[4, 8, 10]], 0.99) == Figure(3, 3, 3)


def test_rounds_without_a_counterpart_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare([[1], [2]], [[1]])


@pytest.mark.parametrize(
    ("value", "unit", "met"),
    [
        (2.0, JOBS_PER_SECOND, True),
        (1.99, JOBS_PER_SECOND, False),
        (2.0, SECONDS, True),
        (2.01, SECONDS, False),
        (0.1, MILLISECONDS, True),
    ],
)
def test_a_target_is_met_on_the_side_that_is_better(value: float, unit: Unit, met: bool) -> None:
    assert meets(Figure(value, 0, 9), Target("ratio", 2), unit) is met
