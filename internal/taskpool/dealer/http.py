"""What a dealer shows of itself over HTTP: its numbers and its condition, wired to `taskpool.metrics`.

All of it runs off the loop, and reads.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

from taskpool.clock import SECOND, Clock
from taskpool.core.reactor import Reactor
from taskpool.core.worker import WorkerState
from taskpool.dealer.input_queues import InputQueues
from taskpool.dealer.log import LOGGER
from taskpool.dealer.loop import Loop
from taskpool.dealer.options import DealerOptions
from taskpool.dealer.reply_queues import ReplyQueues
from taskpool.errors import QueueError
from taskpool.journal.store import Store
from taskpool.kinds import KINDS
from taskpool.metrics import auth
from taskpool.metrics.app import App, Probe, Status
from taskpool.metrics.exporter import Queue, Sources, registry
from taskpool.metrics.journal import Journal
from taskpool.metrics.logcounts import LogCounts
from taskpool.metrics.server import Server, tls_adapter

HEALTHY_NS_MAX = 10 * SECOND  # the loop turns once a second when nothing happens


class View:
    """The dealer as somebody sees it who stands beside its loop."""

    def __init__(self, core: Reactor, loop: Loop, queues: InputQueues, clock: Clock) -> None:
        self._core = core
        self._loop = loop
        self._queues = queues
        self._clock = clock

    def status(self) -> Status:
        return self._core.commands.status(self._clock.now())

    def healthy(self) -> Probe:
        still_ns = self._clock.now().mono - self._loop.turned_mono_ns
        if still_ns < HEALTHY_NS_MAX:
            return True, "the loop turns"
        return False, f"the loop has stood still for {still_ns // SECOND} s"

    def ready(self) -> Probe:
        if not self._loop.counters.turns:  # before its first turn is over it has not taken in what the journal had
            return False, "starting"
        if self._core.pool.draining:
            return False, "draining"
        workers = list(self._core.supervisor.workers.values())
        if all(worker.state in (WorkerState.STARTING, WorkerState.STOPPING) for worker in workers):
            return False, "no worker is ready"
        return True, "ready"

    def queues(self) -> list[Queue]:
        ours = self._queues
        found = []
        for name, queue in (("intake", ours.intake), ("control", ours.control), ("events", ours.events[-1])):
            try:
                depth = queue.depth()
            except QueueError:  # the loop is just replacing it
                depth = 0
            found.append(Queue(name, depth, queue.maxmsg))
        return found


def serve(
    options: DealerOptions,
    core: Reactor,
    loop: Loop,
    queues: InputQueues,
    reply_queues: ReplyQueues,
    store: Store,
    clock: Clock,
    teardown: ExitStack,
) -> str:
    """Serve until `teardown`; returns where. Raises ConfigurationError."""
    assert options.metrics is not None
    view = View(core, loop, queues, clock)
    sources = Sources(
        core=core,
        loop=loop.counters,
        kinds=tuple(KINDS),
        queues=view.queues,
        queues_remade=lambda: queues.remade,
        replies_full=lambda: reply_queues.full,
        journal=_journal(store),
        logs=_count_logs(teardown),
        ready=lambda: view.ready()[0],
        clock=clock,
    )
    who = None if options.metrics_auth_file is None else auth.from_file(options.metrics_auth_file)
    tls = None if options.metrics_tls is None else tls_adapter(*options.metrics_tls)
    pages = App(registry(sources), view.status, view.healthy, view.ready, who)
    server = Server(options.metrics, pages, tls, logging.getLogger(LOGGER))
    teardown.callback(server.close)
    return f"metrics on {server.url}/metrics"


def _journal(store: Store) -> Journal | None:
    if not store.durable:
        return None
    from taskpool.journal.sqlite import SqliteStore  # a pool without a journal starts faster without

    assert isinstance(store, SqliteStore)
    return Journal(store.counters, store.path)


def _count_logs(teardown: ExitStack) -> LogCounts:
    counts = LogCounts()
    logger = logging.getLogger(LOGGER)
    logger.addFilter(counts)
    teardown.callback(logger.removeFilter, counts)
    return counts
