"""How a dealer comes up and goes down.

The order makes it safe: the pool's lock, then a new epoch made durable, then the lock of the IPC namespace, then
the end of everything an earlier epoch left running, and only then queues.  # R5
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from signal import Signals

from msgspec import structs

from taskpool import __version__, codec, limits
from taskpool.core.effects import Exit, Level
from taskpool.core.events import Reconfigured, Restored
from taskpool.core.reactor import Reactor
from taskpool.core.state import PoolConfig
from taskpool.dealer import options as dealer_options
from taskpool.dealer.herald import ServiceReporter
from taskpool.dealer.ingress import Ingress
from taskpool.dealer.input_queues import InputQueues
from taskpool.dealer.log import DealerLog
from taskpool.dealer.loop import Loop
from taskpool.dealer.options import DealerOptions
from taskpool.dealer.performer import Performer
from taskpool.dealer.platform import Platform
from taskpool.dealer.reply_queues import ReplyQueues
from taskpool.dealer.sparing import WarningLimit
from taskpool.dealer.systemd import Notifier
from taskpool.errors import (
    MessageError,
    PoolInUse,
    QueueEmpty,
    QueueExists,
    QueueMissing,
    TaskpoolError,
    UsageError,
)
from taskpool.ids import Epoch
from taskpool.ipc import names, sizing
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.spool import Spool
from taskpool.journal.store import Store
from taskpool.kinds import KINDS
from taskpool.messages import Progress, Report

SIGNAL_NAMES = {int(number): number.name for number in Signals}


def run(options: DealerOptions, log: DealerLog, platform: Platform, notifier: Notifier | None = None) -> Exit:
    """A dealer's whole life. Raises TaskpoolError when it cannot begin."""
    with ExitStack() as teardown:
        dealer = Dealer(options, log, platform, teardown, notifier)
        return dealer.loop.run()


class Dealer:
    """The parts, wired; each registers its own end the moment it exists."""

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
        self._performer: Performer | None = None  # the teardown asks for it, also when we get no further
        layout = platform.layout(options)
        teardown.callback(platform.close)
        epoch = platform.lock(options.pool)
        namespace = platform.namespace
        _hold_namespace(namespace, options.pool, teardown)  # before anything is ended: who is refused here does no harm
        self._end_earlier_life(options, epoch, log)
        store = platform.store(options, epoch)
        teardown.push(lambda kind, error, trace: self._close(store, error))
        spool = platform.spool(options.pool)
        poller = platform.poller()
        teardown.callback(poller.close)
        queues = InputQueues(namespace, options.pool, layout, poller.read, poller.forget, log.warn)
        teardown.callback(queues.close)
        restored = _restored(store, queues, spool)
        spool.sweep()
        processes = platform.processes(options, epoch, spool, layout.worker)
        teardown.callback(processes.close)
        warn = WarningLimit(log.warn, platform.clock)  # of what strangers can cause as often as they like
        reply_queues = ReplyQueues(namespace, options.pool, spool, poller.write, warn)
        teardown.callback(reply_queues.close_all)
        self.core = Reactor(_config(options, epoch, layout, platform, spool, durable=store.durable), SIGNAL_NAMES)
        performer = self._performer = Performer(store, processes, reply_queues, spool, log)
        ingress = Ingress(
            spool, self.core.pool.counters, lambda refused: reply_queues.send(refused.client, refused), warn
        )
        for fd in (platform.signals_fd, store.fileno(), options.lifeline_fd):
            if fd >= 0:
                poller.read(fd)
        self.loop = Loop(
            core=self.core,
            clock=platform.clock,
            poller=poller,
            queues=queues,
            ingress=ingress,
            processes=processes,
            reply_queues=reply_queues,
            store=store,
            performer=performer,
            signals=platform.signals,
            lifeline_fd=options.lifeline_fd,
            restored=restored,
            reload=lambda: _reload(options, log),
            after_turn=ServiceReporter(notifier, self.core).turn if notifier is not None else None,
        )
        pages = self._serve(queues, reply_queues, store, teardown)
        log.say(Level.DEBUG if options.private else Level.INFO, _greeting(options, epoch, store, pages))

    def _end_earlier_life(self, options: DealerOptions, epoch: Epoch, log: DealerLog) -> None:
        platform, namespace = self._platform, self._platform.namespace
        orphans = platform.end_orphans(options.pool, epoch)
        if orphans:
            log.say(Level.WARNING, f"ended {orphans} processes of an earlier life of pool {options.pool}")
        platform.sweep(options.pool, epoch)
        for slot in range(limits.REPLY_SLOTS_MAX):  # a generator that waits makes its queue again with its next hello
            namespace.unlink(names.reply(options.pool, slot))
        namespace.unlink(names.control(options.pool))  # so that generators see that this is another dealer

    def _close(self, store: Store, error: BaseException | None) -> None:
        store.close(clean=self._left_cleanly(), chosen=self._left_by_choice(error))

    def _left_cleanly(self) -> bool:
        """Whether the loop ended because the core wanted it to, with nothing under way."""
        if self._performer is None or self._performer.exit is None:
            return False
        return self.core.pool.commits.idle and not self.core.pool.attempts

    def _left_by_choice(self, error: BaseException | None) -> bool:
        """Whether the core wanted to leave, or the system refused what the dealer needs: no doing of the jobs'. What
        nobody foresaw may be theirs, as a kill may be."""
        if error is not None:
            return isinstance(error, TaskpoolError | OSError)
        return self._performer is not None and self._performer.exit is not None

    def _serve(self, queues: InputQueues, reply_queues: ReplyQueues, store: Store, teardown: ExitStack) -> str:
        """Start the pages, if wanted; returns where they are."""
        if self._options.metrics is None:
            return "no metrics"
        from taskpool.dealer.http import serve  # a private dealer starts faster without

        clock = self._platform.clock
        return serve(self._options, self.core, self.loop, queues, reply_queues, store, clock, teardown)


def _reload(options: DealerOptions, log: DealerLog) -> Reconfigured | None:
    """The configuration as it is now. One that is wrong changes nothing."""
    try:
        now = dealer_options.parse(options.argv)
    except UsageError as error:
        log.warn(f"the configuration is not read again: {error}")
        return None
    log.say(Level.INFO, "Configuration read again: workers and drain time-out apply, the rest needs a restart")
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
        workers_max=room.workers,
        workers_limit=room.limit,
        private=options.private,
        journaled=durable,
        verbose=options.verbosity > 0,
        frame_bytes=layout.worker.msgsize,
        drain_timeout_ns=options.drain_timeout_ns,
        pid=os.getpid(),
        version=__version__,
        kinds=tuple(KINDS),
        spool=str(spool.directory),
        pending_max=limits.PENDING_JOURNALED_JOBS_MAX if durable else limits.PENDING_JOBS_MAX,
        seed=epoch,
    )


def _hold_namespace(namespace: QueueNamespace, pool: str, teardown: ExitStack) -> None:
    """One dealer per pool and IPC namespace, even where state directories are not shared.

    Raises PoolInUse.
    """
    queue = _held(namespace, pool)

    def leave() -> None:
        queue.unlink()
        queue.close()

    teardown.callback(leave)


def _held(namespace: QueueNamespace, pool: str) -> QueueEnd:
    name = names.lock(pool)
    for _ in range(3):
        queue, _ = namespace.reopen_or_create(name, sizing.LOCK)
        try:
            queue.hold_notification_lock()
            return queue
        except QueueMissing:  # its last holder left between the two calls
            queue.close()
        except QueueExists:
            queue.close()
            raise PoolInUse(
                f"pool {pool} is in use by a dealer of this IPC namespace whose state directory is another one: "
                "stop it, or use another --pool"
            ) from None
    raise PoolInUse(f"pool {pool}: {name} comes and goes; another dealer is starting or leaving, try again")


def _restored(store: Store, queues: InputQueues, spool: Spool) -> Restored | None:
    """What an earlier life left, and what its workers still reported: they are dead, so all of it is there."""
    restored = store.restore()
    late: list[tuple[int, Report]] = []
    _drain(queues.intake, spool, lambda message: None)  # generators say all of it again
    for events in queues.events:
        _drain(events, spool, lambda message: late.extend(_reports(message)))
    return structs.replace(restored, late=late) if restored is not None else None


def _reports(message: object) -> list[tuple[int, Report]]:
    if not isinstance(message, Progress):
        return []
    return [(message.epoch, report) for report in message.reports]


def _drain(queue: QueueEnd, spool: Spool, take: Callable[[object], None]) -> None:
    for _ in range(queue.maxmsg):
        try:
            take(spool.unpack(codec.decode(queue.receive())))
        except QueueEmpty:
            return
        except MessageError:
            continue


def _greeting(options: DealerOptions, epoch: Epoch, store: Store, pages: str) -> str:
    if not store.durable:
        journal = "no journal: queued jobs are lost if this dealer dies"
    elif options.journal_sync == "full":
        journal = "journaled: what is accepted survives a kill and a loss of power"
    else:
        journal = "journaled, --journal-sync normal: the last moments before a loss of power may be lost"
    return (
        f"Pool {options.pool}, epoch {epoch}, PID {os.getpid()}: {options.workers} workers and {options.spares} spare, "
        f"{pages}; {journal}"
    )
