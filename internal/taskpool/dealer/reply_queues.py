"""The reply queues of generators. The generator makes its queue and says its slot; the dealer opens it, and
takes its name away, so that nothing is left when both have died."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec

from taskpool import limits
from taskpool.clock import SECOND, Instant
from taskpool.codec import encode
from taskpool.errors import MessageError, MessageTooLong, QueueError, QueueFull, QueueMissing, SpoolFull
from taskpool.ipc import names
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.spool import Spool
from taskpool.messages import Answer, Hello, Outcome, Outcomes

UNCLAIMED_NS = 30 * SECOND  # a reply queue that nobody said hello for is somebody's who died doing so
APOLOGY_CHARS_MAX = 250  # the smallest layout's reply queue takes 512 bytes


class ReplyQueue:
    """One generator's queue, and what waits for room in it. The core bounds what outcomes can wait."""

    def __init__(self, end: QueueEnd) -> None:
        self.end = end
        self.waiting: deque[bytes] = deque()
        self.replies: deque[bytes] = deque()  # of those, the ones that are no outcomes, in the same order
        self.sent: deque[bytes] = deque(maxlen=end.maxmsg)  # what may lie in the queue; older ones were received

    def took(self) -> None:
        """The first message that waits is in the queue."""
        data = self.waiting.popleft()
        if self.replies and self.replies[0] is data:
            self.replies.popleft()
        self.sent.append(data)


class ReplyQueues:
    """All queues to generators, by client."""

    def __init__(
        self,
        namespace: QueueNamespace,
        pool: str,
        spool: Spool,
        watch: Callable[[int, bool], None],
        warn: Callable[[str], None],
    ) -> None:
        self._namespace = namespace
        self._pool = pool
        self._spool = spool
        self._watch = watch  # (descriptor, wanted): tell me when there is room
        self._warn = warn
        self._queues: dict[int, ReplyQueue] = {}
        self._lost: list[int] = []
        self.full = 0  # how often a queue had no room
        self._unclaimed: dict[int, tuple[int, int]] = {}  # slot -> (inode, first seen)

    def open(self, hello: Hello) -> bool:
        """Take up the queue a hello offers. False: there is no queue of ours in that slot."""
        try:
            end = self._namespace.open(names.reply(self._pool, hello.slot), send=True, receive=False)
        except QueueMissing:
            return hello.client in self._queues  # said again; the queue stands, and its name is gone already
        except QueueError as error:
            self._warn(f"a generator's reply queue was refused: {error}")
            return False
        end.unlink()
        self.close(hello.client)
        self._queues[hello.client] = ReplyQueue(end)
        return True

    def send(self, client: int, message: object, *, whole: bool = False) -> None:
        """Send, or keep for when there is room. Outcomes may be cut into several messages; of a page, which is
        asked for and sent `whole`, what does not fit into one message is left out."""
        queue = self._queues.get(client)
        if queue is None:
            return
        try:
            for data in self._packed(message, queue.end.msgsize, whole):
                queue.waiting.append(data)
                if whole or not isinstance(message, Outcomes):
                    queue.replies.append(data)
        except (MessageError, SpoolFull) as error:
            self._warn(f"a reply was dropped: {error}")
            if isinstance(message, Answer) and message.ok:
                self.send(client, _apology(message, error))
            else:
                self._lose(client)
            return
        self._flush(queue)
        if len(queue.replies) > limits.REPLIES_WAITING_MAX:
            self._warn(f"a generator asks and does not read: {len(queue.replies)} replies wait, its queue is closed")
            self._lose(client)

    def take_lost(self) -> list[int]:
        """Clients whose queues were given up since the last call, and who have not said hello again."""
        lost, self._lost = self._lost, []
        return [client for client in lost if client not in self._queues]

    def _lose(self, client: int) -> None:
        """Nobody would notice that one message is missing. A queue that falls silent is noticed within seconds, and
        its generator says hello again and how far it has come."""
        self.close(client)
        self._lost.append(client)

    def flush(self, fd: int) -> None:
        """There is room in the queue with this descriptor."""
        for queue in self._queues.values():
            if queue.end.fileno() == fd:
                self._flush(queue)
                return

    def close(self, client: int) -> None:
        """The conversation is over, and its generator reads this queue no more."""
        queue = self._queues.pop(client, None)
        if queue is not None:
            self._close_end(queue)
            for data in (*queue.sent, *queue.waiting):
                self._spool.discard(data)

    def _close_end(self, queue: ReplyQueue) -> None:
        self._watch(queue.end.fileno(), False)
        queue.end.close()

    def close_all(self) -> None:
        """Leave nothing behind: neither queues, nor names of generators that died before they were welcomed. One that
        lives makes its queue again with its next hello. Spool files stay: what was told may still be read."""
        while self._queues:
            self._close_end(self._queues.popitem()[1])
        for slot in range(limits.REPLY_SLOTS_MAX):
            with suppress(QueueError):
                self._namespace.unlink(names.reply(self._pool, slot))

    def sweep(self, now: Instant) -> None:
        """Take away names that generators left behind when they died before they were welcomed."""
        seen: dict[int, tuple[int, int]] = {}
        for slot in range(limits.REPLY_SLOTS_MAX):
            try:
                end = self._namespace.open(names.reply(self._pool, slot), send=True, receive=False)
            except QueueError:
                continue
            inode = os.fstat(end.fileno()).st_ino
            known = self._unclaimed.get(slot)
            first = known[1] if known is not None and known[0] == inode else now.mono
            if now.mono - first >= UNCLAIMED_NS:
                end.unlink()
            else:
                seen[slot] = (inode, first)
            end.close()
        self._unclaimed = seen

    def _packed(self, message: object, msgsize: int, whole: bool) -> Iterator[bytes]:
        """The message in as few pieces as fit; what cannot be cut goes through the spool."""
        if not isinstance(message, Outcomes):
            pieces = [encode(message)]
        elif whole:
            pieces = [_page(message)]
        else:
            pieces = _cut(message, message.items, msgsize)
        return (self._spool.pack(data, msgsize) for data in pieces)

    def _flush(self, queue: ReplyQueue) -> None:
        try:
            while queue.waiting:
                queue.end.send(queue.waiting[0])  # R7
                queue.took()
        except QueueFull:
            self.full += 1
        except MessageTooLong as error:
            queue.took()
            self._warn(f"a reply was dropped: {error}")
        self._watch(queue.end.fileno(), bool(queue.waiting))


def _page(message: Outcomes) -> bytes:
    """As many outcomes from the front as one message takes: whoever asked for them asks for those behind as well."""
    items = message.items
    while len(data := encode(Outcomes(message.client, message.batch, items))) > limits.SPILL_BYTES_MAX:
        items = items[: len(items) // 2]  # never none: limits.py makes sure that any outcome fits
    return data


def _apology(answer: Answer, error: Exception) -> Answer:
    """Sent in place of an answer that cannot be sent, and short enough for any queue."""
    text = f"done, but the answer cannot be sent: {error}"[:APOLOGY_CHARS_MAX]
    return Answer(answer.client, answer.verb, False, msgspec.json.encode({"error": text}))


def _cut(message: Outcomes, items: list[Outcome], msgsize: int) -> list[bytes]:
    """Outcomes in the fewest halves of halves that fit; a single one that does not is left too long."""
    data = encode(Outcomes(message.client, message.batch, items))
    if len(data) <= msgsize or len(items) == 1:
        return [data]
    # Cut by the mean size, a little under, so that most cuts fit at once.
    count = max(1, min(len(items) - 1, len(items) * msgsize * 9 // (len(data) * 10)))
    parts = (items[start : start + count] for start in range(0, len(items), count))
    return [data for part in parts for data in _cut(message, part, msgsize)]
