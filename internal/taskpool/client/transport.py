"""The queues and files under a session: found, made, dropped, and never waited for.

Rule of this file: nothing blocks. A message that its queue has no room for waits in an outlet, which
holds one; whoever wants to send more waits for the outlet, with `poll`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from taskpool import limits
from taskpool.codec import decode
from taskpool.errors import (
    ConfigurationError,
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


class SendBuffer:
    """A queue to send to, with room for the one message that did not fit."""

    def __init__(self, queue: QueueEnd) -> None:
        self.queue = queue
        self._waiting: bytes | None = None

    @property
    def busy(self) -> bool:
        return self._waiting is not None

    def send(self, data: bytes) -> None:
        """Sends, or keeps the message for `flush`. Only while not busy."""
        assert not self.busy
        self._waiting = data
        self.flush()

    def flush(self) -> None:
        if self._waiting is None:
            return
        with suppress(QueueFull):
            self.queue.send(self._waiting)
            self._waiting = None


class Transport:
    """The three queues of one generator, and the pool's spool once it is known."""

    def __init__(self, namespace: QueueNamespace, pool: str, reply_shape: Shape) -> None:
        self._namespace = namespace
        self._pool = pool
        self._reply_shape = reply_shape
        self.control: SendBuffer | None = None
        self.intake: SendBuffer | None = None
        self.reply: QueueEnd | None = None
        self.slot = 0
        self._spool: Spool | None = None

    def connect(self) -> bool:
        """Gets ready for a hello: the dealer's control queue and a reply queue. Whether a dealer may be there.

        Raises QueueForeign, QueueLimit, and ConfigurationError when every reply slot is taken.
        """
        if self.control is not None and not self.control.queue.linked():
            self._drop_control()
        if self.control is None:
            try:
                self.control = SendBuffer(self._namespace.open(names.control(self._pool), send=True, receive=False))
            except QueueMissing:
                return False
        if self.reply is None or not self.reply.linked():
            self._drop_reply()
            self.slot, self.reply = self._create_reply()
        return True

    def send_hello(self, hello: bytes) -> None:
        """Sends a hello, unless an earlier one still waits for room."""
        assert self.control is not None
        if len(hello) > self.control.queue.msgsize:
            raise UsageError(
                f"the batch's limits take {len(hello)} bytes and the control queue {self.control.queue.msgsize}: "
                "name fewer exit statuses and signals in --retry-on"
            )
        self.control.flush()
        if not self.control.busy:
            self.control.send(hello)

    def on_welcome(self, spool: Path) -> None:
        """The dealer holds the reply queue: its name can go, so that nothing stays after a crash.

        Raises ConfigurationError when the pool's spool is not visible here, QueueMissing when the dealer
        has gone again.
        """
        if self.reply is not None:
            self.reply.unlink()
        if not spool.is_dir():
            raise ConfigurationError(
                f"the spool of pool {self._pool!r}, {spool}, is not visible here: the dealer runs in another mount "
                "namespace. Share that directory as a volume, under the same path"
            )
        self._spool = Spool(spool)
        if self.intake is None:
            self.intake = SendBuffer(self._namespace.open(names.intake(self._pool), send=True, receive=False))

    def submit(self, data: bytes) -> None:
        """Sends to intake, through the spool if it must be."""
        assert self.intake is not None and self._spool is not None
        self.intake.send(self._spool.pack(data, self.intake.queue.msgsize))

    def messages(self, limit: int) -> Iterator[Message | MessageError]:
        """What waits in the reply queue, at most `limit`. What is no message comes as its error."""
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
                yield error

    def stale(self) -> bool:
        """Whether one of the dealer's queues has lost its name: nobody reads it any more."""
        return any(outlet is not None and not outlet.queue.linked() for outlet in (self.control, self.intake))

    def close(self) -> None:
        """Lets go of everything; `connect` starts anew. May be called twice."""
        self._drop_control()
        self._drop_reply()
        if self.intake is not None:
            self.intake.queue.close()
            self.intake = None

    def _unpack(self, data: bytes) -> Message:
        message = decode(data)
        return message if self._spool is None else self._spool.unpack(message)

    def _create_reply(self) -> tuple[int, QueueEnd]:
        for slot in range(limits.REPLY_SLOTS_MAX):
            try:
                return slot, self._namespace.create(names.reply(self._pool, slot), self._reply_shape)
            except QueueExists:
                continue
        raise ConfigurationError(
            f"all {limits.REPLY_SLOTS_MAX} reply queues of pool {self._pool!r} are taken: as many generators are just "
            f"connecting, or died doing so. Try again, or remove /dev/mqueue/tp.{self._pool}.reply.*"
        )

    def _drop_control(self) -> None:
        if self.control is not None:
            self.control.queue.close()
            self.control = None

    def _drop_reply(self) -> None:
        if self.reply is not None:
            self.reply.unlink()
            self.reply.close()
            self.reply = None
