"""Generators: the real session and connection over simulated queues. They die and come back, and read slowly."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sim.jobs import Planned
from sim.platform import LAYOUT
from sim.process import Life, Process
from sim.queues import SimQueueEnd
from taskpool import limits
from taskpool.client.connection import Connection, NoNotices
from taskpool.client.session import Session, SessionOptions
from taskpool.client.transport import QueueSender, Transport
from taskpool.client.unreachable import JobsLost
from taskpool.clock import MILLISECOND, SECOND, AwakeClock
from taskpool.codec import encode
from taskpool.errors import TaskpoolError
from taskpool.ipc import names
from taskpool.messages import Limits, Message, Outcome, Refused, Submit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim.host import SimHost
    from taskpool.errors import MessageError

COMMAND_NS_MAX = 20 * SECOND


class SimTransport(Transport):
    """The real transport, in a world where the spool is no directory."""

    def __init__(self, host: SimHost, pool: str) -> None:
        super().__init__(host.namespace, pool, LAYOUT.reply)
        self._host = host
        self._spool = host.spool  # from the start: a fault may take the welcome, and leave what comes behind it
        self.said_something_else = False  # a changed job: the dealer's refusal is not the session's business

    def on_welcome(self, spool: Path) -> None:
        if self.reply is not None:
            self.reply.unlink()
        self._spool = self._host.spool
        if self.intake is None:
            self.intake = QueueSender(self._namespace.open(names.intake(self._pool), send=True, receive=False))

    def submit(self, data: bytes) -> None:
        super().submit(data)
        assert self.intake is not None
        faults = self._host.world.faults
        if not self.intake.blocked and faults.fires("generator_says_it_twice"):
            super().submit(data)
        elif not self.intake.blocked and faults.fires("submission_stolen"):
            self._host.namespace.steal(self.intake.queue.name)

    def messages(self, limit: int) -> Iterator[Message | MessageError]:
        for message in super().messages(limit):
            if isinstance(message, Refused) and message.reason == "conflict" and self.said_something_else:
                continue  # it may come twice
            yield message


class Batch:
    """A batch as its owner means it, over all lives of its generators."""

    def __init__(self, host: SimHost, pool: str, name: str, wanted: Limits, jobs: list[Planned]) -> None:
        self.host = host
        self.pool = pool
        self.name = name
        self.limits = wanted
        self.jobs = jobs
        self.stored: list[Outcome] = []  # what its owner has safely
        self.done = False
        self.lives = 0
        self.hurries = False  # its next life begins as soon as the dealer knows the last one to be dead
        # Cut the same way in every life, and few enough to be in flight at once.
        self.frame_jobs = max(host.world.between(1, 4), -(-len(jobs) // limits.SUBMITS_IN_FLIGHT_MAX))
        self.process: Generator | None = None
        host.oracle.batch_limits[name] = wanted
        for job in jobs:
            host.jobs[name, job.seq] = job

    def start(self) -> None:
        self.lives += 1
        self.process = Generator(self, self.host.new_pid())
        self.host.generators.append(self.process)
        self.process.ended = self._ended
        self.process.run(self.process.life())

    def recall(self) -> None:
        """A new life asks what the dealer has. Without a journal a batch that ended is gone, and begins anew."""
        kept = self.host.disk.journal_model.batches.get(self.name)
        if not self.host.durable and (kept is None or kept.recorded < len(self.stored)):
            self.stored.clear()

    def _ended(self) -> None:
        self.process = None
        if not self.done:
            world = self.host.world
            soonest_ns, latest_ns = (MILLISECOND, 20 * MILLISECOND) if self.hurries else (10 * MILLISECOND, 5 * SECOND)
            delay_ns = world.faults.amount(soonest_ns, latest_ns)
            world.at(world.now_ns + delay_ns, self.start)


class Generator(Process):
    """One life of a generator."""

    def __init__(self, batch: Batch, pid: int) -> None:
        super().__init__(batch.host.world, pid, "generator")
        self.batch = batch
        self.client = 10**6 + pid
        self._host = batch.host
        batch.recall()
        self._transport = SimTransport(batch.host, batch.pool)
        options = SessionOptions(
            pool=batch.pool,
            client=self.client,
            pid=pid,
            batch=batch.name,
            limits=batch.limits,
            private=self._host.private,
            resume=batch.lives > 1,
            cursor=len(batch.stored),
        )
        self.session = Session(options, self.world.now_ns)
        self._connection = Connection(self.session, self._transport, NoNotices(), AwakeClock(self.world))
        self._frame_jobs = batch.frame_jobs
        self._slow = self.world.chance(0.2)
        self._submits_ns = self.world.now_ns
        if batch.hurries:
            # It is welcomed while its predecessor's jobs are not stored yet, and reads its own slowly: what it hears of
            # first are outcomes of jobs that it does not know to be there.
            self._submits_ns += self.world.faults.amount(20 * MILLISECOND, 20 * SECOND)
            batch.hurries = False
        batch.host.oracle.batch_of[self.client] = batch.name

    def life(self) -> Life:
        world, session, connection = self.world, self.session, self._connection
        while True:
            now = world.now_ns
            try:
                outcomes = connection.receive(now)
                self._store(outcomes)
                self._submit(now)
                connection.send(now)
                if session.connecting and world.faults.fires("generator_dies_at_hello"):
                    self.end(signal=9)
                    yield None
                if self._has_jobs_under_way and world.faults.fires("generator_dies_behind_its_jobs"):
                    self.batch.hurries = True
                    self._host.disk.slow_until_ns = now + world.faults.amount(20 * MILLISECOND, 2 * SECOND)
                    self.end(signal=9)
                    yield None
                if self._closes and world.faults.fires("generator_calls_behind_close"):
                    yield world.between(10_000, 400_000)
                    session.reconnect(world.now_ns)
                    continue
            except JobsLost as error:
                if session.generation > 1 or self.batch.name not in self._host.disk.journal_model.forgotten:
                    world.fail("I1", str(error))
                # It was let go between the look at it and the hello, which are one connection of a real generator.
                connection.close()
                return 4
            except TaskpoolError as error:
                world.say(f"generator {self.pid} gives up: {error}")
                connection.close()
                self.batch.done = self._is_over()
                return 4
            if session.submissions.settled and session.deliveries.delivered >= session.submissions.submitted:
                break
            yield self._until_due(now)
        session.deliveries.store(session.deliveries.delivered)
        session.leave()
        connection.send(world.now_ns)
        connection.close()
        self.batch.done = not session.submissions.abandoned
        return 0 if self.batch.done else 7

    @property
    def _closes(self) -> bool:
        """It has said that no job comes any more, and has no answer yet."""
        submissions = self.session.submissions
        return submissions._close_sent and not submissions.closed and not self.session.connecting

    @property
    def _has_jobs_under_way(self) -> bool:
        """Some of its jobs are said, and not accepted yet."""
        submissions = self.session.submissions
        return not self.session.connecting and submissions.sent_upto > submissions.accepted

    def lose_touch(self) -> None:
        """Its reply queue goes with what is in it, and it has to call again."""
        reply = self._transport.reply
        if isinstance(reply, SimQueueEnd) and reply._open_queue is not None:
            while reply._open_queue.messages:
                self._host.spool.discard(reply._open_queue.messages.popleft())  # received, and forgotten
        self.session.reconnect(self.world.now_ns)

    def serves(self, batch: str) -> bool:
        return self.alive and not self.stopped and self.batch.name == batch

    def _is_over(self) -> bool:
        """Whether it is cancelled or closed, so that the other jobs cannot get in."""
        kept = self._host.disk.journal_model.batches.get(self.batch.name)
        return kept is not None and (kept.cancelled or (kept.total is not None and kept.total < len(self.batch.jobs)))

    def _until_due(self, now: int) -> int:
        reply = self._transport.reply
        storm = (
            self.session.connecting and self.session.generation > 0
        )  # it must not answer a welcome with a hello at once
        if isinstance(reply, SimQueueEnd):
            reply.watch(None if storm else self)
        due = self._connection.next_deadline()
        if storm:
            return max(due - now, 20 * MILLISECOND)
        if self._connection.writable:
            due = min(due, now + 10 * MILLISECOND)
        submissions = self.session.submissions
        if not self.session.connecting and submissions.has_room and submissions.submitted < len(self.batch.jobs):
            due = min(due, max(self._submits_ns, now + MILLISECOND))
        return max(1000, due - now)

    def _store(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self.world.note("generator {} has outcome {}", self.pid, outcome.no)
            if outcome.no != len(self.batch.stored) + 1:
                self.world.fail("I2", f"outcome {outcome.no} after {len(self.batch.stored)} of {self.batch.name}")
            self.batch.stored.append(outcome)
        if outcomes and self._slow and self.world.chance(0.5):
            return  # acknowledged with later ones
        # The last acknowledgement lets a private dealer go, which is still to compare what is submitted again.
        may_be_last = len(self.batch.stored) >= self.session.submissions.accepted
        keeps_back = self._host.private and may_be_last
        self.session.deliveries.store(self.session.deliveries.delivered - keeps_back)

    def _submit(self, now: int) -> None:
        session, jobs, faults = self.session, self.batch.jobs, self.world.faults
        if session.connecting or now < self._submits_ns:
            return
        submissions = session.submissions
        while submissions.has_room and submissions.submitted < len(jobs) and submissions.refusal is None:
            self._submit_frame()
            if self._frame_jobs * limits.SUBMITS_IN_FLIGHT_MAX < len(jobs) or self.world.chance(0.5):
                break
        if submissions.submitted >= len(jobs):
            submissions.finish()
        if faults.fires("generator_calls_again"):
            session.reconnect(now)
        elif submissions.accepted and self._may_say_something_else and faults.fires("generator_changes_a_job"):
            self._say_something_else()

    def _submit_frame(self) -> None:
        first = self.session.submissions.submitted
        self.session.submissions.submit([job.spec for job in self.batch.jobs[first : first + self._frame_jobs]])

    @property
    def _may_say_something_else(self) -> bool:
        intake = self._transport.intake
        return intake is not None and not intake.blocked and not self._transport.said_something_else

    def _say_something_else(self) -> None:
        """A frame that was accepted, with one job that is not the same. A job of it that is new, and must not get in
        with such company, is another one too."""
        accepted = self.session.submissions.accepted
        seq = self.world.between(1, accepted)
        first = self.world.between(max(1, seq - 2), seq)
        specs = [job.changed() if job.seq == seq else job.spec for job in self.batch.jobs[first - 1 : accepted]]
        if self._host.durable:  # where no dealer forgets a batch that is done
            specs.append(self.batch.jobs[accepted % len(self.batch.jobs)].changed())
        self._transport.said_something_else = True
        self._transport.submit(encode(Submit(self.client, self.batch.name, first, specs)))

    def at_end(self) -> None:
        """Leave its queues as they are, but for what the kernel closes: what remains is for others to deal with."""
        if self._transport.reply is not None:
            self._transport.reply.close()


class Commander(Process):
    """A program that sends one command to a running pool, and leaves."""

    def __init__(self, host: SimHost, pool: str, verb: str, batch: str | None = None, seq: int = 0, number: int = 0):
        super().__init__(host.world, host.new_pid(), "commander")
        options = SessionOptions(pool=pool, client=10**6 + self.pid, pid=self.pid)
        self.session = Session(options, self.world.now_ns)
        self._transport = SimTransport(host, pool)
        self._connection = Connection(self.session, self._transport, NoNotices(), AwakeClock(self.world))
        self.session.command(verb, batch, seq, number)
        host.commanders.append(self)
        self.ended = lambda: host.commanders.remove(self)
        self.run(self.life())

    def life(self) -> Life:
        world, connection = self.world, self._connection
        until = world.now_ns + COMMAND_NS_MAX
        while not self.session.answers and world.now_ns < until:
            now = world.now_ns
            try:
                connection.receive(now)
                connection.send(now)
            except TaskpoolError:
                break
            if isinstance(self._transport.reply, SimQueueEnd):
                self._transport.reply.watch(self)
            yield max(1000, min(connection.next_deadline() - now, 50 * MILLISECOND))
        self.session.leave()
        with suppress(TaskpoolError):
            connection.send(world.now_ns)
        connection.close()
        return 0
