"""Connect the dealer to its HTTP server: which numbers it serves, and what the two probes check.

All of it runs on page threads, beside the loop, and only reads.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

from taskpool.clock import SECOND, Clock
from taskpool.core.gauges import PoolGauges
from taskpool.core.metric import computed
from taskpool.core.reactor import Reactor
from taskpool.core.worker import WorkerState
from taskpool.dealer.log import LOGGER, DealerLog, LogCounters
from taskpool.dealer.loop import Loop, LoopParts
from taskpool.dealer.options import DealerOptions
from taskpool.dealer.slot_usage import SlotUsage
from taskpool.journal.store import Store
from taskpool.metrics import auth
from taskpool.metrics.app import App, Probe, Status
from taskpool.metrics.exporter import Sources, registry
from taskpool.metrics.server import Server, tls_adapter

HEALTHY_NS_MAX = 10 * SECOND  # an idle loop turns once a second; a commit or a scrape may hold it up for some
NOT_READY = (WorkerState.STARTING, WorkerState.STOPPING)


class DealerStatus:
    """The state of the dealer as its pages show it."""

    def __init__(self, core: Reactor, loop: Loop, clock: Clock) -> None:
        self._core = core
        self._loop = loop
        self._clock = clock

    def status(self) -> Status:
        # It walks what the loop changes, and may raise for that; `App` then asks again.
        return self._core.commands.status(self._clock.now())

    def healthy(self) -> Probe:
        """Whether the loop turns. When this fails, restart the dealer."""
        stalled_ns = self._clock.now().mono - self._loop.turn_began_mono_ns
        if stalled_ns < HEALTHY_NS_MAX:
            return True, "the loop turns"
        return False, f"event loop stalled for {stalled_ns // SECOND} s"

    def ready(self) -> Probe:
        """Whether the pool takes jobs and has a worker to run them. When this fails, send no traffic; no restart."""
        if not self._loop.counters.turns:  # the first turn takes in what the journal had; until it is over ...
            return False, "starting"
        if self._core.pool.draining:
            return False, "draining"
        workers = list(self._core.supervisor.workers.values())  # a copy: the loop goes on meanwhile
        if all(worker.state in NOT_READY for worker in workers):
            return False, "no worker is ready"
        return True, "ready"

    @computed("gauge", "taskpool_dealer_ready", "1 while a worker is ready and the dealer does not drain.")
    def ready_gauge(self) -> bool:
        return self.ready()[0]


def serve(options: DealerOptions, parts: LoopParts, loop: Loop, log: DealerLog, teardown: ExitStack) -> str:
    """Serve until `teardown`; return where. Raises ConfigurationError when that cannot be."""
    assert options.metrics is not None
    status = DealerStatus(parts.core, loop, parts.clock)
    sources = metric_sources(parts, loop, _count_logs(log, teardown))
    # Before the socket is bound: a dealer with unusable secrets or certificates must not serve for an instant.
    secrets = None if options.metrics_auth_file is None else auth.from_file(options.metrics_auth_file)
    tls = None if options.metrics_tls is None else tls_adapter(*options.metrics_tls)
    app = App(registry(sources, parts.clock), status.status, status.healthy, status.ready, secrets)
    server = Server(options.metrics, app, tls, logging.getLogger(LOGGER))
    teardown.callback(server.close)
    return f"metrics on {server.url}/metrics"


def metric_sources(parts: LoopParts, loop: Loop, logs: LogCounters) -> Sources:
    """Return what gathers the owners of all metrics of a dealer."""
    core = parts.core
    status = DealerStatus(core, loop, parts.clock)
    kept = (core.pool.counters, loop.counters, parts.queues.counters, *_journal(parts.store), logs)
    # Snapshots are made for each page anew, and on its thread.
    return lambda: [
        PoolGauges(core.pool, core.supervisor),
        SlotUsage(core.supervisor),
        status,
        parts.queues,
        *kept,
    ]


def _journal(store: Store) -> tuple[object, ...]:
    """The counters of the journal's thread, if there is a journal."""
    if not store.durable:
        return ()
    from taskpool.journal.sqlite import SqliteStore  # a pool without a journal starts faster without

    assert isinstance(store, SqliteStore)
    return (store.counters,)


def _count_logs(log: DealerLog, teardown: ExitStack) -> LogCounters:
    """Count what is logged from now on, the server's own messages included."""
    counters = log.counters()
    logger = logging.getLogger(LOGGER)
    # A filter of the logger, not of a handler: the server logs with it as well, and not through DealerLog.
    logger.addFilter(counters.count)
    teardown.callback(logger.removeFilter, counters.count)
    return counters
