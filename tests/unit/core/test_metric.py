"""Declared metrics: what a new owner starts with, and which series are read from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from taskpool.core.metric import Histogram, Histograms, MetricSet, Sample, computed, counter, families, gauge, histogram

BOUNDS = (10, 20)


class Owner(MetricSet):
    plain: int = counter("plain_total", "Plain.")
    level: int = gauge("level", "A level, kept in tenths.", unit=10)
    by_end: Counter[str] = counter("ends_total", "By end.", labels={"end": ("timed-out", "failed")})
    pairs: Counter[tuple[str, str]] = counter(
        "pairs_total",
        "By kind and size.",
        labels={"kind": lambda owner: owner.kinds, "size": ("small", "large")},
        possible=lambda kind, size: (kind, size) != ("fib", "large"),
    )
    once: Histogram = histogram("once_seconds", "One.", BOUNDS)
    each: Histograms = histogram("each_seconds", "By kind.", BOUNDS, labels={"kind": lambda owner: owner.kinds})
    hidden: int = counter("hidden_total", "Not of every owner.", when=lambda owner: len(owner.kinds) > 2)

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        self.kinds = kinds

    @computed("gauge", "now", "Computed.", labels={"slot": None})
    def slots(self) -> Mapping[str, int]:
        return {"0": 5}

    @computed("gauge", "info", "Computed, with several labels.", labels={"a": None, "b": None})
    def info(self) -> Mapping[tuple[str, ...], int]:
        return {("x-y", "z"): 1}

    @computed("gauge", "absent", "Not now.")
    def absent(self) -> int | None:
        return None


def read(owner: object) -> dict[str, list[Sample]]:
    return {metric.name: samples for metric, samples in families(owner)}


def test_every_declared_value_is_there_before_it_counts() -> None:
    found = read(Owner("fib", "command"))
    assert found["plain_total"] == [((), 0)]
    assert found["ends_total"] == [(("timed_out",), 0), (("failed",), 0)]
    assert [labels for labels, _ in found["pairs_total"]] == [
        ("fib", "small"),
        ("command", "small"),
        ("command", "large"),
    ]
    assert [labels for labels, _ in found["each_seconds"]] == [("fib",), ("command",)]
    assert "hidden_total" not in found
    assert "hidden_total" in read(Owner("a", "b", "c"))


def test_each_owner_counts_for_itself() -> None:
    one, other = Owner("fib", "command"), Owner("fib")
    one.plain += 2
    one.by_end["timed-out"] += 1
    one.pairs["command", "large"] += 3
    one.once.add(15)
    one.each["fib"].add(25)
    found = read(one)
    assert found["plain_total"] == [((), 2)]
    assert found["ends_total"][0] == (("timed_out",), 1)
    assert found["pairs_total"][2] == (("command", "large"), 3)
    ((_, once),) = found["once_seconds"]
    assert isinstance(once, Histogram)
    assert (once.counts, once.total) == ([0, 1, 0], 15)
    fib = found["each_seconds"][0].value
    assert isinstance(fib, Histogram)
    assert fib.counts == [0, 0, 1]
    assert other.plain == 0
    assert not other.by_end and not other.each


def test_reading_adds_nothing() -> None:
    owner = Owner("fib")
    read(owner)
    assert not owner.by_end and not owner.pairs and not owner.each


def test_computed_values_bring_their_labels() -> None:
    found = read(Owner("fib"))
    assert found["now"] == [(("0",), 5)]
    assert found["info"] == [(("x-y", "z"), 1)], "names of others are not changed"
    assert found["absent"] == []
