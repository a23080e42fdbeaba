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
from taskpool.generator.run import BatchRun
from taskpool.generator.signals import STOP_SIGNALS, first_that_applies
from taskpool.generator.summary import PoolFacts, summary
from taskpool.generator.totals import Totals
from taskpool.procs.cpus import usable_cpus

_ORDERED = frozenset({None, *map(int, STOP_SIGNALS)})  # the signals by which a dealer may end that was told to leave
_SAID_WHY = frozenset({ExitCode.USAGE, ExitCode.ENVIRONMENT, ExitCode.UNREACHABLE})


class BatchResult:
    """Sees a batch's run to its end, and says what became of it."""

    def __init__(
        self,
        options: SubmitOptions,
        printer: Printer,
        console: Console,
        clock: Clock,
        private: PrivateDealer | None,
        resume_command: str,
    ) -> None:
        self._options = options
        self._resume_command = resume_command
        self.printer = printer
        self._console = console
        self._clock = clock
        self._private = private
        self._started = clock.now().mono
        self.totals = Totals()
        self.progress = Progress(options.progress, console, self.totals, self._started)

    def run_to_end(self, batch_run: BatchRun, session: Session) -> ExitCode:
        """Runs it, takes leave of the dealer and judges. Raises what `BatchRun.run` raises."""
        status = None
        self._session = session
        try:
            batch_run.run()
            wall_ns = self._clock.now().mono - self._started
            if batch_run.complete and not self._options.detach:
                status = batch_run.settle()
            self._take_leave(batch_run)
        except OutputClosed:
            batch_run.send_bye()
            raise
        except TaskpoolError as error:
            batch_run.send_bye()
            batch_run.finish_writing()
            self._say_how_to_resume(error)
            raise
        finally:
            self._console.hide_bar()
            if self._private is not None:
                self._private.began = session.welcome is not None
                self._private.keep(self.printer.referred)
        if batch_run.complete and self._options.detach:
            self.printer.announce(self._options.batch)
        batch_run.finish_writing()
        self.progress.show(batch_run.total, self._clock.now().mono, last=True)
        codes = batch_run.codes | self._exit_codes(batch_run)
        if self._private is not None:
            self._private.succeeded = batch_run.complete and not codes
        if batch_run.complete or (self._private is not None and self._session.welcome is not None):
            self._summarise(batch_run.total, wall_ns, status)
        return first_that_applies(codes)

    def _take_leave(self, batch_run: BatchRun) -> None:
        if self._private is None:
            batch_run.send_bye()
        elif batch_run.complete:
            self._private.wait(LEAVE_NS_MAX)

    def _exit_codes(self, batch_run: BatchRun) -> set[ExitCode]:
        """What the outcomes, and those that are missing, add to the exit codes."""
        codes = self.totals.codes
        if batch_run.complete:
            return codes
        if self._private is None:
            self._say_lives_on(batch_run.total)
        else:
            codes |= self._missing(batch_run, self._private.exit)
        return codes

    def _say_lives_on(self, total: int) -> None:
        """A named pool goes on without us."""
        pool, batch, submissions = self._session.pool, self._session.batch, self._session.submissions
        accepted = max(submissions.accepted, submissions.known)
        if not accepted:
            self._console.info("Interrupted before a job was accepted")
            return
        self._console.info(
            f"Interrupted: {accepted} of {total} jobs were accepted and live on in pool {pool!r}, "
            f"{self.totals.finished} outcomes were received; `tp-generator cancel --pool {pool} {batch}` ends them. "
            f"To resume: {self._resume_command}"
        )

    def _say_how_to_resume(self, error: TaskpoolError) -> None:
        """The batch may live on although we end."""
        if self._private is not None:
            self._private.resume_command = "" if isinstance(error, UsageError) else self._private.resume_command
        elif isinstance(error, DealerUnreachable) and not isinstance(error, JobsLost) and self._session.welcome:
            self._console.notice(f"To resume, once pool {self._session.pool!r} has a dealer: {self._resume_command}")

    def _missing(self, batch_run: BatchRun, ended: Exit | None) -> set[ExitCode]:
        """The private dealer ended before its batch did."""
        missing = batch_run.total - self.totals.finished
        given_up = self._private is not None and self._private.given_up
        if ended is not None and batch_run.stopped and (given_up or ended.signal in _ORDERED):
            word = "Interrupted" if batch_run.interrupted else "Halted"
            self._console.info(f"{word}: {missing} of {batch_run.total} jobs did not run")
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
        text, fields = summary(self.totals, total, wall_ns, _pool(status, private=self._private is not None))
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


def _pool(status: bytes | None, *, private: bool) -> PoolFacts:
    """Respawns are told of a private pool only: in a shared one they may be anybody's."""
    try:
        facts = msgspec.json.decode(status or b"{}", type=_Status)
    except msgspec.MsgspecError:
        return PoolFacts()
    cpus = None if facts.workers_wanted is None else min(facts.workers_wanted, usable_cpus())
    return PoolFacts(facts.worker_respawns if private else None, cpus)
