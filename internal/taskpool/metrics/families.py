"""Short words for what prometheus_client builds: one family from plain numbers, names written out in full."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from taskpool.clock import SECOND
from taskpool.core.counters import Histogram

Samples = Iterable[tuple[Sequence[str], float]]  # label values, and the number


def counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def gauge(name: str, text: str, value: float | None) -> Metric:
    """None: the family is announced and has no sample, because now there is no such thing."""
    return GaugeMetricFamily(name, text) if value is None else GaugeMetricFamily(name, text, value=value)


def counter_by(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    return _filled(CounterMetricFamily(name, text, labels=labels), samples)


def gauge_by(name: str, text: str, labels: Sequence[str], samples: Samples) -> Metric:
    return _filled(GaugeMetricFamily(name, text, labels=labels), samples)


def histogram(name: str, text: str, counted: Histogram) -> Metric:
    return histogram_by(name, text, (), [((), counted)])


def histogram_by(
    name: str, text: str, labels: Sequence[str], counted: Iterable[tuple[Sequence[str], Histogram]]
) -> Metric:
    """Durations, from nanoseconds to seconds and from counts by bucket to cumulative ones."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, each in counted:
        total, buckets = 0, []
        for bound, count in zip([*each.bounds, None], list(each.counts), strict=True):
            total += count
            buckets.append(("+Inf" if bound is None else repr(bound / SECOND), float(total)))
        family.add_metric(values, buckets, sum_value=each.total / SECOND)
    return family


def label(value: str) -> str:
    """A word of ours as a label value."""
    return value.replace("-", "_")


def timestamp(wall_ns: int | None) -> float | None:
    return None if wall_ns is None else wall_ns / SECOND


def _filled(family: CounterMetricFamily | GaugeMetricFamily, samples: Samples) -> Metric:
    for values, number in samples:
        family.add_metric(values, number)
    return family
