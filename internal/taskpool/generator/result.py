"""How a batch ended, put into words and an exit code."""

from __future__ import annotations

import msgspec

from taskpool.client.session import JobsLost, Session
from taskpool.clock import Clock
from taskpool.errors import DealerUnreachable, ExitCode, TaskpoolError, UsageError
from taskpool.generator.options import SubmitOptions
from taskpool.generator.output.console import Console
from taskpool.generator.output.formats import signal_name
from taskpool.generator.output.printer import Printer
from taskpool.generator.output.progress import Progress
from taskpool.generator.output.stream import OutputClosed
from taskpool.generator.private.process import LEAVE_NS_MAX, Exit, PrivateDealer
from taskpool.generator.run import Submission
from taskpool.generator.signals import STOP_SIGNALS, first_that_applies
from taskpool.generator.summary import Pool, summary
from taskpool.generator.tally import Tally
from taskpool.procs.cpus import usable_cpus

_ORDERED = frozenset({None, *map(int, STOP_SIGNALS)})  # the signals by which a dealer may end that was told to leave
_SAID_WHY = frozenset({ExitCode.USAGE, ExitCode.ENVIRONMENT, ExitCode.UNREACHABLE})


class Ending:
    """Sees a submission to its end, and says what became of it."""

    def __init__(
        self,
        options: SubmitOptions,
        printer: Printer,
        console: Console,
        clock: Clock,
        private: PrivateDealer | None,
        again: str,
    ) -> None:
        self._options = options
        self._again = again
        self.printer = printer
        self._console = console
        self._clock = clock
        self._private = private
        self._started = clock.now().mono
        self.tally = Tally()
        self.progress = Progress(options.progress, console, self.tally, self._started)

    def see_through(self, submission: Submission, session: Session) -> ExitCode:
        """Runs it, takes leave of the dealer and judges. Raises what `Submission.run` raises."""
        status = None
        self._session = session
        try:
            submission.run()
            wall_ns = self._clock.now().mono - self._started
            if submission.complete and not self._options.detach:
                status = submission.settle()
            self._take_leave(submission)
        except OutputClosed:
            submission.say_goodbye()
            raise
        except TaskpoolError as error:
            submission.say_goodbye()
            submission.finish_writing()
            self._say_how_to_resume(error)
            raise
        finally:
            self._console.hide_bar()
            if self._private is not None:
                self._private.began = session.welcome is not None
                self._private.keep(self.printer.referred)
        if submission.complete and self._options.detach:
            self.printer.announce(self._options.batch)
        submission.finish_writing()
        self.progress.show(submission.total, self._clock.now().mono, last=True)
        codes = submission.codes | self._verdict(submission)
        if self._private is not None:
            self._private.succeeded = submission.complete and not codes
        if submission.complete or (self._private is not None and self._session.welcome is not None):
            self._summarise(submission.total, wall_ns, status)
        return first_that_applies(codes)

    def _take_leave(self, submission: Submission) -> None:
        if self._private is None:
            submission.say_goodbye()
        elif submission.complete:
            self._private.wait(LEAVE_NS_MAX)

    def _verdict(self, submission: Submission) -> set[ExitCode]:
        """What the outcomes, and those that are missing, add to the exit codes."""
        codes = self.tally.codes
        if submission.complete:
            return codes
        if self._private is None:
            self._say_lives_on(submission.total)
        else:
            codes |= self._missing(submission, self._private.exit)
        return codes

    def _say_lives_on(self, total: int) -> None:
        """A named pool goes on without us."""
        pool, batch, outbox = self._session.pool, self._session.batch, self._session.outbox
        accepted = max(outbox.accepted, outbox.known)
        if not accepted:
            self._console.info("Interrupted before a job was accepted")
            return
        self._console.info(
            f"Interrupted: {accepted} of {total} jobs were accepted and live on in pool {pool!r}, "
            f"{self.tally.finished} outcomes were received; `tp-generator cancel --pool {pool} {batch}` ends them. "
            f"To resume: {self._again}"
        )

    def _say_how_to_resume(self, error: TaskpoolError) -> None:
        """The batch may live on although we end."""
        if self._private is not None:
            self._private.again = "" if isinstance(error, UsageError) else self._private.again
        elif isinstance(error, DealerUnreachable) and not isinstance(error, JobsLost) and self._session.welcome:
            self._console.notice(f"To resume, once pool {self._session.pool!r} has a dealer: {self._again}")

    def _missing(self, submission: Submission, ended: Exit | None) -> set[ExitCode]:
        """The private dealer ended before its batch did."""
        missing = submission.total - self.tally.finished
        given_up = self._private is not None and self._private.given_up
        if ended is not None and submission.stopped and (given_up or ended.signal in _ORDERED):
            word = "Interrupted" if submission.interrupted else "Halted"
            self._console.info(f"{word}: {missing} of {submission.total} jobs did not run")
            return set()
        if ended is not None and ended.status in _SAID_WHY and self._session.welcome is None:
            return {ExitCode(ended.status)}
        how = "is gone" if ended is None else how_it_ended(ended)
        fate = "are kept in its journal" if self._private and self._private.journaled else "are gone without a journal"
        self._console.error(
            f"the private dealer {how} before its batch was done: {missing} jobs have no outcome and {fate}"
        )
        code = ended.status if ended is not None and ended.status in _SAID_WHY else ExitCode.UNREACHABLE
        return {ExitCode(code)}

    def _summarise(self, total: int, wall_ns: int, status: bytes | None) -> None:
        if self._options.detach:
            return
        text, fields = summary(self.tally, total, wall_ns, _pool(status, private=self._private is not None))
        self._console.info(text, fields)


def how_it_ended(ended: Exit) -> str:
    """In words."""
    if ended.signal is not None:
        return f"was killed by {signal_name(ended.signal)}"
    return f"ended with exit status {ended.status}"


class _Status(msgspec.Struct):
    """What is used of the dealer's status."""

    worker_respawns: int | None = None
    workers_wanted: int | None = None


def _pool(status: bytes | None, *, private: bool) -> Pool:
    """Respawns are told of a private pool only: in a shared one they may be anybody's."""
    try:
        facts = msgspec.json.decode(status or b"{}", type=_Status)
    except msgspec.MsgspecError:
        return Pool()
    cpus = None if facts.workers_wanted is None else min(facts.workers_wanted, usable_cpus())
    return Pool(facts.worker_respawns if private else None, cpus)
