"""The dealer's workforce on the simulated host: the same promises as `dealer.staff`, kept by the same rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.queues import SimMailbox
from sim.worker import WorkerProcess
from taskpool.codec import decode
from taskpool.core.events import Exited, Spawned, SpawnFailed
from taskpool.errors import MessageError, QueueEmpty
from taskpool.ids import Incarnation
from taskpool.ipc import names
from taskpool.ipc.queue import Mailbox
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool

if TYPE_CHECKING:
    from sim.platform import SimMachine
    from sim.process import Process


class Member:
    """One worker, until it is buried."""

    def __init__(self, process: WorkerProcess, mailbox: SimMailbox) -> None:
        self.process = process
        self.mailbox = mailbox
        self.seen_ns = 0


class SimWorkforce:
    """See `dealer.machine.Workforce`."""

    def __init__(self, machine: SimMachine, pool: str, spool: Spool, shape: Shape) -> None:
        self._machine = machine
        self._world = machine.world
        self._pool = pool
        self._spool = spool
        self._shape = shape
        self._members: dict[int, Member] = {}
        self._dead: list[Member] = []
        self.zombies: list[Process] = []  # dead and not waited for

    def spawn(self, incarnation: Incarnation) -> Spawned | SpawnFailed:
        machine = self._machine
        machine.step()
        if self._world.faults.fires("spawn_fails"):
            return SpawnFailed(incarnation, "no more processes (simulated)")
        mailbox = machine.post.create(names.worker(self._pool, machine.epoch, incarnation), self._shape)
        machine.perhaps_dies("dealer_dies_at_spawn")
        process = machine.host.start_worker(self._pool, machine.epoch, incarnation)
        machine.perhaps_dies("dealer_dies_at_spawn")
        self._members[incarnation] = Member(process, mailbox)
        return Spawned(incarnation, process.pid)

    def settled(self, incarnation: int, pid: int) -> bool:
        member = self._members.get(incarnation)
        if member is None or member.process.pid != pid:
            return False
        member.mailbox.unlink()
        return True

    def mailbox(self, incarnation: Incarnation) -> Mailbox | None:
        member = self._members.get(incarnation)
        return member.mailbox if member is not None else None

    def kill(self, incarnation: Incarnation, name: str) -> None:
        self._machine.step()
        member = self._members.get(incarnation)
        if member is None or member in self._dead:
            return
        self._world.note("the dealer signals worker {} (TERM: {})", incarnation, name == "TERM")
        if name == "TERM":
            member.process.terminate()
            return
        member.process.killed_by_us = True
        self._machine.host.kill_soon(member.process)
        self._kill_group(member)

    def look(self) -> None:
        self._machine.step()
        zombies, self.zombies = self.zombies, []
        for process in zombies:
            member = next((each for each in self._members.values() if each.process is process), None)
            if member is not None:
                member.seen_ns = self._world.now_ns
                self._dead.append(member)
                self._kill_group(member)
        if zombies:
            self._world.note("{} deaths seen", len(zombies))
            self._machine.perhaps_dies("dealer_dies_between_reap_and_drain")

    def bury(self) -> list[Exited]:
        self._machine.step()
        exits = []
        for member in list(self._dead):
            family = [each for each in self._machine.host.descendants if each.mark == member.process.mark]
            if family:
                for each in family:
                    slow = self._world.faults.fires("death_of_descendant_slow")
                    each.kill(9, 300_000_000 if slow else 200_000)
                continue
            self._dead.remove(member)
            exits.append(self._exited(member))
        return exits

    @property
    def overlooked(self) -> bool:
        """Somebody is dead and could be buried, if only the dealer looked."""
        marks = {each.mark for each in self._machine.host.descendants}
        return bool(self.zombies) or any(member.process.mark not in marks for member in self._dead)

    @property
    def empty(self) -> bool:
        return not self._members

    def close(self) -> None:
        self._machine.step()
        for member in list(self._members.values()):
            if member not in self._dead:
                self.kill(Incarnation(member.process.mark[1]), "KILL")
        while self._members:
            self.look()
            self.bury()
            self._world.pass_to(self._world.now_ns + 500_000)
            self._machine.perhaps_dies("dealer_dies_leaving")

    def _kill_group(self, member: Member) -> None:
        for each in self._machine.host.descendants:
            if each.mark == member.process.mark and each.in_group:
                each.kill(9, 200_000)

    def _exited(self, member: Member) -> Exited:
        process = member.process
        del self._members[process.mark[1]]
        member.mailbox.unlink()
        while True:
            try:
                self._spool.unpack(decode(member.mailbox.receive()))
            except QueueEmpty:
                break
            except MessageError:
                continue
        member.mailbox.close()
        self._world.note("worker {} is buried", process.mark[1])
        return Exited(Incarnation(process.mark[1]), process.status, process.signal, member.seen_ns)
