"""A session on its queues: one turn reads what is there, judges, and sends what can be sent."""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from taskpool import limits
from taskpool.client.session import Session
from taskpool.client.transport import Transport
from taskpool.clock import MILLISECOND
from taskpool.errors import MessageError, QueueMissing
from taskpool.log import Fact
from taskpool.messages import Outcome
from taskpool.procs.signals import Wakeup

MESSAGES_PER_TURN_MAX = 64  # then outcomes are written and acknowledged before more are read


class Notices(Protocol):
    """Where a connection tells a person what it meets."""

    def detail(self, text: str, fields: Mapping[str, Fact] | None = None) -> None: ...

    def info(self, text: str, fields: Mapping[str, Fact] | None = None) -> None: ...

    def warning(self, text: str, fields: Mapping[str, Fact] | None = None) -> None: ...


class Connection:
    """Glue, and the only place that moves messages between a session and its transport."""

    def __init__(
        self,
        session: Session,
        transport: Transport,
        console: Notices,
        hear_signals: Callable[[Wakeup], None] = lambda wakeup: None,
    ) -> None:
        """`hear_signals` is called after each wait, and may raise to end it."""
        self.session = session
        self._transport = transport
        self._console = console
        self._hear_signals = hear_signals
        self._connected = False
        self._check_due = 0

    @property
    def intake_bytes(self) -> int | None:
        """The size of a message on intake; None while there is no dealer."""
        return self._transport.intake.queue.msgsize if self._connected and self._transport.intake is not None else None

    @property
    def readable(self) -> int | None:
        """The descriptor to wait on for the dealer's words."""
        return None if self._transport.reply is None else self._transport.reply.fileno()

    @property
    def writable(self) -> list[int]:
        """The descriptors to wait on for room."""
        outlets = (self._transport.control, self._transport.intake)
        return [outlet.queue.fileno() for outlet in outlets if outlet is not None and outlet.busy]

    def next_deadline(self) -> int:
        """When `send` has something to do, at the latest."""
        due = self.session.next_deadline()
        return min(due, self._check_due) if self._connected else due

    def receive(self, now: int) -> list[Outcome]:
        """Reads what waits, up to a bound; returns the new outcomes in their order."""
        outcomes: list[Outcome] = []
        for message in self._transport.messages(MESSAGES_PER_TURN_MAX):
            if isinstance(message, MessageError):
                self._console.warning(f"a message of the dealer is unusable: {message}")
                continue
            generation, held = self.session.generation, self.session.held
            outcomes += self.session.receive(message, now)
            if self.session.held and not held:
                self._console.info(f"Waiting: {self.session.held}")
            if self.session.generation != generation:
                self._greet(now)
            if self.session.connecting and self._connected:
                break  # it has more to say, but over new queues
        return outcomes

    def send(self, now: int) -> None:
        """Judges what is overdue, then sends what is due. Raises DealerUnreachable after the dealer's time-out."""
        self._look_for_queues(now)
        self.session.tick(now)
        if self.session.connecting:
            self._call(now)
            return
        transport, session = self._transport, self.session
        if transport.control is not None:
            transport.control.flush()
            while not transport.control.busy and (data := session.next_control()) is not None:
                transport.control.send(data)
        if transport.intake is not None:
            transport.intake.flush()
            while not transport.intake.busy and (data := session.next_intake(now)) is not None:
                transport.submit(data)

    def wait(self, wakeup: Wakeup, duration_ns: int, *also: int) -> None:
        """Until there is something to receive or room to send, one of `also` is readable, or the time is over.

        Raises what `hear_signals` raises.
        """
        poll = select.poll()
        for fd in (wakeup.fileno(), *also, *([] if self.readable is None else [self.readable])):
            poll.register(fd, select.POLLIN)
        for fd in self.writable:
            poll.register(fd, select.POLLOUT)
        poll.poll(max(0, -(-duration_ns // MILLISECOND)))
        self._hear_signals(wakeup)

    def close(self) -> None:
        """Lets go of the queues. May be called twice."""
        self._connected = False
        self._transport.close()

    def _call(self, now: int) -> None:
        if self._connected:
            self.close()
            self._console.detail("The dealer is silent or was replaced; saying hello again")
        if now < self.session.hello_due:
            return
        reply_before = self._transport.reply
        if not self._transport.connect():
            self.session.dealer_missing(now)
            return
        if self._transport.reply is not reply_before and self._transport.reply is not None:
            self._console.detail(f"Queue created: {self._transport.reply.name}", {"queue": self._transport.reply.name})
        self._transport.send_hello(self.session.hello(self._transport.slot, now))

    def _greet(self, now: int) -> None:
        welcome = self.session.welcome
        assert welcome is not None
        try:
            self._transport.on_welcome(Path(welcome.spool))
        except QueueMissing:
            self._connected = True  # as far as there is something to let go of
            self.session.reconnect(now)
            self.session.dealer_missing(now)  # until the dealer has made its queue again, a hello would only come back
            return
        self._connected = True
        self._check_due = now + limits.QUEUE_CHECK_NS

    def _look_for_queues(self, now: int) -> None:
        """Nobody is woken when a queue loses its name, and what is sent into it is read by nobody."""
        if self._connected and now >= self._check_due:
            self._check_due = now + limits.QUEUE_CHECK_NS
            if self._transport.stale():
                self.session.reconnect(now)
