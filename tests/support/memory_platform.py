"""A dealer on memory queues: the real assembly, core and loop, with a clock set by hand and workers played by the test.

A test is a generator that plays generator and workers. It runs whenever the dealer waits, and each `yield` lets the
dealer take one turn; when it ends, the dealer is told to quit.
"""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from taskpool.clock import SECOND, AwakeClock, Instant
from taskpool.codec import decode, encode
from taskpool.core.events import Exited, Spawned
from taskpool.dealer.dealer import Dealer
from taskpool.dealer.log import DealerLog
from taskpool.dealer.options import DealerOptions
from taskpool.identifiers import Epoch, Incarnation
from taskpool.ipc import names
from taskpool.ipc.memory import MemoryNamespace, MemoryQueueEnd
from taskpool.ipc.sizing import Layout, Room, Shape
from taskpool.ipc.spool import Spool
from taskpool.journal.memory import MemoryStore
from taskpool.journal.store import Store
from taskpool.kinds import KINDS
from taskpool.messages import Frame, Message, Ready
from taskpool.procs.writer import LineWriter

POOL = "p"
LAYOUT = Layout(Shape(10, 8192), Shape(10, 1024), Shape(10, 1024), Shape(2, 1024), Shape(10, 8192))
WORKERS_MAX = 256

Script = Callable[["MemoryPlatform"], Iterator[None]]


class CrowdedNamespace(MemoryNamespace):
    """Queues whose senders may be blocked: each message that is taken lets the first of them send."""

    def __init__(self) -> None:
        super().__init__()
        self.blocked: dict[str, deque[bytes]] = defaultdict(deque)

    def open(self, name: str, *, send: bool, receive: bool) -> MemoryQueueEnd:
        end = super().open(name, send=send, receive=receive)
        return CrowdedEnd(self, end._queue, end.fileno(), send=send, receive=receive)

    def send(self, name: str, data: bytes) -> None:
        """Send, or wait for room as a process of its own."""
        queue = self._queues[name]
        if len(queue.messages) < queue.shape.maxmsg:
            queue.messages.append(data)
        else:
            self.blocked[name].append(data)


class CrowdedEnd(MemoryQueueEnd):
    def _take(self) -> bytes:
        data = super()._take()
        assert isinstance(self._namespace, CrowdedNamespace)
        if blocked := self._namespace.blocked[self.name]:
            self._queue.messages.append(blocked.popleft())
        return data


class PlayedProcesses:
    """See `dealer.platform.Processes`. Workers start at once, and die when they are killed or the test says so."""

    def __init__(self, namespace: CrowdedNamespace, clock: AwakeClock) -> None:
        self._namespace = namespace
        self._clock = clock
        self._exits: list[Exited] = []
        self.queues: dict[Incarnation, MemoryQueueEnd] = {}
        self.kills: list[tuple[Incarnation, str]] = []

    def spawn(self, incarnation: Incarnation) -> Spawned:
        self.queues[incarnation] = self._namespace.create(names.worker(POOL, 1, incarnation), LAYOUT.worker)
        return Spawned(incarnation, self.pid(incarnation))

    def pid(self, incarnation: int) -> int:
        return 1000 + incarnation

    def confirm(self, incarnation: int, pid: int) -> bool:
        return pid == self.pid(incarnation)

    def request_queue(self, incarnation: Incarnation) -> MemoryQueueEnd | None:
        return self.queues.get(incarnation)

    def kill(self, incarnation: Incarnation, name: str) -> None:
        self.kills.append((incarnation, name))
        self.die(incarnation)

    def die(self, incarnation: Incarnation, signal: int = 9) -> None:
        if incarnation in self.queues and all(exited.incarnation != incarnation for exited in self._exits):
            self._exits.append(Exited(incarnation, None, signal, self._clock.now().mono))

    def reap(self, now_ns: int) -> None:
        pass

    def take_exited(self) -> list[Exited]:
        exits, self._exits = self._exits, []
        for exited in exits:
            self.queues.pop(exited.incarnation, None)
        return exits

    @property
    def empty(self) -> bool:
        return not self.queues

    def close(self) -> None:
        pass


class HandClock:
    """Time that passes when the test lets it."""

    def __init__(self) -> None:
        self.mono = 1000 * SECOND

    def now(self) -> Instant:
        return Instant(self.mono, 1_800_000_000 * SECOND + self.mono)


class ScriptPoller:
    """See `dealer.platform.Poller`. Instead of waiting it runs the script up to its next `yield`."""

    def __init__(self, platform: MemoryPlatform, script: Iterator[None]) -> None:
        self._platform = platform
        self._script = script
        self._over = False

    def read(self, fd: int) -> None:
        pass

    def forget(self, fd: int) -> None:
        pass

    def write(self, fd: int, wanted: bool) -> None:
        pass

    def wait(self, timeout_ns: int) -> set[int]:
        self._platform.timeout_ns = max(0, timeout_ns)
        if not self._over:
            try:
                next(self._script)
            except StopIteration:
                self._over = True
                self._platform.pending_signals.append("QUIT")
        else:
            self._platform.sleep()
        return set()

    def close(self) -> None:
        pass


class MemoryPlatform:
    """See `dealer.platform.Platform`."""

    def __init__(self, directory: Path, script: Script = lambda platform: iter(()), store: Store | None = None) -> None:
        self.hand = HandClock()  # the machine's
        self.clock = AwakeClock(self.hand)
        self.namespace = CrowdedNamespace()
        self.played = PlayedProcesses(self.namespace, self.clock)
        self.timeout_ns = 0  # of the present wait
        self.pending_signals: list[str] = []
        self._directory = directory
        self._script = script(self)
        self._store = store or MemoryStore()

    # --- for scripts ---

    def sleep(self) -> None:
        """Let the time pass that the dealer wants to wait."""
        self.hand.mono += self.timeout_ns

    def send(self, name: str, message: Message) -> None:
        self.namespace.send(name, encode(message))

    def report_ready(self) -> None:
        """Every worker that was started is ready."""
        for incarnation in self.played.queues:
            ready = Ready(incarnation, 1, self.played.pid(incarnation), "1", list(KINDS))
            self.send(names.events(POOL), ready)

    def frames(self) -> dict[Incarnation, Frame]:
        """What the workers were sent, taken out of their queues: one frame each."""
        found = {}
        for incarnation, queue in self.played.queues.items():
            if queue.depth():
                frame = decode(queue.receive())
                assert isinstance(frame, Frame)
                found[incarnation] = frame
        return found

    # --- for the dealer ---

    def layout(self, options: DealerOptions) -> Layout:
        return LAYOUT

    def room(self, options: DealerOptions, layout: Layout) -> Room:
        return Room(WORKERS_MAX, "")

    def connections(self, options: DealerOptions) -> int:
        return 128

    def sweep_dead_pools(self, pool: str) -> list[str]:
        return []

    def lock(self, pool: str) -> Epoch:
        return Epoch(1)

    def end_orphans(self, pool: str, epoch: Epoch) -> int:
        return 0

    def sweep(self, pool: str, epoch: Epoch) -> None:
        pass

    def spool(self, pool: str) -> Spool:
        return Spool(self._directory / "spool")

    def store(self, options: DealerOptions, epoch: Epoch) -> Store:
        return self._store

    def poller(self) -> ScriptPoller:
        return ScriptPoller(self, self._script)

    def processes(self, options: DealerOptions, epoch: Epoch, spool: Spool, shape: Shape) -> PlayedProcesses:
        return self.played

    def find_process(self, pid: int, queue_fd: int) -> int:
        return -1

    def signals(self) -> list[str]:
        signals, self.pending_signals = self.pending_signals, []
        return signals

    @property
    def signals_fd(self) -> int:
        return -1

    def close(self) -> None:
        pass


def assemble(platform: MemoryPlatform, teardown: ExitStack, workers: int = 2) -> Dealer:
    """A dealer that has not turned yet."""
    options = DealerOptions(pool=POOL, workers=workers, spares=0)
    return Dealer(options, DealerLog("text", logging.ERROR, LineWriter(2, "Dealer")), platform, teardown)
