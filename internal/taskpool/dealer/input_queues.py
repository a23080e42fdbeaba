"""The dealer's own three queues: created, read, and created again when they were unlinked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from taskpool.core.metric import MetricSet, computed, counter
from taskpool.dealer.platform import Poller
from taskpool.errors import QueueError
from taskpool.ipc import names
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import Layout, Shape

RETIRED_EVENTS_MAX = 8  # events queues that were unlinked and that workers may still write to
INPUT_QUEUES = ("intake", "control", "events")


class QueueCounters(MetricSet):
    """What the dealer counts of its queues, those to generators included."""

    received: Counter[str] = counter(
        "taskpool_queue_received_messages_total", "Messages taken off a queue.", labels={"queue": INPUT_QUEUES}
    )
    full: Counter[str] = counter(
        "taskpool_queue_full_total",
        "Turns in which a queue gave as much as it holds, so that senders may have waited; reply: sends put off.",
        labels={"queue": (*INPUT_QUEUES, "reply")},
    )
    recreated: int = counter("taskpool_queues_remade_total", "Queues that were unlinked and that were made again.")

    def count_received(self, queue: str, messages: int, capacity: int) -> None:
        """Count what one turn took off a queue."""
        self.received[queue] += messages
        # A queue that held as much as it can may have had blocked senders; more than that cannot be seen from here.
        self.full[queue] += messages >= capacity

    def count_recreated(self) -> None:
        self.recreated += 1


class InputQueues:
    """Intake, control and events.

    Any process of this user can unlink a queue. The kernel wakes neither readers nor writers then, and they go on with
    a queue that no newcomer can find; so the dealer looks once a second (`recreate_unlinked`).
    """

    def __init__(
        self,
        namespace: QueueNamespace,
        pool: str,
        layout: Layout,
        poller: Poller,
        warn: Callable[[str], None],
    ) -> None:
        self._namespace = namespace
        self._pool = pool
        self._layout = layout
        self._poller = poller
        self._warn = warn
        self._watched: set[int] = set()  # descriptors that wake the loop
        self.counters = QueueCounters()
        with ExitStack() as made:
            self.intake = self._begin(names.intake(pool), layout.intake, made)
            self.control = self._begin(names.control(pool), layout.control, made)
            self.events: list[QueueEnd] = [self._begin(names.events(pool), layout.events, made)]  # the newest is last
            self._made = made.pop_all()

    def watch(self, *, intake: bool, events: bool) -> None:
        """Be woken by what is read only: a message that is left in its queue would wake the loop for ever."""
        wanted = {self.control.fileno()}
        if intake:
            wanted.add(self.intake.fileno())
        if events:
            wanted.update(queue.fileno() for queue in self.events)
        # Noted one by one: when the kernel refuses one, the close forgets exactly those that are watched.
        for fd in self._watched - wanted:
            self._poller.forget(fd)
            self._watched.remove(fd)
        for fd in wanted - self._watched:
            self._poller.read(fd)
            self._watched.add(fd)

    def recreate_unlinked(self, *, keep_old_events: bool) -> None:
        """Create again what was unlinked. Workers hold the old events queue, so it is still read."""
        if not self.intake.linked():
            self.intake = self._replace(self.intake, names.intake(self._pool), self._layout.intake)
        if not self.control.linked():
            self.control = self._replace(self.control, names.control(self._pool), self._layout.control)
        if not self.events[-1].linked():
            self._add_events()
        # Each events queue costs bytes of the user's budget. Without workers the old ones have no writers; with them,
        # eight unlinked queues within the life of one worker are no accident: the oldest goes.
        while len(self.events) > (RETIRED_EVENTS_MAX if keep_old_events else 1):
            self._close(self.events.pop(0))

    def close(self) -> None:
        """Unlink and close all: nothing is left to be charged to the user."""
        for queue in (self.intake, self.control, *self.events):
            queue.unlink()
            self._close(queue)

    def give_back(self) -> None:
        """Unlink what was made here and close all: a start that fails leaves to others the queues that it found."""
        self._made.close()

    # --- metrics ---

    @computed("gauge", "taskpool_queue_messages", "Messages in a queue now.", labels={"queue": INPUT_QUEUES})
    def depths(self) -> Mapping[str, int]:
        return {name: _depth(queue) for name, queue in self._current().items()}

    @computed("gauge", "taskpool_queue_capacity_messages", "Messages a queue can hold.", labels={"queue": INPUT_QUEUES})
    def capacities(self) -> Mapping[str, int]:
        return {name: queue.maxmsg for name, queue in self._current().items()}

    def _current(self) -> dict[str, QueueEnd]:
        return {"intake": self.intake, "control": self.control, "events": self.events[-1]}

    # --- one queue ---

    def _begin(self, name: str, shape: Shape, made: ExitStack) -> QueueEnd:
        queue, found = self._namespace.reopen_or_create(name, shape)
        made.callback(self._close, queue)
        if not found:
            made.callback(queue.unlink)
        return queue

    def _replace(self, old: QueueEnd, name: str, shape: Shape) -> QueueEnd:
        """Return a new queue of this name. Generators send again what they had sent to the old one."""
        try:
            new, _ = self._namespace.reopen_or_create(name, shape)
        except QueueError as error:
            self._report_failure(name, error)
            return old  # those that hold it can still be read, and the next look tries again
        self._close(old)
        self._report_recreated(name)
        return new

    def _add_events(self) -> None:
        """Add an events queue for new workers. The old one may hold reports that are sent only once."""
        name = names.events(self._pool)
        try:
            self.events.append(self._namespace.reopen_or_create(name, self._layout.events)[0])
        except QueueError as error:
            self._report_failure(name, error)
            return
        self._report_recreated(name)

    def _report_recreated(self, name: str) -> None:
        self.counters.count_recreated()
        self._warn(f"queue {name} was unlinked; recreated")

    def _report_failure(self, name: str, error: QueueError) -> None:
        self._warn(f"queue {name} was unlinked and cannot be recreated: {error}")

    def _close(self, queue: QueueEnd) -> None:
        if queue.fileno() in self._watched:
            self._watched.remove(queue.fileno())
            self._poller.forget(queue.fileno())
        queue.close()


def _depth(queue: QueueEnd) -> int:
    try:
        return queue.depth()
    except QueueError:  # pages are made on another thread, and the loop is just replacing this queue
        return 0
