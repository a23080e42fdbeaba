"""The client's side of a connection with a dealer. Decisions only: no queue, no clock, no file.

Rules of this file:
1. Messages come in through `receive`, time through `tick`; what is to be sent is pulled, one message at a time, by
   `next_control` and `next_intake`. The caller that pulls a message sends it.
2. No message is taken to have arrived. Submissions are kept until accepted and sent again from the first one that is
   not; outcomes are numbered, and a gap means asking again from the last one received.
3. Whenever the dealer is in doubt (silent, restarted, its queues gone) there is one cure: `reconnect`, a new hello over
   new queues with the cursor of what is stored.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from msgspec import Struct

from taskpool import limits
from taskpool.client import unreachable
from taskpool.client.deliveries import Deliveries
from taskpool.client.submissions import Submissions
from taskpool.client.turn import Turn
from taskpool.client.unreachable import JobsLost, OlderJournal, PoolRefuses
from taskpool.clock import MILLISECOND
from taskpool.codec import OtherVersion, VersionRefused, encode
from taskpool.durations import human
from taskpool.errors import DealerUnreachable, TaskpoolError, UsageError, counted
from taskpool.messages import (
    DEFAULT_LIMITS,
    Accepted,
    Ack,
    Answer,
    Bye,
    Command,
    Hello,
    Limits,
    Message,
    Outcome,
    Outcomes,
    Ping,
    Pong,
    Ranges,
    Refused,
    Welcome,
)

HELLO_DELAY_NS_MIN = 2 * MILLISECOND
HELLO_DELAY_NS_MAX = 250 * MILLISECOND
HELLO_DELAY_SHARE = 8  # of the wait so far: a private dealer is found an eighth of its start later, at most
GAPS_MAX = 8  # hellos because of missing outcomes and unknown jobs, without one outcome in between

REFUSED_FOR_NOW = frozenset({"full", "draining"})  # reasons that may not hold for another run


class ConnectTimeouts(NamedTuple):
    """How long to wait for a dealer that does not answer: for its first welcome, and for it to come back."""

    connect_ns: int = limits.FIRST_WELCOME_NS
    reconnect_ns: int = limits.RETURN_WELCOME_NS


class SessionOptions(Struct, frozen=True, kw_only=True):
    """What a connection is about, and what it does while the dealer is away."""

    pool: str
    client: int  # the random number that the dealer knows this client by
    pid: int
    batch: str | None = None  # None: this connection only asks
    limits: Limits = DEFAULT_LIMITS  # of the batch, when this connection opens it
    detached: bool = False  # leaves once all is accepted: outcomes are not taken
    wait_for_room: bool = True  # in a full pool; else "full" is a refusal
    timeouts: ConnectTimeouts = ConnectTimeouts()
    private: bool = False  # the dealer serves this batch only
    resume: bool = False  # the batch may be there already: jobs that it has are compared with ours
    adopt: bool = False  # its jobs are those that the dealer has: none is submitted
    extend: bool = False  # its jobs are those that the dealer has, and ours come behind them
    cursor: int = 0  # the last outcome that an earlier client of the batch acknowledged
    collect_pages: bool = False  # outcomes go into `pages` as they come, for `queries`


class Session:
    """One connection, for one batch or (without one) for commands and queries only."""

    def __init__(self, options: SessionOptions, now: int) -> None:
        self.options = options
        self.pool = options.pool
        self.client = options.client
        self.batch = options.batch

        self.connecting = True
        self.hello_due = now
        self._said_hello = False  # there was a queue to say it in
        self._connecting_since = now
        self.turn = Turn(options.timeouts.reconnect_ns, now + options.timeouts.connect_ns)
        self._heard_at = now
        self._ping_due = now
        self._ping_wanted = False
        self.welcome: Welcome | None = None  # the latest
        self.generation = 0  # welcomes that began a new connection, not repeated ones

        self.submissions = Submissions(options.client, options.batch or "", now)
        self.deliveries = Deliveries(options.cursor)

        self._commands: deque[Command] = deque()
        self._query: Command | None = None
        self._query_due = False
        self.answers: deque[Answer] = deque()
        self.pages: deque[Outcomes] = deque()
        self._bye_due = False

    # --- what is to be sent -----------------------------------------------------------------------

    def hello(self, slot: int, now: int) -> bytes:
        """Return the hello that names the reply queue in `slot`. It is sent again until a dealer answers."""
        self.hello_due = now + limits.RESEND_NS
        self._said_hello = True
        options = self.options
        return encode(
            Hello(
                client=options.client,
                slot=slot,
                pid=options.pid,
                batch=options.batch,
                limits=options.limits,
                cursor=self.deliveries.stored,  # not what was received: the dealer takes it for an acknowledgement
            )
        )

    def dealer_missing(self, now: int) -> None:
        """Delay the next hello: the dealer's queue is not there (yet), or has lost its name."""
        self.turn.error = None
        # Wider and wider, since nothing announces a queue that appears: close looks find a private dealer that is just
        # starting, wide ones cost an idle machine nothing.
        delay = (now - self._connecting_since) // HELLO_DELAY_SHARE
        self.hello_due = now + min(max(delay, HELLO_DELAY_NS_MIN), HELLO_DELAY_NS_MAX)

    def no_reply_queue(self, error: TaskpoolError, now: int) -> None:
        """Delay the next hello: others hold what a reply queue takes, which is its name or its bytes."""
        self.hello_due = self.turn.await_room(type(error), "it can have a reply queue", str(error), now)

    def next_control(self) -> bytes | None:
        """Return the next message for the control queue; None when there is none."""
        if self.connecting:
            return None
        # Commands come before acknowledgements: the last acknowledgement lets a private dealer go, and it should
        # answer first. The bye comes last, because it ends the connection.
        if self._commands:
            return encode(self._commands.popleft())
        if self._query is not None and self._query_due:
            self._query_due = False
            return encode(self._query)
        if self.batch is not None and (upto := self.deliveries.next_acknowledgement()) is not None:
            return encode(Ack(client=self.client, batch=self.batch, upto=upto))
        if self._ping_wanted:
            self._ping_wanted = False
            return encode(Ping(client=self.client))
        if self._bye_due:
            self._bye_due = False
            return encode(Bye(client=self.client))
        return None

    def next_intake(self, now: int) -> bytes | None:
        """Return the next message for the intake queue; None when there is none."""
        return None if self.connecting or self.batch is None else self.submissions.next_message(now)

    # --- what the caller wants --------------------------------------------------------------------

    def command(self, verb: str, batch: str | None = None, seq: int = 0, number: int = 0, jobs: Ranges = ()) -> None:
        """Ask, once, for something to be done; the Answer comes into `answers`."""
        self._commands.append(Command(self.client, verb, batch, seq, number, jobs))

    def query(self, verb: str, batch: str | None = None, seq: int = 0) -> None:
        """Ask a question that changes nothing; answers come into `answers` or `pages`, which are emptied first.

        It is asked anew in each new connection until `end_query`: a dealer that was killed took the question with it.
        """
        self.answers.clear()
        self.pages.clear()
        self._query = Command(client=self.client, verb=verb, batch=batch, seq=seq)
        self._query_due = True

    def end_query(self) -> None:
        """Stop asking: the answer has come."""
        self._query = None

    def leave(self) -> None:
        """Say goodbye after everything else."""
        self._bye_due = True

    def pause_liveness(self, now: int) -> None:
        """Count the dealer as heard: it may have spoken while its queue was not read."""
        self._heard_at = now

    def reconnect(self, now: int) -> None:
        """Say hello again, as a new connection about the same batch: the dealer is in doubt."""
        if self.connecting:
            return
        self.connecting = True
        self.hello_due = self._connecting_since = now
        patience_ns, welcome = self.options.timeouts.reconnect_ns, self.welcome
        self.turn = Turn(patience_ns, now + patience_ns)
        if welcome is not None and not self.options.private:  # of a private one, who has started it tells
            text = unreachable.gone(self.pool, welcome.pid, human(patience_ns), journaled=welcome.journaled)
            self.turn.tell_later(text, now)

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> int:
        """Return when `tick` has something to do, at the latest."""
        if self.connecting:
            return min(self.hello_due, self.turn.next_deadline())
        due = min(self._ping_due, self._heard_at + limits.REPLY_OVERDUE_NS)
        return min(due, self.submissions.next_deadline() or due)

    def tick(self, now: int) -> None:
        """Check what is overdue. Raises DealerUnreachable after the time-out; or UsageError when another client holds
        the batch, PoolRefuses or QueueRoomTaken when others leave no room."""
        if self.connecting:
            if now >= self.turn.deadline:
                raise self.turn.error or DealerUnreachable(self._unanswered(now))
            self.turn.tick(now)
            return
        if now >= self._ping_due:
            self._ping_due = now + limits.PING_NS
            self._ping_wanted = True
            self.deliveries.repeat_acknowledgement()
        if now >= self._heard_at + limits.REPLY_OVERDUE_NS:
            self.reconnect(now)
        else:
            self.submissions.tick(now)

    def _unanswered(self, now: int) -> str:
        waited = human(now - self._connecting_since)
        if self.welcome is not None:
            accepted, received = self.submissions.accepted, self.deliveries.cursor
            return unreachable.lost(self.pool, self.welcome.pid, waited, accepted, received)
        if self.options.private:
            return f"the private dealer did not answer within {waited}; --dealer-timeout waits longer"
        return unreachable.no_answer(self.pool, waited, said_hello=self._said_hello)

    # --- what comes in ----------------------------------------------------------------------------

    def receive(self, message: Message, now: int) -> list[Outcome]:
        """Take one message and return the outcomes that are new in it.

        Raises UsageError, PoolRefuses and DealerUnreachable for what ends the session. A message for another client,
        or one that has come before, is dropped.
        """
        # The slot's queue may hold what the dealer sent to the client that had the slot before.
        if getattr(message, "client", None) != self.client:
            return []
        match message:
            case Welcome():
                self._on_welcome(message, now)
            case Accepted():
                self._on_accepted(message, now)
            case Refused():
                self._on_refused(message, now)
            case Outcomes():
                self._heard_at = now
                self._on_outcomes(message, now)
            case Answer():
                self._heard_at = now
                self.answers.append(message)
            case Pong():
                self._heard_at = now
            case _:
                pass  # a message that only clients or workers send: what comes off a queue is not to be trusted
        # What may be another job's outcome is not delivered before the job was compared (docs/protocol.md, 6.7).
        comparing = self.submissions.comparing
        return self.deliveries.take_due(self.submissions.accepted if comparing else self.submissions.submitted)

    def check_version(self, message: OtherVersion) -> None:
        """Raise DealerUnreachable when a message of another version is a dealer's answer to a hello of this client."""
        head = message.head
        if not isinstance(head, VersionRefused) or head.client != self.client:
            return
        raise DealerUnreachable(unreachable.other_version(self.pool, message.version, head))

    def _on_welcome(self, welcome: Welcome, now: int) -> None:
        previous = self.welcome
        self._heard_at = now
        if not self.connecting:
            return  # the answer to a hello that was sent twice
        self.welcome = welcome
        # Before the batch is looked at: a client that does not want it must be able to say goodbye, or the dealer
        # holds the batch for it until it counts as dead.
        self.connecting = False
        self.turn.answered(f"A dealer of pool {self.pool!r} answers, PID {welcome.pid}")
        self.generation += 1
        self._query_due = self._query is not None
        if self.batch is not None:
            try:
                self._check_batch(welcome, previous)
            except TaskpoolError:
                # The goodbye goes out after this; none of our jobs may go into another's batch with it.
                self.submissions = Submissions(self.client, self.batch, now)
                raise
        self._ping_due = now + limits.PING_NS
        self.deliveries.repeat_acknowledgement()
        if not self.submissions.comparing:
            self.submissions.accept(welcome.accepted, now, closed=welcome.total is not None)
        self.submissions.rewind(now)

    def _check_batch(self, welcome: Welcome, previous: Welcome | None) -> None:
        if previous is None:
            if self.options.extend:
                self._extend(welcome)
            elif not self.options.resume and (welcome.accepted or welcome.last_no or welcome.total is not None):
                raise UsageError(
                    f"batch {self.batch!r} exists already in pool {self.pool!r} ({counted(welcome.accepted, 'job')}, "
                    f"{counted(welcome.last_no, 'outcome')}): add --resume to go on with it, or choose another --batch"
                )
            if welcome.last_no < self.deliveries.cursor:  # it had more when it was asked, a moment ago
                gone = f"pool {self.pool!r} has let go of batch {self.batch!r}"
                had = f"{self.deliveries.cursor} outcomes were received"
                raise JobsLost(f"{gone}, of which {had}: submit it again under another name")
        elif welcome.accepted < self.submissions.accepted or welcome.last_no < self.deliveries.cursor:
            # A dealer with the journal knows at least what it has told us: accepted and told come after the commit.
            ours = unreachable.Standing(self.submissions.accepted, self.deliveries.cursor)
            theirs = unreachable.Standing(welcome.accepted, welcome.last_no)
            kind = OlderJournal if any(theirs) else JobsLost
            raise kind(unreachable.replaced(self.pool, (previous.epoch, welcome.epoch), ours, theirs))
        compares = self.options.resume and not self.options.extend
        if compares or welcome.accepted > self.submissions.sent_upto:
            # Of another client of this batch: what it left in the queues may be accepted long after it is gone.
            self.submissions.compare_first(welcome.accepted, adopt=self.options.adopt)

    def _extend(self, welcome: Welcome) -> None:
        if welcome.total is not None:
            raise UsageError(f"batch {self.batch!r} was closed at {welcome.total} jobs: choose another one")
        self.submissions.begin_behind(welcome.accepted)

    def _on_accepted(self, accepted: Accepted, now: int) -> None:
        self._heard_at = now
        if accepted.batch == self.batch:
            self.submissions.accept(accepted.upto, now, closed=accepted.closed)

    def _on_refused(self, refused: Refused, now: int) -> None:
        self._heard_at = now
        if refused.batch is not None and refused.batch != self.batch:
            return
        match refused.reason:
            case "full" if self.options.wait_for_room and self.connecting and not refused.first_seq:
                text = self._refusal(refused)
                self.hello_due = self.turn.await_room(PoolRefuses, "another generator leaves", text, now)
            case "full" if self.options.wait_for_room:
                self.submissions.pause(now)
            case "gap":
                self.submissions.rewind_once(now)
            case "unknown_batch":
                self.reconnect(now)
            case "gone":
                raise JobsLost(f"pool {self.pool!r}: {refused.text}; {self.deliveries.cursor} were received")
            case _:
                self._on_final_refusal(refused, now)

    def _on_final_refusal(self, refused: Refused, now: int) -> None:
        resume = self.options.resume
        if self.connecting and resume and refused.reason == "conflict":
            self.hello_due = self.turn.await_holder(self._refusal(refused), refused.text, now)
            return
        if resume and not self.connecting and refused.reason in ("conflict", "closed"):
            total = self.welcome.total if self.welcome is not None else None
            raise UsageError(unreachable.changed_input(refused, self.batch, total))
        if self.connecting:
            kind = PoolRefuses if refused.reason in REFUSED_FOR_NOW else UsageError
            raise kind(self._refusal(refused))
        self.submissions.refuse(refused, for_now=refused.reason in REFUSED_FOR_NOW)

    def _refusal(self, refused: Refused) -> str:
        return f"pool {self.pool!r} refuses: {refused.text}"

    def _on_outcomes(self, outcomes: Outcomes, now: int) -> None:
        if self.options.collect_pages:
            self.pages.append(outcomes)
            return
        if outcomes.batch != self.batch or self.options.detached:
            return
        if self.connecting:
            return  # they come again after the welcome; without it nothing says which of them are ours
        seq_max = max(self.submissions.submitted, self.submissions.known)
        behind_gap = self.deliveries.receive(outcomes.items, seq_max)
        if behind_gap is None:
            return
        if self.deliveries.gaps > GAPS_MAX:
            raise DealerUnreachable(
                f"the dealer of pool {self.pool!r} does not tell outcome {self.deliveries.cursor + 1} of a job that it "
                f"has: it goes on with outcome {behind_gap}, asked {GAPS_MAX} times"
            )
        self.reconnect(now)
