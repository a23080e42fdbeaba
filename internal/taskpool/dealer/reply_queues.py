"""The reply queues of generators, and what waits for room in them.

A generator creates its queue under the name of a free slot and tells the slot in its hello. The dealer opens the queue
and unlinks it: when both have died, the kernel frees it, and nothing is left to be charged to the user.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Container, Iterator, Set
from contextlib import closing, suppress

import msgspec

from taskpool import __version__, limits
from taskpool.clock import SECOND, Instant
from taskpool.codec import HelloHead, VersionRefused, encode
from taskpool.dealer.input_queues import QueueCounters
from taskpool.dealer.platform import Poller
from taskpool.errors import MessageError, MessageTooLong, QueueError, QueueFull, QueueMissing, SpoolFull
from taskpool.ipc import names
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.spool import Spool
from taskpool.messages import Answer, Hello, Outcome, Outcomes

UNCLAIMED_NS = 30 * SECOND  # a generator that stands still for so long after it made its queue has to make another
ERROR_ANSWER_CHARS_MAX = 250  # the smallest layout's reply queue takes 512 bytes


class ReplyQueue:
    """One generator's queue, and what waits for room in it. The core bounds how many outcomes can wait."""

    def __init__(self, end: QueueEnd, pid: int) -> None:
        self.end = end
        self.pid = pid  # of the generator, for the log
        self.waiting: deque[bytes] = deque()
        self.replies: deque[bytes] = deque()  # those of `waiting` that are no outcomes, in the same order
        self.sent: deque[bytes] = deque(maxlen=end.maxmsg)  # what may lie in the queue; older ones were received

    def append(self, data: bytes, *, is_reply: bool) -> None:
        self.waiting.append(data)
        if is_reply:
            self.replies.append(data)

    def first_sent(self) -> None:
        """Note that the first message of `waiting` is in the queue."""
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
        counters: QueueCounters | None = None,
    ) -> None:
        self._namespace = namespace
        self._pool = pool
        self._spool = spool
        self._watch = watch  # (descriptor, whether to wake the loop when there is room)
        self._warn = warn
        self._counters = counters or QueueCounters()
        self._queues: dict[int, ReplyQueue] = {}
        self._lost: list[int] = []
        self._unheld: dict[int, ReplyQueue] = {}
        self._unclaimed: dict[int, tuple[int, int]] = {}  # slot -> (inode, first seen)

    def open(self, hello: Hello) -> bool:
        """Take over the queue that a hello offers. False: the slot holds no queue of this user."""
        try:
            end = self._namespace.open(names.reply(self._pool, hello.slot), send=True, receive=False)
        except QueueMissing:
            return hello.client in self._queues  # a repeated hello: the queue is open, and its name gone already
        except QueueError as error:
            self._warn(f"reply queue of generator PID {hello.pid} refused: {error}")
            return False
        end.unlink()
        self.close(hello.client)
        self._queues[hello.client] = ReplyQueue(end, hello.pid)
        return True

    def turn_away(self, head: HelloHead) -> None:
        """Tell a generator whose hello is of another version which one this dealer speaks. The queue stays its own: the
        generator ends, and takes it away."""
        try:
            end = self._namespace.open(names.reply(self._pool, head.slot), send=True, receive=False)
        except QueueError:
            return
        with closing(end), suppress(QueueError):  # it says hello again when it has not heard this
            end.send(encode(VersionRefused(head.client, os.getpid(), __version__)))

    @property
    def clients(self) -> Container[int]:
        """The clients that have a queue."""
        return self._queues.keys()

    def end_of(self, client: int) -> QueueEnd | None:
        """Return the dealer's end of a client's queue."""
        queue = self._queues.get(client)
        return queue.end if queue is not None else None

    def take_abandoned(self, watched: Container[int]) -> list[int]:
        """Return the clients whose queue was held by no process at this call and the one before; not those `watched`.

        Once alone says nothing: a generator that says hello again lets go of its queue first.
        """
        before, self._unheld = (
            self._unheld,
            {client: queue for client, queue in self._queues.items() if client not in watched and not queue.end.held()},
        )
        return [client for client, queue in self._unheld.items() if before.get(client) is queue]

    def send(self, client: int, message: object, *, whole: bool = False) -> None:
        """Send a message, or keep it until there is room.

        Outcomes may be split into several messages. With `whole` they are a page that was asked for: one message, which
        leaves out what does not fit.
        """
        queue = self._queues.get(client)
        if queue is None:
            return
        try:
            for data in self._pack(message, queue.end.msgsize, whole):
                queue.append(data, is_reply=whole or not isinstance(message, Outcomes))
        except (MessageError, SpoolFull) as error:
            self._warn(f"reply to generator PID {queue.pid} dropped: {error}")
            if isinstance(message, Answer) and message.ok:
                self.send(client, _error_answer(message, error))
            else:
                self._disconnect(client)
            return
        self._flush(queue)
        # Outcomes are bounded by the core's window. Replies are not: a generator that asks without reading would fill
        # the dealer's memory.
        if len(queue.replies) > limits.REPLIES_WAITING_MAX:
            self._warn(f"generator PID {queue.pid} not reading replies ({len(queue.replies)} pending); disconnecting")
            self._disconnect(client)

    def take_lost(self) -> list[int]:
        """Return the clients that were disconnected since the last call and have not said hello again."""
        lost, self._lost = self._lost, []
        return [client for client in lost if client not in self._queues]

    def _disconnect(self, client: int) -> None:
        """Close a queue in which a message is missing.

        The generator cannot see a gap among replies, but it notices within seconds that none come. Then it says hello
        again and tells how far it has come, and what is missing is sent again.
        """
        self.close(client)
        self._lost.append(client)

    def flush(self, fd: int) -> None:
        """Send what waits for room in the queue with this descriptor, if it is one of these."""
        for queue in self._queues.values():
            if queue.end.fileno() == fd:
                self._flush(queue)
                return

    def close(self, client: int) -> None:
        """Close the queue of a generator that reads it no more, and remove the spool files it would have removed."""
        queue = self._queues.pop(client, None)
        if queue is not None:
            self._close_end(queue)
            for data in (*queue.sent, *queue.waiting):
                self._spool.discard(data)

    def _close_end(self, queue: ReplyQueue) -> None:
        self._watch(queue.end.fileno(), False)
        queue.end.close()

    def close_all(self) -> None:
        """Close all queues and unlink all names, also those of generators that died before their welcome.

        A generator that lives creates its queue again with its next hello. Spool files stay: what was sent may still
        be read.
        """
        while self._queues:
            self._close_end(self._queues.popitem()[1])
        for name in names.replies(self._pool):
            with suppress(QueueError):
                self._namespace.unlink(name)

    def sweep(self, now: Instant) -> None:
        """Unlink the names that generators left when they died between creating a queue and their hello."""
        seen: dict[int, tuple[int, int]] = {}
        for slot in range(limits.REPLY_SLOTS_MAX):
            try:
                end = self._namespace.open(names.reply(self._pool, slot), send=True, receive=False)
            except QueueError:
                continue
            # By inode: the name may meanwhile stand for the queue of the next generator, which has just begun.
            inode = os.fstat(end.fileno()).st_ino
            known = self._unclaimed.get(slot)
            first = known[1] if known is not None and known[0] == inode else now.mono
            # Held by none at the second look: at the first one, its generator may have been about to hold it.
            if now.mono - first >= UNCLAIMED_NS or (known is not None and known[0] == inode and not end.held()):
                end.unlink()
            else:
                seen[slot] = (inode, first)
            end.close()
        self._unclaimed = seen

    def _pack(self, message: object, msgsize: int, whole: bool) -> Iterator[bytes]:
        """Encode in as few messages as fit; what cannot be split goes through the spool.

        One by one, so that what was packed before the spool is full is in the queue, and its file is removed with it.
        """
        if not isinstance(message, Outcomes):
            pieces = [encode(message)]
        elif whole:
            pieces = [_page(message)]
        else:
            pieces = _split(message, message.items, msgsize)
        return (self._spool.pack(data, msgsize) for data in pieces)

    def _flush(self, queue: ReplyQueue) -> None:
        try:
            while queue.waiting:
                queue.end.send(queue.waiting[0])  # R7 (docs/protocol.md, 11): never waits
                queue.first_sent()
        except QueueFull:
            self._counters.full["reply"] += 1
        except MessageTooLong as error:
            queue.first_sent()  # it would never fit: those behind it must not wait for it
            self._warn(f"reply to generator PID {queue.pid} dropped: {error}")
        self._watch(queue.end.fileno(), bool(queue.waiting))


class GeneratorProcesses:
    """The processes at the other ends: when one dies, its queue and its batch are free at once.

    Of a process that cannot be told to be the one that said hello, as one in another PID namespace, only that its queue
    is abandoned is noticed, within seconds.
    """

    def __init__(self, poller: Poller, find: Callable[[int, int], int]) -> None:
        """`find` returns a pidfd of the process with this pid that has this queue open, or -1."""
        self._poller = poller
        self._find = find
        self._pidfds: dict[int, int] = {}  # by client

    @property
    def clients(self) -> Container[int]:
        """The clients whose process is watched."""
        return self._pidfds.keys()

    def watch(self, client: int, pid: int, queue_fd: int, connected: Container[int]) -> bool:
        """Watch the process that said hello; return whether it can be. A later hello takes the place of an earlier one;
        of all others those connected are kept."""
        self._forget(client)
        self.keep(connected)  # so that those who come and go take no descriptors without end
        if (pidfd := self._find(pid, queue_fd)) >= 0:
            self._poller.read(pidfd)
            self._pidfds[client] = pidfd
        return client in self._pidfds

    def take_dead(self, ready: Set[int]) -> list[int]:
        """Return the clients whose process has died, given the descriptors that are ready."""
        dead = [client for client, pidfd in self._pidfds.items() if pidfd in ready]
        for client in dead:
            self._forget(client)
        return dead

    def keep(self, clients: Container[int]) -> None:
        """Forget all but these, which are connected."""
        for client in [client for client in self._pidfds if client not in clients]:
            self._forget(client)

    def close(self) -> None:
        """Forget all."""
        self.keep(())

    def _forget(self, client: int) -> None:
        pidfd = self._pidfds.pop(client, -1)
        if pidfd >= 0:
            self._poller.forget(pidfd)
            os.close(pidfd)


def _page(message: Outcomes) -> bytes:
    """Encode as many outcomes from the front as one message takes. Who asked for a page asks for the next as well."""
    items = message.items
    while len(data := encode(Outcomes(message.client, message.batch, items))) > limits.SPILL_BYTES_MAX:
        items = items[: len(items) // 2]  # never empty: limits.py asserts that any outcome fits
    return data


def _error_answer(answer: Answer, error: Exception) -> Answer:
    """Make the answer to send in place of one that cannot be sent. It fits any queue."""
    text = f"done, but the answer cannot be sent: {error}"[:ERROR_ANSWER_CHARS_MAX]
    return Answer(answer.client, answer.verb, False, msgspec.json.encode({"error": text}))


def _split(message: Outcomes, items: list[Outcome], msgsize: int) -> list[bytes]:
    """Encode outcomes in messages that fit. A single outcome that does not is left too long, for the spool."""
    data = encode(Outcomes(message.client, message.batch, items))
    if len(data) <= msgsize or len(items) == 1:
        return [data]
    # Split by the mean size, a little under it, so that most pieces fit at the first try: encoding is what costs.
    count = max(1, min(len(items) - 1, len(items) * msgsize * 9 // (len(data) * 10)))
    parts = (items[start : start + count] for start in range(0, len(items), count))
    return [data for part in parts for data in _split(message, part, msgsize)]
