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
from taskpool.ipc.queue import Mailbox, Post
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.messages import Message


class Outlet:
    """A queue to send to, with room for the one message that did not fit."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
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
            self.mailbox.send(self._waiting)
            self._waiting = None


class Link:
    """The three queues of one generator, and the pool's spool once it is known."""

    def __init__(self, post: Post, pool: str, reply_shape: Shape) -> None:
        self._post = post
        self._pool = pool
        self._reply_shape = reply_shape
        self.control: Outlet | None = None
        self.intake: Outlet | None = None
        self.reply: Mailbox | None = None
        self.slot = 0
        self._spool: Spool | None = None

    def dial(self) -> bool:
        """Gets ready for a hello: the dealer's control queue and a reply queue. Whether a dealer may be there.

        Raises QueueForeign, QueueLimit, and ConfigurationError when every reply slot is taken.
        """
        if self.control is not None and not self.control.mailbox.linked():
            self._drop_control()
        if self.control is None:
            try:
                self.control = Outlet(self._post.open(names.control(self._pool), send=True, receive=False))
            except QueueMissing:
                return False
        if self.reply is None or not self.reply.linked():
            self._drop_reply()
            self.slot, self.reply = self._create_reply()
        return True

    def say(self, hello: bytes) -> None:
        """Sends a hello, unless an earlier one still waits for room."""
        assert self.control is not None
        if len(hello) > self.control.mailbox.msgsize:
            raise UsageError(
                f"the batch's limits take {len(hello)} bytes and the control queue {self.control.mailbox.msgsize}: "
                "name fewer exit statuses and signals in --retry-on"
            )
        self.control.flush()
        if not self.control.busy:
            self.control.send(hello)

    def welcomed(self, spool: Path) -> None:
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
            self.intake = Outlet(self._post.open(names.intake(self._pool), send=True, receive=False))

    def submit(self, data: bytes) -> None:
        """Sends to intake, through the spool if it must be."""
        assert self.intake is not None and self._spool is not None
        self.intake.send(self._spool.pack(data, self.intake.mailbox.msgsize))

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
        return any(outlet is not None and not outlet.mailbox.linked() for outlet in (self.control, self.intake))

    def hang_up(self) -> None:
        """Lets go of everything; `dial` starts anew. May be called twice."""
        self._drop_control()
        self._drop_reply()
        if self.intake is not None:
            self.intake.mailbox.close()
            self.intake = None

    def _unpack(self, data: bytes) -> Message:
        message = decode(data)
        return message if self._spool is None else self._spool.unpack(message)

    def _create_reply(self) -> tuple[int, Mailbox]:
        for slot in range(limits.REPLY_SLOTS_MAX):
            try:
                return slot, self._post.create(names.reply(self._pool, slot), self._reply_shape)
            except QueueExists:
                continue
        raise ConfigurationError(
            f"all {limits.REPLY_SLOTS_MAX} reply queues of pool {self._pool!r} are taken: as many generators are just "
            f"connecting, or died doing so. Try again, or remove /dev/mqueue/tp.{self._pool}.reply.*"
        )

    def _drop_control(self) -> None:
        if self.control is not None:
            self.control.mailbox.close()
            self.control = None

    def _drop_reply(self) -> None:
        if self.reply is not None:
            self.reply.unlink()
            self.reply.close()
            self.reply = None
