"""The generator's side of the connection with a dealer. Decisions only: no queue, no clock, no file.

Rules of this file:
1. Messages come in through `receive`, time through `tick`; what is to be sent is pulled, one message at a
   time, by `next_control` and `next_intake`. Whoever pulls a message sends it.
2. Nothing is believed to have arrived. Submissions are kept until accepted and sent again from the first
   one that is not; outcomes are numbered, and a gap means asking again from the last one held.
3. Whenever the dealer is in doubt (silent, restarted, its queues gone) there is one cure: `reconnect`, a
   new hello over new queues with the cursor of what is held.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from taskpool import limits
from taskpool.client.submissions import Submissions
from taskpool.clock import MILLISECOND
from taskpool.codec import encode
from taskpool.durations import human
from taskpool.errors import DealerUnreachable, ExitCode, TaskpoolError, UsageError
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
    Refused,
    Welcome,
)

HELLO_DELAY_NS_MIN = 2 * MILLISECOND  # a private dealer is there in some tens of milliseconds
HELLO_DELAY_NS_MAX = 250 * MILLISECOND
HELD_DELAY_NS = 1_000 * MILLISECOND
HELD_NS_MAX = 2 * limits.REPLY_OVERDUE_NS  # a dead holder is let go of in half that time
GAPS_MAX = 8  # hellos because of missing outcomes, without one outcome in between

REFUSED_FOR_NOW = frozenset({"full", "draining"})


class DealerTimeouts(NamedTuple):
    """How long to wait for a dealer that does not answer: for its first welcome, and for it to come back."""

    first_ns: int = limits.FIRST_WELCOME_NS
    return_ns: int = limits.RETURN_WELCOME_NS


class PoolRefuses(TaskpoolError):
    """The pool takes nothing now: it is full, or about to end."""

    exit_code = ExitCode.REFUSED


class JobsLost(DealerUnreachable):
    """Accepted jobs are gone, or what became of them: the dealer came back without the journal they were in, if there
    was one, or kept them no longer."""


class Session:
    """One connection, for one batch or (`batch` None) just for commands."""

    def __init__(
        self,
        pool: str,
        client: int,
        pid: int,
        version: str,
        now: int,
        *,
        batch: str | None = None,
        wanted: Limits = DEFAULT_LIMITS,
        detached: bool = False,
        waits: bool = True,
        dealer_timeouts: DealerTimeouts = DealerTimeouts(),
        private: bool = False,
        resume: bool = False,
        cursor: int = 0,
        collects: bool = False,
    ) -> None:
        """`private`: the dealer serves this batch only; `resume`: the batch may be there already, and the jobs up to
        here are to be compared with it; `cursor`: the last outcome that an earlier generator acknowledged;
        `collects`: outcomes go into `pages` as they come."""
        self.pool = pool
        self.client = client
        self.batch = batch
        self._pid = pid
        self._version = version
        self._limits = wanted
        self._detached = detached
        self._waits = waits  # for room in a full pool
        self._dealer_timeouts = dealer_timeouts
        self._private = private
        self._resume = resume

        self.connecting = True
        self.hello_due = now
        self._hello_delay = HELLO_DELAY_NS_MIN
        self._called_since = now
        self._deadline = now + dealer_timeouts.first_ns
        self._heard_at = now
        self._ping_due = now
        self._ping_wanted = False
        self.welcome: Welcome | None = None  # the latest
        self.generation = 0  # welcomes that began a new connection, not repeated ones
        self.held = ""  # why a batch that is to be resumed cannot be had yet

        self.submissions = Submissions(client, batch or "", now)
        self.cursor = cursor  # the last outcome received, without a gap
        self._early: deque[Outcome] = deque()  # of jobs not yet compared, and those behind them
        self._stored = self._acked = max(0, cursor - 1)  # the last acknowledgement lets a private dealer go
        self._ack_due = False
        self._gaps = 0

        self._commands: deque[Command] = deque()
        self.answers: deque[Answer] = deque()
        self._collects = collects
        self.pages: deque[Outcomes] = deque()
        self._bye = False

    # --- what is to be sent -----------------------------------------------------------------------

    def hello(self, slot: int, now: int) -> bytes:
        """The hello for the reply queue in `slot`. It is said again until somebody answers."""
        self.hello_due = now + limits.RESEND_NS
        return encode(
            Hello(
                client=self.client,
                slot=slot,
                pid=self._pid,
                batch=self.batch,
                limits=self._limits,
                cursor=self._stored,  # not what was received: the dealer takes it for an acknowledgement
            )
        )

    def dealer_missing(self, now: int) -> None:
        """The dealer's queue is not there (yet), or a hello went into one that lost its name."""
        self.hello_due = now + self._hello_delay
        self._hello_delay = min(self._hello_delay * 2, HELLO_DELAY_NS_MAX)

    def next_control(self) -> bytes | None:
        """The next message for the control queue. Commands come before acknowledgements: the last
        acknowledgement lets a private dealer go, and it should answer first."""
        if self.connecting:
            return None
        if self._commands:
            return encode(self._commands.popleft())
        if self.batch is not None and (self._acked < self._stored or self._ack_due):
            self._acked, self._ack_due = self._stored, False
            return encode(Ack(client=self.client, batch=self.batch, upto=self._stored))
        if self._ping_wanted:
            self._ping_wanted = False
            return encode(Ping(client=self.client))
        if self._bye:
            self._bye = False
            return encode(Bye(client=self.client))
        return None

    def next_intake(self, now: int) -> bytes | None:
        """The next message for the intake queue."""
        return None if self.connecting or self.batch is None else self.submissions.next_message(now)

    # --- what the program wants -------------------------------------------------------------------

    def store(self, upto: int) -> None:
        """Outcomes up to this number are safe here: they may be acknowledged."""
        self._stored = max(self._stored, min(upto, self.told))

    @property
    def told(self) -> int:
        """The last outcome that `receive` returned."""
        return self.cursor - len(self._early)

    def command(self, verb: str, batch: str | None = None, seq: int = 0, number: int = 0) -> None:
        """Asks for something; its Answer comes into `answers`."""
        self._commands.append(Command(client=self.client, verb=verb, batch=batch, seq=seq, number=number))

    def leave(self) -> None:
        """Says goodbye after everything else."""
        self._bye = True

    def pause_liveness(self, now: int) -> None:
        """The dealer may have spoken, but nobody here listened."""
        self._heard_at = now

    def reconnect(self, now: int) -> None:
        """The dealer is in doubt: say hello again, as a new connection about the same batch."""
        if self.connecting:
            return
        self.connecting = True
        self.hello_due = self._called_since = now
        self._hello_delay = HELLO_DELAY_NS_MIN
        self._deadline = now + self._dealer_timeouts.return_ns

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> int:
        """When `tick` has something to do, at the latest."""
        if self.connecting:
            return min(self.hello_due, self._deadline)
        due = min(self._ping_due, self._heard_at + limits.REPLY_OVERDUE_NS)
        return min(due, self.submissions.next_deadline() or due)

    def tick(self, now: int) -> None:
        """Judge what is overdue. Raises DealerUnreachable after the time-out, UsageError when the batch stays held."""
        if self.connecting:
            if now >= self._deadline:
                if self.held:
                    raise UsageError(f"pool {self.pool!r} refuses: {self.held}")
                raise DealerUnreachable(self._unanswered(now))
            return
        if now >= self._ping_due:
            self._ping_due = now + limits.PING_NS
            self._ping_wanted = True
            self._ack_due = self._stored > 0  # the last one may be lost; it says the same twice
        if now >= self._heard_at + limits.REPLY_OVERDUE_NS:
            self.reconnect(now)
        else:
            self.submissions.tick(now)

    def _unanswered(self, now: int) -> str:
        waited = human(now - self._called_since)
        if self.welcome is None and self._private:
            return f"the private dealer did not answer within {waited}; --dealer-timeout waits longer"
        if self.welcome is None:
            return (
                f"no dealer answers for pool {self.pool!r} within {waited}. Start one with `tp-dealer --pool "
                f"{self.pool}`, or leave --pool out for a private one. Queues belong to an IPC namespace: a dealer in "
                "another container is only seen when both share one. --dealer-timeout waits longer"
            )
        return (
            f"the dealer of pool {self.pool!r} (pid {self.welcome.pid}) was lost and none came back within {waited}; "
            f"{self.submissions.accepted} jobs were accepted and {self.cursor} outcomes received"
        )

    # --- what comes in ----------------------------------------------------------------------------

    def receive(self, message: Message, now: int) -> list[Outcome]:
        """Takes one message and returns the outcomes that are new in it.

        Raises UsageError, PoolRefuses and DealerUnreachable for what ends the session. What is not for
        this generator, or has come before, is dropped.
        """
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
                pass  # a generator's own words, or a worker's: whoever sent them here, they mean nothing
        return self._due_outcomes()

    def _on_welcome(self, welcome: Welcome, now: int) -> None:
        known = self.welcome
        self._heard_at = now
        if not self.connecting:
            return  # the answer to a hello said twice
        self.welcome = welcome
        self.connecting = False  # before the batch is looked at: who does not want it must be able to say goodbye
        self.generation += 1
        if self.batch is not None:
            try:
                self._check_batch(welcome, known)
            except TaskpoolError:
                self.submissions = Submissions(
                    self.client, self.batch, now
                )  # nothing of ours goes into it with the goodbye
                raise
        self._ping_due = now + limits.PING_NS
        self._ack_due = self._stored > 0
        if not self.submissions.comparing:
            self.submissions.accept(welcome.accepted, now, closed=welcome.total is not None)
        self.submissions.rewind(now)

    def _check_batch(self, welcome: Welcome, known: Welcome | None) -> None:
        if known is None and self._resume:
            self.submissions.known = welcome.accepted
        elif known is None:
            if welcome.accepted or welcome.last_no or welcome.total is not None:
                raise UsageError(
                    f"batch {self.batch!r} exists already in pool {self.pool!r} ({welcome.accepted} jobs accepted, "
                    f"{welcome.last_no} outcomes): add --resume to go on with it, or choose another --batch"
                )
        elif welcome.accepted < self.submissions.accepted or welcome.last_no < self.cursor:
            gone = max(0, self.submissions.accepted - self.cursor)
            raise JobsLost(
                f"the dealer of pool {self.pool!r} was replaced (epoch {known.epoch}, then {welcome.epoch}) by one "
                f"without its journal: {gone} accepted jobs without an outcome are gone, {self.cursor} had finished"
            )

    def _on_accepted(self, accepted: Accepted, now: int) -> None:
        self._heard_at = now
        if accepted.batch == self.batch:
            self.submissions.accept(accepted.upto, now, closed=accepted.closed)

    def _on_refused(self, refused: Refused, now: int) -> None:
        self._heard_at = now
        if refused.batch is not None and refused.batch != self.batch:
            return
        match refused.reason:
            case "full" if self._waits:
                self.submissions.hold_back(now)
            case "gap":
                self.submissions.rewind_once(now)
            case "unknown_batch":
                self.reconnect(now)
            case "gone":
                raise JobsLost(f"pool {self.pool!r}: {refused.text}; {self.cursor} were received")
            case _:
                self._refuse(refused, now)

    def _refuse(self, refused: Refused, now: int) -> None:
        if self.connecting and self._resume and refused.reason == "conflict":
            self._wait_for_holder(refused, now)
            return
        if self._resume and not self.connecting and refused.reason in ("conflict", "closed"):
            raise UsageError(self._changed(refused))
        if self.connecting:
            kind = PoolRefuses if refused.reason in REFUSED_FOR_NOW else UsageError
            raise kind(f"pool {self.pool!r} refuses: {refused.text}")
        self.submissions.refuse(refused, for_now=refused.reason in REFUSED_FOR_NOW)

    def _wait_for_holder(self, refused: Refused, now: int) -> None:
        """The generator that was killed holds its batch until the dealer believes that it is dead."""
        if not self.held:
            self._deadline = now + HELD_NS_MAX
        self.held = refused.text
        self.hello_due = now + HELD_DELAY_NS

    def _changed(self, refused: Refused) -> str:
        total = self.welcome.total if self.welcome is not None else None
        if refused.reason == "closed" and total is not None and refused.seq > total:
            return (
                f"--resume: the input has changed: job {refused.seq} is new, and batch {self.batch} was closed at "
                f"{total} jobs; submit what is new as another --batch"
            )
        if refused.reason == "closed":
            return f"--resume: {refused.text}: it was cancelled"
        return f"--resume: the input has changed: {refused.text}"

    def _on_outcomes(self, outcomes: Outcomes, now: int) -> None:
        if self._collects:
            self.pages.append(outcomes)
            return
        if outcomes.batch != self.batch or self._detached:
            return
        if self.connecting:
            return  # they come again after the welcome; without it nothing says which of them are ours
        for outcome in outcomes.items:
            if outcome.no <= self.cursor:
                continue
            if outcome.no > self.cursor + 1:
                self._ask_for_missing(outcome.no, now)
                break
            self.cursor = outcome.no
            self._gaps = 0
            if outcome.seq <= max(self.submissions.submitted, self.submissions.known):  # nobody makes us count others
                self._early.append(outcome)

    def _due_outcomes(self) -> list[Outcome]:
        """Those whose turn has come. What may be another job's is not told before it was compared."""
        upto = self.submissions.accepted if self.submissions.comparing else self.submissions.submitted
        due: list[Outcome] = []
        while self._early and self._early[0].seq <= upto:
            due.append(self._early.popleft())
        return due

    def _ask_for_missing(self, got: int, now: int) -> None:
        self._gaps += 1
        if self._gaps > GAPS_MAX:
            raise DealerUnreachable(
                f"the dealer of pool {self.pool!r} does not tell outcome {self.cursor + 1}: it goes on with {got}, "
                f"asked {GAPS_MAX} times"
            )
        self.reconnect(now)
