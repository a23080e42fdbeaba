"""Connections of generators: they begin with a hello, live by a lease, and end with a bye or in silence.

A generator says hello with the last outcome it holds, and pings when it has nothing else to send. One that goes silent
loses its reply queue, not its outcomes: it says hello again. Any message may come twice (docs/protocol.md, section 6).
"""

from __future__ import annotations

from collections.abc import Callable

from taskpool import limits
from taskpool.clock import Instant
from taskpool.core.batch import Batch, Client
from taskpool.core.delivery import Delivery
from taskpool.core.effects import Level, Release, Reply, Topic
from taskpool.core.entries import Acknowledged, BatchOpened
from taskpool.core.state import PoolState
from taskpool.core.storage import BatchFound, FindBatch
from taskpool.messages import Command, Hello, Ping, Pong, Refused, Welcome

DRAINING = "the pool is draining and takes no new jobs"


class Clients:
    """The connected generators, each with at most one batch."""

    def __init__(self, pool: PoolState, delivery: Delivery) -> None:
        self._pool = pool
        self._delivery = delivery
        self._asking: dict[str, dict[tuple[int, str], Hello | Command]] = {}  # until the store has looked
        self._verbs: dict[str, Callable[[Command], None]] = {"batch": self._describe}
        self._note_held_mono_ns = 0

    # --- coming ---

    def hello(self, hello: Hello, now: Instant) -> None:
        """Welcome a generator, after a look into the store when its batch is not in memory."""
        name = hello.batch
        if name is None or self._is_known(name):
            self._admit(hello, now)
        else:
            self._ask_store(name, hello)

    def serve(self, verb: str, answer: Callable[[Command], None]) -> None:
        """Have `answer` called for commands of this verb, with their batch in memory if there is one."""
        self._verbs[verb] = answer

    def about_batch(self, command: Command) -> None:
        """Answer what is asked about a batch, after a look into the store when it is not in memory."""
        name = command.batch or ""
        if self._is_known(name):
            self._verbs[command.verb](command)
        else:
            self._ask_store(name, command)

    def _is_known(self, name: str) -> bool:
        """Whether memory tells all there is to know of the batch, be it that there is none."""
        return name in self._pool.batches or not self._pool.config.journaled

    def _ask_store(self, name: str, message: Hello | Command) -> None:
        if name not in self._asking:
            self._pool.emit(FindBatch(name))
        verb = "" if isinstance(message, Hello) else f"{message.verb} {message.seq} {message.jobs}"
        self._asking.setdefault(name, {})[message.client, verb] = message  # said twice, answered once

    def batch_found(self, event: BatchFound, now: Instant) -> None:
        """Answer all that asked for the batch that the store looked up."""
        if event.batch is not None and event.name not in self._pool.batches:
            self._pool.batches[event.name] = Batch.restored(event.batch)
        # Several generators may have asked meanwhile; the first in line gets the batch, the others are told who has it.
        for message in self._asking.pop(event.name, {}).values():
            if isinstance(message, Hello):
                self._admit(message, now)
            else:
                self._verbs[message.verb](message)
        batch = self._pool.batches.get(event.name)
        if batch is not None:  # asked about and not wanted: it need not stay in memory
            self._delivery.forget_if_done(batch)

    def _describe(self, command: Command) -> None:
        batch = self._pool.batches.get(command.batch or "")
        body: dict[str, object] = {"error": f"no batch {command.batch!r} here"}
        if batch is not None:
            body = {
                "batch": batch.name,
                "accepted": batch.accepted,
                "total": batch.total if batch.total_stored else None,
                "recorded": batch.recorded,
                "acknowledged": batch.acknowledged,
                # An outcome that is not stored cannot be had yet: who waits for the batch's end would miss it.
                "open": batch.open + batch.numbered - batch.recorded,
                "cancelled": batch.cancelled,
            }
        self._pool.answer(command, body, ok=batch is not None)

    def _admit(self, hello: Hello, now: Instant) -> None:
        """Let the generator in, with its batch, unless another one holds that."""
        pool = self._pool
        batch = pool.batches.get(hello.batch) if hello.batch is not None else None
        holder = batch.client if batch is not None else None
        if batch is not None and holder is not None and holder.id != hello.client:
            # Its owner may be starting it again after a kill, and should not have to wait for the whole lease.
            if holder.is_overdue(now):
                self.bye(holder.id)
                self.hello(hello, now)
            else:
                text = f"batch {batch.name} is held by another generator, PID {holder.pid}"
                self._turn_away(hello, "conflict", text)
        # A batch that is there is served even now: its outcomes would otherwise wait for the next dealer.
        elif batch is None and hello.batch is not None and pool.draining:
            self._turn_away(hello, "draining", DRAINING)
        elif not self._has_place(hello):
            text = f"all {pool.config.connections_max} connections are taken"
            if hello.batch is not None:
                text += f"; {limits.CONNECTIONS_TO_ASK_MIN} of them are kept for commands and questions"
            self._turn_away(hello, "full", text)
        else:
            self._welcome(self._take_in(hello, now), hello, batch)

    def _has_place(self, hello: Hello) -> bool:
        clients, most = self._pool.clients, self._pool.config.connections_max
        kept_free = limits.CONNECTIONS_TO_ASK_MIN if hello.batch is not None else 0
        return hello.client in clients or len(clients) < most - kept_free

    def _turn_away(self, hello: Hello, reason: str, text: str) -> None:
        """Refuse the hello; disconnect the generator if it is connected."""
        self._pool.refuse(Refused(hello.client, hello.batch, 0, 0, reason, text))
        if hello.client in self._pool.clients:
            self.bye(hello.client)
        else:
            self._pool.emit(Release(hello.client))

    def _take_in(self, hello: Hello, now: Instant) -> Client:
        client = self._pool.clients.get(hello.client)
        if client is None:
            client = self._pool.clients[hello.client] = Client(hello.client, hello.pid, now)
        client.renew(now)
        return client

    def _welcome(self, client: Client, hello: Hello, batch: Batch | None) -> None:
        """Give the generator its batch, and tell it where that stands; then what is recorded follows."""
        pool = self._pool
        if hello.batch is not None:
            batch = batch if batch is not None else self._open(hello)
            if client.batch is not None and client.batch is not batch:
                client.batch.detach()  # it opens another batch; the next generator that asks may have this one
            if batch.attach(client, hello.cursor):
                # The cursor is an acknowledgement that got lost, or that this run never sent.
                pool.commits.add(Acknowledged(batch.name, batch.acknowledged))
        pool.emit(
            Reply(
                client.id,
                Welcome(
                    client=client.id,
                    epoch=pool.config.epoch,
                    pid=pool.config.pid,
                    spool=pool.config.spool,
                    accepted=batch.accepted if batch is not None else 0,
                    total=batch.total if batch is not None and batch.total_stored else None,
                    last_no=batch.recorded if batch is not None else 0,
                    journaled=pool.config.journaled,
                ),
            )
        )
        if batch is not None:
            self._delivery.deliver(batch)

    def _open(self, hello: Hello) -> Batch:
        assert hello.batch is not None
        batch = Batch(hello.batch, hello.limits)
        self._pool.batches[batch.name] = batch
        self._pool.commits.add(BatchOpened(batch.name, batch.limits))
        self._pool.note(Level.DEBUG, Topic.BATCH_OPENED, batch=batch.name, pid=hello.pid)
        return batch

    # --- staying ---

    def ping(self, ping: Ping) -> None:
        if ping.client in self._pool.clients:
            self._pool.emit(Reply(ping.client, Pong(ping.client)))

    def renew(self, id: int, now: Instant) -> None:
        client = self._pool.clients.get(id)
        if client is not None:
            client.renew(now)

    # --- going ---

    def bye(self, id: int) -> None:
        """Disconnect the generator; what it has not acknowledged waits for the next one that asks."""
        asked = self._forget_question(id)
        client = self._pool.clients.pop(id, None)
        if client is None:
            if asked:
                self._pool.emit(Release(id))
            return
        batch = client.batch
        if batch is not None:
            batch.detach()
            self._delivery.forget_if_done(batch)
        self._pool.emit(Release(id))

    def _forget_question(self, id: int) -> bool:
        """Let no generator in, when the store answers, that has gone meanwhile; return whether one waited for that."""
        waiting = [asking for asking in self._asking.values() if asking.pop((id, ""), None) is not None]
        return bool(waiting)

    def lapse(self, now: Instant) -> None:
        """Let go of generators that have been silent for too long, and of what only they could want."""
        # A list first: to let go of one changes the dict.
        for client in [client for client in self._pool.clients.values() if client.lease_mono_ns <= now.mono]:
            self._pool.note(Level.WARNING, Topic.CLIENT_LAPSED, pid=client.pid)
            self.bye(client.id)
        if not self._pool.config.journaled:
            self._expire(now)
        elif now.mono >= self._note_held_mono_ns:
            self._note_held_mono_ns = now.mono + limits.HELD_NOTED_NS
            self._note_held()

    def _note_held(self) -> None:
        """A slow reader acknowledges nothing new for long. The store dates a batch by what is written of it, and must
        not take this one for unused."""
        for batch in filter(None, [client.batch for client in self._pool.clients.values()]):
            self._pool.commits.add(Acknowledged(batch.name, batch.acknowledged))

    def _expire(self, now: Instant) -> None:
        """Outcomes in memory that no generator has come for: the one that should have read them is gone for good."""
        for batch in list(self._pool.batches.values()):
            if not batch.at_rest or self._pool.has_quarantined(batch):
                batch.keep()
            elif batch.expires(now):
                self._delivery.forget(batch)
