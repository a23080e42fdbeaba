"""The dealer's processes on the simulated host: the same promises as `dealer.processes`, kept by the same rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.queues import SimQueueEnd
from sim.worker import WorkerProcess
from taskpool.codec import decode
from taskpool.core.events import Exited, Spawned, SpawnFailed
from taskpool.core.supervisor import CANCEL_SIGNAL
from taskpool.errors import MessageError, QueueEmpty
from taskpool.identifiers import Incarnation
from taskpool.ipc import names
from taskpool.ipc.queue import QueueEnd
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool

if TYPE_CHECKING:
    from sim.platform import SimPlatform
    from sim.process import Process


class Child:
    """One worker, until it is reaped."""

    def __init__(self, process: WorkerProcess, end: SimQueueEnd) -> None:
        self.process = process
        self.end = end
        self.seen_ns = 0


class SimProcesses:
    """See `dealer.platform.Processes`."""

    def __init__(self, platform: SimPlatform, pool: str, spool: Spool, shape: Shape) -> None:
        self._platform = platform
        self._world = platform.world
        self._pool = pool
        self._spool = spool
        self._shape = shape
        self._children: dict[int, Child] = {}
        self._dead: list[Child] = []
        self.zombies: list[Process] = []  # dead and not waited for
        self._closing = False

    def spawn(self, incarnation: Incarnation) -> Spawned | SpawnFailed:
        platform = self._platform
        platform.step()
        platform.supervision.spawns()
        if self._world.faults.fires("spawn_fails"):
            return SpawnFailed(incarnation, "no more processes (simulated)")
        end = platform.namespace.create(names.worker(self._pool, platform.epoch, incarnation), self._shape)
        platform.perhaps_dies("dealer_dies_at_spawn")
        process = platform.host.start_worker(self._pool, platform.epoch, incarnation)
        process.spawned_mono_ns = platform.clock.now().mono
        platform.perhaps_dies("dealer_dies_at_spawn")
        self._children[incarnation] = Child(process, end)
        return Spawned(incarnation, process.pid)

    def confirm(self, incarnation: int, pid: int) -> bool:
        child = self._children.get(incarnation)
        if child is None or child.process.pid != pid:
            return False
        child.end.unlink()
        return True

    def request_queue(self, incarnation: Incarnation) -> QueueEnd | None:
        child = self._children.get(incarnation)
        return child.end if child is not None else None

    def kill(self, incarnation: Incarnation, name: str) -> None:
        self._platform.step()
        child = self._children.get(incarnation)
        if child is None:
            return
        child.process.end_asked = True
        if child in self._dead:
            return
        if name == CANCEL_SIGNAL:
            self._world.note("the dealer tells worker {} to end its program", incarnation)
            child.process.told_mono_ns = self._platform.clock.now().mono
            child.process.cancel()
            return
        self._world.note("the dealer signals worker {} (TERM: {})", incarnation, name == "TERM")
        if name == "TERM":
            self._platform.supervision.terms(child.process)
            child.process.term_ns = self._world.now_ns
            child.process.terminate()
            return
        if child.process.alive and not self._closing:
            self._platform.supervision.kills(child.process)
        child.process.killed_by_us = True
        self._platform.host.kill_soon(child.process)
        self._kill_group(child)

    def reap(self, now_ns: int) -> None:
        self._platform.step()
        zombies, self.zombies = self.zombies, []
        for process in zombies:
            child = next((each for each in self._children.values() if each.process is process), None)
            if child is not None:
                child.seen_ns = now_ns
                self._dead.append(child)
                self._kill_group(child)
        if zombies:
            self._world.note("{} deaths seen", len(zombies))
            self._platform.perhaps_dies("dealer_dies_between_reap_and_drain")

    def take_exited(self) -> list[Exited]:
        self._platform.step()
        exits = []
        for child in list(self._dead):
            family = [each for each in self._platform.host.descendants if each.mark == child.process.mark]
            if family:
                for each in family:
                    slow = each.lingers or self._world.faults.fires("death_of_descendant_slow")
                    each.kill(9, self._world.faults.amount(10**8, 5 * 10**9) if slow else 200_000)
                continue
            self._dead.remove(child)
            exits.append(self._exited(child))
        return exits

    @property
    def overlooked(self) -> bool:
        """Somebody is dead and could be reaped, if only the dealer looked."""
        marks = {each.mark for each in self._platform.host.descendants}
        return bool(self.zombies) or any(child.process.mark not in marks for child in self._dead)

    @property
    def workers(self) -> list[WorkerProcess]:
        """Those whose end the dealer was not told of."""
        return [child.process for child in self._children.values()]

    @property
    def empty(self) -> bool:
        return not self._children

    def close(self) -> None:
        self._closing = True
        self._platform.step()
        for child in list(self._children.values()):
            if child not in self._dead:
                self.kill(Incarnation(child.process.mark[1]), "KILL")
        while self._children:
            self.reap(self._platform.clock.now().mono)
            self.take_exited()
            self._world.pass_to(self._world.now_ns + 500_000)
            self._platform.perhaps_dies("dealer_dies_leaving")

    def _kill_group(self, child: Child) -> None:
        for each in self._platform.host.descendants:
            if each.mark == child.process.mark and each.in_group:
                each.kill(9, 200_000)

    def _exited(self, child: Child) -> Exited:
        process = child.process
        del self._children[process.mark[1]]
        child.end.unlink()
        while True:
            try:
                self._spool.unpack(decode(child.end.receive()))
            except QueueEmpty:
                break
            except MessageError:
                continue
        child.end.close()
        self._platform.supervision.exited(process)
        self._world.note("worker {} is reaped", process.mark[1])
        self._platform.host.oracle.held_reports_read(self._platform, process)
        held = tuple(process.in_memory)
        return Exited(Incarnation(process.mark[1]), process.status, process.signal, child.seen_ns, held=held)
