"""Running one batch: its parts put together, and how it ended put into words and an exit code."""

from __future__ import annotations

import os
from contextlib import ExitStack

import msgspec

import taskpool
from taskpool import limits
from taskpool.clock import Clock, SystemClock
from taskpool.errors import ExitCode, TaskpoolError
from taskpool.generator.console import Console
from taskpool.generator.conversation import Conversation
from taskpool.generator.feed import Feed
from taskpool.generator.link import Link
from taskpool.generator.options import SubmitOptions
from taskpool.generator.outflow import OutputClosed
from taskpool.generator.printer import Printer
from taskpool.generator.private import LEAVE_NS_MAX, Exit, PrivateDealer, private_pool_name
from taskpool.generator.progress import Progress
from taskpool.generator.session import Session
from taskpool.generator.stopping import first_that_applies, signals_to_hear
from taskpool.generator.submission import Submission
from taskpool.generator.summary import Pool, summary
from taskpool.generator.tally import Tally
from taskpool.ipc.budget import choose
from taskpool.ipc.mailbox import Post
from taskpool.ipc.mqueue import KernelPost, kernel_limits
from taskpool.messages import State
from taskpool.procs.cpus import usable_cpus
from taskpool.procs.signals import Wakeup

_SAID_WHY = frozenset({ExitCode.USAGE, ExitCode.ENVIRONMENT, ExitCode.UNREACHABLE})


def open_conversation(session: Session, post: Post, console: Console) -> Conversation:
    """Over a reply queue as large as this machine's limits leave for it."""
    shape = choose(limits.WORKER_QUEUES_BUDGETED_MIN, kernel_limits()).reply
    return Conversation(session, Link(post, session.pool, shape), console)


def new_client_id() -> int:
    """63 random bits: nobody else has them."""
    return int.from_bytes(os.urandom(8), "big") >> 1


def run_batch(options: SubmitOptions, feed: Feed, console: Console) -> ExitCode:
    """Submits the feed's jobs and sees them through. Raises TaskpoolError for what ends it early."""
    post = KernelPost()
    clock = SystemClock()
    pool = options.pool or private_pool_name(options.batch if options.batch_named else None)
    with ExitStack() as cleanup:
        wakeup = Wakeup(signals_to_hear())
        cleanup.callback(wakeup.close)
        printer = Printer(
            options.batch, options.form, keep_order=options.keep_order, results=options.results, joblog=options.joblog
        )
        cleanup.callback(printer.close)
        private = None
        if options.pool is None:
            private = cleanup.enter_context(PrivateDealer(pool, options.dealer_options, post, console))
        session = Session(
            pool,
            new_client_id(),
            os.getpid(),
            taskpool.__version__,
            clock.now().mono,
            batch=options.batch,
            wanted=options.limits,
            detached=options.detach,
            waits=options.waits,
            patience=options.patience,
        )
        conversation = open_conversation(session, post, console)
        cleanup.callback(conversation.close)
        ending = Ending(options, session, printer, console, clock, private)
        submission = Submission(
            conversation,
            feed,
            printer,
            ending.tally,
            ending.progress,
            console,
            clock,
            wakeup,
            private=private,
            halt=options.halt,
            detach=options.detach,
        )
        return ending.after(submission)


class Ending:
    """Sees a submission to its end, and says what became of it."""

    def __init__(
        self,
        options: SubmitOptions,
        session: Session,
        printer: Printer,
        console: Console,
        clock: Clock,
        private: PrivateDealer | None,
    ) -> None:
        self._options = options
        self._session = session
        self._printer = printer
        self._console = console
        self._clock = clock
        self._private = private
        self._started = clock.now().mono
        self.tally = Tally()
        self.progress = Progress(options.progress, console, self.tally, self._started)

    def after(self, submission: Submission) -> ExitCode:
        """Runs it, then takes leave of the dealer and judges. Raises what `Submission.run` raises."""
        status = None
        try:
            submission.run()
            wall_ns = self._clock.now().mono - self._started
            if submission.complete and not self._options.detach:
                status = submission.settle()
            self._take_leave(submission)
        except OutputClosed:
            submission.say_goodbye()
            raise
        except TaskpoolError:
            submission.say_goodbye()
            submission.finish_writing()
            raise
        finally:
            self._console.hide_bar()
            if self._private is not None:
                self._private.keep(self._printer.referred)
        if submission.complete and self._options.detach:
            self._printer.announce(self._options.batch)
        submission.finish_writing()
        self.progress.show(submission.total, self._clock.now().mono, last=True)
        codes = submission.codes | self._verdict(submission)
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
        by_state = self.tally.by_state
        codes: set[ExitCode] = set()
        if self.tally.failed > by_state[State.QUARANTINED] or by_state[State.CANCELLED]:
            codes.add(ExitCode.JOBS_FAILED)
        if by_state[State.QUARANTINED]:
            codes.add(ExitCode.QUARANTINED)
        if submission.complete:
            return codes
        if self._private is None:
            self._say_lives_on(submission.total)
        else:
            codes |= self._missing(submission, self._private.exit)
        return codes

    def _say_lives_on(self, total: int) -> None:
        """A named pool goes on without us."""
        pool, batch, accepted = self._session.pool, self._session.batch, self._session.outbox.accepted
        if not accepted:
            self._console.info("Interrupted before a job was accepted")
            return
        self._console.info(
            f"Interrupted: {accepted} of {total} jobs were accepted and live on in pool {pool!r}, "
            f"{self.tally.finished} outcomes were received; `tp-generator cancel --pool {pool} {batch}` ends them"
        )

    def _missing(self, submission: Submission, ended: Exit | None) -> set[ExitCode]:
        """The private dealer ended before its batch did."""
        missing = submission.total - self.tally.finished
        if ended is not None and ended.signal is None and submission.interrupted:
            self._console.info(f"Interrupted: {missing} of {submission.total} jobs did not run")
            return set()
        if ended is not None and ended.status in _SAID_WHY and self._session.welcome is None:
            return {ExitCode(ended.status)}
        how = "is gone" if ended is None else how_it_ended(ended)
        self._console.error(
            f"the private dealer {how} before its batch was done: {missing} jobs have no outcome, and without a "
            "journal they are gone"
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
    from signal import Signals

    if ended.signal is not None:
        return f"was killed by {Signals(ended.signal).name}"
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
