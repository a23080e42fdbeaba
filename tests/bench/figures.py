"""What is made of samples: medians, spreads, ratios of pairs, and whether a target is met. No I/O, no clock.

A round of a comparison is one turn of each side, A B A B. A ratio is taken within a round, of what ran side by side;
the median of those is the row's ratio, and their least and greatest are its spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

from msgspec import Struct

MEDIAN = 0.5

Rounds = Sequence[Sequence[float]]  # the samples of each round


class Unit(Struct, frozen=True):
    """What a figure counts, and how it is printed."""

    name: str
    higher_is_better: bool = False
    decimals: int = 2


JOBS_PER_SECOND = Unit("jobs/s", higher_is_better=True, decimals=0)
SECONDS = Unit("s", decimals=3)
MILLISECONDS = Unit("ms")
MEGABYTES = Unit("MB", decimals=1)


class Figure(Struct, frozen=True):
    """A figure with its spread over the rounds."""

    value: float
    low: float
    high: float


class Target(Struct, frozen=True):
    """What a row is to reach: at least so much where higher is better, at most so much elsewhere."""

    of: Literal["ratio", "ours"]
    bound: float


def quantile(samples: Sequence[float], share: float) -> float:
    """Return the median, or by the nearest rank any other quantile: a sample that was really taken."""
    if share == MEDIAN:
        return median(samples)
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


def summarize(rounds: Rounds, share: float = MEDIAN) -> Figure:
    """Return the quantile of all samples; the spread is that of the rounds' own."""
    each = [quantile(samples, share) for samples in rounds]
    return Figure(quantile([sample for samples in rounds for sample in samples], share), min(each), max(each))


def compare(ours: Rounds, theirs: Rounds, share: float = MEDIAN) -> Figure:
    """Return the median and the spread of the ratios ours / theirs, one for each round."""
    pairs = zip(ours, theirs, strict=True)
    ratios = [quantile(left, share) / quantile(right, share) for left, right in pairs]
    return Figure(median(ratios), min(ratios), max(ratios))


def meets(figure: Figure, target: Target, unit: Unit) -> bool:
    """Whether the target is met, judged by the median."""
    return figure.value >= target.bound if unit.higher_is_better else figure.value <= target.bound
