"""The dealer's event loop: one thread, one place to wait.  # R9 (docs/protocol.md, 11)

A turn: what workers reported and which died, then signals, then control, then submissions, then dispatch and timers.
Workers come first because what they report frees them for more work; generators come last because they can wait, and
a crowd of them must not keep the dealer from its workers.

The loop only waits for descriptors that epoll reports level-triggered: a sender that was blocked on a full queue
refills it while it is read, and that raises no edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import MILLISECOND, SECOND, STANDSTILL_NS_MIN, AwakeClock
from taskpool.core.effects import Exit
from taskpool.core.events import (
    ClientLost,
    Event,
    LifelineClosed,
    ReadyUnreadable,
    Reconfigured,
    Signalled,
    Stalled,
    Tick,
)
from taskpool.core.metric import Histogram, MetricSet, counter, gauge, histogram
from taskpool.core.reactor import Reactor
from taskpool.core.storage import Restored
from taskpool.core.worker import WorkerState
from taskpool.dealer import ingress
from taskpool.dealer.ingress import Ingress
from taskpool.dealer.input_queues import InputQueues
from taskpool.dealer.performer import Performer
from taskpool.dealer.platform import Poller, Processes
from taskpool.dealer.reply_queues import GeneratorProcesses, ReplyQueues
from taskpool.errors import QueueEmpty
from taskpool.identifiers import Incarnation
from taskpool.ipc.queue import QueueEnd
from taskpool.journal.store import Store
from taskpool.messages import Hello, Ready
from taskpool.procs.wait import STEP_NS

TICKS_PER_TURN_MAX = 16
LAG_BUCKETS_NS = tuple(int(n * MILLISECOND) for n in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000))


class LoopCounters(MetricSet):
    """What the loop counts of itself."""

    turns: int = counter("taskpool_loop_turns_total", "Turns of the dealer's loop; at least one a second.")
    busy_ns: int = counter("taskpool_loop_busy_seconds_total", "Time the loop worked rather than waited.", unit=SECOND)
    stalls: int = counter("taskpool_loop_stalls_total", "Turns that came so late that every deadline was pushed on.")
    lag: Histogram = histogram(
        "taskpool_loop_lag_seconds",
        "How long what happened may have waited for its turn: the turn before, or a sleep too long.",
        LAG_BUCKETS_NS,
    )
    turn_began_wall_ns: int = gauge(
        "taskpool_loop_timestamp_seconds", "Unix time at which the loop last began a turn.", unit=SECOND
    )

    def count_turn(self, busy_ns: int, overslept_ns: int) -> None:
        """Count a turn that is over while the next one is due."""
        self.turns += 1
        self.busy_ns += busy_ns
        # What happened meanwhile has waited for the longer of the two, never for both: they follow one another.
        self.lag.add(max(busy_ns, overslept_ns))

    def count_stall(self) -> None:
        self.stalls += 1

    def begin_turn(self, wall_ns: int) -> None:
        self.turn_began_wall_ns = wall_ns


class LoopParts(NamedTuple):
    """What the loop works with."""

    core: Reactor
    clock: AwakeClock
    poller: Poller
    queues: InputQueues
    ingress: Ingress
    processes: Processes
    reply_queues: ReplyQueues
    generators: GeneratorProcesses
    store: Store
    performer: Performer


class Wakeups(NamedTuple):
    """What else wakes the loop, and what it calls back."""

    signals: Callable[[], Sequence[str]]  # which came since the last call; SIGCHLD only wakes
    lifeline_fd: int = -1  # readable once the generator of a private dealer is gone
    reload: Callable[[], Reconfigured | None] | None = None  # on SIGHUP
    after_turn: Callable[[int], None] | None = None  # with the monotonic time


class Loop:
    """Wait, collect events, let the core decide, perform."""

    def __init__(self, parts: LoopParts, wakeups: Wakeups, restored: Restored | None = None) -> None:
        self._core = parts.core
        self._clock = parts.clock
        self._poller = parts.poller
        self._queues = parts.queues
        self._ingress = parts.ingress
        self._processes = parts.processes
        self._reply_queues = parts.reply_queues
        self._generators = parts.generators
        self._store = parts.store
        self._performer = parts.performer
        self._signals = wakeups.signals
        self._lifeline_fd = wakeups.lifeline_fd
        self._reload = wakeups.reload
        self._after_turn = wakeups.after_turn
        self._restored = restored
        self._idle = True  # the last turn left nothing to handle, so that the next one may be waited for
        self._heard = True  # the last look at the workers' queues read all there was
        self._now = self._clock.now()
        self._checked_ns = self._now.mono
        self.turn_began_mono_ns = self._now.mono  # read by the health probe, on another thread
        self.counters = LoopCounters()

    def run(self) -> Exit:
        """Turn until the core decides to leave; return its reason."""
        if self._restored is not None:
            self._core.pool.counters.jobs_restored += sum(batch.open for batch in self._restored.batches)
            self._handle(self._restored)
        # The first turn starts workers and reads what came while the dealer started. Nothing may wake it for that.
        self._turn(set())
        while self._performer.exit is None:
            deadline = min(self._core.next_deadline_ns(self._now), self._checked_ns + limits.QUEUE_CHECK_NS)
            before = self._clock.now().mono
            if self._core.pool.attempts:  # some have a time-out, and a long sleep would hide how long the pool stood
                deadline = min(deadline, before + STEP_NS)
            self._queues.watch(intake=self._core.intake.wants_submissions, events=self._core.wants_reports)
            unread = self._core.wants_reports and not self._heard  # was left in its queue, and is wanted now
            ready = self._poller.wait(deadline - before if self._idle and not unread else 0)
            late_ns = self._clock.now().mono - max(deadline, before)
            self.counters.count_turn(before - self.turn_began_mono_ns, late_ns)
            # A turn is late after too long a sleep (SIGSTOP, a frozen control group) or too long a turn before it.
            # What a machine under load is late by counts in full: it must not stretch every time-out.
            worked_ns = before - self._now.mono
            skipped_ns = late_ns if late_ns > STANDSTILL_NS_MIN else 0
            self._turn(ready, skipped_ns + (worked_ns if worked_ns > limits.LOOP_STALL_NS else 0))
        return self._performer.exit

    def _turn(self, ready: set[int], stalled_ns: int = 0) -> None:
        # No deadline comes nearer while the loop hears nothing: of no worker, no generator and no person.
        self._clock.skip(stalled_ns)
        self._now = self._clock.now()
        self.turn_began_mono_ns = self._now.mono
        self.counters.begin_turn(self._now.wall)
        # Signals are taken before the reaping: SIGCHLD of a death after this point wakes the loop once more. Taken
        # after it, such a death would have spent its wake-up and would stay unseen.  # R9 (docs/protocol.md, 11)
        signals = self._signals()
        # Before a deadline is checked: workers that reported in time must not be stopped because their reports were
        # read late.
        self._receive_from_workers()
        self._report_stall(stalled_ns)
        self._handle_signals(signals)
        self._handle_lifeline(ready)
        for fd in ready:
            self._reply_queues.flush(fd)
        self._receive(self._queues.control, ingress.CONTROL, "control", self._queues.control.maxmsg)
        intake, most = self._core.intake, limits.INTAKE_MESSAGES_PER_TURN_MAX
        self._receive(self._queues.intake, ingress.INTAKE, "intake", most, lambda: intake.wants_submissions)
        for client in self._generators.take_dead(ready):  # behind what they sent before they died
            self._handle(ClientLost(client))
        self._tick()
        self._check_queues()
        if self._after_turn is not None:
            self._after_turn(self._clock.machine.now().mono)  # a service manager counts by the kernel's

    def _receive_from_workers(self) -> None:
        """Read all reports, then handle exits and with them everything that depends on silence.

        Whatever a worker sent before it died is in the queue by the time its death is seen, or waits in a blocked
        sender for room. So as many messages are read as the queue holds, and one more for each worker: each can be
        blocked with one. An exit handled earlier would run a job again whose result was on its way.
        """
        # Deaths are dated by the turn: a stall behind it, which the clock leaves out, would date them into the future.
        self._processes.reap(self._now.mono)
        senders = len(self._core.supervisor.workers)
        for events in self._queues.events:
            # R4 (docs/protocol.md, 11): drain, then handle exits.
            self._receive(events, ingress.EVENTS, "events", events.maxmsg + senders, lambda: self._core.wants_reports)
        self._heard = self._core.wants_reports
        if self._heard:
            for exited in self._processes.take_exited():
                self._handle(exited)

    def _receive(
        self,
        queue: QueueEnd,
        expected: tuple[type, ...],
        name: str,
        messages_max: int,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Read up to so many messages and handle each, while they are wanted. A bound, because a sender may refill the
        queue for ever."""
        received = 0
        while received < messages_max and wanted():
            try:
                data = queue.receive()
            except QueueEmpty:
                break
            received += 1
            event = self._ingress.parse(data, expected, name)
            if event is not None and self._verify_sender(event):
                self._handle(event)
        self._queues.counters.count_received(name, received, queue.maxmsg)

    def _verify_sender(self, event: Event) -> bool:
        """Check what the core cannot: the queue that a hello offers, and the process that claims to be a worker."""
        if isinstance(event, Hello):
            return self._verify_generator(event)
        if isinstance(event, Ready) and event.epoch == self._core.pool.config.epoch:
            self._count_boot(event)
            return self._processes.confirm(event.incarnation, event.pid)
        if isinstance(event, ReadyUnreadable) and event.epoch == self._core.pool.config.epoch:
            return self._processes.confirm(event.incarnation, event.pid)
        return True

    def _verify_generator(self, hello: Hello) -> bool:
        before = self._reply_queues.end_of(hello.client)
        if not self._reply_queues.open(hello):
            return False
        end = self._reply_queues.end_of(hello.client)
        # Said twice: it may have let go of that queue meanwhile, to make another, and is not dead for it.
        if end is None or end is before:
            return True
        clients = self._reply_queues.clients
        # In this order: a death between the two is one that the watch sees.
        if self._generators.watch(hello.client, hello.pid, end.fileno(), clients) or end.held():
            return True
        self._reply_queues.close(hello.client)  # it died with its hello under way
        self._handle(ClientLost(hello.client))
        return False

    def _count_boot(self, ready: Ready) -> None:
        worker = self._core.supervisor.workers.get(Incarnation(ready.incarnation))
        if worker is not None and worker.state is WorkerState.STARTING:
            self._core.pool.counters.boot.add(self._now.mono - worker.spawned_mono_ns)

    def _handle_signals(self, signals: Iterable[str]) -> None:
        for name in signals:
            event = self._reload() if name == "HUP" and self._reload is not None else Signalled(name)
            if event is not None:  # None: the new configuration is wrong, and changes nothing
                self._handle(event)

    def _handle_lifeline(self, ready: set[int]) -> None:
        if self._lifeline_fd in ready:
            self._poller.forget(self._lifeline_fd)  # level-triggered, it would be ready for ever
            self._lifeline_fd = -1
            self._handle(LifelineClosed())

    def _tick(self) -> None:
        """Let the core dispatch and check deadlines, and again as long as the store answers at once.

        So what the store has answered can be dispatched in this turn. There is a limit, or a store that always has
        answers would keep the loop from its queues.
        """
        for _ in range(TICKS_PER_TURN_MAX):
            self._update_clock()
            self._handle(Tick(self._heard))
            answers = [*self._store.answers(), *self._performer.take_events()]
            self._idle = not answers
            if self._idle or self._performer.exit is not None:
                return
            for answer in answers:
                self._handle(answer)

    def _update_clock(self) -> None:
        """Read the clock before deadlines are checked: the loop may have stalled within its turn, too."""
        before, self._now = self._now, self._clock.now()
        stalled_ns = self._now.mono - before.mono
        if stalled_ns > limits.LOOP_STALL_NS:
            self._clock.skip(stalled_ns)
            self._now = self._clock.now()
            self._receive_from_workers()
            self._report_stall(stalled_ns)

    def _report_stall(self, stalled_ns: int) -> None:
        if stalled_ns > limits.LOOP_STALL_NS:
            self.counters.count_stall()
            self._handle(Stalled(stalled_ns))

    def _handle(self, event: Event) -> None:
        self._performer.perform(self._core.handle(event, self._now))

    def _check_queues(self) -> None:
        """Once a second, look for what no descriptor tells: unlinked queues, a lost journal, room in the spool."""
        if self._now.mono - self._checked_ns < limits.QUEUE_CHECK_NS:
            return
        self._checked_ns = self._now.mono
        self._queues.recreate_unlinked(keep_old_events=not self._processes.empty)
        self._generators.keep(self._reply_queues.clients)
        for client in self._reply_queues.take_abandoned(self._generators.clients):
            self._handle(ClientLost(client))
        self._store.check()
        if self._performer.look_for_room():
            self._idle = False
        self._reply_queues.sweep(self._now)
