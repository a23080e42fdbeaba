"""The bridge between one dealer and the engine: a client of the one and of the other, in a thread beside the loop.

**A turn** (`Connection.run_until` is the loop): answers of the engine; outcomes of the dealer; jobs that were handed
out go to the dealer; what `member` wants is asked of the engine; local outcomes of which all is done are acknowledged.
What is decided, `member` and `demand` decide.

**Why it is a thread and not a process.** The dealer takes each child process it does not know for something that a job
has left behind, and ends it. A thread costs the loop at most the time for which it holds the interpreter; it shares no
data with the loop, and speaks to it over the pool's queues as any generator does.

**How it ends.** The dealer drains: what no worker has goes back to the engine. The dealer has left: outcomes that are
under way to the engine have a little time to arrive; those that do not are in the journal, and the next life of the
member brings them. An error, of the dealer's or of ours: it begins anew from what the journal has.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path

from taskpool import limits
from taskpool.client.connection import Connection, Notices, TurnHandler
from taskpool.client.opening import new_client_id, open_connection
from taskpool.client.queries import BatchQueries
from taskpool.client.session import REFUSED_FOR_NOW, ConnectTimeouts, SessionOptions
from taskpool.client.submissions import SUBMIT_HEADER_BYTES, encoded_bytes
from taskpool.clock import MILLISECOND, SECOND, AwakeClock, SystemClock
from taskpool.cluster import demand
from taskpool.cluster.demand import Load, Share
from taskpool.cluster.engine import Delivery, Engine, Failed, Fetched, JobKey, Notice
from taskpool.cluster.job import Mark, corrupt, received
from taskpool.cluster.local_batch import Left, Note, find, load_note, save_note
from taskpool.cluster.member import Held, Member
from taskpool.cluster.subjects import Names
from taskpool.errors import MessageError, TaskpoolError, counted
from taskpool.kinds import KINDS
from taskpool.messages import JobSpec, Outcome, Refused
from taskpool.procs.wait import Descriptor, wait_ready

BUSY_STATUS_NS = 100 * MILLISECOND  # how often the dealer's load is asked for: a drain is seen by it, too
IDLE_STATUS_NS = 500 * MILLISECOND
ROTATE_JOBS = 10_000  # a batch with so many is closed when none of its jobs is left, and another one begun ...
# ... and with so many no job is fetched until none is left: the journal lets go of closed batches only, and a member
# that is never idle would fill its disk. Rare enough for the pause not to count.
ROTATE_JOBS_MAX = 100_000
LAST_STEPS_NS = 5 * SECOND  # for outcomes under way when the dealer has left
BEGIN_AGAIN_NS = 1 * SECOND


class _Stopped(Exception):
    """The dealer has left."""


class Bridge:
    """Serves one pool's dealer until it is closed."""

    def __init__(self, pool: str, engine: Engine, notices: Notices) -> None:
        self._pool = pool
        self._engine = engine
        self._notices = notices
        self._clock = AwakeClock(SystemClock())
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="taskpool-bridge")

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """End, with what is under way to the engine given a little time; close the engine too."""
        self._stopping = True
        os.eventfd_write(self._wakeup, 1)
        if self._thread.ident is not None:
            self._thread.join()
        self._engine.close()
        os.close(self._wakeup)

    def check(self) -> None:
        """Raise `_Stopped` when the dealer has left."""
        if self._stopping:
            raise _Stopped

    @property
    def wakeup(self) -> int:
        """Readable once the dealer has left."""
        return self._wakeup

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._serve_batch()
            except _Stopped:
                return
            except TaskpoolError as error:
                self._begin_again(str(error))
            except OSError as error:
                self._begin_again(f"the system refused: {error}")
            except Exception as error:  # noqa: BLE001 - a thread that ended in silence would leave its jobs behind
                self._begin_again(f"an error of taskpool itself: {error!r}")

    def _begin_again(self, reason: str) -> None:
        if not self._stopping:
            self._notices.warning(f"the cluster's jobs are taken up anew from the journal: {reason}")
            wait_ready((self._wakeup,), timeout_ns=BEGIN_AGAIN_NS)

    def _serve_batch(self) -> None:
        """Serve one local batch until another one is to be begun. Raises TaskpoolError, OSError, `_Stopped`."""
        client = new_client_id()
        home, note, left = self._recall(client)
        member = Member(note.member, self._engine.ack_wait_ns, left.acknowledged)
        for seq, mark in left.open:
            member.adopt(mark, seq, self._clock.now().mono)
        if left.open or left.recorded > left.acknowledged:
            waiting = left.recorded - left.acknowledged
            jobs, outcomes = counted(len(left.open), "job"), counted(waiting, "outcome")
            self._notices.info(
                f"Going on with what the journal has of the cluster: {jobs}, {outcomes} not recorded there"
            )
        connection = self._connect(client, note.batch, cursor=left.acknowledged)
        turns = _Turns(self, connection, member, note, left)
        try:
            connection.run_until(lambda: turns.over, turns)
            connection.session.deliveries.store(member.stored_upto)
            connection.session.submissions.finish()
            until = self._clock.now().mono + limits.RESEND_NS
            connection.run_until(lambda: connection.session.submissions.settled, deadline=until)
            save_note(home, note.next())
        except _Stopped:
            turns.last_steps(self._clock.now().mono + LAST_STEPS_NS, self._clock)
            raise
        finally:
            if not self._stopping:  # else there is no dealer to hear a goodbye
                connection.leave()
            connection.close()

    def _recall(self, client: int) -> tuple[Path, Note, Left]:
        """Return where the pool's state is, and what an earlier life has left there."""
        connection = self._connect(client, None, collect_pages=True)
        queries = BatchQueries(connection, self._clock, _StopHandler(self))
        try:
            connection.run_until(lambda: connection.session.welcome is not None, _StopHandler(self))
            welcome = connection.session.welcome
            assert welcome is not None
            home = Path(welcome.spool).parent
            note, left = find(queries, load_note(home))
            save_note(home, note)
        finally:
            if not self._stopping:
                connection.leave()
            connection.close()
        return home, note, left

    def _connect(self, client: int, batch: str | None, *, cursor: int = 0, collect_pages: bool = False) -> Connection:
        options = SessionOptions(
            pool=self._pool,
            client=client,
            pid=os.getpid(),  # the dealer's own: the two end together
            batch=batch,
            timeouts=ConnectTimeouts(connect_ns=limits.BOOT_NS_MAX),  # it reads its journal before it answers
            extend=True,  # and not `resume`, which takes a batch that was closed for an input that has changed
            cursor=cursor,
            collect_pages=collect_pages,
        )
        return open_connection(options, self._notices, self._clock)

    @property
    def engine(self) -> Engine:
        """The engine's side."""
        return self._engine

    @property
    def notices(self) -> Notices:
        """Where it says what a person should know."""
        return self._notices

    @property
    def names(self) -> Names:
        """The names of the pool in the engine."""
        return Names(self._pool)


class _StopHandler(TurnHandler):
    """Ends a wait when the dealer has left."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def readable(self) -> Iterable[Descriptor]:
        return (self._bridge.wakeup,)

    def before_receive(self, now: int) -> None:
        self._bridge.check()


class _Turns(_StopHandler):
    """The turns of a connection that holds the batch."""

    def __init__(self, bridge: Bridge, connection: Connection, member: Member, note: Note, left: Left) -> None:
        super().__init__(bridge)
        self._engine, self._notices, self._names = bridge.engine, bridge.notices, bridge.names
        self._connection = connection
        self._session = connection.session
        self._member = member
        self._note = note
        self._recalled_upto = left.recorded  # no job is fetched before these outcomes have come
        self._cancelled = left.cancelled  # the batch takes no more jobs
        self._draining = False
        self._load: Load | None = None
        self._executing_then = 0
        self._status_due = 0
        self._refusal: Refused | None = None

    @property
    def over(self) -> bool:
        """Whether another batch is to be begun: nothing of this one is left."""
        many = self._session.submissions.submitted >= ROTATE_JOBS
        if self._draining or self._session.connecting:
            return False  # the dealer leaves, and would take no other batch
        return (many or self._cancelled) and self._member.idle

    def readable(self) -> Iterable[Descriptor]:
        return (*super().readable(), self._engine)

    def next_deadline(self) -> int | None:
        return min(self._status_due, self._member.next_deadline())

    def on_received(self, outcomes: list[Outcome], now: int) -> None:
        for outcome in outcomes:
            self._member.outcome(outcome, now)
        while self._session.answers:
            answer = self._session.answers.popleft()
            if answer.verb == "status" and (load := demand.parse_load(answer.body)) is not None:
                self._load = load
                if load.draining:
                    self._hand_back(load, now)
        self.hear_engine(now)
        if (refusal := self._session.submissions.refusal) is not self._refusal and refusal is not None:
            self._on_refusal(refusal, now)

    def before_send(self, ready: Set[int], now: int) -> None:
        self._submit()
        self.ask_engine(now, self._wanted())
        # One is kept back: a dealer that drains gives a reader a second for what it has not acknowledged, and that is
        # the time in which a drain is seen here, and what waits is handed back.
        self._session.deliveries.store(self._member.stored_upto - (not self._draining))
        if now >= self._status_due and self._session.welcome is not None and not self._session.connecting:
            self._status_due = now + (BUSY_STATUS_NS if self._member.executing else IDLE_STATUS_NS)
            self._executing_then = self._member.executing
            self._session.command("status")

    # --- the dealer's side ------------------------------------------------------------------------

    def _wanted(self) -> int:
        session, submissions = self._session, self._session.submissions
        # Not before the outcomes of the life before have come: one may be of a job that would be begun again.
        if session.connecting or session.deliveries.delivered < self._recalled_upto:
            return 0
        if self._cancelled or self._draining or not submissions.has_room:
            return 0
        # A request for jobs lies with the engine most of the time; without an end of that the batch would have none.
        if submissions.submitted >= (ROTATE_JOBS_MAX if self._member.holds else ROTATE_JOBS):
            return 0
        return demand.wanted(Share(self._load, self._member.executing, self._executing_then), self._member.pace)

    def _submit(self) -> None:
        submissions = self._session.submissions
        bytes_max = self._connection.intake_bytes
        while bytes_max is not None and submissions.has_room and (frame := self._take_frame(bytes_max)):
            submissions.submit(frame)

    def _take_frame(self, bytes_max: int) -> list[JobSpec]:
        """Take the next jobs that fit one message: at least one, if any is there."""
        room = bytes_max - SUBMIT_HEADER_BYTES
        frame: list[JobSpec] = []
        while len(frame) < limits.SUBMIT_JOBS_MAX and (held := self._member.next_job()) is not None:
            job = _job_of(held)
            room -= encoded_bytes(job)
            if frame and room < 0:
                break
            frame.append(job)
            self._member.submitted(held, self._session.submissions.submitted + len(frame))
        return frame

    def _hand_back(self, load: Load, now: int) -> None:
        """The dealer drains: have what no worker has executed elsewhere."""
        if not self._draining:
            self._draining = True
            self._notices.info("The dealer drains: what does not run yet goes back to the cluster")
        self._member.give_back_waiting(now)
        for seq in self._member.to_cancel(load.running_in(self._note.batch)):
            self._session.command("cancel", self._note.batch, seq)

    def _on_refusal(self, refusal: Refused, now: int) -> None:
        """The dealer takes no more jobs into this batch: it drains, or a person has cancelled the batch."""
        self._refusal = refusal
        self._draining = self._draining or refusal.reason in REFUSED_FOR_NOW
        self._cancelled = self._cancelled or refusal.reason == "closed"
        self._member.refused(refusal.first_seq, now)
        self._member.give_back_waiting(now)
        if refusal.reason not in (*REFUSED_FOR_NOW, "closed"):
            raise TaskpoolError(f"the dealer refuses a job of the cluster ({refusal.reason}): {refusal.text}")

    # --- the engine's side ------------------------------------------------------------------------

    def hear_engine(self, now: int) -> None:
        """Take what the engine has answered."""
        for answer in self._engine.answers():
            if isinstance(answer, Notice):
                (self._notices.warning if answer.is_warning else self._notices.info)(answer.text)
                continue
            for seq in self._member.answered(answer, now):
                self._session.command("cancel", self._note.batch, seq)
            if isinstance(answer, Fetched):
                for delivery in answer.jobs:
                    self._take(delivery, now)

    def ask_engine(self, now: int, wanted: int) -> None:
        """Ask the engine for what is due."""
        self._member.extend_within(self._engine.ack_wait_ns)
        for request in self._member.requests(now, wanted):
            if not self._engine.ask(request):
                self._member.answered(Failed(request, "too many requests are under way"), now)

    def _take(self, delivery: Delivery, now: int) -> None:
        try:
            mark, job = received(delivery, self._names)
            KINDS[job.kind].check(job.payload)
        except (MessageError, KeyError) as error:
            text = f"no such kind as {error}" if isinstance(error, KeyError) else str(error)
            self._take_corrupt(delivery, text, now)
        else:
            self._member.take(mark, job, delivery.delivered, now)

    def _take_corrupt(self, delivery: Delivery, text: str, now: int) -> None:
        placed = self._names.parse_job(delivery.subject)
        self._notices.warning(f"what the cluster has under {delivery.subject} is no job: {text}")
        # Under a foreign subject there is no job that it could be, and no one waits for it.
        if placed is not None:
            # Its run is in the body, which cannot be read: the first one has been, or is now, told.
            key = JobKey(placed.batch, placed.seq, 1)
            data = corrupt(key, delivery, text, self._note.member)
            self._member.take_corrupt(Mark(key, delivery.token, 0, b"", None), data, now)

    def last_steps(self, until: int, clock: AwakeClock) -> None:
        """Have the engine take what it has been told of, while there is time. The dealer has left."""
        while self._member.settling and (now := clock.now().mono) < until:
            self.hear_engine(now)
            self.ask_engine(now, 0)
            due = min(until, max(now, self._member.next_deadline()))
            with suppress(InterruptedError):
                wait_ready((self._engine,), timeout_ns=due - now)


def _job_of(held: Held) -> JobSpec:
    assert held.job is not None
    return held.job
