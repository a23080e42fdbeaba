"""Render every declared metric of the dealer for Prometheus, at the moment of a scrape.

The declarations are in `core.metric`'s terms, beside the numbers: this file knows none of them but its own. It runs on
a page thread while the loop goes on; what that asks of those who declare is said there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from taskpool.clock import SECOND, Clock
from taskpool.core.metric import Histogram, Metric, MetricSet, Sample, families, gauge

Sources = Callable[[], Sequence[object]]  # the owners of declared metrics; snapshots among them are new at each call


def registry(sources: Sources, clock: Clock) -> CollectorRegistry:
    """The dealer's own families, and the usual ones of a process and of its interpreter."""
    made = CollectorRegistry()
    made.register(DealerCollector(sources, clock))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made


class DealerCollector(Collector):
    """All of a dealer's own families."""

    def __init__(self, sources: Sources, clock: Clock) -> None:
        self._sources = sources
        self._clock = clock
        self._own = ExporterGauges()

    def describe(self) -> Iterator[Family]:
        """Yield each family without a number: the registry finds by them what `?name[]=` asks for."""
        for owner in (*self._sources(), self._own):
            yield from (rendered(metric, []) for metric, _ in families(owner))

    def collect(self) -> Iterator[Family]:
        began_ns = self._clock.now().mono
        # A list, and not one family at a time: between two of them the page is written, which is not what is timed.
        found = [rendered(metric, samples) for owner in self._sources() for metric, samples in families(owner)]
        self._own.took(self._clock.now().mono - began_ns)
        yield from found
        yield from (rendered(metric, samples) for metric, samples in families(self._own))


class ExporterGauges(MetricSet):
    """What the exporter tells of itself. `App` makes one page at a time, so one thread at a time is here."""

    duration_ns: int = gauge("taskpool_collector_duration_seconds", "How long collecting this page took.", unit=SECOND)

    def took(self, duration_ns: int) -> None:
        self.duration_ns = duration_ns


def rendered(metric: Metric, samples: Sequence[Sample]) -> Family:
    """The family as prometheus_client writes it. Without samples it is announced, and has no number now."""
    labels = tuple(metric.labels)
    if metric.kind == "histogram":
        return _histogram(metric, samples)
    # prometheus_client cuts _total off a counter's name, and adds it again where the format wants it.
    family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
        metric.name, metric.text, labels=labels
    )
    # Divided here, at a scrape, and not where it is counted: sums of nanoseconds are exact, those of seconds are not.
    for values, number in samples:
        assert not isinstance(number, Histogram)
        family.add_metric(values, number / metric.unit)
    return family


def _histogram(metric: Metric, samples: Sequence[Sample]) -> Family:
    """From nanoseconds to seconds, and from counts by bucket to the cumulative ones that Prometheus wants."""
    family = HistogramMetricFamily(metric.name, metric.text, labels=tuple(metric.labels))
    for values, counted in samples:
        assert isinstance(counted, Histogram)
        total, buckets = 0, []
        # The counts are copied: buckets must not shrink along the way because the loop adds to an earlier one.
        for bound, count in zip([*counted.bounds, None], list(counted.counts), strict=True):
            total += count
            buckets.append(("+Inf" if bound is None else repr(bound / SECOND), float(total)))
        family.add_metric(values, buckets, sum_value=counted.total / SECOND)
    return family
