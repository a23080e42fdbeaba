"""How a dealer comes up and goes down.

The order makes it safe: the pool's lock, then a new epoch made durable, then the end of everything an earlier
epoch left running, and only then queues.  # R5
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from signal import Signals

from taskpool import __version__
from taskpool.clock import SECOND, SystemClock
from taskpool.core.dispatcher import Dispatcher
from taskpool.core.effects import Exit, Level
from taskpool.core.pool import PoolConfig
from taskpool.core.worker import WorkerState
from taskpool.dealer.door import Door
from taskpool.dealer.leftovers import Leftovers
from taskpool.dealer.loop import Loop, Poller
from taskpool.dealer.options import DealerOptions
from taskpool.dealer.perform import Performer
from taskpool.dealer.queues import Queues
from taskpool.dealer.replies import Replies
from taskpool.dealer.staff import Hire, Staff
from taskpool.dealer.transcript import Transcript
from taskpool.errors import ConfigurationError, PoolInUse, QueueEmpty, QueueExists, QueueMissing
from taskpool.ids import Epoch
from taskpool.ipc import budget, names
from taskpool.ipc.mailbox import Mailbox, Post
from taskpool.ipc.mqueue import KernelPost, kernel_limits
from taskpool.ipc.spool import Spool
from taskpool.journal.memory import MemoryStore
from taskpool.kinds import KINDS
from taskpool.limits import REPLY_SLOTS_MAX
from taskpool.messages import Refused
from taskpool.procs.family import end_orphans
from taskpool.procs.lifeline import become_subreaper
from taskpool.procs.signals import Wakeup
from taskpool.procs.spawn import find_worker
from taskpool.procs.statedir import PoolLock, state_directory

WATCHED = (
    Signals.SIGCHLD,
    Signals.SIGTERM,
    Signals.SIGINT,
    Signals.SIGQUIT,
    Signals.SIGHUP,
    Signals.SIGUSR1,
    Signals.SIGTTIN,
    Signals.SIGTTOU,
)
LOG_FD = 2  # workers write their lines where the dealer writes its own
ORPHANS_NS_MAX = 20 * SECOND
BURIAL_NS_MAX = 5 * SECOND
HEALTHY_NS_MAX = 10 * SECOND
DESCRIPTORS_BASE = 96  # what a dealer needs beside two for each worker
SIGNAL_NAMES = {int(number): number.name for number in Signals}


def check(options: DealerOptions) -> budget.Layout:
    """What can be known before anything is started. Raises ConfigurationError, WorkerCannotBoot."""
    find_worker(options.worker_exec)
    _allow_descriptors(options)
    return budget.choose(options.workers + options.spares, kernel_limits())


def run(options: DealerOptions, transcript: Transcript) -> Exit:
    """A dealer's whole life. Raises TaskpoolError when it cannot begin."""
    layout = check(options)
    clock = SystemClock()
    with ExitStack() as teardown:
        directory = state_directory(options.pool)
        lock = PoolLock(directory, options.pool)
        epoch = lock.acquire(clock.now().wall)
        teardown.callback(lock.close)
        become_subreaper()
        orphans = end_orphans(options.pool, epoch, clock.now().mono + ORPHANS_NS_MAX)
        if orphans:
            transcript.say(Level.WARNING, f"ended {orphans} processes of an earlier life of pool {options.pool}")
        wakeup = Wakeup(WATCHED)
        teardown.callback(wakeup.close)
        dealer = _Dealer(options, transcript, clock, directory, epoch, layout, wakeup, teardown)
        return dealer.loop.run()


class _Dealer:
    """The parts, wired; each registers its own end the moment it exists."""

    def __init__(
        self,
        options: DealerOptions,
        transcript: Transcript,
        clock: SystemClock,
        directory: Path,
        epoch: Epoch,
        layout: budget.Layout,
        wakeup: Wakeup,
        teardown: ExitStack,
    ) -> None:
        self._clock = clock
        self._wakeup = wakeup
        post = KernelPost()
        poller = Poller()
        teardown.callback(poller.close)
        _hold_namespace(post, options.pool, teardown)
        leftovers = Leftovers(directory, epoch)
        _sweep(post, options.pool, leftovers)
        spool = Spool(directory / "spool")
        spool.sweep()
        teardown.callback(shutil.rmtree, spool.directory, ignore_errors=True)
        queues = Queues(post, options.pool, layout, poller.read, poller.forget, transcript.warn)
        teardown.callback(queues.close)
        hire = Hire(
            options.pool, epoch, find_worker(options.worker_exec), _arguments(options), str(spool.directory), LOG_FD,
            layout.worker,
        )  # fmt: skip
        staff = Staff(hire, post, spool, lambda: clock.now().mono, leftovers.note)
        teardown.callback(self._end_staff, staff)
        replies = Replies(post, options.pool, spool, poller.write, transcript.warn)
        teardown.callback(replies.close_all)
        store = MemoryStore()
        self._core = Dispatcher(_config(options, epoch, layout, spool, durable=store.durable), SIGNAL_NAMES)
        performer = Performer(store, staff, replies, spool, transcript)
        door = Door(spool, self._core.pool.tally, lambda refused: _refuse(replies, refused), transcript.warn)
        poller.read(wakeup.fileno())
        if options.lifeline_fd >= 0:
            poller.read(options.lifeline_fd)
        self.loop = Loop(
            self._core, clock, poller, queues, door, staff, replies, store, performer, self._signals,
            options.lifeline_fd,
        )  # fmt: skip
        _drain_earlier_life(queues)
        pages = self._serve(options, queues, teardown)
        transcript.say(Level.DEBUG if options.private else Level.INFO, _greeting(options, epoch, pages))

    def _signals(self) -> list[str]:
        """Names without SIG. SIGCHLD only wakes the loop, which looks for the dead in every turn."""
        return [number.name[3:] for number in sorted(self._wakeup.pending()) if number is not Signals.SIGCHLD]

    def _serve(self, options: DealerOptions, queues: Queues, teardown: ExitStack) -> str:
        """Start the pages, if wanted; returns where they are."""
        if options.metrics is None:
            return "no metrics"
        from taskpool.metrics.pages import Pages, Server  # a private dealer starts faster without
        from taskpool.metrics.series import DealerCollector

        def depths() -> dict[str, tuple[int, int]]:
            mailboxes = {"intake": queues.intake, "control": queues.control, "events": queues.events[-1]}
            return {name: (mailbox.depth(), mailbox.maxmsg) for name, mailbox in mailboxes.items()}

        collector = DealerCollector(self._core, KINDS, depths, __version__)
        server = Server(options.metrics, Pages(collector, self._status, self._healthy, self._ready))
        teardown.callback(server.close)
        return f"metrics on http://{options.metrics[0]}:{server.port}/metrics"

    def _status(self) -> dict[str, object]:
        return self._core.commands.status(self._clock.now())

    def _healthy(self) -> bool:
        return self._clock.now().mono - self.loop.turned_mono_ns < HEALTHY_NS_MAX

    def _ready(self) -> bool:
        workers = list(self._core.crew.workers.values())
        up = any(worker.state not in (WorkerState.STARTING, WorkerState.STOPPING) for worker in workers)
        return up and not self._core.pool.draining

    def _end_staff(self, staff: Staff) -> None:
        """Kill every worker, and wait until nothing of them is left."""
        staff.kill_all()
        deadline = self._clock.now().mono + BURIAL_NS_MAX
        while not staff.empty and self._clock.now().mono < deadline:
            staff.look()
            staff.bury()
            if not staff.empty:
                signal.sigtimedwait([], 0.001)  # SIGCHLD has its handler; a death in between costs a millisecond
        staff.close()


def _config(options: DealerOptions, epoch: Epoch, layout: budget.Layout, spool: Spool, *, durable: bool) -> PoolConfig:
    return PoolConfig(
        name=options.pool,
        epoch=epoch,
        workers=options.workers,
        spares=options.spares,
        private=options.private,
        journaled=durable,
        verbose=options.verbosity > 0,
        frame_bytes=layout.worker.msgsize,
        drain_timeout_ns=options.drain_timeout_ns,
        pid=os.getpid(),
        version=__version__,
        spool=str(spool.directory),
        seed=os.getpid(),
    )


def _arguments(options: DealerOptions) -> list[str]:
    """What workers are told beside who they are."""
    arguments = ["--log-format", options.log_format]
    if options.chaos is not None:
        arguments += ["--chaos", options.chaos]
    if options.verbosity > 0:
        arguments.append("--verbose")
    return arguments


def _hold_namespace(post: Post, pool: str, teardown: ExitStack) -> None:
    """One dealer per pool and IPC namespace, even where state directories are not shared.

    Raises PoolInUse.
    """
    mailbox = _held(post, pool)

    def leave() -> None:
        mailbox.unlink()
        mailbox.close()

    teardown.callback(leave)


def _held(post: Post, pool: str) -> Mailbox:
    name = names.lock(pool)
    for _ in range(3):
        mailbox, _ = post.adopt(name, budget.LOCK)
        try:
            mailbox.hold_notification_lock()
            return mailbox
        except QueueMissing:  # its last holder left between the two calls
            mailbox.close()
        except QueueExists:
            mailbox.close()
            raise PoolInUse(
                f"pool {pool} is in use by a dealer of this IPC namespace whose state directory is another one: "
                "stop it, or use another --pool"
            ) from None
    raise PoolInUse(f"pool {pool}: {name} comes and goes; another dealer is starting or leaving, try again")


def _sweep(post: Post, pool: str, leftovers: Leftovers) -> None:
    """Names an earlier life left. A generator that waits with its queue makes it again with its next hello."""
    leftovers.sweep(post, pool)
    for slot in range(REPLY_SLOTS_MAX):
        post.unlink(names.reply(pool, slot))


def _drain_earlier_life(queues: Queues) -> None:
    """What lies in adopted queues speaks of an epoch that is over: generators say all of it again."""
    for mailbox in (queues.intake, queues.control, *queues.events):
        for _ in range(mailbox.maxmsg):
            try:
                mailbox.receive()
            except QueueEmpty:
                break


def _refuse(replies: Replies, refused: Refused) -> None:
    replies.send(refused.client, refused)


def _allow_descriptors(options: DealerOptions) -> None:
    """Raises ConfigurationError when RLIMIT_NOFILE is too low for the workers and cannot be raised."""
    need = DESCRIPTORS_BASE + 4 * (options.workers + options.spares)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= need:
        return
    if hard != resource.RLIM_INFINITY and hard < need:
        raise ConfigurationError(
            f"RLIMIT_NOFILE is {hard} descriptors; {options.workers} workers need {need}. "
            f"Ask for fewer workers, or raise it: ulimit -n {need}, LimitNOFILE={need}, --ulimit nofile={need}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def _greeting(options: DealerOptions, epoch: Epoch, pages: str) -> str:
    return (
        f"Pool {options.pool}, epoch {epoch}, PID {os.getpid()}: {options.workers} workers and {options.spares} spare, "
        f"{pages}; no journal: queued jobs are lost if this dealer dies"
    )
