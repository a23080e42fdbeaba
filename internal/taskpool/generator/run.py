"""One batch, from its first job to its last outcome: what the generator does in each turn of its connection.

The loop is `Connection.run_until`. Each turn: signals; messages of the dealer, and what their outcomes print; whether a
private dealer still lives; acknowledgements and the next jobs; what is to be sent. Nothing in a turn waits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from contextlib import suppress
from signal import Signals
from typing import NamedTuple

from taskpool.client.connection import Connection, DealerEnded, TurnHandler
from taskpool.client.session import REFUSED_FOR_NOW
from taskpool.clock import SECOND, AwakeClock, Instant
from taskpool.errors import ExitCode, UsageError, counted
from taskpool.generator.failures import UNREMARKABLE, Flood, cause, describe
from taskpool.generator.halt import HaltRule
from taskpool.generator.input.feed import Feed
from taskpool.generator.new_runs import NewRuns
from taskpool.generator.options import SubmitOptions
from taskpool.generator.output.console import Console
from taskpool.generator.output.printer import Printer
from taskpool.generator.output.progress import Progress
from taskpool.generator.output.stream import write_out
from taskpool.generator.pool_watch import PoolWatch
from taskpool.generator.signals import STOP_SIGNALS, Interrupted, what_follows
from taskpool.generator.totals import Totals
from taskpool.log import Fact
from taskpool.messages import Outcome, Refused
from taskpool.private.process import PrivateDealer
from taskpool.procs.signals import Wakeup
from taskpool.procs.wait import Descriptor
from taskpool.procs.writer import STUCK_NS

# How long the last question may keep a person waiting: all it brings is a number in the summary.
STATUS_NS_MAX = 1 * SECOND


class RunParts(NamedTuple):
    """What one batch's run is made of. The loop and the report on it share them."""

    options: SubmitOptions
    feed: Feed
    printer: Printer
    totals: Totals
    progress: Progress
    console: Console
    clock: AwakeClock
    began: Instant  # before a private dealer was started
    wakeup: Wakeup
    private: PrivateDealer | None
    again: dict[int, int] | None = None  # jobs that run again, with the run that has ended; none: some of them do


class BatchRun(TurnHandler):
    """Feeds a batch to a dealer and takes its outcomes. `run` returns when there is no more to wait for."""

    def __init__(self, parts: RunParts, connection: Connection) -> None:
        self.session = connection.session
        self.connection = connection
        self._feed = parts.feed
        self._printer = parts.printer
        self._totals = parts.totals
        self._progress = parts.progress
        self._console = parts.console
        self._clock = parts.clock
        self._wakeup = parts.wakeup
        self._private = parts.private
        self._halt = parts.options.halt
        self._detach = parts.options.detach
        self._resumes = parts.options.resume
        self._again = parts.again
        self._new_runs = None if parts.again is None else NewRuns(parts.again, self.session, parts.console)
        # A named pool may have others of its jobs open; a private dealer leaves only when none is.
        self._awaits_only_new = bool(parts.again) and parts.private is None
        self.codes: set[ExitCode] = set()  # what has gone wrong so far
        self.stopped = False  # no more jobs: a signal, --halt, or the pool refused them
        self.halted: HaltRule | None = None  # the rule that has stopped it
        self._begun = False  # the batch is ours: the dealer has said so
        self._told_before = 0  # the last outcome that was there then
        self._began_wall_ns = parts.began.wall
        self._concluding = False
        self._halting = False
        self._flood = Flood()
        watched = parts.progress.is_shown or os.isatty(2)
        self._watch = PoolWatch(self.session, parts.console, often=watched, private=parts.private is not None)
        self._halted_in = 0  # the connection in which the dealer was told of --halt

    @property
    def total(self) -> int:
        """How many jobs the batch has, as far as is known."""
        return max(self._feed.total or 0, self.session.submissions.submitted)

    @property
    def complete(self) -> bool:
        """Whether every job has its outcome, or (detached) its acceptance; of new runs, whether each of them has."""
        if self._new_runs is not None and (self._awaits_only_new or not self._new_runs.complete):
            return self._new_runs.complete
        return self.session.submissions.settled and (
            self._detach or self._totals.finished >= self.session.submissions.submitted
        )

    @property
    def interrupted(self) -> bool:
        """Whether a signal has stopped it."""
        return not self.codes.isdisjoint(STOP_SIGNALS.values())

    def run(self) -> None:
        """Return when the batch is complete, its private dealer has ended, or a signal detaches us from a named pool.

        Raises DealerUnreachable, UsageError, ConfigurationError and OutputClosed.
        """
        with suppress(DealerEnded):  # `PrivateDealer.exit` says how
            self.connection.run_until(self._is_over, self)

    def conclude(self) -> bytes | None:
        """Ask the dealer for its status and acknowledge the last outcome, which lets a private one go.

        Returns the status as JSON; None when it does not come soon.
        """
        self._concluding = True
        self.session.answers.clear()
        self.session.command("status")
        deadline = self._clock.now().mono + STATUS_NS_MAX
        if self._dealer_listens:
            with suppress(DealerEnded):
                self.connection.run_until(self._is_concluded, self, deadline)
        return self._status

    def _is_concluded(self) -> bool:
        # The acknowledgement goes out behind the question, so it may wait for room when the answer is there.
        return (self._status is not None and not self.connection.writable) or not self._dealer_listens

    def finish_writing(self, *, jobs_lost: bool = False) -> None:
        """Wait until everything is written, however slowly it is read. A signal ends the wait, and one that came before
        ends it when the reader is stuck. `jobs_lost`: no run can go on with this batch."""
        welcome, held = self.session.welcome, self._printer.held
        if welcome is None or not welcome.journaled or jobs_lost:
            self._printer.release_held()
        elif held:
            self._console.info(
                f"Outcomes behind a job that has not ended: {held}; --keep-order holds them back for the run that goes "
                "on with the batch"
            )
        if self._printer.on_terminal:
            self._console.hide_bar()
        # What is not written then is not acknowledged: another run is sent it again.
        stuck_ns = STUCK_NS if self.interrupted else None
        with suppress(Interrupted):
            write_out(self._printer, self._wakeup, stuck_ns)

    @property
    def _status(self) -> bytes | None:
        return next((answer.body for answer in self.session.answers if answer.verb == "status"), None)

    @property
    def _dealer_listens(self) -> bool:
        return not self.session.connecting and (self._private is None or self._private.exit is None)

    @property
    def _dealer_told_to_leave(self) -> bool:
        """Whether the private dealer was told to leave. It then waits for its last outcomes to be acknowledged."""
        return self.interrupted or (self.halted is not None and not self._halting)

    def _is_over(self) -> bool:
        if self._private is None and self.interrupted:
            return True  # a named pool goes on without us; a private one ends with us, and is waited for
        return self.complete and self._printer.idle

    # --- a turn -----------------------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        # Unread outcomes wait with the dealer, which bounds and journals them; here they would only take memory.
        return self._printer.congested

    def readable(self) -> Iterable[Descriptor]:
        yield self._wakeup
        if self._may_submit and self._feed.waits_for is not None:
            yield self._feed.waits_for
        yield from self._printer.waits_for

    def next_deadline(self) -> int | None:
        kill_at = None if self._private is None else self._private.kill_at
        look = None if self._new_runs is None else self._new_runs.next_look
        dues = (self._progress.due, self._watch.due, kill_at, look)
        return min((each for each in dues if each is not None), default=None)

    def before_receive(self, now: int) -> None:
        for number in self._wakeup.pending():
            if number in STOP_SIGNALS:
                self._stop(STOP_SIGNALS[number], close_batch=False)
            if self._private is not None:
                self._private.pass_on(number, now)
                if not self.complete and (text := what_follows(number, self._private.interrupts)):
                    self._console.info(text)
        if self._private is not None:
            self._private.kill_if_overdue(now)

    def on_received(self, outcomes: list[Outcome], now: int) -> None:
        # Not before: a batch that is refused must not cost the files that an earlier run has written.
        if self.session.welcome is not None and not self._begun:
            self._begun = True
            self._told_before = self.session.welcome.last_no
            self._printer.begin()
            self._progress.pace.begin(now)
        for outcome in outcomes:
            # A private dealer goes on with a batch before this program can say hello.
            is_old = outcome.no <= self._told_before and outcome.finished_wall_ns < self._began_wall_ns
            self._totals.add(outcome, earlier=is_old)
            self._progress.pace.add(outcome, earlier=is_old)
            if outcome.state not in UNREMARKABLE:
                self._report_failure(outcome)
            self._printer.take(outcome)
        if not self._concluding:
            self._take_answers(now)
        if self._new_runs is not None and not self._concluding:
            self._new_runs.heard(outcomes)
            self._new_runs.look(now)
        if self.session.submissions.refusal is not None:
            self._on_refusal(self.session.submissions.refusal)
        if self._halt is not None and outcomes and not self.stopped:
            self._check_halt(self._halt)
        # The bar must go before the terminal shows a job's output, and comes back with the next draw.
        if self._printer.on_terminal:
            self._console.hide_bar()
        self._printer.pump()
        if self._private is not None and (self.stopped or self.complete):
            self._private.expect_exit()

    def before_send(self, ready: Set[int], now: int) -> None:
        self._acknowledge()
        if self._new_runs is not None and not self._concluding:
            self._new_runs.ask(now)
        self._submit(ready)
        self._repeat_halt()
        if not self._concluding:
            self._watch.ask(now)
        self._progress.running = self._watch.running
        self._progress.show(self._known_total(), now)

    def _take_answers(self, now: int) -> None:
        while self.session.answers:
            answer = self.session.answers.popleft()
            if answer.verb == "status":
                self._watch.answered(answer)
            elif self._new_runs is not None:
                self._new_runs.answered(answer, now)

    def _acknowledge(self) -> None:
        """Acknowledge what is written."""
        if self._printer.idle:
            # A private dealer ends with the last acknowledgement, so one is kept back until `conclude` has asked for
            # its status: where accepted jobs are left, another one will be the last. One that was told to leave gets
            # all, because it waits for them.
            may_be_last = self._totals.finished >= self.session.submissions.accepted
            keep_back = (
                self._private is not None and may_be_last and not self._dealer_told_to_leave and not self._concluding
            )
            self.session.deliveries.store(self.session.deliveries.delivered - keep_back)
            printed = self._printer.take_printed_files()
            if self._private is not None:
                self._private.state.empty(printed)

    def _submit(self, ready: Set[int]) -> None:
        if self._feed.waits_for in ready:
            self._feed.fill()
        submissions = self.session.submissions
        bytes_max = self.connection.intake_bytes
        # While there is room and not all at once: the input may be endless, and the window bounds what is in memory.
        while bytes_max is not None and submissions.has_room and (jobs := self._feed.take(bytes_max)):
            self._printer.remember(submissions.submitted + 1, jobs)
            submissions.submit(jobs)
            self._progress.pace.submit(jobs)
        if not self._feed.ended:
            return
        if self._feed.error is not None and ExitCode.USAGE not in self.codes:
            self._report_bad_input(self._feed.error)
        # Before the welcome it is not known how many jobs an earlier run has submitted.
        if not self.stopped and self.session.welcome is not None:
            self._finish()

    def _report_bad_input(self, error: UsageError) -> None:
        """Say what is wrong, and go on: jobs before the bad line may run already. Raises the error when there are none:
        the batch is then not closed, or its name would be used up for the input when it is corrected."""
        submissions, welcome = self.session.submissions, self.session.welcome
        if self._resumes and welcome is None:
            return  # it says what an earlier run has submitted
        is_new = welcome is None or (not submissions.known and welcome.total is None)
        if not submissions.submitted and is_new:
            self.codes.add(ExitCode.USAGE)
            raise error
        self.codes.add(ExitCode.USAGE)
        before = f"; {counted(submissions.submitted, 'job')} before it run on" if submissions.submitted else ""
        self._console.error(f"{error}{before}")

    def _finish(self) -> None:
        """Close the batch at the input's end. Raises UsageError when an earlier run has submitted more than that."""
        submissions = self.session.submissions
        if submissions.submitted >= submissions.known:
            submissions.finish()
        elif submissions.accepted == submissions.submitted:  # all there is was compared
            raise UsageError(
                f"--resume: the input has changed: it ends after {counted(submissions.submitted, 'job')}; "
                f"job {submissions.submitted + 1} of the {submissions.known} that batch {self.session.batch} has "
                "accepted is missing"
            )

    @property
    def _may_submit(self) -> bool:
        return self.session.submissions.has_room and self.connection.intake_bytes is not None

    def _known_total(self) -> int | None:
        return self.session.submissions.submitted if self._feed.ended else self._feed.total

    def _report_failure(self, outcome: Outcome) -> None:
        if self._flood.admit() or self._console.verbosity > 0:
            fields: dict[str, Fact] = {"job": f"{self.session.batch}/{outcome.seq}", "state": str(outcome.state)}
            fields |= {"cause": cause(outcome), "description": outcome.job or None}
            self._console.warning(describe(outcome), fields)
        elif self._flood.counts_now():
            self._console.warning(f"{self._flood.seen} failures so far: {self._totals.causes.text()}")

    # --- stopping ---------------------------------------------------------------------------------

    def _stop(self, code: ExitCode | None, *, close_batch: bool) -> None:
        """Submit no more jobs, and drop those that were read and not sent. `close_batch`: no other run adds them."""
        if code is not None:
            self.codes.add(code)
        self.stopped = True
        self._feed.stop()
        if close_batch:
            self.session.submissions.truncate()
        else:
            self.session.submissions.abandon()

    def _check_halt(self, halt: HaltRule) -> None:
        counted, jobs = self._totals.count_now(halt.states), self._jobs_of_this_run()
        if not halt.reached(counted, jobs):
            return
        self.halted = halt
        self._console.info(f"Halting: {counted} of {'?' if jobs is None else jobs} jobs {halt.verb}")
        # Enough successes are no failure, and jobs that have ended speak for themselves.
        code = ExitCode.HALTED if halt.is_failure else None
        if self._private is not None and self._private.journaled:
            # Not cancelled, which would be an outcome: what does not run now is there for another run.
            self._stop(code, close_batch=False)
            self._private.send_signal(Signals.SIGQUIT if halt.now else Signals.SIGINT)
        else:
            self._stop(code, close_batch=True)
            self._halting = True
            self._repeat_halt()

    def _jobs_of_this_run(self) -> int | None:
        """Return how many jobs this run of the batch has, those with an outcome from before left out, and those that
        run again counted; None while the input has not ended and is no file."""
        if self._again:
            return len(self._again)
        known = self._known_total()
        if known is None or self._again is not None:  # which of them run again is not known
            return known
        return known - (self._totals.finished - self._totals.finished_now)

    def _repeat_halt(self) -> None:
        """Cancel the batch, once in each connection: a dealer that was killed may have heard it and not stored it."""
        if self._halting and self._halt is not None and self._halted_in != self.session.generation:
            self._halted_in = self.session.generation
            self.session.command("cancel" if self._halt.now else "cancel-waiting", self.session.batch)

    def _on_refusal(self, refusal: Refused) -> None:
        """Stop, because the dealer takes no more."""
        if self.stopped:
            return  # it refuses what was under way when we stopped
        for_now = refusal.reason in REFUSED_FOR_NOW
        self._stop(ExitCode.REFUSED if for_now else ExitCode.USAGE, close_batch=not for_now)
        later = "; the others are added when the batch is resumed" if for_now else ""
        self._console.error(
            f"job {refusal.seq} and those after it were refused ({refusal.reason}): {refusal.text}; "
            f"{counted(self.session.submissions.submitted, 'job')} accepted{later}"
        )
