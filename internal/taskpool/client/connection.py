"""A session on its queues, and the one loop that drives it: receive, send, wait.

`Connection.run_until` is that loop. What else a program does in each turn (signals, its own descriptors, the jobs it
feeds) it hands in as a `TurnHandler`; a dealer process to be restarted when it is killed, as a `DealerProcess`. Nothing
here needs the main thread or assumes signals: what is to wake the loop is a descriptor that the handler names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from taskpool import limits
from taskpool.client.session import Session
from taskpool.client.transport import ReplySlotsTaken, Transport
from taskpool.clock import MILLISECOND, AwakeClock
from taskpool.codec import OtherVersion
from taskpool.errors import DealerUnreachable, MessageError, QueueMissing, QueueRoomTaken
from taskpool.log import Fact
from taskpool.messages import Outcome
from taskpool.procs.wait import Descriptor, wait_ready

MESSAGES_PER_TURN_MAX = 64  # then outcomes are written and acknowledged before more are read
BYE_NS_MAX = 200 * MILLISECOND  # so long a goodbye waits for room: the dealer would find out by itself


class Notices(Protocol):
    """Where a connection says what a person may want to know."""

    def detail(self, text: str, fields: Mapping[str, Fact] | None = None) -> None: ...

    def info(self, text: str, fields: Mapping[str, Fact] | None = None) -> None: ...

    def warning(self, text: str, fields: Mapping[str, Fact] | None = None) -> None: ...


class NoNotices:
    """Says nothing: for a program whose own last line is all there is to say."""

    def detail(self, text: str, fields: Mapping[str, Fact] | None = None) -> None: ...

    def info(self, text: str, fields: Mapping[str, Fact] | None = None) -> None: ...

    def warning(self, text: str, fields: Mapping[str, Fact] | None = None) -> None: ...


class DealerProcess(Protocol):
    """The dealer's process, when it was started for this connection."""

    @property
    def pidfd(self) -> int:
        """Readable once the process has ended."""

    def has_ended(self) -> bool: ...

    def restart(self) -> bool:
        """Start it again, unless it is meant to have ended; return whether it runs."""


class DealerEnded(DealerUnreachable):
    """The private dealer has ended and is not started again. It has said why, or its end is reported elsewhere."""


class TurnHandler:
    """What a caller adds to the turns of `run_until`. As it is, it adds nothing."""

    @property
    def paused(self) -> bool:
        """Whether to leave messages in the queue, because those received before are not dealt with yet."""
        return False

    def readable(self) -> Iterable[Descriptor]:
        """Descriptors that end a wait when they can be read."""
        return ()

    def next_deadline(self) -> int | None:
        """When a turn is due whatever happens, on the monotonic clock; None: no such time."""
        return None

    def before_receive(self, now: int) -> None:
        """Called first in each turn. What it raises ends the loop, as what the other two raise."""

    def on_received(self, outcomes: list[Outcome], now: int) -> None:
        """Called in each turn with the new outcomes, which may be none."""

    def before_send(self, ready: Set[int], now: int) -> None:
        """Called last before sending, with the descriptors that ended the wait."""


class _Flush(TurnHandler):
    """Sends without receiving: for a caller that deals with no outcome any more."""

    @property
    def paused(self) -> bool:
        return True


NO_HANDLER: TurnHandler = TurnHandler()
_FLUSH = _Flush()


class Connection:
    """The only place that moves messages between a session and its transport."""

    def __init__(
        self,
        session: Session,
        transport: Transport,
        notices: Notices,
        clock: AwakeClock,
        process: DealerProcess | None = None,
    ) -> None:
        self.session = session
        self._transport = transport
        self._notices = notices
        self._clock = clock
        self._process = process
        self._connected = False  # the queues of the latest welcome are open
        self._check_due = 0

    # --- the loop ---------------------------------------------------------------------------------

    def run_until(
        self, condition: Callable[[], bool], handler: TurnHandler = NO_HANDLER, deadline: int | None = None
    ) -> bool:
        """Take turns until the condition holds; return False when the deadline passes before. At least one turn.

        Raises DealerUnreachable (DealerEnded for a supervised dealer), UsageError, PoolRefuses, ConfigurationError,
        and what the handler raises.
        """
        ready: Set[int] = frozenset()
        while True:
            now = self._clock.now().mono
            self._turn(handler, ready, now)
            # After the turn and before the wait: a condition that a message has just met must not wait for the next.
            if condition():
                return True
            if deadline is not None and now >= deadline:
                return False
            ready = self._wait(handler, deadline)

    def leave(self) -> None:
        """Say goodbye, if a dealer is there to hear it and has room soon. Nothing is received any more."""
        self.session.leave()
        if self.session.connecting or (self._process is not None and self._process.has_ended()):
            return
        until = self._clock.now().mono + BYE_NS_MAX
        # What was to be sent before the goodbye goes out too, as far as it has room in time.
        with suppress(DealerEnded):
            self.run_until(lambda: self.session.connecting or not self.writable, _FLUSH, until)

    def close(self) -> None:
        """Close the queues. May be called twice."""
        self._connected = False
        self._transport.close()

    def _turn(self, handler: TurnHandler, ready: Set[int], now: int) -> None:
        handler.before_receive(now)
        # Looked at before its last messages are read: what a dealer sent before its end is in the queue by then.
        ended = self._process is not None and self._process.has_ended()
        outcomes: list[Outcome] = []
        if ended or not handler.paused:
            outcomes = self.receive(now)
        else:
            self.session.pause_liveness(now)
        handler.on_received(outcomes, now)
        if ended:
            self._restart(now)
        handler.before_send(ready, now)
        self.send(now)

    def _restart(self, now: int) -> None:
        assert self._process is not None
        if not self._process.restart():
            raise DealerEnded("the private dealer ended before it was asked")
        self.session.reconnect(now)

    def _wait(self, handler: TurnHandler, deadline: int | None) -> Set[int]:
        readable = [*handler.readable()]
        if self._transport.reply is not None and not handler.paused:
            readable.append(self._transport.reply)
        # Even if it has ended since the turn looked: its descriptor is readable then, and the next turn comes at once.
        if self._process is not None:
            readable.append(self._process.pidfd)
        deadlines = (self.next_deadline(), handler.next_deadline(), deadline)
        now = self._clock.now().mono
        due = max(now, min(each for each in deadlines if each is not None))
        ready = wait_ready(readable, self.writable, due - now)
        self._clock.woke(due)  # a standstill of ours is no silence of the dealer's
        return ready

    # --- its parts, which the simulation drives itself --------------------------------------------

    @property
    def intake_bytes(self) -> int | None:
        """The size of a message on intake; None while there is no dealer."""
        return self._transport.intake.queue.msgsize if self._connected and self._transport.intake is not None else None

    @property
    def writable(self) -> list[int]:
        """The descriptors to wait on for room: of the queues that a message waits for."""
        senders = (self._transport.control, self._transport.intake)
        return [sender.queue.fileno() for sender in senders if sender is not None and sender.blocked]

    def next_deadline(self) -> int:
        """Return when `send` has something to do, at the latest."""
        due = self.session.next_deadline()
        return min(due, self._check_due) if self._connected else due

    def receive(self, now: int) -> list[Outcome]:
        """Read what waits in the reply queue, up to a bound; return the new outcomes in their order."""
        outcomes: list[Outcome] = []
        for message in self._transport.messages(MESSAGES_PER_TURN_MAX):
            if isinstance(message, OtherVersion):
                self.session.check_version(message)
            if isinstance(message, MessageError):
                self._notices.warning(f"a message of the dealer is unusable: {message}")
                continue
            generation, hindrance = self.session.generation, self.session.turn.error
            outcomes += self.session.receive(message, now)
            if self.session.generation != generation:
                self._open_queues(now)
            elif self.session.turn.error is not hindrance:
                self._say_news()
                self._transport.drop_reply()  # its bytes may be what another one waits for
            if self.session.connecting and self._connected:
                break  # `send` is about to drop these queues; what is in them is sent again after the next welcome
        return outcomes

    def send(self, now: int) -> None:
        """Check what is overdue, then send what is due. Raises DealerUnreachable after the dealer's time-out."""
        self._check_queues(now)
        self.session.tick(now)
        self._say_news()
        if self.session.connecting:
            self._send_hello(now)
            return
        transport, session = self._transport, self.session
        if transport.control is not None:
            transport.control.flush()
            while not transport.control.blocked and (data := session.next_control()) is not None:
                transport.control.send(data)
        if transport.intake is not None:
            transport.intake.flush()
            while not transport.intake.blocked and (data := session.next_intake(now)) is not None:
                transport.submit(data)

    def _send_hello(self, now: int) -> None:
        if self._connected:
            # New queues for a new connection: what an earlier dealer still has in the old ones cannot mix in.
            self.close()
            self._notices.detail("The dealer is silent or was replaced; saying hello again")
        if now < self.session.hello_due:
            return
        reply_before = self._transport.reply
        if not self._connect(now):
            return
        if self._transport.reply is not reply_before and self._transport.reply is not None:
            self._notices.detail(f"Queue created: {self._transport.reply.name}", {"queue": self._transport.reply.name})
        self._transport.send_hello(self.session.hello(self._transport.slot, now))

    def _connect(self, now: int) -> bool:
        """Return whether a hello can be said. Raises QueueForeign, and QueueLimit when it is no use to wait."""
        try:
            if self._transport.connect():
                return True
            self.session.dealer_missing(now)
        except (ReplySlotsTaken, QueueRoomTaken) as error:
            if isinstance(error, QueueRoomTaken) and not self.session.options.wait_for_room:
                raise
            self.session.no_reply_queue(error, now)
            self._say_news()
        return False

    def _say_news(self) -> None:
        if self.session.turn.news:
            self._notices.info(self.session.turn.news)
            self.session.turn.news = ""

    def _open_queues(self, now: int) -> None:
        """Open what the welcome names."""
        welcome = self.session.welcome
        assert welcome is not None
        self._connected = True
        try:
            self._transport.on_welcome(Path(welcome.spool))
        except QueueMissing:
            self.session.reconnect(now)
            # Until the dealer has made its queue again, the next welcome would meet the same missing queue.
            self.session.dealer_missing(now)
            return
        self._check_due = now + limits.QUEUE_CHECK_NS

    def _check_queues(self, now: int) -> None:
        # No event tells that a queue has lost its name, and what is sent into one is not read.
        if self._connected and now >= self._check_due:
            self._check_due = now + limits.QUEUE_CHECK_NS
            if self._transport.stale():
                self.session.reconnect(now)
