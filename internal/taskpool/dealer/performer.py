"""Carries out the effects of the core: one small method each. Nothing here decides, and nothing waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from taskpool.codec import decode, encode
from taskpool.core.effects import Effect, Exit, Kill, Note, Release, Reply, SendFrame, Spawn, TakeBack
from taskpool.core.events import ClientLost, Event, TakenBack
from taskpool.core.storage import DiskFull, StoreRequest
from taskpool.dealer.log import DealerLog
from taskpool.dealer.platform import Processes
from taskpool.dealer.reply_queues import ReplyQueues
from taskpool.errors import MessageError, QueueEmpty, QueueFull, SpoolFull
from taskpool.ipc.spool import Spool
from taskpool.journal.store import Store
from taskpool.messages import Frame

SPOOL = "spool"  # the place without room


class Performer:
    """Performs effects in the order given; the events they cause wait for `take_events`."""

    def __init__(
        self, store: Store, processes: Processes, reply_queues: ReplyQueues, spool: Spool, log: DealerLog
    ) -> None:
        self._store = store
        self._processes = processes
        self._reply_queues = reply_queues
        self._spool = spool
        self._log = log
        self._events: list[Event] = []
        self._unwritten = 0  # bytes of the largest frame that found no room in the spool; 0: all had room
        self._trouble = ""  # with the spool, as it was told
        self.exit: Exit | None = None
        self._methods: dict[type, Callable[[Any], None]] = {
            **dict.fromkeys(get_args(StoreRequest), self._store.request),
            SendFrame: self.send_frame,
            TakeBack: self.take_back,
            Spawn: self.spawn,
            Kill: self.kill,
            Reply: self.reply,
            Release: self.release,
            Note: self.note,
            Exit: self.leave,
        }

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._methods[type(effect)](effect)

    def take_events(self) -> list[Event]:
        """The events that effects have caused since the last call."""
        events, self._events = self._events, []
        return [*events, *map(ClientLost, self._reply_queues.take_lost())]

    def look_for_room(self) -> bool:
        """Look whether the spool can be written; return whether there is an event: once when it can be again, and each
        time when it cannot."""
        # Before any frame needs it, too: jobs that run need it for their outputs.
        if trouble := self._spool.trouble():
            self._say_full(trouble, max(1, self._unwritten))
            return True
        if not self._unwritten:
            return False
        if not self._spool.has_room(self._unwritten):
            self._say_full(self._trouble, self._unwritten)
            return True
        self._unwritten = 0
        self._events.append(DiskFull(False, f"the pool's spool {self._spool.directory} has room again", SPOOL))
        return True

    def _say_full(self, trouble: str, size: int) -> None:
        self._unwritten, self._trouble = size, trouble
        self._events.append(DiskFull(True, f"{trouble}; until then no job is accepted or sent", SPOOL))

    def send_frame(self, effect: SendFrame) -> None:
        """Send a frame to its worker's own queue, through the spool if it is long.

        A worker that has died keeps its queue until its exit is handled, so a send cannot miss it. The core sends no
        more frames than the queue holds: a full one was filled from outside, and its worker is killed."""
        queue = self._processes.request_queue(effect.incarnation)
        assert queue is not None
        data = encode(effect.frame)
        try:
            packed = self._spool.pack(data, queue.msgsize)
        except SpoolFull as error:
            self._not_sent(effect, len(data), str(error))
            return
        try:
            queue.send(packed)  # R7 (docs/protocol.md, 11)
        except QueueFull:
            self._spool.discard(packed)
            self._processes.kill(effect.incarnation, "KILL")

    def _not_sent(self, effect: SendFrame, size: int, text: str) -> None:
        """The worker never had the frame, so nothing is held against its jobs."""
        # First the reason, then the frame: the other way round it would be sent again at once.
        if not self._unwritten:
            self._say_full(text, size)
        self._unwritten = max(self._unwritten, size)
        self._events.append(TakenBack(effect.incarnation, (effect.frame.first_n,)))

    def take_back(self, effect: TakeBack) -> None:
        """Receive from the worker's own queue: what the dealer gets there, the worker never will."""
        queue = self._processes.request_queue(effect.incarnation)
        taken: list[int] = []
        while queue is not None:
            try:
                message = self._spool.unpack(decode(queue.receive()))
            except QueueEmpty:
                break
            except MessageError:
                continue  # garbage that another process wrote into the queue
            if isinstance(message, Frame):
                taken.append(message.first_n)
        self._events.append(TakenBack(effect.incarnation, tuple(taken)))

    def spawn(self, effect: Spawn) -> None:
        self._events.append(self._processes.spawn(effect.incarnation))

    def kill(self, effect: Kill) -> None:
        self._processes.kill(effect.incarnation, effect.signal)

    def reply(self, effect: Reply) -> None:
        self._reply_queues.send(effect.client, effect.message, whole=effect.whole)

    def release(self, effect: Release) -> None:
        self._reply_queues.close(effect.client)

    def note(self, effect: Note) -> None:
        self._log.write(effect)

    def leave(self, effect: Exit) -> None:
        """Keep the first reason to exit; the loop ends with the turn."""
        self.exit = self.exit or effect
