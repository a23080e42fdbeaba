"""Declare a metric where it is counted: its name, help text, labels and label values stand beside the number.

    class LoopCounters(MetricSet):
        turns: int = counter("taskpool_loop_turns_total", "Turns of the dealer's loop; at least one a second.")

    counters.turns += 1

`metrics.exporter` walks the declarations, so that a new metric is one declaration and its line in the golden file.

Rules of this file:
1. What is kept is a plain int, a `collections.Counter` or a `Histogram`: counting is an addition, without a lock.
2. One thread adds to a metric, and any thread may read it. Nothing here walks a container that its owner changes: the
   declared label values are looked up one by one, so a page may be a turn out of step with itself, but never fails.
3. Label values come from closed sets, never ids or PIDs, and each is there from the start with 0: a rate over a series
   that begins with its first event misses that event.
4. Names are `taskpool_<thing>_<unit>` in base units, `_total` on counters. They are public: tests/golden/metrics.txt.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

LabelValues = Sequence[str] | Callable[[Any], Sequence[str]]  # known in the source, or by the owner of the metric
Labels = Mapping[str, LabelValues | None]  # None: the values are those that `computed` returns
Reading = float | None | Mapping[str, float] | Mapping[tuple[str, ...], float]  # None: now there is no such number
Kind = Literal["counter", "gauge", "histogram"]


class Histogram:
    """Durations in nanoseconds, counted in fixed buckets."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value_ns: int) -> None:
        self.counts[bisect_left(self.bounds, value_ns)] += 1
        self.total += value_ns


class Histograms(dict[str, Histogram]):
    """Histograms by label value, made when their value is first counted."""

    def __init__(self, bounds: tuple[int, ...]) -> None:
        super().__init__()
        self._bounds = bounds

    def __missing__(self, value: str) -> Histogram:
        histogram = self[value] = Histogram(self._bounds)
        return histogram


class Sample(NamedTuple):
    """One series of a family at the moment it is read."""

    labels: tuple[str, ...]  # in the order of the declaration
    value: float | Histogram


class Metric(NamedTuple):
    """One declared family, as a class attribute of its owner."""

    kind: Kind
    name: str
    text: str
    labels: Labels
    unit: int = 1  # what is kept is divided by this: SECOND where nanoseconds are counted
    bounds: tuple[int, ...] = ()
    possible: Callable[..., bool] | None = None  # which combinations of label values there can be; None: all
    when: Callable[[Any], bool] | None = None  # whether this owner has the family at all; None: always
    read: Callable[[Any], Reading] | None = None  # None: the owner keeps the number under the attribute's name

    def zero(self) -> int | Counter[Any] | Histogram | Histograms:
        """What a new owner keeps under the attribute's name."""
        if self.kind == "histogram":
            return Histograms(self.bounds) if self.labels else Histogram(self.bounds)
        return Counter() if self.labels else 0

    def samples(self, owner: object, attribute: str) -> list[Sample]:
        """The series of this owner, now."""
        kept: Any = getattr(owner, attribute) if self.read is None else self.read(owner)
        if not self.labels:
            return [] if kept is None else [Sample((), kept)]
        if None in self.labels.values():
            return [Sample(key if isinstance(key, tuple) else (key,), number) for key, number in kept.items()]
        nothing = Histogram(self.bounds) if self.kind == "histogram" else 0
        # Label values are words of the protocol, such as timed-out; in Prometheus words are joined by underscores.
        return [
            Sample(tuple(value.replace("-", "_") for value in key), kept.get(key if len(key) > 1 else key[0], nothing))
            for key in self._keys(owner)
        ]

    def _keys(self, owner: object) -> Iterator[tuple[str, ...]]:
        """Every combination of label values that there can be."""
        sets = [values(owner) if callable(values) else values or () for values in self.labels.values()]
        return (key for key in product(*sets) if self.possible is None or self.possible(*key))


def counter(
    name: str,
    text: str,
    *,
    labels: Labels | None = None,
    unit: int = 1,
    possible: Callable[..., bool] | None = None,
    when: Callable[[Any], bool] | None = None,
) -> Any:
    """Declare what only goes up. With one label it is kept by value, with several by a tuple of values."""
    return Metric("counter", name, text, labels or {}, unit, possible=possible, when=when)


def gauge(name: str, text: str, *, unit: int = 1) -> Any:
    """Declare a number that goes up and down and that its owner keeps."""
    return Metric("gauge", name, text, {}, unit)


def histogram(name: str, text: str, bounds: tuple[int, ...], *, labels: Labels | None = None) -> Any:
    """Declare a distribution of durations, kept in nanoseconds and shown in seconds."""
    return Metric("histogram", name, text, labels or {}, bounds=bounds)


def computed(
    kind: Kind, name: str, text: str, *, labels: Labels | None = None, unit: int = 1
) -> Callable[[Callable[[Any], Reading]], Metric]:
    """Declare a number that is computed when a page is made, by the decorated method.

    It runs on the thread that makes the page. What the loop changes meanwhile must be copied first with `list`, which
    is one step of the interpreter; a loop over the original can raise RuntimeError.
    """
    return lambda read: Metric(kind, name, text, labels or {}, unit, read=read)


class MetricSet:
    """Base class of what keeps declared metrics: each instance starts with zeros of its own."""

    def __init__(self) -> None:
        for attribute, metric in declared(type(self)):
            if metric.read is None:
                setattr(self, attribute, metric.zero())


def declared(owner: type) -> Iterator[tuple[str, Metric]]:
    """Yield the metrics of a class and of its bases, by attribute, in the order of their declaration."""
    return (
        (attribute, value)
        for base in reversed(owner.__mro__)
        for attribute, value in vars(base).items()
        if isinstance(value, Metric)
    )


def families(owner: object) -> Iterator[tuple[Metric, list[Sample]]]:
    """Each family that this owner has, with its series now."""
    for attribute, metric in declared(type(owner)):
        if metric.when is None or metric.when(owner):
            yield metric, metric.samples(owner, attribute)
