"""One life of a dealer on the simulated host: what `dealer.platform` asks for.

Every call the dealer makes is a step: time passes, others run meanwhile, and the dealer may die before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Set
from typing import TYPE_CHECKING

from sim.connections import Connections
from sim.disk import FULL, STORE_FD, SimStore, WatchedMemoryStore
from sim.processes import SimProcesses
from sim.queues import SimNamespace, SimQueue, SimQueueEnd
from sim.spool import SimSpool
from sim.supervision import Supervision
from taskpool import limits
from taskpool.clock import MILLISECOND, AwakeClock
from taskpool.codec import decode
from taskpool.core.events import Event, LifelineClosed, Reconfigured, Signalled, SpawnFailed
from taskpool.core.reactor import Reactor
from taskpool.core.storage import DiskFull
from taskpool.dealer.ingress import CONTROL, INTAKE
from taskpool.dealer.options import DealerOptions
from taskpool.dealer.performer import Performer
from taskpool.dealer.reply_queues import ReplyQueue, ReplyQueues
from taskpool.errors import QueueEmpty, SpoolFull
from taskpool.identifiers import Epoch
from taskpool.ipc.memory import _Queue
from taskpool.ipc.sizing import Layout, Room, Shape
from taskpool.ipc.spool import Spool
from taskpool.journal.store import Store
from taskpool.messages import Command, Frame

if TYPE_CHECKING:
    from sim.host import SimHost
    from sim.jobs import Planned
    from sim.process import Process
    from sim.worker import WorkerProcess

SIGNALS_FD = 900_000
FIRST_PIDFD = 800_000
PREEMPTED_NS = 150_000  # between two calls the scheduler may give the processor to others
LAYOUT = Layout(
    intake=Shape(4, 4096),
    control=Shape(4, 512),
    events=Shape(3, 1024),
    worker=Shape(2, 1024),
    reply=Shape(2, 1024),
)


class Killed(BaseException):
    """The dealer process is gone: nothing of it runs any more."""


class DealerNamespace(SimNamespace):
    """The host's queues as the dealer sees them."""

    def __init__(self, platform: SimPlatform, shared: SimNamespace) -> None:
        super().__init__(platform.world)
        self._platform = platform
        self._queues = shared._queues
        self._filenos = shared._filenos

    def end(self, queue: _Queue, *, send: bool, receive: bool) -> DealerQueueEnd:
        end = DealerQueueEnd(self._platform, self, queue, next(self._filenos), send=send, receive=receive)
        self._platform.ends[end.fileno()] = end
        return end

    def create(self, name: str, shape: Shape) -> SimQueueEnd:
        self._platform.step()
        return super().create(name, shape)

    def reopen_or_create(self, name: str, shape: Shape) -> tuple[SimQueueEnd, bool]:
        self._platform.step()
        end, recovered = super().reopen_or_create(name, shape)
        assert isinstance(end, SimQueueEnd)
        return end, recovered

    def unlink(self, name: str) -> None:
        if name in self._queues:
            self._platform.step()
            super().unlink(name)


class DealerQueueEnd(SimQueueEnd):
    """One of the dealer's ends."""

    def __init__(
        self,
        platform: SimPlatform,
        namespace: DealerNamespace,
        queue: _Queue,
        fileno: int,
        *,
        send: bool,
        receive: bool,
    ) -> None:
        super().__init__(namespace, queue, fileno, send=send, receive=receive)
        self._platform = platform
        self.role, self.mark = _role(queue.name)

    def send(self, data: bytes) -> None:
        platform = self._platform
        platform.step()
        platform.perhaps_dies("dealer_dies_before_send")
        super().send(data)
        if self.role == "worker":
            platform.host.oracle.frame_sent(platform, data, self.mark)
            platform.frame_sent(self.mark)
        elif self.role == "reply":
            platform.host.oracle.told(platform, data)
            platform.perhaps_dies("dealer_dies_after_told")

    def receive(self) -> bytes:
        platform = self._platform
        platform.step()
        queue = self._open_queue
        if queue is not None and not queue.messages:
            raise QueueEmpty(self.name)
        data = super().receive()
        if self.role == "events":
            platform.host.oracle.events_read(platform, data)
        elif self.role == "worker":
            platform.host.oracle.frame_taken_back(data, self.mark)
        elif self.role in _SAID:
            platform.host.oracle.said(platform, data, _SAID[self.role])
        return data

    def unlink(self) -> None:
        self._platform.step()
        super().unlink()

    def close(self) -> None:
        self._platform.ends.pop(self._fileno, None)
        super().close()


_SAID: dict[str, tuple[type, ...]] = {"control": CONTROL, "intake": INTAKE}


def _role(name: str) -> tuple[str, tuple[int, int]]:
    words = name.split(".")
    if words[-1].startswith("w") and words[-1][1:].isdigit():
        return "worker", (int(words[-2]), int(words[-1][1:]))
    return ("reply" if words[-2] == "reply" else words[-1]), (0, 0)


class SimPoller:
    """Level-triggered, as epoll is used."""

    def __init__(self, platform: SimPlatform) -> None:
        self._platform = platform
        self._queues: dict[int, SimQueue] = {}
        self._writes: dict[int, SimQueue] = {}

    def read(self, fd: int) -> None:
        assert fd not in self._queues
        if fd not in (SIGNALS_FD, STORE_FD, *self._platform.pidfds):
            self._queues[fd] = self._platform.ends[fd].queue

    def forget(self, fd: int) -> None:
        if self._platform.dead:
            raise Killed
        if self._platform.pidfds.pop(fd, None) is None:
            del self._queues[fd]

    def write(self, fd: int, wanted: bool) -> None:
        if wanted:
            self._writes[fd] = self._platform.ends[fd].queue
        else:
            self._writes.pop(fd, None)

    def wait(self, timeout_ns: int) -> set[int]:
        platform, world = self._platform, self._platform.world
        platform.turn_ends()
        if timeout_ns > 0 and platform.core.wants_reports and platform.overlooks_a_death():
            world.fail("R9", "the dealer goes to sleep over a death, and nothing will wake it")
        until = world.now_ns + max(0, timeout_ns)
        while not self._is_ready():
            if platform.doomed or not world.step_until(until):
                break
        world.pass_to(world.now_ns + world.between(1_000, 80_000))  # until the scheduler lets us run
        platform.step()
        platform.woke_ns = world.now_ns
        return self._ready()

    def _is_ready(self) -> bool:
        """Whether anything is: asked after all that happens, so without a list of what."""
        platform = self._platform
        if platform.signalled or platform.store_ready:
            return True
        for queue in self._queues.values():
            if queue.messages:
                return True
        for process in platform.pidfds.values():
            if not process.alive:
                return True
        return any(len(queue.messages) < queue.shape.maxmsg for queue in self._writes.values())

    def _ready(self) -> set[int]:
        ready = {fd for fd, queue in self._queues.items() if queue.messages}
        ready |= {fd for fd, process in self._platform.pidfds.items() if not process.alive}
        if self._platform.signalled:
            ready.add(SIGNALS_FD)
        if self._platform.store_ready:
            ready.add(STORE_FD)
        for fd, queue in self._writes.items():
            if len(queue.messages) < queue.shape.maxmsg:
                ready.add(fd)
        return ready

    def close(self) -> None:
        pass


class SimPlatform:
    """See `dealer.platform.Platform`. One for each life."""

    core: Reactor  # as soon as there is one

    def __init__(self, host: SimHost, *, durable: bool, lives_for: int, workers: int, spares: int) -> None:
        self.host = host
        self.world = host.world
        self.clock = AwakeClock(host.world)
        self.ends: dict[int, DealerQueueEnd] = {}
        self.pidfds: dict[int, Process] = {}
        self._next_pidfd = itertools.count(FIRST_PIDFD)
        self.namespace = DealerNamespace(self, host.namespace)
        self.epoch = 0
        self.dead = False
        self.doomed = False  # dies at its next call ...
        self.rebooting = False  # ... and everything with it
        self.stall_ns = 0  # stands still for so long at its next call
        self.signalled = False  # something came through the signal descriptor
        self.woke_ns = host.world.now_ns
        self.late_successes: set[Planned] = set()  # of an earlier life, read by this one
        self.reply_queues: ReplyQueues | None = None
        self.performer: Performer | None = None
        self.supervision = Supervision(host, self, workers, spares)
        self.clients = Connections(host, self)
        self.draining = self.paused = False  # as it was told
        self.full: set[str] = set()  # places that it was told have no room
        self.reply_files: set[str] = set()  # what it has put into the spool for generators
        self._write_ahead_until_ns = 0
        self._signals: list[str] = []
        self._durable = durable
        self._lives_for = lives_for  # calls
        self._random = host.world.rng.random
        self._store: SimStore | WatchedMemoryStore | None = None
        self._processes: SimProcesses | None = None

    # --- life and death ---

    def step(self) -> None:
        """Before every call: time passes, and death may come."""
        if self.dead:
            raise Killed
        world = self.world
        self._lives_for -= 1
        if self._lives_for < 0 and not world.faults.calm:
            world.faults.seen["dealer_died_anywhere"] += 1
            self.doomed = True
        if self.doomed:
            self.die()
        chance = self._random()
        now_ns = world.now_ns + 1_000 + int(chance * 3_000)
        if self.host.pauses and self.host.paused_until_ns > world.now_ns:
            now_ns += self.host.paused_until_ns - world.now_ns + PREEMPTED_NS
        if chance > 0.99 or self.stall_ns:
            stalled_ns, self.stall_ns = self.stall_ns, 0
            now_ns += stalled_ns + PREEMPTED_NS
        if now_ns < world.next_ns:
            world.now_ns = now_ns  # by far the most
        else:
            world.pass_to(now_ns)

    def perhaps_dies(self, fault: str) -> None:
        if self.world.faults.fires(fault):
            self.die()

    def die(self) -> None:
        """SIGKILL takes effect here."""
        self.dead = True
        self.world.note("the dealer of epoch {} is dead", self.epoch)
        if self._store is not None:
            self._store.die()
        for end in list(self.ends.values()):
            end.close()
        self.host.dealer_died()
        if self.rebooting:
            self.host.reboot()
        raise Killed

    def left(self) -> None:
        """The dealer wanted to leave, and has."""
        assert self._store is not None
        self._store.left()

    # --- the platform ---

    def layout(self, options: DealerOptions) -> Layout:
        return LAYOUT

    def room(self, options: DealerOptions, layout: Layout) -> Room:
        return Room(limits.WORKERS_MAX, "")

    def connections(self, options: DealerOptions) -> int:
        return limits.CONNECTIONS_MAX

    def sweep_dead_pools(self, pool: str) -> list[str]:
        return []  # the host has one pool

    def lock(self, pool: str) -> Epoch:
        self.step()
        self.host.disk.epoch += 1
        self.epoch = self.host.disk.epoch
        self.host.dealer = self
        self.host.oracle.life_begins()
        self.world.note("a dealer starts epoch {}", self.epoch)
        self.perhaps_dies("dealer_dies_in_recovery")
        return Epoch(self.epoch)

    def end_orphans(self, pool: str, epoch: Epoch) -> int:
        self.step()
        ended = 0
        while orphans := self.host.marked(lambda mark: mark[0] != epoch):
            fresh = [process for process in orphans if not process.doomed]
            ended += len(fresh)
            for process in fresh:
                self.host.kill_soon(process)
            self.step()
            self.world.pass_to(self.world.now_ns + 100_000)
        self.world.faults.seen["orphan_ended_by_new_dealer"] += ended
        self.perhaps_dies("dealer_dies_in_recovery")
        return ended

    def sweep(self, pool: str, epoch: Epoch) -> None:
        self.step()
        for name in self.host.namespace.names():
            role, mark = _role(name)
            if role == "worker" and mark[0] < epoch:
                self.host.namespace.unlink(name)

    def spool(self, pool: str) -> Spool:
        return DealerSpool(self)

    def store(self, options: DealerOptions, epoch: Epoch) -> Store:
        self.step()
        make = SimStore if self._durable else WatchedMemoryStore
        self._store = make(self, self.host.disk, epoch)
        self.perhaps_dies("dealer_dies_in_recovery")
        return self._store

    def poller(self) -> SimPoller:
        return SimPoller(self)

    def processes(self, options: DealerOptions, epoch: Epoch, spool: Spool, shape: Shape) -> SimProcesses:
        self.perhaps_dies("dealer_dies_in_recovery")
        self._processes = SimProcesses(self, options.pool, spool, shape)
        return self._processes

    def find_process(self, pid: int, queue_fd: int) -> int:
        found = [process for process in self.host.generators if process.pid == pid and process.alive]
        if not found or pid % 2:  # as if of another PID namespace
            return -1
        pidfd = next(self._next_pidfd)
        self.pidfds[pidfd] = found[0]
        return pidfd

    def signals(self) -> list[str]:
        self.step()
        self.signalled = False
        signals, self._signals = self._signals, []
        return signals

    @property
    def signals_fd(self) -> int:
        return SIGNALS_FD

    def close(self) -> None:
        self.step()
        self.host.dealer = None
        self.dead = True
        self.world.note("the dealer of epoch {} has left", self.epoch)

    # --- what the world does to it ---

    def signal(self, name: str) -> None:
        self._signals.append(name)
        self.signalled = True

    def child_died(self, process: Process) -> None:
        if self._processes is not None:
            self._processes.zombies.append(process)
        self.wake_for_child()

    def overlooks_a_death(self) -> bool:
        return not self.signalled and self._processes is not None and self._processes.overlooked

    def wake_for_child(self) -> None:
        self.world.faults.seen["deaths_coalesced"] += self.signalled
        self.signalled = True

    # --- what the oracle asks ---

    @property
    def writes_ahead(self) -> bool:
        return self.world.now_ns < self._write_ahead_until_ns

    def write_ahead_from(self, now_ns: int) -> None:
        self.world.faults.seen["write_ahead_life"] += 1
        self._write_ahead_until_ns = now_ns + limits.WRITE_AHEAD_NS - MILLISECOND

    @property
    def store_ready(self) -> bool:
        return self._store is not None and self._store.ready

    def events_waiting(self) -> list[bytes]:
        return [data for box in self.ends.values() if box.role == "events" for data in box.queue.messages]

    def reply_clients(self) -> Set[int]:
        return self.reply_queues._queues.keys() if self.reply_queues is not None else set()

    def reply_lines(self) -> list[ReplyQueue]:
        return list(self.reply_queues._queues.values()) if self.reply_queues is not None else []

    def frame_sent(self, mark: tuple[int, int]) -> None:
        """Points where it hurts: right after a dispatch."""
        if self.world.faults.fires("worker_killed_after_dispatch"):
            for worker in self.host.workers:
                if worker.mark == mark:
                    worker.kill(9, 30_000)
        self.perhaps_dies("dealer_dies_after_send")

    @property
    def leaves(self) -> bool:
        return self.performer is not None and self.performer.exit is not None

    def connected(self) -> Container[int]:
        return self.reply_queues.clients if self.reply_queues is not None else ()

    def waits_for(self, client: int) -> bool:
        """Whether a generator is gone, or has not read what it was told."""
        line = self.reply_queues._queues.get(client) if self.reply_queues is not None else None
        return line is None or bool(line.waiting)

    def workers(self) -> list[WorkerProcess]:
        return self._processes.workers if self._processes is not None else []

    @property
    def store_busy(self) -> bool:
        return self._store is not None and self._store.busy

    def was_told(self, event: Event) -> None:
        """What the core hears of, as far as it must act on it from then on."""
        match event:
            case DiskFull(full, _, where):
                (self.full.add if full else self.full.discard)(where)
                if where == "spool":
                    self.supervision.spool_full_ns = self.clock.now().mono
            case Signalled("TERM" | "INT" | "QUIT") | LifelineClosed() | Command(verb="drain"):
                self.draining = True
            case SpawnFailed():
                self.supervision.boot_failed()
            case Signalled("TTIN" | "TTOU" as name):
                self.supervision.scaled(1 if name == "TTIN" else -1)
            case Reconfigured(workers):
                self.supervision.scaled(workers - self.supervision.wanted)
            case Command(verb="scale", number=number):
                self.supervision.scaled(number)
            case Command(verb="pause" | "unpause" as verb):
                self.paused = verb == "pause"

    def turn_ends(self) -> None:
        self.step()
        self.host.oracle.look_at(self)

    def inode(self, fileno: int) -> int:
        """What fstat says."""
        return self.ends[fileno].queue.inode

    def frames_waiting(self, incarnation: int) -> int:
        """Messages in the queue of a worker."""
        mark = (self.epoch, incarnation)
        return sum(box.depth() for box in self.ends.values() if box.role == "worker" and box.mark == mark)


class DealerSpool(SimSpool):
    """The pool's spool as the dealer sees it."""

    def __init__(self, platform: SimPlatform) -> None:
        super().__init__()
        self.files = platform.host.spool.files
        self._shared = platform.host.spool
        self._platform = platform

    def sweep(self) -> None:
        self._platform.step()
        self._platform.host.oracle.spool_swept(self._platform)
        super().sweep()

    def pack(self, data: bytes, msgsize: int) -> bytes:
        if len(data) > msgsize:
            self._platform.step()
            if not self.has_room(len(data)):
                self._platform.host.oracle.frame_without_room(data)
                raise SpoolFull(FULL)
        packed = self._shared.pack(data, msgsize)
        if packed is not data and not isinstance(decode(data), Frame):
            self._platform.reply_files.add(self._shared.newest)
        return packed

    def trouble(self) -> str:
        return "" if self.has_room(1) else FULL

    def has_room(self, size: int) -> bool:
        world, shared = self._platform.world, self._shared
        if world.now_ns >= shared.full_until_ns and world.faults.fires("spool_full"):
            shared.full_until_ns = world.now_ns + world.faults.amount(10**8, 2 * 10**10)
        return world.now_ns >= shared.full_until_ns
