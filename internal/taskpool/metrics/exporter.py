"""Every metric of the dealer, from plain counters at the moment of a scrape.

Rules of this folder:
1. Names are `taskpool_<thing>_<unit>`, base units, `_total` on counters, and are public: tests/golden/metrics.txt.
2. Labels come from closed sets, never ids or pids. A value known in advance is there from the start, with 0.
3. A point in time is a timestamp, never an age, and is absent while there is no such point.
4. The loop adds to integers; here they are read, by another thread, while the loop goes on. A page may be a turn
   out of step with itself. What is walked is copied first with `list`, which is one step of the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from taskpool.clock import SECOND, Clock
from taskpool.core.counters import HEARD_QUEUES, LoopCounters
from taskpool.core.reactor import Reactor
from taskpool.core.state import PoolState
from taskpool.metrics import jobs, journal, workers
from taskpool.metrics.families import counter, counter_by, gauge, gauge_by, histogram
from taskpool.metrics.journal import Journal
from taskpool.metrics.logcounts import LogCounts


class Queue(NamedTuple):
    """A queue of the dealer, now."""

    name: str
    messages: int
    capacity: int


class Sources(NamedTuple):
    """Where the numbers are."""

    core: Reactor
    loop: LoopCounters
    kinds: tuple[str, ...]
    queues: Callable[[], list[Queue]]
    queues_remade: Callable[[], int]
    replies_full: Callable[[], int]
    journal: Journal | None
    logs: LogCounts
    ready: Callable[[], bool]
    clock: Clock


def registry(sources: Sources) -> CollectorRegistry:
    """The dealer's own families, and the usual ones of a process and of its interpreter."""
    made = CollectorRegistry()
    made.register(DealerCollector(sources))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made


class DealerCollector(Collector):
    """All of a dealer's own families."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> list[Metric]:
        """Nothing: asking for all families at registration would be a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        sources = self._sources
        before_ns = sources.clock.now().mono
        pool = sources.core.pool
        found = [
            *_identity(pool, sources.journal is not None),
            *jobs.families(pool, sources.kinds),
            *workers.families(sources.core.supervisor, pool.counters),
            *_condition(pool, ready=sources.ready()),
            *_loop(sources.loop),
            *_queues(sources),
            *journal.families(sources.journal, pool.counters),
            counter_by(
                "taskpool_log_messages_total",
                "Log messages written, by level.",
                ["level"],
                [([level], count) for level, count in sources.logs.by_level.items()],
            ),
        ]
        yield from found
        took_ns = sources.clock.now().mono - before_ns
        yield gauge("taskpool_collector_duration_seconds", "How long collecting this page took.", took_ns / SECOND)


def _identity(pool: PoolState, journaled: bool) -> Iterator[Metric]:
    yield gauge_by("taskpool_build_info", "Build of this program; always 1.", ["version"], [([pool.config.version], 1)])
    yield gauge_by(
        "taskpool_pool_info",
        "The pool, and whether what it accepts outlives its dealer; always 1.",
        ["pool", "journal"],
        [([pool.config.name, "true" if journaled else "false"], 1)],
    )
    yield gauge("taskpool_dealer_epoch", "Lives of this pool's dealers so far, this one included.", pool.config.epoch)


def _condition(pool: PoolState, *, ready: bool) -> Iterator[Metric]:
    yield gauge("taskpool_dealer_ready", "1 while a worker is ready and the dealer does not drain.", ready)
    yield gauge("taskpool_dealer_draining", "1 while the dealer takes and sends no more jobs.", pool.draining)
    yield gauge("taskpool_dealer_paused", "1 while a person wants no job to be sent.", pool.paused)
    yield gauge("taskpool_disk_full", "1 while journal or spool have no room for more jobs.", bool(pool.disk_full))


def _loop(loop: LoopCounters) -> Iterator[Metric]:
    yield counter("taskpool_loop_turns_total", "Turns of the dealer's loop; at least one a second.", loop.turns)
    yield counter("taskpool_loop_busy_seconds_total", "Time the loop worked rather than waited.", loop.busy_ns / SECOND)
    yield counter(
        "taskpool_loop_stalls_total", "Turns that came so late that every deadline was pushed on.", loop.stalls
    )
    yield histogram(
        "taskpool_loop_lag_seconds",
        "How long what happened may have waited for its turn: the turn before, or a sleep too long.",
        loop.lag,
    )
    yield gauge(
        "taskpool_loop_timestamp_seconds",
        "Unix time at which the loop last began a turn.",
        loop.turned_wall_ns / SECOND,
    )


def _queues(sources: Sources) -> Iterator[Metric]:
    queues, loop = sources.queues(), sources.loop
    yield gauge_by(
        "taskpool_queue_messages",
        "Messages in a queue now.",
        ["queue"],
        [([queue.name], queue.messages) for queue in queues],
    )
    yield gauge_by(
        "taskpool_queue_capacity_messages",
        "Messages a queue can hold.",
        ["queue"],
        [([queue.name], queue.capacity) for queue in queues],
    )
    yield counter_by(
        "taskpool_queue_received_messages_total",
        "Messages taken off a queue.",
        ["queue"],
        [([name], loop.received[name]) for name in HEARD_QUEUES],
    )
    yield counter_by(
        "taskpool_queue_full_total",
        "Turns in which a queue gave as much as it holds, so that senders may have waited; reply: sends put off.",
        ["queue"],
        [*(([name], loop.full[name]) for name in HEARD_QUEUES), (["reply"], sources.replies_full())],
    )
    yield counter(
        "taskpool_queues_remade_total",
        "Queues that somebody removed and that were made again.",
        sources.queues_remade(),
    )
