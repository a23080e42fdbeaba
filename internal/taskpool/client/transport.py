"""The queues and files under a session: opened, created and closed here.

Rule of this file: no call blocks. A message that its queue has no room for waits in a `QueueSender`, which holds one;
to send more, wait for the sender's descriptor first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from taskpool import limits
from taskpool.codec import decode
from taskpool.errors import (
    ConfigurationError,
    DealerUnreachable,
    MessageError,
    QueueEmpty,
    QueueExists,
    QueueFull,
    QueueMissing,
    UsageError,
)
from taskpool.ipc import names
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.messages import Message


class ReplySlotsTaken(DealerUnreachable):
    """Every reply queue name of the pool is in use: its dealer does not get to the hellos of those that have them."""


class QueueSender:
    """A queue to send to, with a place for the one message that it had no room for."""

    def __init__(self, queue: QueueEnd) -> None:
        self.queue = queue
        self._unsent: bytes | None = None

    @property
    def blocked(self) -> bool:
        """Whether a message waits for room in the queue."""
        return self._unsent is not None

    def send(self, data: bytes) -> None:
        """Send, or keep the message for `flush`. Only while not blocked."""
        assert not self.blocked
        self._unsent = data
        self.flush()

    def flush(self) -> None:
        """Send the message that waits, if there is room now."""
        if self._unsent is None:
            return
        with suppress(QueueFull):
            self.queue.send(self._unsent)
            self._unsent = None


class Transport:
    """The three queues of one client, and the pool's spool once it is known."""

    def __init__(
        self, namespace: QueueNamespace, pool: str, reply_shape: Shape, *, opens_spool_and_intake: bool = True
    ) -> None:
        """`opens_spool_and_intake`: false for a client that only waits for its welcome, and so needs neither the
        pool's spool to be visible nor a descriptor for jobs."""
        self._namespace = namespace
        self._pool = pool
        self._reply_shape = reply_shape
        self._opens_spool_and_intake = opens_spool_and_intake
        self.control: QueueSender | None = None
        self.intake: QueueSender | None = None
        self.reply: QueueEnd | None = None
        self.slot = 0
        self._spool: Spool | None = None

    def connect(self) -> bool:
        """Open the dealer's control queue and create a reply queue; return whether a dealer may be there.

        Raises ReplySlotsTaken, QueueRoomTaken while there is no room for it, QueueForeign, QueueLimit.
        """
        # What is sent into a queue without a name is not read: the dealer that had it has gone, or made a new one.
        if self.control is not None and not self.control.queue.linked():
            self._close_control()
        if self.control is None:
            try:
                self.control = QueueSender(self._namespace.open(names.control(self._pool), send=True, receive=False))
            except QueueMissing:
                return False
        # A dealer opens the reply queue by its name, so one that lost its name at an earlier welcome is of no use.
        if self.reply is None or not self.reply.linked():
            self.drop_reply()
            self.slot, self.reply = self._create_reply()
            self.reply.hold()  # before the hello: the dealer takes a queue that is not held for a dead process's
        return True

    def send_hello(self, hello: bytes) -> None:
        """Send a hello, unless an earlier one still waits for room. Raises UsageError for one that can never fit."""
        assert self.control is not None
        # Not through the spool: only the welcome says where that is (docs/protocol.md, 4).
        if len(hello) > self.control.queue.msgsize:
            raise UsageError(
                f"the batch's limits take {len(hello)} bytes and the control queue {self.control.queue.msgsize}: "
                "name fewer exit statuses and signals in --retry-on"
            )
        self.control.flush()
        if not self.control.blocked:
            self.control.send(hello)

    def on_welcome(self, spool: Path) -> None:
        """Complete the connection: the dealer holds the reply queue and says where the spool is.

        Raises ConfigurationError when the pool's spool is not visible here, QueueMissing when the dealer has gone
        again.
        """
        # Both ends hold it, so its name can go: the kernel frees a queue without a name after any crash.
        if self.reply is not None:
            self.reply.unlink()
        if not self._opens_spool_and_intake:
            return
        # Where only the spool is missing it was removed, and is made anew by the next who needs it.
        if not spool.is_dir() and not spool.parent.is_dir():
            raise ConfigurationError(
                f"the spool of pool {self._pool!r}, {spool}, is not visible here: the dealer runs in another mount "
                "namespace. Share that directory as a volume, under the same path"
            )
        self._spool = Spool(spool)
        if self.intake is None:
            self.intake = QueueSender(self._namespace.open(names.intake(self._pool), send=True, receive=False))

    def submit(self, data: bytes) -> None:
        """Send to intake; a message longer than the queue takes goes through the spool."""
        assert self.intake is not None and self._spool is not None
        self.intake.send(self._spool.pack(data, self.intake.queue.msgsize))

    def messages(self, limit: int) -> Iterator[Message | MessageError]:
        """Yield what waits in the reply queue, at most `limit`; for bytes that are no message, the error."""
        for _ in range(limit):
            if self.reply is None:
                return
            try:
                data = self.reply.receive()
            except QueueEmpty:
                return
            try:
                yield self._unpack(data)
            except MessageError as error:
                # Not raised: what comes off a queue is not to be trusted, and the message behind it may be good.
                yield error

    def stale(self) -> bool:
        """Return whether one of the dealer's queues has lost its name: it is not read any more."""
        return any(sender is not None and not sender.queue.linked() for sender in (self.control, self.intake))

    def drop_reply(self) -> None:
        """Give the reply queue up; `connect` creates another."""
        if self.reply is not None:
            self.reply.unlink()
            self.reply.close()
            self.reply = None

    def close(self) -> None:
        """Close all queues and unlink the reply queue; `connect` starts anew. May be called twice."""
        self._close_control()
        self.drop_reply()
        if self.intake is not None:
            self.intake.queue.close()
            self.intake = None

    def _unpack(self, data: bytes) -> Message:
        message = decode(data)
        return message if self._spool is None else self._spool.unpack(message)

    def _create_reply(self) -> tuple[int, QueueEnd]:
        # The name is the lock: creating it exclusively decides between two clients that connect at once.
        for slot in range(limits.REPLY_SLOTS_MAX):
            try:
                return slot, self._namespace.create(names.reply(self._pool, slot), self._reply_shape)
            except QueueExists:
                continue
        raise ReplySlotsTaken(
            f"all {limits.REPLY_SLOTS_MAX} names for reply queues of pool {self._pool!r} are taken: as many generators "
            "wait for its dealer to answer"
        )

    def _close_control(self) -> None:
        if self.control is not None:
            self.control.queue.close()
            self.control = None
