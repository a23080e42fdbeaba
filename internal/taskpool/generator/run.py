"""One batch, from its first job to its last outcome: the generator's loop.

Each turn: wait for something to happen; then signals, the dealer's words, the private dealer's life, the
next jobs, what is to be sent, what is to be written. Nothing in a turn waits for anybody.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from signal import Signals

from taskpool.client.connection import Connection
from taskpool.client.session import REFUSED_FOR_NOW
from taskpool.clock import MILLISECOND, SECOND, Clock
from taskpool.errors import ExitCode, UsageError
from taskpool.generator.input.feed import Feed
from taskpool.generator.job_limits import HaltRule
from taskpool.generator.output.console import Console
from taskpool.generator.output.formats import why
from taskpool.generator.output.printer import Printer
from taskpool.generator.output.progress import Progress
from taskpool.generator.private.process import PrivateDealer
from taskpool.generator.signals import STOP_SIGNALS
from taskpool.generator.totals import Totals
from taskpool.log import Fact
from taskpool.messages import Outcome, Refused, State
from taskpool.procs.signals import Wakeup

SETTLE_NS_MAX = 1 * SECOND  # how long the last question may keep the human waiting
BYE_NS_MAX = 200 * MILLISECOND
_UNREMARKABLE = frozenset({State.SUCCEEDED, State.CANCELLED})


class BatchRun:
    """Feeds a batch to a dealer and takes its outcomes. `run` returns when there is no more to wait for."""

    def __init__(
        self,
        connection: Connection,
        feed: Feed,
        printer: Printer,
        totals: Totals,
        progress: Progress,
        console: Console,
        clock: Clock,
        wakeup: Wakeup,
        *,
        private: PrivateDealer | None = None,
        halt: HaltRule | None = None,
        detach: bool = False,
    ) -> None:
        self._connection = connection
        self._session = connection.session
        self._feed = feed
        self._printer = printer
        self._totals = totals
        self._progress = progress
        self._console = console
        self._clock = clock
        self._wakeup = wakeup
        self._private = private
        self._halt = halt
        self._detach = detach
        self.codes: set[ExitCode] = set()  # what has gone wrong so far
        self._settling = False
        self._begun = False  # the batch is ours: the dealer has said so
        self._stopping = False  # no more jobs: a signal, --halt, or the pool refused them
        self._halting = False
        self._halted_in = 0  # the connection in which the dealer was told of --halt

    @property
    def total(self) -> int:
        """How many jobs the batch has, as far as is known."""
        return max(self._feed.total or 0, self._session.submissions.submitted)

    @property
    def complete(self) -> bool:
        """Every job has its outcome, or (detached) its acceptance."""
        return self._session.submissions.settled and (
            self._detach or self._totals.finished >= self._session.submissions.submitted
        )

    @property
    def stopped(self) -> bool:
        """It was ended on purpose before all was done."""
        return self._stopping

    @property
    def _leaving(self) -> bool:
        """The private dealer was told to leave: it waits for us to hear its last words."""
        return self.interrupted or (ExitCode.HALTED in self.codes and not self._halting)

    @property
    def interrupted(self) -> bool:
        return not self.codes.isdisjoint(STOP_SIGNALS.values())

    def run(self) -> None:
        """Until the batch is complete, its private dealer has ended, or a signal takes us from a named pool.

        Raises DealerUnreachable, UsageError, ConfigurationError and OutputClosed.
        """
        while not self._over():
            self._turn()

    def settle(self) -> bytes | None:
        """Asks the dealer for its status and acknowledges the last outcome, which lets a private one go.

        Returns the status as JSON; None when it does not come soon.
        """
        self._settling = True
        self._session.answers.clear()
        self._session.command("status")
        self._acknowledge()
        deadline = self._now() + SETTLE_NS_MAX
        self._flush(deadline)
        while self._dealer_listens and self._now() < deadline and self._status is None:
            self._turn(until=deadline)
        return self._status

    @property
    def _status(self) -> bytes | None:
        return next((answer.body for answer in self._session.answers if answer.verb == "status"), None)

    def finish_writing(self) -> None:
        """Waits until everything is written, whoever reads it. A signal ends the wait."""
        self._printer.release()
        self._write()
        while not self._printer.idle and not self._wakeup.pending():
            self._wait_for_room(self._now() + SECOND)
            self._write()

    def send_bye(self) -> None:
        """Tells a dealer that stays. Best effort: it would find out by itself."""
        self._session.leave()
        self._flush(self._now() + BYE_NS_MAX)

    def _flush(self, deadline: int) -> None:
        """Gets what is to be said into the queues, if they have room in time."""
        while self._dealer_listens:
            self._connection.send(self._now())
            if not self._connection.writable or self._now() >= deadline:
                return
            self._wait_for_room(deadline)

    @property
    def _dealer_listens(self) -> bool:
        return not self._session.connecting and (self._private is None or self._private.exit is None)

    # --- a turn -----------------------------------------------------------------------------------

    def _dealer_has_ended(self) -> bool:
        return self._private is not None and self._private.look() is not None

    def _over(self) -> bool:
        if self._private is not None and self._private.exit is not None:
            return True
        if self._private is None and self.interrupted:
            return True
        return self.complete and self._printer.idle

    def _turn(self, until: int | None = None) -> None:
        ready = self._wait(until)
        now = self._now()
        self._hear_signals(self._wakeup.pending(), now)
        gone = self._dealer_has_ended()  # looked at before its last words are read
        if gone or not self._printer.congested:
            self._take_outcomes(now)
        else:
            self._session.pause_liveness(now)
        self._write()
        if gone and not self._revive(now):
            return
        self._acknowledge()
        self._submit(ready)
        self._repeat_halt()
        self._connection.send(now)
        self._progress.show(self._known_total(), now)

    def _wait(self, until: int | None) -> set[int]:
        """Until something can be done. Returns the descriptors that are ready."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if self._private is not None:
            poll.register(self._private.pidfd, select.POLLIN)
            until = self._private.leave_by if until is None else min(until, self._private.leave_by)
        if self._connection.readable is not None and not self._printer.congested:
            poll.register(self._connection.readable, select.POLLIN)
        if self._may_submit and self._feed.waits_for is not None:
            poll.register(self._feed.waits_for, select.POLLIN)
        for fd in (*self._connection.writable, *self._printer.writable):
            poll.register(fd, select.POLLOUT)
        deadlines = (self._connection.next_deadline(), self._progress.due, until)
        return self._poll(poll, min(due for due in deadlines if due is not None))

    def _wait_for_room(self, until: int) -> None:
        """Until something can be written, or a signal comes."""
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        for fd in (*self._connection.writable, *self._printer.writable):
            poll.register(fd, select.POLLOUT)
        self._poll(poll, until)

    def _poll(self, poll: select.poll, deadline: int) -> set[int]:
        rest_ms = -(-(deadline - self._now()) // MILLISECOND)  # rounded up: not to wake just before it
        return {fd for fd, _ in poll.poll(max(0, rest_ms))}

    def _now(self) -> int:
        return self._clock.now().mono

    # --- its parts --------------------------------------------------------------------------------

    def _hear_signals(self, signals: Iterable[Signals], now: int) -> None:
        for number in signals:
            if number in STOP_SIGNALS:
                self._stop(STOP_SIGNALS[number], for_good=False)
            if self._private is not None:
                self._private.tell(number, now)
        if self._private is not None:
            self._private.kill_if_overdue(now)

    def _revive(self, now: int) -> bool:
        """A private dealer that was killed is started again, unless it was about to leave anyway."""
        if self._private is None or self.stopped or self.complete or not self._private.revive():
            return False
        self._session.reconnect(now)
        return True

    def _take_outcomes(self, now: int) -> None:
        outcomes = self._connection.receive(now)
        if self._session.welcome is not None and not self._begun:
            self._begun = True
            self._printer.begin()
        for outcome in outcomes:
            self._totals.add(outcome)
            if outcome.state not in _UNREMARKABLE:
                self._report_failure(outcome)
            self._printer.take(outcome)
        if self._session.submissions.refusal is not None:
            self._refuse(self._session.submissions.refusal)
        if self._halt is not None and outcomes and not self._stopping:
            self._check_halt(self._halt)

    def _write(self) -> None:
        if self._printer.on_terminal:
            self._console.hide_bar()
        self._printer.pump()

    def _acknowledge(self) -> None:
        """What is written is acknowledged. A private dealer ends with the last acknowledgement, so one is
        kept back until `settle` has asked it for its status."""
        if self._printer.idle:
            hold_back = self._private is not None and not self._leaving and not self._settling
            self._session.store(self._session.told - hold_back)

    def _submit(self, ready: set[int]) -> None:
        if self._feed.waits_for in ready:
            self._feed.fill()
        bytes_max = self._connection.intake_bytes
        while bytes_max is not None and self._session.submissions.room and (jobs := self._feed.take(bytes_max)):
            self._printer.remember(self._session.submissions.submitted + 1, jobs)
            self._session.submissions.submit(jobs)
        if not self._feed.ended:
            return
        if self._feed.error is not None and ExitCode.USAGE not in self.codes:
            self.codes.add(ExitCode.USAGE)
            before = (
                f"; the {self._session.submissions.submitted} jobs before it run"
                if self._session.submissions.submitted
                else ""
            )
            self._console.error(f"{self._feed.error}{before}")
        if not self._stopping and self._session.welcome is not None:
            self._finish()

    def _finish(self) -> None:
        """The input has ended. Raises UsageError when it is shorter than what an earlier run has submitted."""
        submissions = self._session.submissions
        if submissions.submitted >= submissions.known:
            submissions.finish()
        elif submissions.accepted == submissions.submitted:  # all there is was compared
            raise UsageError(
                f"--resume: the input has changed: it ends after {submissions.submitted} jobs; "
                f"job {submissions.submitted + 1} of the {submissions.known} that batch {self._session.batch} has "
                "accepted is missing"
            )

    @property
    def _may_submit(self) -> bool:
        return self._session.submissions.room and self._connection.intake_bytes is not None

    def _known_total(self) -> int | None:
        return self._session.submissions.submitted if self._feed.ended else self._feed.total

    # --- stopping ---------------------------------------------------------------------------------

    def _stop(self, code: ExitCode, *, for_good: bool) -> None:
        """No more jobs. Those sent are told; those only read are forgotten. `for_good`: the batch is closed with
        them, and nobody can add the others in another run."""
        self.codes.add(code)
        self._stopping = True
        self._feed.stop()
        if for_good:
            self._session.submissions.cut()
        else:
            self._session.submissions.abandon()

    def _check_halt(self, halt: HaltRule) -> None:
        if not halt.reached(self._totals.failed, self._totals.finished):
            return
        self._console.info(f"Halting: {self._totals.failed} of {self._totals.finished} finished jobs failed")
        if self._private is not None and self._private.journaled:
            # Not cancelled, which would be an outcome: what does not run now is there for another run.
            self._stop(ExitCode.HALTED, for_good=False)
            self._private.forward(Signals.SIGQUIT if halt.now else Signals.SIGINT)
        else:
            self._stop(ExitCode.HALTED, for_good=True)
            self._halting = True
            self._repeat_halt()

    def _repeat_halt(self) -> None:
        """Once to each dealer: one that was killed may have been told and have told nobody."""
        if self._halting and self._halt is not None and self._halted_in != self._session.generation:
            self._halted_in = self._session.generation
            self._session.command("cancel" if self._halt.now else "cancel-waiting", self._session.batch)

    def _refuse(self, refusal: Refused) -> None:
        """The dealer takes no more. After a stop of our own that is no news."""
        if self._stopping:
            return
        for_now = refusal.reason in REFUSED_FOR_NOW
        self._stop(ExitCode.REFUSED if for_now else ExitCode.USAGE, for_good=not for_now)
        later = f"; --batch {self._session.batch} --resume adds the others later" if for_now else ""
        self._console.error(
            f"job {refusal.seq} and those after it were refused ({refusal.reason}): {refusal.text}; "
            f"{self._session.submissions.submitted} jobs are accepted{later}"
        )

    def _report_failure(self, outcome: Outcome) -> None:
        name = f"{outcome.kind}, {outcome.label}" if outcome.label else outcome.kind
        fields: dict[str, Fact] = {"job": f"{self._session.batch}/{outcome.seq}", "state": str(outcome.state)}
        self._console.warning(f"Job {outcome.seq} ({name}) {why(outcome)}", fields)
