"""The host of one schedule: its kernel, its processes, its disk, and who starts the dealer again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.disk import Disk
from sim.jobs import Planned
from sim.oracle import Oracle
from sim.queues import SimNamespace
from sim.spool import SimSpool
from sim.worker import Descendant, WorkerProcess
from sim.world import World
from taskpool import limits
from taskpool.clock import STANDSTILL_NS_MIN
from taskpool.procs.wait import STEP_NS

if TYPE_CHECKING:
    from sim.generators import Generator
    from sim.platform import SimPlatform
    from sim.process import Process

POOL = "sim"


class SimHost:
    """What outlives a dealer."""

    def __init__(self, world: World, *, durable: bool, private: bool) -> None:
        self.world = world
        self.durable = durable  # whether its pool keeps a journal
        self.private = private  # whether its dealer serves one batch, and leaves with it
        self.namespace = SimNamespace(world)
        self.spool = SimSpool()
        self.oracle = Oracle(self)
        self.disk = Disk(world, self.oracle)
        self.jobs: dict[tuple[str, int], Planned] = {}
        self.workers: list[WorkerProcess] = []  # alive, of whatever epoch
        self.descendants: list[Descendant] = []
        self.generators: list[Generator] = []  # of whatever batch, dead ones included
        self.commanders: list[Process] = []  # alive
        self.dealer: SimPlatform | None = None
        self.pauses: list[tuple[int, int]] = []  # when all of the pool stood still: since, until
        self.cancel: Callable[[Planned], None] = lambda job: None  # by a person
        self._pid = 1000

    def job(self, batch: str, seq: int) -> Planned:
        if (batch, seq) not in self.jobs:
            self.world.fail("I1", f"job {batch}/{seq} is known to nobody but the dealer")
        return self.jobs[batch, seq]

    def jobs_of(self, batch: str, seq: int) -> list[Planned]:
        """One, or all of a batch."""
        return [job for (name, each), job in self.jobs.items() if name == batch and seq in (0, each)]

    def new_pid(self) -> int:
        self._pid += 1
        return self._pid

    def start_worker(self, pool: str, epoch: int, incarnation: int) -> WorkerProcess:
        process = WorkerProcess(self, self.new_pid(), pool, epoch, incarnation)
        self.workers.append(process)
        process.ended = lambda: self._worker_ended(process)
        process.run(process.life())
        self.world.note("process {} is worker {} of epoch {}", process.pid, incarnation, epoch)
        return process

    def _worker_ended(self, process: WorkerProcess) -> None:
        self.workers.remove(process)
        if self.dealer is not None and process.mark[0] == self.dealer.epoch:
            self.dealer.child_died(process)

    def start_descendant(self, mark: tuple[int, int], job: Planned) -> Descendant:
        process = Descendant(self.world, self.new_pid(), mark, job, in_group=self.world.chance(0.3))
        self.descendants.append(process)
        process.ended = lambda: self._descendant_ended(process)
        process.run(process.life())
        return process

    def _descendant_ended(self, process: Descendant) -> None:
        self.descendants.remove(process)
        if self.dealer is not None:
            self.dealer.wake_for_child()

    def marked(self, wanted: Callable[[tuple[int, int]], bool]) -> list[WorkerProcess | Descendant]:
        """Processes by what their environment says: (epoch, incarnation)."""
        found: list[WorkerProcess | Descendant] = [each for each in self.workers if wanted(each.mark)]
        return [*found, *(each for each in self.descendants if wanted(each.mark))]

    def kill_soon(self, process: WorkerProcess | Descendant) -> None:
        """SIGKILL, which takes its time, and a large process longer."""
        slow = self.world.faults.fires("worker_dies_slowly")
        process.kill(9, self.world.faults.amount(200_000, 500_000_000) if slow else 200_000)

    def end_dealer(self, why: str) -> None:
        """The dealer dies at its next call."""
        if self.dealer is not None:
            self.world.faults.seen[why] += 1
            self.dealer.doomed = True

    def pause_pool(self, for_ns: int) -> None:
        """A frozen control group: dealer, workers and jobs stand still, and perhaps the generators."""
        now_ns = self.world.now_ns
        if self.paused_until_ns > now_ns:
            return
        self.pauses.append((now_ns, now_ns + for_ns))
        self.world.note("the pool stands still for {}", for_ns)
        generators = self.generators if self.world.chance(0.5) else []
        for process in (*self.workers, *self.descendants, *generators):
            process.stop(for_ns)

    def end_pause(self) -> None:
        if self.paused_until_ns > self.world.now_ns:
            self.pauses[-1] = (self.pauses[-1][0], self.world.now_ns)

    @property
    def paused_until_ns(self) -> int:
        return self.pauses[-1][1] if self.pauses else 0

    def ran_ns(self, began_ns: int) -> int:
        """How long the pool has not stood still since then; of a pause, as much counts as nothing can see: of one in a
        wait a step and what may be bad luck, of one amid a turn what is no stall yet."""
        now_ns = self.world.now_ns
        stood = [max(0, min(until, now_ns) - max(since, began_ns)) for since, until in self.pauses]
        unseen_ns = max(STEP_NS + STANDSTILL_NS_MIN, limits.LOOP_STALL_NS)
        return now_ns - began_ns - sum(max(0, stood_ns - unseen_ns) for stood_ns in stood)

    def dealer_died(self) -> None:
        """Its workers follow it, as far as the death signal reaches them."""
        self.dealer = None
        for worker in list(self.workers):
            worker.dealer_gone = True
            worker.killed_by_us = True
            if self.world.faults.fires("orphan"):
                worker.stubborn = True
            elif worker.armed:
                worker.kill(9, 5_000_000)

    def reboot(self) -> None:
        """Everything that runs is gone, and so is every queue. The disk keeps what was synced."""
        self.disk.lose_power()
        for process in (*self.workers, *self.descendants):
            if isinstance(process, WorkerProcess):
                process.killed_by_us = True
            process.end(signal=9)
        self.namespace.wipe()
