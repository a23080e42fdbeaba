"""Assemble a dealer, and take it apart: which part is made when, and in which order they end.

Every part registers its own end the moment it exists. The teardown runs backwards, also when the assembly fails half
way: workers are killed before the store is closed, and the pool's lock is freed last.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from signal import Signals

from taskpool import __version__, limits
from taskpool.core.effects import Exit, Level
from taskpool.core.events import Reconfigured
from taskpool.core.reactor import Reactor
from taskpool.core.state import PoolConfig
from taskpool.dealer import options as dealer_options
from taskpool.dealer import takeover
from taskpool.dealer.ingress import Ingress
from taskpool.dealer.input_queues import InputQueues
from taskpool.dealer.log import DealerLog, WarningLimit
from taskpool.dealer.loop import Loop, LoopParts, Wakeups
from taskpool.dealer.options import DealerOptions
from taskpool.dealer.performer import Performer
from taskpool.dealer.platform import Platform, Poller, Processes
from taskpool.dealer.reply_queues import GeneratorProcesses, ReplyQueues
from taskpool.dealer.systemd import Notifier, ServiceReporter
from taskpool.durations import human
from taskpool.errors import ExitCode, GeneratorGone, TaskpoolError, UsageError, counted
from taskpool.identifiers import Epoch
from taskpool.ipc import sizing
from taskpool.ipc.spool import Spool
from taskpool.journal.store import Store
from taskpool.kinds import KINDS, job_title

# The core, which is handed numbers, imports no module that could send a signal.
SIGNAL_NAMES = {int(number): number.name for number in Signals}


def run(options: DealerOptions, log: DealerLog, platform: Platform, notifier: Notifier | None = None) -> Exit:
    """Run a dealer until it leaves; return why. Raises TaskpoolError when it cannot start."""
    with ExitStack() as teardown:
        # Within the stack: an assembly that fails half way takes apart what it has made.
        join = _look_at_cluster(options, log, teardown)
        try:
            dealer = Dealer(options, log, platform, teardown, notifier)
        except GeneratorGone as gone:
            return Exit(ExitCode.OK, str(gone))
        join()
        return dealer.loop.run()


def _look_at_cluster(options: DealerOptions, log: DealerLog, teardown: ExitStack) -> Callable[[], None]:
    """Return what makes the dealer a member of a cluster, if it is to be one. Raises ConfigurationError."""
    if options.cluster is None:
        return lambda: None
    from taskpool.dealer import membership  # a dealer of one host starts faster without

    # Ahead of the pool's lock: brokers that do not keep what they accept are refused before anything is touched.
    return membership.prepare(options, log, teardown)


class Dealer:
    """All parts of a dealer, connected."""

    def __init__(
        self,
        options: DealerOptions,
        log: DealerLog,
        platform: Platform,
        teardown: ExitStack,
        notifier: Notifier | None = None,
    ) -> None:
        self._options = options
        self._platform = platform
        self._log = log
        self._teardown = teardown
        # What the teardown asks for, also when the assembly fails before it.
        self._performer: Performer | None = None
        self._assembled = False
        layout = platform.layout(options)  # first: what does not fit this machine is refused before anything is touched
        epoch = takeover.take_over(platform, options, log, teardown)
        store = platform.store(options, epoch)
        # Pushed rather than called back: what the journal notes of this end depends on the error that caused it.
        teardown.push(lambda kind, error, trace: self._close(store, error))
        spool = platform.spool(options.pool)
        poller = platform.poller()
        teardown.callback(poller.close)
        queues = InputQueues(platform.namespace, options.pool, layout, poller, log.warn)
        teardown.callback(lambda: queues.close() if self._assembled else queues.give_back())
        restored = takeover.restore(store, queues, spool)
        spool.sweep()  # after that: late reports may lie in it, and after it nothing refers to what is left
        processes = platform.processes(options, epoch, spool, layout.worker)
        teardown.callback(processes.close)
        config = _config(options, epoch, layout, platform, spool, durable=store.durable)
        self.core = Reactor(config, SIGNAL_NAMES, job_title)
        self.parts = self._connect(poller, queues, processes, store, spool)
        self.loop = Loop(self.parts, self._wakeups(poller, store, notifier), restored)
        where = self._serve_pages()
        self._assembled = True
        log.say(Level.DEBUG if options.private else Level.INFO, _first_line(options, epoch, store, where))

    def _connect(
        self, poller: Poller, queues: InputQueues, processes: Processes, store: Store, spool: Spool
    ) -> LoopParts:
        """Make what stands between the core and its queues."""
        clock = self._platform.clock
        # Other processes can cause the warnings of these as often as they like.
        warn = WarningLimit(self._log.warn, clock)
        reply_queues = ReplyQueues(
            self._platform.namespace, self._options.pool, spool, poller.write, warn, queues.counters
        )
        self._teardown.callback(reply_queues.close_all)
        generators = GeneratorProcesses(poller, self._platform.find_process)
        self._teardown.callback(generators.close)
        performer = self._performer = Performer(store, processes, reply_queues, spool, self._log)
        ingress = Ingress(
            spool,
            self.core.pool.counters,
            lambda refused: reply_queues.send(refused.client, refused),
            reply_queues.turn_away,
            warn,
        )
        return LoopParts(
            self.core, clock, poller, queues, ingress, processes, reply_queues, generators, store, performer
        )

    def _wakeups(self, poller: Poller, store: Store, notifier: Notifier | None) -> Wakeups:
        options, platform = self._options, self._platform
        for fd in (platform.signals_fd, store.fileno(), options.lifeline_fd):
            if fd >= 0:  # a store without a thread answers at once and has none; only a private dealer has a lifeline
                poller.read(fd)
        return Wakeups(
            signals=platform.signals,
            lifeline_fd=options.lifeline_fd,
            reload=lambda: _reload(options, self._log),
            after_turn=ServiceReporter(notifier, self.core).after_turn if notifier is not None else None,
        )

    def _serve_pages(self) -> str:
        """Start the HTTP server if one is wanted; return where it is."""
        if self._options.metrics is None:
            return "no metrics"
        from taskpool.dealer.http import serve  # a private dealer starts faster without

        return serve(self._options, self.parts, self.loop, self._log, self._teardown)

    # --- the end ---

    def _close(self, store: Store, error: BaseException | None) -> None:
        store.close(clean=self._left_cleanly(), chosen=self._left_by_choice(error))

    def _left_cleanly(self) -> bool:
        """Whether the loop ended because the core decided so, with nothing under way."""
        if self._performer is None or self._performer.exit is None:
            return False
        return self.core.pool.commits.idle and not self.core.pool.attempts

    def _left_by_choice(self, error: BaseException | None) -> bool:
        """Whether the end is no doing of the jobs: the core decided so, or the system refused what the dealer needs.

        An error of another kind may be a job's doing, as a kill may be. Then the next life counts an unclean exit
        against the jobs that were under way, and stores attempts before it sends them.
        """
        if error is not None:
            return isinstance(error, TaskpoolError | OSError)
        return self._performer is not None and self._performer.exit is not None


def _reload(options: DealerOptions, log: DealerLog) -> Reconfigured | None:
    """Read the configuration again. A wrong one changes nothing: a typing error must not end a running pool."""
    try:
        now = dealer_options.parse(options.argv)
    except UsageError as error:
        log.warn(f"configuration not reloaded: {error}")
        return None
    log.say(
        Level.INFO,
        f"Configuration reloaded: {counted(now.workers, 'worker')}, drain time-out {human(now.drain_timeout_ns)}",
    )
    if waiting := dealer_options.needing_restart(options, now):
        log.warn(f"changed, but not applied until this dealer is restarted: {', '.join(waiting)}")
    return Reconfigured(now.workers, now.drain_timeout_ns)


def _config(
    options: DealerOptions, epoch: Epoch, layout: sizing.Layout, platform: Platform, spool: Spool, *, durable: bool
) -> PoolConfig:
    room = platform.room(options, layout)
    return PoolConfig(
        name=options.pool,
        epoch=epoch,
        workers=options.workers,
        spares=options.spares,
        # Queues are sized once, at the start: `scale` gets no further than they, and the descriptors, allow.
        workers_max=room.workers,
        workers_limit=room.limit,
        connections_max=platform.connections(options),
        private=options.private,
        journaled=durable,
        verbose=options.verbosity > 0,
        frame_bytes=layout.worker.msgsize,
        drain_timeout_ns=options.drain_timeout_ns,
        delay_ns=options.delay_ns,
        pid=os.getpid(),
        version=__version__,
        kinds=tuple(KINDS),
        spool=str(spool.directory),
        # A journal keeps what waits on the disk; without one every pending job takes memory.
        pending_max=limits.PENDING_JOURNALED_JOBS_MAX if durable else limits.PENDING_JOBS_MAX,
        seed=epoch,  # the core has no random numbers of its own: jitter is repeatable, and differs from life to life
    )


def _first_line(options: DealerOptions, epoch: Epoch, store: Store, pages: str) -> str:
    """Say what this dealer promises, so that a pool without a journal is not taken for one that has one."""
    # The level of durability is the first thing to know about a pool, so it stands in its first line.
    if not store.durable:
        journal = "no journal: queued jobs are lost if this dealer dies"
    elif options.journal_sync == "full":
        journal = "journaled: what is accepted survives a kill and a loss of power"
    else:
        journal = "journaled, --journal-sync normal: the last moments before a loss of power may be lost"
    return (
        f"Pool {options.pool}, epoch {epoch}, PID {os.getpid()}: {counted(options.workers, 'worker')} and "
        f"{options.spares} spare, {pages}; {journal}"
    )
