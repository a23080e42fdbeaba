"""Running one batch: its parts put together."""

from __future__ import annotations

import os
from contextlib import ExitStack

import taskpool
from taskpool import limits
from taskpool.client.connection import Conversation
from taskpool.client.queries import Inquiry, PrivateEnded
from taskpool.client.session import Patience, Session
from taskpool.client.transport import Link
from taskpool.clock import Clock, SystemClock
from taskpool.errors import ExitCode, TaskpoolError, UsageError
from taskpool.generator.input.feed import Feed
from taskpool.generator.options import SubmitOptions
from taskpool.generator.output.console import Console
from taskpool.generator.output.printer import Printer
from taskpool.generator.private.process import PrivateDealer, wait_for_predecessor
from taskpool.generator.private.state import Home
from taskpool.generator.result import Ending
from taskpool.generator.resuming import recall
from taskpool.generator.run import Submission
from taskpool.generator.signals import raise_if_stopped, signals_to_hear
from taskpool.ipc.mqueue import KernelPost, kernel_limits
from taskpool.ipc.queue import Post
from taskpool.ipc.sizing import choose
from taskpool.procs.signals import Wakeup


def open_conversation(session: Session, post: Post, console: Console) -> Conversation:
    """Over a reply queue as large as this machine's limits leave for it."""
    shape = choose(limits.WORKER_QUEUES_BUDGETED_MIN, kernel_limits()).reply
    return Conversation(session, Link(post, session.pool, shape), console, raise_if_stopped)


def asking_session(pool: str, clock: Clock, patience: Patience) -> Session:
    """A conversation that is about no batch: it only asks."""
    now = clock.now().mono
    return Session(pool, new_client_id(), os.getpid(), taskpool.__version__, now, patience=patience, collects=True)


def batch_session(
    options: SubmitOptions, pool: str, clock: Clock, client: int, *, cursor: int = 0, collects: bool = False
) -> Session:
    """A conversation that holds the batch."""
    return Session(
        pool,
        client,
        os.getpid(),
        taskpool.__version__,
        clock.now().mono,
        batch=options.batch,
        wanted=options.limits,
        detached=options.detach,
        waits=options.waits,
        patience=options.patience,
        private=options.pool is None,
        resume=options.resume,
        cursor=cursor,
        collects=collects,
    )


def new_client_id() -> int:
    """63 random bits: nobody else has them."""
    return int.from_bytes(os.urandom(8), "big") >> 1


def run_batch(options: SubmitOptions, feed: Feed, console: Console, again: str) -> ExitCode:
    """Submits the feed's jobs and sees them through. `again`: the command that resumes it.

    Raises TaskpoolError for what ends it early.
    """
    post = KernelPost()
    clock = SystemClock()
    with ExitStack() as cleanup:
        wakeup = Wakeup(signals_to_hear())
        cleanup.callback(wakeup.close)
        home = None
        if options.pool is None:
            home = Home(options.batch, options.journal, resume=options.resume)
            wait_for_predecessor(home, wakeup, console)
        printer = _printer(options, home)
        cleanup.callback(printer.close)
        private = None
        if home is not None:
            dealer = PrivateDealer(home, options.dealer_options, post, console, again, options.drain_ns)
            private = cleanup.enter_context(dealer)
        pool = home.pool if home is not None else options.pool or ""
        ending = Ending(options, printer, console, clock, private, again)
        client, cursor = new_client_id(), 0
        if options.resume and not options.detach:
            session = batch_session(options, pool, clock, client, collects=True)
            asking = open_conversation(session, post, console)
            cursor = _recall(Inquiry(asking, clock, wakeup, private), options.batch, ending, console)
        session = batch_session(options, pool, clock, client, cursor=cursor)
        conversation = open_conversation(session, post, console)
        cleanup.callback(conversation.close)
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
        return ending.see_through(submission, session)


def _printer(options: SubmitOptions, home: Home | None) -> Printer:
    try:
        return Printer(
            options.batch,
            options.form,
            keep_order=options.keep_order,
            results=options.results,
            joblog=options.joblog,
            append=options.resume,
        )
    except UsageError:
        if home is not None and not home.resumed:
            home.remove(frozenset())
        raise


def _recall(inquiry: Inquiry, batch: str, ending: Ending, console: Console) -> int:
    """What earlier runs know of the batch, which is ours from here on, so that it cannot change any more."""
    try:
        last = recall(inquiry, batch, ending.tally, ending.printer, console)
    except PrivateEnded:
        inquiry.close(goodbye=False)
        return 0  # it is noticed again, where it is told
    except TaskpoolError:
        inquiry.close()
        raise
    inquiry.close(goodbye=False)
    return last
