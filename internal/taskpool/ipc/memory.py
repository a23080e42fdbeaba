"""Queues without a kernel, for tests and simulation. They pass the same contract as `mqueue`.

What a model of one process cannot have: foreign owners, limits, signals, and a descriptor to wait on.
"""

from __future__ import annotations

import itertools
from collections import deque
from threading import Condition

from taskpool.errors import MessageTooLong, QueueEmpty, QueueExists, QueueFull, QueueGone, QueueMissing
from taskpool.ipc.sizing import Shape

_FIRST_FILENO = 1_000_000  # no process has that many: a number taken for a descriptor by mistake is EBADF


class _Queue:
    """The queue itself, as the kernel's inode: it outlives its name, and each open end."""

    def __init__(self, name: str, shape: Shape) -> None:
        self.name = name
        self.shape = shape
        self.messages: deque[bytes] = deque()
        self.linked = True
        self._holder: MemoryQueueEnd | None = None
        self.reader: MemoryQueueEnd | None = None  # the end that shows itself to the others

    def lose_name(self) -> None:
        """Go on without a name: ends that are open work as before."""
        self.linked = False

    def hold(self, end: MemoryQueueEnd) -> None:
        """Register `end` for notification. Raises QueueExists when another end is."""
        if self._holder not in (None, end):
            raise QueueExists(f"queue {self.name} is held by another process")
        self._holder = end

    def release(self, end: MemoryQueueEnd) -> None:
        """Take back what `end` holds."""
        if self._holder is end:
            self._holder = None
        if self.reader is end:
            self.reader = None


class MemoryNamespace:
    """One IPC namespace. The ends that are to meet come from one object."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._filenos = itertools.count(_FIRST_FILENO)
        self.changed = Condition()  # one for all queues: few threads wait, and each looks again at its own

    def create(self, name: str, shape: Shape) -> MemoryQueueEnd:
        if name in self._queues:
            raise QueueExists(f"a queue {name} is there already")
        self._queues[name] = _Queue(name, shape)
        return self.open(name, send=True, receive=True)

    def open(self, name: str, *, send: bool, receive: bool) -> MemoryQueueEnd:
        if name not in self._queues:
            raise QueueMissing(f"no queue {name}")
        return MemoryQueueEnd(self, self._queues[name], next(self._filenos), send=send, receive=receive)

    def reopen_or_create(self, name: str, shape: Shape) -> tuple[MemoryQueueEnd, bool]:
        found = self._queues.get(name)
        if found is not None and found.shape == shape:
            return self.open(name, send=True, receive=True), True
        self.unlink(name)
        return self.create(name, shape), False

    def unlink(self, name: str) -> None:
        queue = self._queues.pop(name, None)
        if queue is not None:
            queue.lose_name()


class MemoryQueueEnd:
    """One open end of a modelled queue; see `queue.QueueEnd`."""

    def __init__(self, namespace: MemoryNamespace, queue: _Queue, fileno: int, *, send: bool, receive: bool) -> None:
        self.name = queue.name
        self.maxmsg, self.msgsize = queue.shape
        self._namespace = namespace
        self._open_queue: _Queue | None = queue
        self._fileno = fileno
        self._may_send = send
        self._may_receive = receive

    def send(self, data: bytes) -> None:
        with self._namespace.changed:
            if not self._has_room(data):
                raise QueueFull(f"queue {self.name} is full: {self.maxmsg} messages")
            self._put(data)

    def send_blocking(self, data: bytes) -> None:
        with self._namespace.changed:
            self._namespace.changed.wait_for(lambda: self._has_room(data))
            self._put(data)

    def receive(self) -> bytes:
        with self._namespace.changed:
            if not self._has_message():
                raise QueueEmpty(f"queue {self.name} is empty")
            return self._take()

    def receive_blocking(self) -> bytes:
        with self._namespace.changed:
            self._namespace.changed.wait_for(self._has_message)
            return self._take()

    def fileno(self) -> int:
        """Return a number of its own, to look the end up by; it cannot be waited on."""
        return self._fileno

    def depth(self) -> int:
        return len(self._queue.messages)

    def linked(self) -> bool:
        return self._queue.linked

    def unlink(self) -> None:
        # The name may belong to a successor by now, which must keep it.
        if self.linked():
            self._namespace.unlink(self.name)

    def hold(self) -> None:
        self._queue.reader = self

    def held(self) -> bool:
        return self._queue.reader not in (None, self)

    def hold_notification_lock(self) -> None:
        self._queue.hold(self)
        # After the registration, as with the kernel: a name that was lost in between must not go unseen.
        if not self.linked():
            raise QueueMissing(f"queue {self.name} has lost its name")

    def close(self) -> None:
        if self._open_queue is not None:
            self._open_queue.release(self)
        self._open_queue = None
        self._fileno = -1

    @property
    def _queue(self) -> _Queue:
        if self._open_queue is None:
            raise QueueGone(f"queue {self.name} is closed here")
        return self._open_queue

    def _has_room(self, data: bytes) -> bool:
        # In the kernel's order: the length is looked at before the room, so a long message never waits.
        if len(data) > self.msgsize:
            raise MessageTooLong(f"a message of {len(data)} bytes; queue {self.name} takes {self.msgsize}")
        if not self._may_send:
            raise QueueGone(f"queue {self.name} is not open for sending")
        return len(self._queue.messages) < self.maxmsg

    def _put(self, data: bytes) -> None:
        self._queue.messages.append(data)
        self._namespace.changed.notify_all()

    def _has_message(self) -> bool:
        if not self._may_receive:
            raise QueueGone(f"queue {self.name} is not open for receiving")
        return bool(self._queue.messages)

    def _take(self) -> bytes:
        data = self._queue.messages.popleft()
        self._namespace.changed.notify_all()
        return data
