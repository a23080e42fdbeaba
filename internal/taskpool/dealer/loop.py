"""One loop, one place to wait. A turn: what workers said and who died, what people want, what generators
submit, then dispatch and timers.  # R9

Level-triggered epoll only: a sender that waited for room refills the queue while it is read, and that raises
no edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from taskpool import limits
from taskpool.clock import SECOND, Clock
from taskpool.core.counters import LoopCounters
from taskpool.core.effects import Exit
from taskpool.core.events import Event, LifelineClosed, Reconfigured, Restored, Signalled, Stalled, Tick
from taskpool.core.reactor import Reactor
from taskpool.core.worker import WorkerState
from taskpool.dealer import ingress
from taskpool.dealer.ingress import Ingress
from taskpool.dealer.input_queues import InputQueues
from taskpool.dealer.performer import Performer
from taskpool.dealer.platform import Poller, Processes
from taskpool.dealer.reply_queues import ReplyQueues
from taskpool.errors import QueueEmpty
from taskpool.ids import Incarnation
from taskpool.ipc.queue import QueueEnd
from taskpool.journal.store import Store
from taskpool.messages import Hello, Ready

REPLY_SWEEP_NS = 5 * SECOND
TICKS_PER_TURN_MAX = 16


class Loop:
    """Waits, collects events, lets the core decide, performs."""

    def __init__(
        self,
        core: Reactor,
        clock: Clock,
        poller: Poller,
        queues: InputQueues,
        ingress: Ingress,
        processes: Processes,
        reply_queues: ReplyQueues,
        store: Store,
        performer: Performer,
        signals: Callable[[], Sequence[str]],  # which came since it was last asked; SIGCHLD only wakes
        lifeline_fd: int = -1,
        restored: Restored | None = None,
        after_turn: Callable[[int], None] | None = None,
        reload: Callable[[], Reconfigured | None] | None = None,
    ) -> None:
        self._core = core
        self._clock = clock
        self._poller = poller
        self._queues = queues
        self._ingress = ingress
        self._processes = processes
        self._reply_queues = reply_queues
        self._store = store
        self._performer = performer
        self._signals = signals
        self._lifeline_fd = lifeline_fd
        self._restored = restored
        self._after_turn = after_turn
        self._reload = reload
        self._settled = True  # nothing waits to be handled
        self._now = clock.now()
        self._checked_ns = self._swept_ns = self._now.mono
        self.turned_mono_ns = self._now.mono  # health is judged by this
        self.counters = LoopCounters()

    def run(self) -> Exit:
        """Turn until the core wants to leave."""
        if self._restored is not None:
            self._core.pool.counters.jobs_restored = sum(batch.open for batch in self._restored.batches)
            self._handle(self._restored)
        self._turn(set())
        while self._performer.exit is None:
            deadline = min(self._core.next_deadline_ns(self._now), self._checked_ns + limits.QUEUE_CHECK_NS)
            before = self._clock.now().mono
            ready = self._poller.wait(deadline - before if self._settled else 0)
            late_ns = self._clock.now().mono - max(deadline, before)
            self.counters.turned(before - self.turned_mono_ns, late_ns)
            self._turn(ready, max(late_ns, before - self._now.mono))  # too long asleep, or too long at work
        return self._performer.exit

    def _turn(self, ready: set[int], late_ns: int = 0) -> None:
        self._now = self._clock.now()
        self.turned_mono_ns = self._now.mono
        self.counters.turned_wall_ns = self._now.wall
        signals = self._signals()  # before looking who died: a death after this wakes us once more
        self._hear_workers()
        if late_ns > limits.LOOP_STALL_NS:
            self.counters.stalls += 1
            self._handle(Stalled(late_ns))  # after the queues were drained, before any deadline is judged
        self._hear_outside(signals, ready)
        self._hear(self._queues.control, ingress.CONTROL, "control", self._queues.control.maxmsg)
        self._hear(self._queues.intake, ingress.INTAKE, "intake", limits.INTAKE_MESSAGES_PER_TURN_MAX)
        self._settle()
        self._look_after_queues()
        if self._after_turn is not None:
            self._after_turn(self._now.mono)

    def _hear_workers(self) -> None:
        """Reports first, deaths and silences second: whatever a worker sent before it died is in the queue by the
        time its death is seen, and who seems silent may be waiting to send. So as many messages are read as the
        queue holds, and one more for each worker, before anybody is judged."""
        self._processes.reap()
        waiting = len(self._core.supervisor.workers)
        for events in self._queues.events:
            self._hear(events, ingress.EVENTS, "events", events.maxmsg + waiting)  # R4: drain, then judge
        for exited in self._processes.take_exited():
            self._handle(exited)

    def _hear(self, queue: QueueEnd, expected: tuple[type, ...], name: str, most: int) -> None:
        for heard in range(most):
            try:
                data = queue.receive()
            except QueueEmpty:
                self.counters.heard(name, heard, queue.maxmsg)
                return
            event = self._ingress.admit(data, expected, name)
            if event is not None and self._belongs(event):
                self._handle(event)
        self.counters.heard(name, most, queue.maxmsg)

    def _belongs(self, event: Event) -> bool:
        """What only the shell can tell: the queue that a hello offers, and who a worker really is."""
        if isinstance(event, Hello):
            return self._reply_queues.open(event)
        if isinstance(event, Ready) and event.epoch == self._core.pool.config.epoch:
            self._count_boot(event)
            return self._processes.confirm(event.incarnation, event.pid)
        return True

    def _count_boot(self, ready: Ready) -> None:
        worker = self._core.supervisor.workers.get(Incarnation(ready.incarnation))
        if worker is not None and worker.state is WorkerState.STARTING:
            self._core.pool.counters.boot.add(self._now.mono - worker.spawned_mono_ns)

    def _hear_outside(self, signals: Iterable[str], ready: set[int]) -> None:
        for name in signals:
            event = self._reload() if name == "HUP" and self._reload is not None else Signalled(name)
            if event is not None:
                self._handle(event)
        if self._lifeline_fd in ready:
            self._poller.forget(self._lifeline_fd)
            self._lifeline_fd = -1
            self._handle(LifelineClosed())
        for fd in ready:
            self._reply_queues.flush(fd)

    def _settle(self) -> None:
        """Tick until nothing more comes of it: what the store has answered may be dispatched in this turn. Within
        reason: the outside must be heard as well."""
        for _ in range(TICKS_PER_TURN_MAX):
            self._catch_up()
            self._handle(Tick())
            answers = [*self._store.answers(), *self._performer.take_events()]
            self._settled = not answers
            if self._settled or self._performer.exit is not None:
                return
            for answer in answers:
                self._handle(answer)

    def _catch_up(self) -> None:
        """Look at the clock before deadlines are judged. We may have stood still amid the turn, too."""
        before, self._now = self._now, self._clock.now()
        stalled_ns = self._now.mono - before.mono
        if stalled_ns > limits.LOOP_STALL_NS:
            self._hear_workers()
            self.counters.stalls += 1
            self._handle(Stalled(stalled_ns))

    def _handle(self, event: Event) -> None:
        self._performer.perform(self._core.handle(event, self._now))

    def _look_after_queues(self) -> None:
        if self._now.mono - self._checked_ns < limits.QUEUE_CHECK_NS:
            return
        self._checked_ns = self._now.mono
        self._queues.mend(keep_old_events=not self._processes.empty)
        self._store.check()
        if self._performer.look_for_room():
            self._settled = False
        if self._now.mono - self._swept_ns >= REPLY_SWEEP_NS:
            self._swept_ns = self._now.mono
            self._reply_queues.sweep(self._now)
