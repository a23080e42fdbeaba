"""Message queues as several processes see them: the contract's model, and what only a blocked process meets.

A message sent while a receiver is blocked is handed to it at once, and is gone when it dies before it runs. A
blocked sender's message enters the queue the moment there is room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING

from sim.world import World
from taskpool.errors import QueueEmpty, QueueExists, QueueFull, QueueMissing
from taskpool.ipc.memory import MemoryNamespace, MemoryQueueEnd, _Queue
from taskpool.ipc.sizing import Shape

if TYPE_CHECKING:
    from sim.process import Process


class SimQueue(_Queue):
    """A queue, and who is blocked on it."""

    def __init__(self, name: str, shape: Shape, inode: int) -> None:
        super().__init__(name, shape)
        self.inode = inode
        self.receivers: deque[Process] = deque()
        self.senders: deque[tuple[Process, bytes]] = deque()
        self.watcher: Process | None = None


class SimQueueEnd(MemoryQueueEnd):
    """An open end of a modelled queue."""

    def send(self, data: bytes) -> None:
        if not self._has_room(data):
            raise QueueFull(self.name)
        self._put(data)

    def receive(self) -> bytes:
        if not self._has_message():
            raise QueueEmpty(self.name)
        return self._take()

    @property
    def queue(self) -> SimQueue:
        queue = self._queue
        assert isinstance(queue, SimQueue)
        return queue

    def block_receiving(self, process: Process) -> Generator[None, None, bytes]:
        """The process waits in its receive."""
        while True:
            if process.received is not None:
                data, process.received = process.received, None
                return data
            if self._has_message():
                return self._take()
            self.queue.receivers.append(process)
            yield None
            if process in self.queue.receivers:
                self.queue.receivers.remove(process)

    def block_sending(self, process: Process, data: bytes) -> Generator[None, None, None]:
        """The process waits in its send."""
        while not self._has_room(data):
            process.world.faults.seen["worker_blocked_in_send"] += 1
            self.queue.senders.append((process, data))
            yield None
            if process.take_sent():
                return
            self.queue.senders.remove((process, data))
        self._put(data)

    def watch(self, process: Process | None) -> None:
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
        for sender in list(queue.senders):
            process, waiting = sender
            if process.alive and process.stopped:
                continue  # it is not waiting any more; it tries again when continued
            queue.senders.remove(sender)
            if process.alive:
                queue.messages.append(waiting)
                process.was_sent()
                break
        return data


class SimNamespace(MemoryNamespace):
    """One IPC namespace, until the next reboot."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def end(self, queue: _Queue, *, send: bool, receive: bool) -> SimQueueEnd:
        return SimQueueEnd(self, queue, next(self._filenos), send=send, receive=receive)

    def create(self, name: str, shape: Shape) -> SimQueueEnd:
        if name in self._queues:
            raise QueueExists(name)
        self._queues[name] = SimQueue(name, shape, next(self._filenos))
        return self.open(name, send=True, receive=True)

    def open(self, name: str, *, send: bool, receive: bool) -> SimQueueEnd:
        queue = self._queues.get(name)
        if queue is None:
            raise QueueMissing(name)
        return self.end(queue, send=send, receive=receive)

    def names(self) -> list[str]:
        return list(self._queues)

    def waiting(self, name: str) -> list[bytes]:
        """The messages in the queue of this name."""
        queue = self._queues.get(name)
        return [] if queue is None else list(queue.messages)

    def steal(self, name: str) -> None:
        """Another reader takes the last message of this queue, if there is one."""
        queue = self._queues.get(name)
        if queue is not None and queue.messages:
            queue.messages.pop()

    def wipe(self) -> None:
        """What a reboot leaves of it."""
        for queue in self._queues.values():
            queue.lose_name()
        self._queues.clear()
