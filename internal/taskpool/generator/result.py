"""How a batch ended, put into words and an exit code."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec

from taskpool.client.unreachable import JobsLost, OlderJournal
from taskpool.errors import DealerUnreachable, ExitCode, TaskpoolError, UsageError, counted
from taskpool.generator.advice import Advice
from taskpool.generator.failures import command_that_shows_failures
from taskpool.generator.output.stream import OutputClosed
from taskpool.generator.run import BatchRun, RunParts
from taskpool.generator.signals import STOP_SIGNALS, first_that_applies
from taskpool.generator.totals import PoolFacts
from taskpool.private.notes import Summary
from taskpool.private.process import LEAVE_NS_MAX, DealerExit, PrivateDealer
from taskpool.procs.cpus import usable_cpus
from taskpool.procs.signals import signal_name

# How a dealer ends that was told to leave: by exiting (None), or by a signal that was meant for the whole group.
_ENDS_ON_ORDER = frozenset({None, *map(int, STOP_SIGNALS)})
# Exit statuses with which a dealer has named the reason on standard error, so that it is not said twice.
_REASON_NAMED = frozenset({ExitCode.USAGE, ExitCode.ENVIRONMENT, ExitCode.UNREACHABLE})


class BatchResult:
    """Runs a batch to its end, and reports how it ended."""

    def __init__(self, parts: RunParts, run: BatchRun, advice: Advice) -> None:
        self._options = parts.options
        self._printer = parts.printer
        self._totals = parts.totals
        self._progress = parts.progress
        self._console = parts.console
        self._clock = parts.clock
        self._private = parts.private
        self._again = parts.again
        self._run = run
        self._session = run.session
        self._connection = run.connection
        self._advice = advice
        self._started = parts.clock.now().mono

    def run_to_end(self) -> ExitCode:
        """Run the batch, disconnect, and return the exit code. Raises what `BatchRun.run` raises."""
        run, status = self._run, None
        try:
            run.run()
            wall_ns = self._clock.now().mono - self._started
            if run.complete and not self._options.detach:
                status = run.conclude()
            self._disconnect()
        except OutputClosed:
            self._connection.leave()  # and write no more: the reader has seen enough
            raise
        except TaskpoolError as error:
            self._connection.leave()
            # The outcomes taken before the error are acknowledged, or soon will be: they must be written.
            run.finish_writing(jobs_lost=isinstance(error, JobsLost) and not isinstance(error, OlderJournal))
            self._say_how_to_resume(error)
            raise
        finally:
            self._console.hide_bar()
            if self._private is not None:
                self._note_for_state(self._private)
        # Only now: an id on standard output says that all jobs are accepted.
        if run.complete and self._options.detach:
            self._printer.announce(self._options.batch)
        run.finish_writing()
        self._progress.show(run.total, self._clock.now().mono, last=True)
        codes = run.codes | self._exit_codes()
        if self._private is not None and run.complete and not codes | self._totals.exit_codes:
            self._private.note_all_succeeded()
        if self._private is not None:
            self._conclude_state(self._private)
        # Of a batch that lives on in a named pool there is nothing to sum up yet.
        if run.complete or (self._private is not None and self._session.welcome is not None):
            self._summarise(wall_ns, status)
        return first_that_applies(codes)

    def _disconnect(self) -> None:
        if self._private is None:
            self._connection.leave()
        elif self._run.complete:
            # It leaves by itself after the last acknowledgement, and is quicker so than by the end of its lifeline.
            self._private.wait(LEAVE_NS_MAX)

    def _note_for_state(self, private: PrivateDealer) -> None:
        """Tell the private pool what its state directory is still needed for."""
        if self._is_without_jobs:
            private.omit_resume_command()  # and its state goes, unless an earlier run has left it
        elif self._session.welcome is not None:
            private.note_batch_known()
        private.keep_files(self._printer.referenced_files)
        private.advise(self._how_to_go_on)

    @property
    def _is_without_jobs(self) -> bool:
        """Whether the batch was refused before its first job, so that there is none to go on with or to run again."""
        submissions = self._session.submissions
        settled = self._run.complete or not submissions.submitted  # else a dealer may have accepted some
        return ExitCode.USAGE in self._run.codes and settled and not max(submissions.accepted, submissions.known)

    @property
    def _nothing_left(self) -> bool:
        """Whether every job that will ever come has its outcome."""
        return self._run.complete and self._session.submissions.closed

    @property
    def _how_to_go_on(self) -> str:
        if self._nothing_left:
            return self._advice.to_rerun()
        return self._advice.to_resume(input_complete=self._session.submissions.closed)

    def _conclude_state(self, private: PrivateDealer) -> None:
        """Note with the private pool's state what this run came to, for `tp-generator batches`."""
        if private.keeps_state and private.journaled and self._session.welcome is not None:
            states = {str(state): count for state, count in self._totals.by_state.items() if count}
            ended = self._clock.now().wall
            private.state.conclude(Summary(self._run.total, states, self._nothing_left, ended))

    def _exit_codes(self) -> set[ExitCode]:
        """Return what the outcomes, and those that are missing, add to the exit codes; say what is missing."""
        codes = self._codes_of_outcomes()
        if self._run.complete:
            return codes
        if self._private is None:
            self._say_batch_lives_on()
        else:
            codes |= self._report_missing(self._private)
        return codes

    def _codes_of_outcomes(self) -> set[ExitCode]:
        """Return what the outcomes add to the exit codes."""
        halted = self._run.halted
        # What it has cancelled was not to run: only the jobs that it counts say how the batch went.
        if halted is not None and not halted.is_failure:
            return self._totals.exit_codes_of(halted.states)
        return self._totals.exit_codes_now if self._again else self._totals.exit_codes

    def _say_batch_lives_on(self) -> None:
        """Say that a named pool goes on with the batch, and how to end or resume it."""
        pool, batch, submissions = self._session.pool, self._session.batch, self._session.submissions
        accepted = max(submissions.accepted, submissions.known)  # `known`: by an earlier run, and not all compared
        if not accepted:
            self._console.info("Interrupted before a job was accepted")
            return
        self._console.info(
            f"Interrupted: {accepted} of {counted(self._run.total, 'job')} accepted; they live on in pool {pool!r}, "
            f"{counted(self._totals.finished, 'outcome')} received; `tp-generator cancel --pool {pool} {batch}` ends "
            f"them. {self._how_to_go_on}"
        )

    def _say_how_to_resume(self, error: TaskpoolError) -> None:
        """Say how to go on with a batch that may live on after the error."""
        if self._private is not None:
            # It says so itself when it keeps its state. After a usage error the same command would fail again.
            if isinstance(error, UsageError):
                self._private.omit_resume_command()
        elif isinstance(error, DealerUnreachable) and not isinstance(error, JobsLost) and self._session.welcome:
            self._console.notice(f"Pool {self._session.pool!r} needs a dealer first. {self._how_to_go_on}")
        elif isinstance(error, OlderJournal):
            self._console.notice(self._how_to_go_on)

    def _report_missing(self, private: PrivateDealer) -> set[ExitCode]:
        """Say why the private dealer ended before its batch did; return the exit codes that this adds."""
        run, ended = self._run, private.exit
        missing = run.total - self._totals.finished
        if ended is not None and run.stopped and (private.killed_overdue or ended.signal in _ENDS_ON_ORDER):
            word = "Interrupted" if run.interrupted else "Halted"
            self._console.info(f"{word}: {missing} of {counted(run.total, 'job')} did not run")
            return set()
        if ended is not None and ended.status in _REASON_NAMED and self._session.welcome is None:
            return {ExitCode(ended.status)}
        # None: a signal ended the run while the dealer still lived.
        how = "is gone" if ended is None else describe_exit(ended)
        fate = "kept in its journal" if private.journaled else "gone without a journal"
        self._console.error(
            f"the private dealer {how} before its batch was done: {counted(missing, 'job')} without an outcome, {fate}"
        )
        # A dealer that named its reason exits with it; any other end means that the batch's dealer is lost.
        code = ended.status if ended is not None and ended.status in _REASON_NAMED else ExitCode.UNREACHABLE
        return {ExitCode(code)}

    def _summarise(self, wall_ns: int, status: bytes | None) -> None:
        if self._options.detach:
            return
        facts = _pool_facts(status, private=self._private is not None)
        self._console.info(*self._totals.summary(self._run.total, wall_ns, facts))
        if causes := self._totals.causes.text():
            command = self._command_that_shows_failures()
            self._console.info(f"Failures: {causes}" + (f". To see them: {command}" if command else ""))
            # A private pool says so when it keeps its state. A named one has no note of where outcomes go.
            if self._private is None and self._session.welcome is not None and self._session.welcome.journaled:
                self._console.info(self._advice.to_rerun())

    def _command_that_shows_failures(self) -> str | None:
        """Return a command that prints every failure, from what is kept of them; None when nothing is."""
        welcome, results = self._session.welcome, self._options.results
        if welcome is not None and welcome.journaled:
            pool = self._session.pool
            if self._private is None:
                return command_that_shows_failures(pool, self._options.batch)
            if self._private.keeps_state:
                state, path = self._private.state, self._options.journal
                named = "" if path is None else f" --journal {shlex.quote(str(state.journal))}"
                return f"tp-dealer journal export --failed --pool {pool}{named}"
        if results is not None and Path(results).is_file():
            return f"""grep -v '"state":"succeeded"' {shlex.quote(results)}"""
        return None


def describe_exit(ended: DealerExit) -> str:
    """Say how a process ended."""
    if ended.signal is not None:
        return f"was killed by {signal_name(ended.signal)}"
    return f"ended with exit status {ended.status}"


class _Status(msgspec.Struct):
    """What is used of the dealer's status."""

    worker_respawns: int | None = None
    workers_wanted: int | None = None


def _pool_facts(status: bytes | None, *, private: bool) -> PoolFacts:
    try:
        facts = msgspec.json.decode(status or b"{}", type=_Status)
    except msgspec.MsgspecError:
        return PoolFacts()
    # Workers beyond the CPUs that may be used add no computing time.
    cpus = None if facts.workers_wanted is None else min(facts.workers_wanted, usable_cpus())
    # In a named pool the respawns may be those of other batches.
    return PoolFacts(facts.worker_respawns if private else None, cpus)
