"""Requests of generators: hello, submissions, outcomes.

A generator says hello with the last outcome it holds, submits jobs in order, acknowledges outcomes in order and
pings when it has nothing else to say. One that goes silent loses its reply queue, not its outcomes: it says
hello again. All of it may be said twice.
"""

from __future__ import annotations

from collections import deque

import msgspec

from taskpool import limits
from taskpool.clock import NEVER, Instant
from taskpool.core.batch import Batch, Client
from taskpool.core.commits import CloseStored, JobsStored
from taskpool.core.effects import FindBatch, Level, LoadDigests, LoadOutcomes, Release, Reply, Topic
from taskpool.core.entries import Acknowledged, BatchClosed, BatchForgotten, BatchOpened, JobAccepted
from taskpool.core.events import BatchFound, DigestsLoaded, OutcomesLoaded, Submitted
from taskpool.core.job import Job
from taskpool.core.state import PoolState
from taskpool.messages import (
    Accepted,
    Ack,
    Answer,
    Close,
    Command,
    Hello,
    Outcome,
    Outcomes,
    Ping,
    Pong,
    Refused,
    Welcome,
)


class Intake:
    """Talks to generators on the pool's behalf."""

    def __init__(self, pool: PoolState) -> None:
        self._pool = pool
        self._asking: dict[str, dict[tuple[int, type], Hello | Command]] = {}  # until the store has looked
        self._comparing: deque[Submitted] = deque()  # said again: until the store has given the digests
        self._vouch_mono_ns = 0

    # --- coming and going ---

    def hello(self, hello: Hello, now: Instant) -> None:
        """Greet a generator, after a look into the store when its batch is not in memory."""
        name = hello.batch
        if name is None or name in self._pool.batches or not self._pool.config.journaled:
            self._greet(hello, now)
            return
        self._ask(name, hello)

    def describe_batch(self, command: Command) -> None:
        """Say where a batch stands, after a look into the store when it is not in memory."""
        name = command.batch or ""
        if name in self._pool.batches or not self._pool.config.journaled:
            self._describe(command)
        else:
            self._ask(name, command)

    def _ask(self, name: str, message: Hello | Command) -> None:
        if name not in self._asking:
            self._pool.emit(FindBatch(name))
        self._asking.setdefault(name, {})[message.client, type(message)] = message  # said twice, answered once

    def batch_found(self, event: BatchFound, now: Instant) -> None:
        if event.batch is not None and event.name not in self._pool.batches:
            self._pool.batches[event.name] = Batch.restored(event.batch)
        for message in self._asking.pop(event.name, {}).values():
            if isinstance(message, Hello):
                self._greet(message, now)
            else:
                self._describe(message)
        batch = self._pool.batches.get(event.name)
        if batch is not None:
            self.forget_if_done(batch)

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
                "open": batch.open,
                "cancelled": batch.cancelled,
            }
        if command.client in self._pool.clients:
            answer = Answer(command.client, command.verb, batch is not None, msgspec.json.encode(body))
            self._pool.emit(Reply(command.client, answer))

    def _greet(self, hello: Hello, now: Instant) -> None:
        pool = self._pool
        batch = pool.batches.get(hello.batch) if hello.batch is not None else None
        holder = batch.client if batch is not None else None
        if batch is not None and holder is not None and holder.id != hello.client:
            if now.mono >= holder.lease_mono_ns - limits.LEASE_NS + limits.REPLY_OVERDUE_NS:
                self.bye(holder.id)  # it pings three times as often: it is dead, or as good as that
                self.hello(hello, now)
                return
            text = f"batch {batch.name} is in the hands of another generator, PID {holder.pid}"
            self._turn_away(hello, "conflict", text)
            return
        fresh = batch is None
        if fresh and hello.batch is not None and pool.draining:
            self._turn_away(hello, "draining", _DRAINING)
            return
        client = pool.clients.get(hello.client)
        if client is None:
            client = pool.clients[hello.client] = Client(hello.client, hello.pid, 0)
        client.lease_mono_ns = now.mono + limits.LEASE_NS
        if hello.batch is not None:
            batch = batch or self._open(hello)
            if client.batch is not None and client.batch is not batch:
                client.batch.detach()  # it moves on; whoever asks next may have that one
            if batch.attach(client, hello.cursor):
                pool.commits.add(Acknowledged(batch.name, batch.acknowledged))
        self._welcome(client, batch, fresh=fresh)
        if batch is not None:
            self.deliver(batch)

    def _turn_away(self, hello: Hello, reason: str, text: str) -> None:
        """The conversation ends before it began, or with it the one that this generator had."""
        self._refuse(hello.client, hello.batch, 0, 0, reason, text)
        if hello.client in self._pool.clients:
            self.bye(hello.client)
        else:
            self._pool.emit(Release(hello.client))

    def _open(self, hello: Hello) -> Batch:
        assert hello.batch is not None
        batch = Batch(hello.batch, hello.limits)
        self._pool.batches[batch.name] = batch
        self._pool.commits.add(BatchOpened(batch.name, batch.limits))
        self._pool.note(Level.DEBUG, Topic.BATCH_OPENED, batch=batch.name, pid=hello.pid)
        return batch

    def _welcome(self, client: Client, batch: Batch | None, *, fresh: bool) -> None:
        config = self._pool.config
        self._pool.emit(
            Reply(
                client.id,
                Welcome(
                    client=client.id,
                    epoch=config.epoch,
                    pool=config.name,
                    pid=config.pid,
                    version=config.version,
                    spool=config.spool,
                    accepted=batch.accepted if batch is not None else 0,
                    total=batch.total if batch is not None and batch.total_stored else None,
                    last_no=batch.recorded if batch is not None else 0,
                    fresh=fresh,
                ),
            )
        )

    def bye(self, id: int) -> None:
        """The generator leaves: what it has not acknowledged waits for whoever asks next."""
        client = self._pool.clients.pop(id, None)
        if client is None:
            return
        batch = client.batch
        if batch is not None:
            batch.detach()
            self.forget_if_done(batch)
        self._pool.emit(Release(id))

    def ping(self, ping: Ping) -> None:
        if ping.client in self._pool.clients:
            self._pool.emit(Reply(ping.client, Pong(ping.client, self._pool.config.epoch)))

    def renew(self, id: int, now: Instant) -> None:
        """Whatever a generator says renews its lease."""
        client = self._pool.clients.get(id)
        if client is not None:
            client.lease_mono_ns = now.mono + limits.LEASE_NS

    def lapse(self, now: Instant) -> None:
        """Let go of generators that have been silent too long."""
        for client in [client for client in self._pool.clients.values() if client.lease_mono_ns <= now.mono]:
            self._pool.note(Level.WARNING, Topic.CLIENT_LAPSED, pid=client.pid)
            self.bye(client.id)
        if not self._pool.config.journaled:
            self._expire(now)
        elif now.mono >= self._vouch_mono_ns:
            self._vouch_mono_ns = now.mono + limits.HELD_NOTED_NS
            self._vouch()

    def _vouch(self) -> None:
        """Whoever reads slowly says nothing new for long; the store must not take the batch for one out of use."""
        for batch in filter(None, [client.batch for client in self._pool.clients.values()]):
            self._pool.commits.add(Acknowledged(batch.name, batch.acknowledged))

    def _expire(self, now: Instant) -> None:
        """Outcomes in memory that nobody has come for: whoever should have read them is gone for good."""
        for batch in list(self._pool.batches.values()):
            if not batch.at_rest or self._is_parked(batch):
                batch.expires_mono_ns = NEVER
            elif batch.expires_mono_ns == NEVER:
                batch.expires_mono_ns = now.mono + limits.UNREAD_KEPT_NS
            elif batch.expires_mono_ns <= now.mono:
                del self._pool.batches[batch.name]
                self._pool.commits.add(BatchForgotten(batch.name))

    def extend_deadlines(self, gap_ns: int) -> None:
        for client in self._pool.clients.values():
            client.lease_mono_ns += gap_ns

    # --- jobs in ---

    def submit(self, event: Submitted, now: Instant) -> None:
        """Take a frame of jobs whole, or refuse it whole."""
        pool = self._pool
        batch = self._batch_of(event.client, event.batch)
        if batch is None:
            self._refuse(event.client, event.batch, event.first_seq, event.first_seq, "unknown_batch", _UNKNOWN)
            return
        again = batch.received + 1 - event.first_seq
        if again > 0:
            self._comparing.append(event)  # said before: is it the same?
            pool.emit(LoadDigests(batch.name, event.first_seq, min(again, len(event.jobs))))
        else:
            self._take_what_is_new(batch, event, now)

    def digests_loaded(self, loaded: DigestsLoaded, now: Instant) -> None:
        """A frame that was, in part or whole, said before: the same is welcome, another is refused."""
        event = self._comparing.popleft()
        batch = self._batch_of(event.client, event.batch)
        if batch is None:
            return
        for offset, (known, said) in enumerate(zip(loaded.digests, event.digests, strict=False)):
            if known != said:
                seq = event.first_seq + offset
                text = f"job {seq} of batch {batch.name} is not the job that was accepted under this number"
                self._refuse(event.client, batch.name, event.first_seq, seq, "conflict", text)
                return
        self._take_what_is_new(batch, event, now)

    def _take_what_is_new(self, batch: Batch, event: Submitted, now: Instant) -> None:
        skip = batch.received + 1 - event.first_seq
        jobs = len(event.jobs) - skip
        if skip < 0:
            text = f"job {event.first_seq} came, job {batch.received + 1} is next"
            self._refuse(event.client, batch.name, event.first_seq, batch.received + 1, "gap", text)
        elif jobs <= 0:
            self._tell_accepted(batch)  # all of it was taken before: say so again
        elif (refusal := self._refusal(batch, jobs)) is not None:
            self._refuse(event.client, batch.name, event.first_seq, batch.received + 1, *refusal)
        else:
            self._take(batch, event, skip, now)
            self._pool.note(Level.DEBUG, Topic.JOBS_ACCEPTED, batch=batch.name, jobs=jobs)

    def _refusal(self, batch: Batch, jobs: int) -> tuple[str, str] | None:
        pool = self._pool
        if pool.draining:
            return "draining", _DRAINING
        if batch.closed or batch.cancelled:
            return "closed", f"batch {batch.name} takes no more jobs"
        if pool.disk_full:
            return "full", pool.disk_full
        held = pool.pending
        if not pool.config.journaled:  # then what nobody has read takes memory as well
            held += sum(each.unread for each in pool.batches.values())
        if held + jobs > pool.config.pending_max:
            return "full", f"{held} jobs are pending or unread, the limit is {pool.config.pending_max}"
        return None

    def _take(self, batch: Batch, event: Submitted, skip: int, now: Instant) -> None:
        pool = self._pool
        jobs = []
        parts = zip(event.jobs[skip:], event.traits[skip:], event.digests[skip:], strict=True)
        for spec, traits, digest in parts:
            pool.ordinal += 1
            batch.received += 1
            job = Job(pool.ordinal, batch, batch.received, spec, traits, now.wall)
            jobs.append(job)
            priority = job.limits.priority
            row = JobAccepted(job.ordinal, batch.name, job.seq, priority, spec, traits, digest, job.queued_wall_ns)
            pool.commits.add(row, JobsStored(batch, jobs) if len(jobs) == 1 else None)
            pool.counters.jobs_accepted[spec.kind] += 1
        batch.open += len(jobs)
        pool.pending += len(jobs)

    def close(self, close: Close) -> None:
        """No job comes after `total`."""
        batch = self._batch_of(close.client, close.batch)
        if batch is None:
            self._refuse(close.client, close.batch, 0, 0, "unknown_batch", _UNKNOWN)
        elif batch.closed:
            if batch.total == close.total:
                self._tell_accepted(batch)
            else:
                text = f"batch {batch.name} was closed at {batch.total} jobs, not {close.total}"
                self._refuse(close.client, batch.name, 0, 0, "conflict", text)
        elif close.total != batch.received:
            text = f"batch {batch.name} has {batch.received} jobs, not {close.total}"
            self._refuse(close.client, batch.name, 0, batch.received + 1, "gap", text)
        else:
            batch.total = close.total
            self._pool.commits.add(BatchClosed(batch.name, close.total), CloseStored(batch))

    def accepted(self, batch: Batch, jobs: list[Job]) -> None:
        """These jobs are stored: from here on they will get an outcome."""
        batch.accepted = jobs[-1].seq
        self._tell_accepted(batch)

    def closed(self, batch: Batch) -> None:
        batch.total_stored = True
        self._tell_accepted(batch)
        self._pool.note(Level.DEBUG, Topic.BATCH_CLOSED, batch=batch.name, total=batch.total)

    def _tell_accepted(self, batch: Batch) -> None:
        if batch.client is not None:
            message = Accepted(batch.client.id, batch.name, batch.accepted, closed=batch.total_stored)
            self._pool.emit(Reply(batch.client.id, message))

    def _batch_of(self, client_id: int, name: str) -> Batch | None:
        """The batch, if this generator holds it."""
        batch = self._pool.batches.get(name)
        return batch if batch is not None and batch.client is not None and batch.client.id == client_id else None

    def _refuse(self, client: int, batch: str | None, first_seq: int, seq: int, reason: str, text: str) -> None:
        self._pool.counters.refusals[reason] += 1
        self._pool.emit(Reply(client, Refused(client, batch, first_seq, seq, reason, text)))
        if reason not in ("full", "gap"):  # those two are the ordinary course of things
            self._pool.note(Level.WARNING, Topic.SUBMISSION_REFUSED, batch=batch, reason=reason, text=text)

    # --- outcomes out ---

    def acknowledge(self, ack: Ack) -> None:
        batch = self._batch_of(ack.client, ack.batch)
        if batch is None:
            return
        batch.confirmed = batch.confirmed or ack.upto >= batch.recorded
        if batch.acknowledge(ack.upto):
            self._pool.commits.add(Acknowledged(batch.name, ack.upto))
            self.deliver(batch)

    def deliver(self, batch: Batch) -> None:
        """Send what is stored and fits the reader's window; read back what lies further behind."""
        client = batch.client
        if client is None:
            return
        items: list[Outcome] = []
        while batch.unsent and batch.room() > 0:
            outcome = batch.unsent.popleft()
            batch.count_sent(outcome)
            items.append(outcome)
        if items:
            self._pool.emit(Reply(client.id, Outcomes(client.id, batch.name, items)))
        room = batch.room()
        if batch.behind and not batch.loading and not batch.unsent and room > 0:
            batch.loading = True
            self._pool.emit(LoadOutcomes(batch.name, batch.sent, room))

    def outcomes_loaded(self, event: OutcomesLoaded) -> None:
        if event.reader:
            page = Outcomes(event.reader, event.batch, event.items)
            self._pool.emit(Reply(event.reader, page, whole=True))
            return
        batch = self._pool.batches.get(event.batch)
        if batch is None:
            return
        batch.loading = False
        for outcome in event.items:
            if outcome.no == batch.sent + len(batch.unsent) + 1:  # else the reader said hello again meanwhile
                batch.unsent.append(outcome)
        batch.behind = batch.sent + len(batch.unsent) < batch.recorded
        if event.items:
            self.deliver(batch)
        elif batch.client is not None:  # to ask again would be to ask for ever, and silence would be to wait for ever
            text = f"outcomes of batch {batch.name} from number {batch.sent + 1} on are not kept any more (--retain)"
            self._refuse(batch.client.id, batch.name, 0, 0, "gone", text)

    def forget_if_done(self, batch: Batch) -> None:
        """A journal keeps a batch for its retention, and finds it again when asked; memory does not. A job in
        quarantine may run again: its batch stays."""
        journaled = self._pool.config.journaled
        done = batch.at_rest if journaled else batch.settled and batch.client is None
        if not done or self._is_parked(batch):
            return
        del self._pool.batches[batch.name]
        if not journaled:
            self._pool.commits.add(BatchForgotten(batch.name))

    def _is_parked(self, batch: Batch) -> bool:
        return any(job.batch is batch for job in self._pool.quarantine.values())


_UNKNOWN = "this dealer holds no such batch for this generator: say hello first"
_DRAINING = "the pool is draining and takes no new jobs"
