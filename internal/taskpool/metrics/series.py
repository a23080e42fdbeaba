"""Every metric of the dealer, from plain counters at the moment of a scrape.

Names: `taskpool_<thing>_<unit>`, base units, `_total` on counters. Labels come from closed sets, never ids or
pids. A label value that is known in advance is there from the start, with 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from taskpool.clock import SECOND
from taskpool.core.dispatcher import Dispatcher
from taskpool.core.tally import EXIT_REASONS, SIGNALS, Histogram
from taskpool.core.worker import WorkerState
from taskpool.messages import TERMINAL, End, State


class DealerCollector(Collector):
    """Reads a dispatcher that another thread is changing.

    A scrape may be a turn out of step with itself; it never blocks the loop. Dictionaries are copied before
    they are walked, because the copy is one step of the interpreter.
    """

    def __init__(
        self, core: Dispatcher, kinds: Iterable[str], depths: Callable[[], dict[str, tuple[int, int]]], version: str
    ) -> None:
        self._core = core
        self._kinds = tuple(kinds)
        self._depths = depths
        self._version = version

    def describe(self) -> list[Metric]:
        """Nothing: asking for all series at registration would be a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield _build_info(self._version)
        yield from self._jobs()
        yield from self._attempts()
        yield from self._workers()
        yield from self._queues()

    def _jobs(self) -> Iterator[Metric]:
        pool, tally = self._core.pool, self._core.pool.tally
        accepted = CounterMetricFamily("taskpool_jobs_accepted", "Jobs accepted.", labels=["kind"])
        finished = CounterMetricFamily(
            "taskpool_jobs_finished", "Jobs that got their outcome.", labels=["kind", "outcome"]
        )
        for kind in self._kinds:
            accepted.add_metric([kind], tally.jobs_accepted[kind])
            for state in sorted(TERMINAL):
                finished.add_metric([kind, _label(state)], tally.jobs_finished[kind, state.value])
        yield accepted
        yield finished
        refused = CounterMetricFamily("taskpool_submissions_refused", "Messages refused or dropped.", labels=["reason"])
        for reason, count in dict(tally.refusals).items():
            refused.add_metric([reason], count)
        yield refused
        running, delayed = len(pool.attempts), len(pool.delayed)
        jobs = GaugeMetricFamily("taskpool_jobs", "Jobs the dealer holds, by state.", labels=["state"])
        for state, count in (
            (State.QUEUED, max(0, pool.pending - running - delayed)),
            (State.DELAYED, delayed),
            (State.RUNNING, running),
        ):
            jobs.add_metric([_label(state)], count)
        yield jobs
        yield GaugeMetricFamily(
            "taskpool_jobs_quarantined", "Jobs set aside after too many crashes.", len(pool.quarantine)
        )
        yield GaugeMetricFamily(
            "taskpool_last_job_finished_timestamp_seconds",
            "Unix time of the last outcome; 0 before the first.",
            pool.last_finished_wall_ns / SECOND,
        )
        yield _histogram(
            "taskpool_job_wait_seconds", "Acceptance of a job until it is first sent.", tally.wait, self._kinds
        )
        yield _histogram("taskpool_job_run_seconds", "How long attempts ran.", tally.run, self._kinds)

    def _attempts(self) -> Iterator[Metric]:
        tally = self._core.pool.tally
        attempts = CounterMetricFamily("taskpool_attempts", "Attempts that ended, by how.", labels=["end"])
        retries = CounterMetricFamily(
            "taskpool_retries", "Jobs that went back for another attempt, by how the last one ended.", labels=["end"]
        )
        for end in End:
            attempts.add_metric([_label(end)], tally.attempts[end.value])
            retries.add_metric([_label(end)], tally.retries[end.value])
        yield attempts
        yield retries
        yield CounterMetricFamily(
            "taskpool_stale_reports", "Reports of attempts that were over already.", tally.stale_reports
        )
        yield CounterMetricFamily(
            "taskpool_protocol_errors", "Messages of workers that made no sense.", tally.protocol_errors
        )
        yield _histogram_of(
            "taskpool_recovery_seconds",
            "Death of a worker seen until its job is sent again.",
            [([], tally.recovery)],
            [],
        )

    def _workers(self) -> Iterator[Metric]:
        crew, tally = self._core.crew, self._core.pool.tally
        states = Counter(worker.state for worker in list(crew.workers.values()))
        workers = GaugeMetricFamily("taskpool_workers", "Worker processes, by state.", labels=["state"])
        for state in WorkerState:
            workers.add_metric([state.value], states[state])
        yield workers
        yield GaugeMetricFamily("taskpool_workers_wanted", "Workers the dealer tries to keep at work.", crew.wanted)
        yield CounterMetricFamily("taskpool_worker_starts", "Worker processes started.", tally.worker_spawns)
        yield CounterMetricFamily(
            "taskpool_worker_respawns", "Workers started in place of another.", tally.worker_respawns
        )
        exits = CounterMetricFamily(
            "taskpool_worker_exits", "Worker processes that ended, by why and by signal.", labels=["reason", "signal"]
        )
        counted = dict(tally.worker_exits)
        for reason in EXIT_REASONS:
            for signal in SIGNALS:
                exits.add_metric([reason, signal], counted.get((reason, signal), 0))
        yield exits
        yield GaugeMetricFamily(
            "taskpool_dealer_draining",
            "1 while the dealer takes and sends no more jobs.",
            int(self._core.pool.draining),
        )

    def _queues(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("taskpool_queue_messages", "Messages in a queue now.", labels=["queue"])
        capacity = GaugeMetricFamily("taskpool_queue_capacity_messages", "Messages a queue can hold.", labels=["queue"])
        for name, (messages, most) in self._depths().items():
            depth.add_metric([name], messages)
            capacity.add_metric([name], most)
        yield depth
        yield capacity


def _label(value: str) -> str:
    return value.replace("-", "_")


def _build_info(version: str) -> Metric:
    info = GaugeMetricFamily("taskpool_build_info", "Build of this program; always 1.", labels=["version"])
    info.add_metric([version], 1)
    return info


def _histogram(name: str, help_text: str, by_kind: dict[str, Histogram], kinds: Iterable[str]) -> Metric:
    return _histogram_of(name, help_text, [([kind], by_kind.get(kind)) for kind in kinds], ["kind"])


def _histogram_of(
    name: str, help_text: str, series: Iterable[tuple[list[str], Histogram | None]], labels: list[str]
) -> Metric:
    family = HistogramMetricFamily(name, help_text, labels=labels)
    for values, histogram in series:
        if histogram is None:
            continue
        total, buckets = 0, []
        bounds = [repr(bound / SECOND) for bound in histogram.bounds] + ["+Inf"]
        for bound, count in zip(bounds, list(histogram.counts), strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(values, buckets, sum_value=histogram.total / SECOND)
    return family
