"""What a dealer needs of the operating system.

Everything else of the dealer, its takeover and its loop included, is the same on the real platform (`linux`) and on a
simulated one: this is all that the simulator in the tests replaces.
"""

from __future__ import annotations

from typing import Protocol

from taskpool.clock import AwakeClock
from taskpool.core.events import Exited, Spawned, SpawnFailed
from taskpool.dealer.options import DealerOptions
from taskpool.identifiers import Epoch, Incarnation
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import Layout, Room, Shape
from taskpool.ipc.spool import Spool
from taskpool.journal.store import Store


class Poller(Protocol):
    """The one place to wait. Level-triggered: what is ready and was not dealt with wakes again."""

    def read(self, fd: int) -> None:
        """Wake when there is something to read."""

    def forget(self, fd: int) -> None: ...

    def write(self, fd: int, wanted: bool) -> None:
        """Wake, or wake no more, when there is room behind this descriptor."""

    def wait(self, timeout_ns: int) -> set[int]:
        """Descriptors with something to read or room to write, after at most this long."""

    def close(self) -> None: ...


class Processes(Protocol):
    """Worker processes."""

    def spawn(self, incarnation: Incarnation) -> Spawned | SpawnFailed: ...

    def confirm(self, incarnation: int, pid: int) -> bool:
        """Unlink the queue of a worker that has opened it. False: another process claims to be this worker."""

    def request_queue(self, incarnation: Incarnation) -> QueueEnd | None: ...

    def kill(self, incarnation: Incarnation, name: str) -> None: ...

    def reap(self, now_ns: int) -> None:
        """Reap every child that has died, and note that this was seen at `now_ns`, by the platform's clock."""

    def take_exited(self) -> list[Exited]:
        """Return the reaped workers of which no descendant is alive. Kills the descendants of the others."""

    @property
    def empty(self) -> bool: ...

    def close(self) -> None:
        """Kill every worker and wait until nothing of them is left."""


class Platform(Protocol):
    """The operating system, its methods in the order in which a start calls them."""

    @property
    def clock(self) -> AwakeClock:
        """What all of the dealer counts by. Its loop says when it stood still."""

    @property
    def namespace(self) -> QueueNamespace: ...

    def layout(self, options: DealerOptions) -> Layout:
        """Return the shapes of the pool's queues. Raises ConfigurationError, WorkerCannotBoot when such a pool cannot
        work here."""

    # The queues are sized before the pool is locked, for the workers it starts with and as many more as fit.

    def room(self, options: DealerOptions, layout: Layout) -> Room:
        """Return how many workers the pool can be scaled to here, at least those it starts with."""

    def connections(self, options: DealerOptions) -> int:
        """Return how many generators can be connected at once, `limits.CONNECTIONS_MIN` to `CONNECTIONS_MAX`."""

    def sweep_dead_pools(self, pool: str) -> list[str]:
        """Take away what killed private pools other than this one have left; return their names."""

    def lock(self, pool: str) -> Epoch:
        """Lock the pool and begin an epoch, which is durable when this returns. Raises PoolInUse."""

    # From here on until `processes` the order is R5 (docs/protocol.md, 11).

    def end_orphans(self, pool: str, epoch: Epoch) -> int:
        """End every process of an earlier epoch; returns how many there were."""

    def sweep(self, pool: str, epoch: Epoch) -> None:
        """Unlink the queues that workers of an earlier epoch left."""

    def spool(self, pool: str) -> Spool: ...

    def store(self, options: DealerOptions, epoch: Epoch) -> Store:
        """Raises ConfigurationError when the journal cannot be used."""

    def poller(self) -> Poller: ...

    def processes(self, options: DealerOptions, epoch: Epoch, spool: Spool, shape: Shape) -> Processes: ...

    def find_process(self, pid: int, queue_fd: int) -> int:
        """Return a pidfd of the process with this pid if it has the same queue open; -1: it cannot be told."""

    def signals(self) -> list[str]:
        """Names, without SIG, of the signals that came since the last call; SIGCHLD only wakes."""

    @property
    def signals_fd(self) -> int: ...

    def close(self) -> None:
        """Unlock the pool."""
