"""Message queues as several processes see them: the contract's model, and what only a blocked process meets.

A message sent while a receiver is blocked is handed to it at once, and is gone when it dies before it runs. A
blocked sender's message enters the queue the moment there is room.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sim.world import World
from taskpool.errors import QueueEmpty, QueueExists, QueueFull, QueueMissing
from taskpool.ipc.budget import Shape
from taskpool.ipc.memory import MemoryMailbox, MemoryPost, _Queue

if TYPE_CHECKING:
    from sim.process import Process


class SimQueue(_Queue):
    """A queue, and who is blocked on it."""

    def __init__(self, name: str, shape: Shape) -> None:
        super().__init__(name, shape)
        self.receivers: deque[Process] = deque()
        self.senders: deque[tuple[Process, bytes]] = deque()
        self.watcher: Process | None = None


class SimMailbox(MemoryMailbox):
    """An open end of a modelled queue."""

    def send(self, data: bytes) -> None:
        if not self._has_room(data):
            raise QueueFull(self.name)
        self._put(data)

    def receive(self) -> bytes:
        if not self._has_mail():
            raise QueueEmpty(self.name)
        return self._take()

    @property
    def queue(self) -> SimQueue:
        queue = self._queue
        assert isinstance(queue, SimQueue)
        return queue

    def wait_for_mail(self, process: Process) -> None:
        """The process blocks in its receive."""
        self.queue.receivers.append(process)

    def wait_for_room(self, process: Process, data: bytes) -> None:
        """The process blocks in its send."""
        self.queue.senders.append((process, data))

    def watch(self, process: Process) -> None:
        """The process polls."""
        self.queue.watcher = process

    def _put(self, data: bytes) -> None:
        queue = self.queue
        while queue.receivers:
            process = queue.receivers.popleft()
            if process.can_be_handed(data):
                return
        queue.messages.append(data)
        if queue.watcher is not None:
            queue.watcher.wake()

    def _take(self) -> bytes:
        queue = self.queue
        data = queue.messages.popleft()
        while queue.senders:
            process, waiting = queue.senders.popleft()
            if process.alive:
                queue.messages.append(waiting)
                process.was_sent()
                break
        return data


class SimPost(MemoryPost):
    """One IPC namespace, until the next reboot."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def mailbox(self, queue: _Queue, *, send: bool, receive: bool) -> SimMailbox:
        return SimMailbox(self, queue, next(self._filenos), send=send, receive=receive)

    def create(self, name: str, shape: Shape) -> SimMailbox:
        if name in self._queues:
            raise QueueExists(name)
        self._queues[name] = SimQueue(name, shape)
        return self.open(name, send=True, receive=True)

    def open(self, name: str, *, send: bool, receive: bool) -> SimMailbox:
        queue = self._queues.get(name)
        if queue is None:
            raise QueueMissing(name)
        return self.mailbox(queue, send=send, receive=receive)

    def names(self) -> list[str]:
        return list(self._queues)

    def waiting(self, name: str) -> list[bytes]:
        """The messages in the queue of this name."""
        queue = self._queues.get(name)
        return [] if queue is None else list(queue.messages)

    def wipe(self) -> None:
        """What a reboot leaves of it."""
        for queue in self._queues.values():
            queue.linked = False
        self._queues.clear()
