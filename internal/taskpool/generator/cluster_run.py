"""One batch in a pool that several hosts share: what `submit` and `run` are for a pool of one host.

There is no dealer to speak to: jobs go to the engine and outcomes come from there (`cluster.submission` decides what is
asked). All that a person sees is the same: the printer, the totals, the progress and the exit codes are those of any
batch.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec import structs

from taskpool.clock import NEVER, AwakeClock, SystemClock
from taskpool.cluster.engine import Engine, Failed, Notice
from taskpool.cluster.job import ClusterOutcome
from taskpool.cluster.opening import open_engine
from taskpool.cluster.subjects import Address, Names
from taskpool.cluster.submission import Submission
from taskpool.durations import human
from taskpool.errors import ConfigurationError, DealerUnreachable, ExitCode, TaskpoolError, UsageError, counted
from taskpool.generator.advice import Advice
from taskpool.generator.failures import UNREMARKABLE, Flood, describe
from taskpool.generator.input.feed import Feed
from taskpool.generator.options import SubmitOptions
from taskpool.generator.output.console import Console
from taskpool.generator.output.printer import Files, Printer
from taskpool.generator.output.progress import Progress
from taskpool.generator.output.stream import write_out
from taskpool.generator.signals import STOP_SIGNALS, Interrupted, first_that_applies, handled_signals
from taskpool.generator.totals import PoolFacts, Totals
from taskpool.messages import Outcome
from taskpool.procs.signals import Wakeup
from taskpool.procs.wait import Descriptor, wait_ready

FEED_BYTES = 64 * 1024  # taken of the input at a time


def run_in_cluster(options: SubmitOptions, feed: Feed, console: Console, advice: Advice) -> ExitCode:
    """Submit the jobs and wait for their outcomes. Raises TaskpoolError for what ends it early."""
    assert options.cluster is not None and options.pool is not None
    with ExitStack() as cleanup:
        wakeup = Wakeup(handled_signals())
        cleanup.callback(wakeup.close)
        printer = Printer(
            options.batch,
            options.form,
            keep_order=options.keep_order,
            files=Files(options.results, options.joblog, options.output_dir, append=options.resume, links=False),
        )
        cleanup.callback(printer.close)
        # Behind the files, which may refuse the batch: the first that connects makes the pool's streams.
        engine = connect(options.cluster, options.pool, cleanup)
        run = ClusterRun(options, feed, printer, console, engine)
        try:
            run.run(wakeup)
        except TaskpoolError:
            write_out(printer, wakeup, 0)  # what has come is told, as far as it is read
            if run.submission.submitted:
                console.notice(advice.to_resume(input_complete=False))
            raise
        return run.conclude(wakeup, advice)


def connect(address: Address, pool: str, cleanup: ExitStack) -> Engine:
    """Begin to connect with the engine. Raises ConfigurationError."""
    engine = open_engine(address, pool)
    cleanup.callback(engine.close)
    engine.start()
    return engine


class ClusterRun:
    """Feeds a batch to the engine and takes its outcomes."""

    def __init__(self, options: SubmitOptions, feed: Feed, printer: Printer, console: Console, engine: Engine) -> None:
        self._options = options
        self._feed = feed
        self._printer = printer
        self._console = console
        self._engine = engine
        self._clock = AwakeClock(SystemClock())
        self._started = self._clock.now().mono
        self._totals = Totals()
        self._progress = Progress(options.progress, console, self._totals, self._started)
        create = not options.must_exist
        names, id = Names(options.pool or ""), os.urandom(8).hex()
        self.submission = Submission(names, options.batch, options.limits, id, create=create)
        self.submission.answered_at = self._started
        self._codes: set[ExitCode] = set()
        self._begun = False
        self._taken_upto = 0  # the position of the last outcome that was handed to the printer
        self._flood = Flood()

    @property
    def complete(self) -> bool:
        """Whether every job has its outcome, or (detached) its acceptance."""
        submission = self.submission
        if submission.recalling or not self._feed.ended or not submission.all_accepted:
            return False
        return self._options.detach or self._totals.finished >= submission.submitted

    def run(self, wakeup: Wakeup) -> None:
        """Return when the batch is complete, or a signal has come. Raises TaskpoolError."""
        while True:
            now = self._clock.now().mono
            came = wakeup.pending() & STOP_SIGNALS.keys()
            if came:
                # Nothing is cancelled: the jobs are the cluster's by now, and it goes on without us.
                self._codes.add(first_that_applies(STOP_SIGNALS[number] for number in came))
                self._feed.stop()
                return
            self._hear(now)
            self._submit()
            self._ask(now)
            self._printer.pump()
            # Only what is written, by readers that may be slow: what is not, a later run has to write.
            if self._printer.idle and not self._options.detach:
                self.submission.written(self._taken_upto)
            self._progress.show(self._known_total(), now)
            if self.complete:
                self.submission.finish()
            if self.complete and self._printer.idle and (self._options.detach or self.submission.all_noted):
                return
            self._wait(wakeup, now)

    def _wait(self, wakeup: Wakeup, now: int) -> None:
        readable: list[Descriptor] = [wakeup, self._engine, *self._printer.waits_for]
        if self.submission.has_room and (fd := self._feed.waits_for) is not None:
            readable.append(fd)
        patience = self.submission.answered_at + self._patience_ns
        due = min(self.submission.next_deadline(), self._progress.due or NEVER, patience)
        ready = wait_ready(readable, timeout_ns=max(0, due - now))
        self._clock.woke(max(due, now))
        if self._feed.waits_for in ready:
            self._feed.fill()

    # --- the engine -------------------------------------------------------------------------------

    def _hear(self, now: int) -> None:
        for answer in self._engine.answers():
            if isinstance(answer, Notice):
                (self._console.warning if answer.is_warning else self._console.info)(answer.text)
                continue
            for position, told in self.submission.answered(answer, now):
                self._take(told, earlier=position <= self.submission.written_before)
                self._taken_upto = position
        if self._engine.refusal is not None:
            raise ConfigurationError(f"--cluster: {self._engine.refusal}")
        if now >= self.submission.answered_at + self._patience_ns:
            raise DealerUnreachable(
                f"the cluster has answered nothing for {human(self._patience_ns)}"
                f" ({self.submission.failure or 'silence'}); accepted were {counted(self.submission.accepted, 'job')}, "
                f"received {counted(self._totals.finished, 'outcome')}. --dealer-timeout waits longer"
            )
        self._check_existence()

    @property
    def _patience_ns(self) -> int:
        timeouts = self._options.timeouts
        # Brokers elect a leader in some seconds, so the first answer is waited for as long as any other.
        return timeouts.reconnect_ns

    def _check_existence(self) -> None:
        """Raises UsageError when the batch is there and should not be, or the other way round."""
        batch, pool = self._options.batch, self._options.pool
        if self._begun or self.submission.existed is None:
            return
        if self.submission.existed and not self._options.resume:
            raise UsageError(
                f"batch {batch!r} exists already in the cluster's pool {pool!r}: add --resume to go on with it, or "
                "choose another --batch"
            )
        if not self.submission.existed and self._options.must_exist:
            raise UsageError(
                f"--resume: the cluster's pool {pool!r} has no batch {batch!r}; --resume=or-begin begins it"
            )
        self._begun = True
        self._printer.begin()  # not before: a batch that is refused must not cost the files of an earlier run
        self._progress.pace.begin(self._clock.now().mono)

    def _ask(self, now: int) -> None:
        if self._printer.congested:
            return  # outcomes wait with the engine; here they would only take memory
        for request in self.submission.requests(now):
            if not self._engine.ask(request):
                self.submission.answered(Failed(request, "too many requests are under way"), now)

    # --- jobs in, outcomes out --------------------------------------------------------------------

    def _submit(self) -> None:
        submission = self.submission
        while submission.has_room and (jobs := self._feed.take(FEED_BYTES)):
            self._printer.remember(submission.submitted + 1, jobs)
            self._progress.pace.submit(jobs)
            for job in jobs:
                submission.submit(job)
        if self._feed.ended and self._feed.error is not None and ExitCode.USAGE not in self._codes:
            self._codes.add(ExitCode.USAGE)
            self._console.error(str(self._feed.error))

    def _take(self, told: ClusterOutcome, *, earlier: bool) -> None:
        outcome = self._without_missing_files(told)
        if self._options.detach:
            return  # a later run prints it
        self._totals.add(outcome, earlier=earlier)
        self._progress.pace.add(outcome, earlier=earlier)
        if earlier:
            self._printer.recall(outcome)
            return
        if outcome.state not in UNREMARKABLE and (self._flood.admit() or self._console.verbosity > 0):
            self._console.warning(describe(outcome))
        if self._printer.on_terminal:
            self._console.hide_bar()
        self._printer.take(outcome)

    def _without_missing_files(self, told: ClusterOutcome) -> Outcome:
        """Return the outcome without files of its output that are on another host, and say where they are."""
        output = told.outcome.output
        names = [name for name in (output.stdout_file, output.stderr_file) if name is not None]
        missing = [name for name in names if not Path(name).exists()]
        if not missing:
            return told.outcome
        self._console.warning(f"Output of job {told.outcome.seq} is on {told.member}: {', '.join(missing)}")
        kept = structs.replace(
            output,
            stdout_file=None if output.stdout_file in missing else output.stdout_file,
            stderr_file=None if output.stderr_file in missing else output.stderr_file,
        )
        return structs.replace(told.outcome, output=kept)

    def _known_total(self) -> int | None:
        return self.submission.submitted if self._feed.ended else self._feed.total

    # --- the end ----------------------------------------------------------------------------------

    def conclude(self, wakeup: Wakeup, advice: Advice) -> ExitCode:
        """Write what is left, sum up, and return the exit code."""
        wall_ns = self._clock.now().mono - self._started
        if self.complete and self._options.detach:
            self._printer.announce(self._options.batch)
        self._printer.release_held()
        with suppress(Interrupted):
            write_out(self._printer, wakeup, 0 if self._codes & set(STOP_SIGNALS.values()) else None)
        self._console.hide_bar()
        submission = self.submission
        if not self.complete:
            self._console.info(
                f"Interrupted: {counted(submission.accepted, 'job')} accepted; they live on in the cluster's pool "
                f"{self._options.pool!r}, {counted(self._totals.finished, 'outcome')} received. "
                f"{advice.to_resume(input_complete=False)}"
            )
        elif not self._options.detach:
            self._progress.show(submission.submitted, self._clock.now().mono, last=True)
            self._console.info(*self._totals.summary(submission.submitted, wall_ns, PoolFacts()))
            if causes := self._totals.causes.text():
                self._console.info(f"Failures: {causes}")
        return first_that_applies(self._codes | self._totals.exit_codes)
