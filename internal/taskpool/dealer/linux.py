"""The real platform: kernel queues, processes, a state directory, a journal."""

from __future__ import annotations

import os
import resource
import select
from pathlib import Path
from signal import Signals

from taskpool import limits
from taskpool.clock import MILLISECOND, SECOND, AwakeClock, SystemClock
from taskpool.codec import encode
from taskpool.dealer.options import DealerOptions
from taskpool.dealer.processes import LaunchSpec, WorkerProcesses
from taskpool.errors import ConfigurationError
from taskpool.identifiers import Epoch
from taskpool.ipc import dead_pools
from taskpool.ipc.mqueue import KernelNamespace, ipc_namespace, kernel_limits
from taskpool.ipc.names import StaleQueues
from taskpool.ipc.sizing import Layout, Room, Shape, choose, room
from taskpool.ipc.spool import Spool
from taskpool.journal.memory import MemoryStore
from taskpool.journal.store import Store
from taskpool.messages import Welcome
from taskpool.procs import prctl, procfs
from taskpool.procs.control_group import ControlGroup
from taskpool.procs.orphans import WorkerList, end_orphans, last_life
from taskpool.procs.pool_lock import PoolLock
from taskpool.procs.signals import Wakeup
from taskpool.procs.spawn import find_worker
from taskpool.procs.state_dir import JOURNAL_NAME, SPOOL_NAME, check_journal, check_length, identity, state_directory

ORPHANS_NS_MAX = 20 * SECOND  # for SIGKILL to take effect on all of them
DESCRIPTORS_PER_CONNECTION = 2  # the reply queue, and the process at its other end
# What keeps a pool from being scaled further, for the error of `scale`.
_MOST = f"no pool has more than {limits.WORKERS_MAX} workers"
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


class EpollPoller:
    """See `platform.Poller`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._writable: set[int] = set()  # registered for room; epoll refuses a second registration

    def read(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def forget(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def write(self, fd: int, wanted: bool) -> None:
        if wanted and fd not in self._writable:
            self._epoll.register(fd, select.EPOLLOUT)
            self._writable.add(fd)
        elif not wanted and fd in self._writable:
            self._epoll.unregister(fd)
            self._writable.discard(fd)

    def wait(self, timeout_ns: int) -> set[int]:
        # Rounded up: a turn before the deadline would find nothing to do, and turn again at once.
        milliseconds = max(0, -(-timeout_ns // MILLISECOND))
        return {fd for fd, _ in self._epoll.poll(milliseconds / 1000)}

    def close(self) -> None:
        self._epoll.close()


class LinuxPlatform:
    """See `platform.Platform`."""

    def __init__(self, log_fd: int) -> None:
        """`log_fd`: where workers write their lines."""
        self._log_fd = log_fd
        self.clock = AwakeClock(SystemClock())
        self.namespace = KernelNamespace()
        self._wakeup = Wakeup(WATCHED)
        self._lock: PoolLock | None = None
        self._spool: Spool | None = None
        self._pool = ""
        self._stale_queues: StaleQueues | None = None
        self._group: ControlGroup | None = None
        self._worker_list: WorkerList | None = None

    def layout(self, options: DealerOptions) -> Layout:
        prctl.require_for_dealer()
        find_worker(options.worker_exec)  # only looked for: a program that is missing is told before the pool is locked
        _allow_descriptors(options)
        layout = choose(options.workers + options.spares, kernel_limits())
        _check_welcome(state_directory(options.pool, create=False), layout)
        return layout

    def room(self, options: DealerOptions, layout: Layout) -> Room:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        by_descriptors = Room(
            (descriptors - limits.DEALER_DESCRIPTORS_MIN) // limits.WORKER_DESCRIPTORS_MAX,
            f"RLIMIT_NOFILE is {descriptors} descriptors",
        )
        workers, limit = min(by_descriptors, room(layout, kernel_limits()))
        workers = min(workers - options.spares, limits.WORKERS_MAX)  # spares take as much as workers do
        return Room(max(workers, options.workers), limit if workers < limits.WORKERS_MAX else _MOST)

    def connections(self, options: DealerOptions) -> int:
        # What all workers that `scale` may ask for leave: they come first.
        left = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _descriptors(limits.WORKERS_MAX + options.spares)
        most = limits.CONNECTIONS_MIN + left // DESCRIPTORS_PER_CONNECTION
        return max(limits.CONNECTIONS_MIN, min(most, limits.CONNECTIONS_MAX))

    def sweep_dead_pools(self, pool: str) -> list[str]:
        return dead_pools.sweep(self.namespace, state_directory(pool), ipc_namespace())

    def lock(self, pool: str) -> Epoch:
        directory = state_directory(pool)
        self._lock = PoolLock(directory, pool)
        epoch = self._lock.acquire(self.clock.now().wall)
        self._pool, self._stale_queues = pool, StaleQueues(directory, epoch)
        self._stale_queues.begin(ipc_namespace())  # before the first queue: a kill may come right behind it
        return epoch

    def end_orphans(self, pool: str, epoch: Epoch) -> int:
        directory = state_directory(pool)
        ended = end_orphans(last_life(directory, pool), epoch, self.clock.now().mono + ORPHANS_NS_MAX)
        self._group = ControlGroup.make(f"{pool}.{identity(directory)}.{epoch}")
        self._worker_list = WorkerList(directory, self._group)
        return ended

    def sweep(self, pool: str, epoch: Epoch) -> None:
        # Names of workers' queues hold epoch and incarnation, so they are not guessed but read from a file.
        assert self._stale_queues is not None
        self._stale_queues.sweep(self.namespace, pool)

    def spool(self, pool: str) -> Spool:
        self._spool = Spool(state_directory(pool) / SPOOL_NAME)
        return self._spool

    def store(self, options: DealerOptions, epoch: Epoch) -> Store:
        if options.journal == "none":
            return MemoryStore(Spool(state_directory(options.pool) / "spool"))
        from taskpool.journal.engine import JournalOptions
        from taskpool.journal.sqlite import SqliteStore  # a pool without a journal starts faster without

        path = state_directory(options.pool) / JOURNAL_NAME
        if options.journal is not None:
            path = Path(options.journal)
            check_journal(path)
        kept = JournalOptions(options.journal_sync, options.retain_ns, options.retain_batches)
        return SqliteStore(path, epoch, kept)

    def poller(self) -> EpollPoller:
        return EpollPoller()

    def processes(self, options: DealerOptions, epoch: Epoch, spool: Spool, shape: Shape) -> WorkerProcesses:
        assert self._stale_queues is not None
        assert self._worker_list is not None
        program = find_worker(options.worker_exec)
        spec = LaunchSpec(
            pool=options.pool,
            state_id=identity(state_directory(options.pool)),
            epoch=epoch,
            program=program,
            arguments=_arguments(options),
            spool=str(spool.directory),
            log_fd=self._log_fd,
            shape=shape,
        )
        return WorkerProcesses(spec, self.namespace, spool, self.clock, self._stale_queues, self._worker_list)

    def find_process(self, pid: int, queue_fd: int) -> int:
        try:
            queue = os.fstat(queue_fd)
            if not procfs.has_open(pid, queue):
                return -1
            pidfd = os.pidfd_open(pid)
        except OSError:  # it has just died, or there is no descriptor to watch it by: its lease will end
            return -1
        if procfs.has_open(pid, queue):  # still: the pid was not given to another process before the pidfd held it
            return pidfd
        os.close(pidfd)
        return -1

    def signals(self) -> list[str]:
        # Sorted: the order in which signals were sent is lost anyway, and that of a set differs from run to run.
        return [number.name[3:] for number in sorted(self._wakeup.pending()) if number is not Signals.SIGCHLD]

    @property
    def signals_fd(self) -> int:
        return self._wakeup.fileno()

    def close(self) -> None:
        # What is in the spool is a message under way. The lock comes last: after it another dealer may start.
        if self._spool is not None:
            self._spool.close()
        if self._worker_list is not None:
            self._worker_list.close()
        if self._stale_queues is not None:
            self._stale_queues.end(self.namespace, self._pool)
        if self._group is not None:
            self._group.leave()
        if self._lock is not None:
            self._lock.close()
        self._wakeup.close()


def _check_welcome(directory: Path, layout: Layout) -> None:
    """Refuse a state directory whose spool has too long a path for a Welcome, which cannot go through the spool that it
    names. Raises ConfigurationError."""
    most = 2**63 - 1
    largest = Welcome(most, most, 2**32 - 1, str(directory / SPOOL_NAME), most, most, most, True)
    missing = len(encode(largest)) - layout.reply.msgsize
    check_length(
        directory,
        len(os.fsencode(directory)) - missing,
        f"the first answer to a generator, in a queue of messages of {layout.reply.msgsize} bytes,",
    )


def _arguments(options: DealerOptions) -> list[str]:
    """Return the arguments that all workers have in common."""
    arguments = ["--log-format", options.log_format]
    if options.chaos is not None:
        arguments += ["--chaos", options.chaos]
    if options.verbosity > 0:
        arguments.append("--verbose")
    return arguments


def _allow_descriptors(options: DealerOptions) -> None:
    """Raise RLIMIT_NOFILE for the workers there are, and if possible for as many as `scale` may ask for and for as many
    generators as can be connected.

    Raises ConfigurationError when it is too low for the workers and cannot be raised.
    """
    need = _descriptors(options.workers + options.spares)
    most = _descriptors(limits.WORKERS_MAX + options.spares)
    most += DESCRIPTORS_PER_CONNECTION * (limits.CONNECTIONS_MAX - limits.CONNECTIONS_MIN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= most:
        return
    if hard != resource.RLIM_INFINITY and hard < need:
        raise ConfigurationError(
            f"RLIMIT_NOFILE is {hard} descriptors; {options.workers} workers need {need}. "
            f"Ask for fewer workers, or raise it: ulimit -n {need}, LimitNOFILE={need}, --ulimit nofile={need}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _descriptors(workers: int) -> int:
    """Return how many a dealer with so many worker processes needs."""
    return limits.DEALER_DESCRIPTORS_MIN + limits.WORKER_DESCRIPTORS_MAX * workers
