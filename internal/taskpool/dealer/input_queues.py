"""The dealer's own three queues: made, drained of an earlier life, noticed when they lose their names."""

from __future__ import annotations

from collections.abc import Callable

from taskpool.errors import QueueError
from taskpool.ipc import names
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import Layout, Shape

RETIRED_EVENTS_MAX = 8  # queues that lost their names and that workers may still write to


class InputQueues:
    """Intake, control and events. Somebody may unlink a queue under us; nobody is told, so we look."""

    def __init__(
        self,
        namespace: QueueNamespace,
        pool: str,
        layout: Layout,
        watch: Callable[[int], None],
        forget: Callable[[int], None],
        warn: Callable[[str], None],
    ) -> None:
        self._namespace = namespace
        self._pool = pool
        self._layout = layout
        self._watch = watch
        self._forget = forget
        self._warn = warn
        self.intake = self._adopt(names.intake(pool), layout.intake)
        self.control = self._adopt(names.control(pool), layout.control)
        self.events: list[QueueEnd] = [self._adopt(names.events(pool), layout.events)]  # the newest is last
        self.remade = 0

    def mend(self, *, keep_old_events: bool) -> None:
        """Make again what has lost its name. Workers hold the old events queue, so it is still read."""
        if not self.intake.linked():
            self.intake = self._replace(self.intake, names.intake(self._pool), self._layout.intake)
        if not self.control.linked():
            self.control = self._replace(self.control, names.control(self._pool), self._layout.control)
        if not self.events[-1].linked():
            self._add_events()
        while len(self.events) > (RETIRED_EVENTS_MAX if keep_old_events else 1):
            self._drop(self.events.pop(0))

    def close(self) -> None:
        """Leave nothing behind."""
        for queue in (self.intake, self.control, *self.events):
            queue.unlink()
            self._drop(queue)

    def _adopt(self, name: str, shape: Shape) -> QueueEnd:
        queue, _ = self._namespace.reopen_or_create(name, shape)
        self._watch(queue.fileno())
        return queue

    def _replace(self, old: QueueEnd, name: str, shape: Shape) -> QueueEnd:
        """A new queue of this name. What generators sent to the old one they send again."""
        try:
            new = self._adopt(name, shape)
        except QueueError as error:
            self._warn(f"{name} lost its name and cannot be made again: {error}")
            return old
        self._drop(old)
        self._tell(name)
        return new

    def _add_events(self) -> None:
        name = names.events(self._pool)
        try:
            self.events.append(self._adopt(name, self._layout.events))
        except QueueError as error:
            self._warn(f"{name} lost its name and cannot be made again: {error}")
            return
        self._tell(name)

    def _tell(self, name: str) -> None:
        self.remade += 1
        self._warn(f"somebody removed {name}; it is made again")

    def _drop(self, queue: QueueEnd) -> None:
        self._forget(queue.fileno())
        queue.close()
