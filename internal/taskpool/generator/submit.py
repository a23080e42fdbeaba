"""Running one batch: its parts put together."""

from __future__ import annotations

import os
from contextlib import ExitStack

import taskpool
from taskpool import limits
from taskpool.client.connection import Connection
from taskpool.client.queries import BatchQueries, PrivateEnded
from taskpool.client.session import DealerTimeouts, Session
from taskpool.client.transport import Transport
from taskpool.clock import Clock, SystemClock
from taskpool.errors import ExitCode, TaskpoolError, UsageError
from taskpool.generator.input.feed import Feed
from taskpool.generator.options import SubmitOptions
from taskpool.generator.output.console import Console
from taskpool.generator.output.printer import Printer
from taskpool.generator.private.process import PrivateDealer, wait_for_predecessor
from taskpool.generator.private.state import PrivateState
from taskpool.generator.result import BatchResult
from taskpool.generator.resuming import recall
from taskpool.generator.run import BatchRun
from taskpool.generator.signals import raise_if_stopped, signals_to_hear
from taskpool.ipc.mqueue import KernelNamespace, kernel_limits
from taskpool.ipc.queue import QueueNamespace
from taskpool.ipc.sizing import choose
from taskpool.procs.signals import Wakeup


def open_connection(session: Session, namespace: QueueNamespace, console: Console) -> Connection:
    """Over a reply queue as large as this machine's limits leave for it."""
    shape = choose(limits.WORKER_QUEUES_BUDGETED_MIN, kernel_limits()).reply
    return Connection(session, Transport(namespace, session.pool, shape), console, raise_if_stopped)


def query_session(pool: str, clock: Clock, dealer_timeouts: DealerTimeouts) -> Session:
    """A connection that is about no batch: it only asks."""
    now = clock.now().mono
    return Session(
        pool, new_client_id(), os.getpid(), taskpool.__version__, now, dealer_timeouts=dealer_timeouts, collects=True
    )


def batch_session(
    options: SubmitOptions, pool: str, clock: Clock, client: int, *, cursor: int = 0, collects: bool = False
) -> Session:
    """A connection that holds the batch."""
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
        dealer_timeouts=options.dealer_timeouts,
        private=options.pool is None,
        resume=options.resume,
        cursor=cursor,
        collects=collects,
    )


def new_client_id() -> int:
    """63 random bits: nobody else has them."""
    return int.from_bytes(os.urandom(8), "big") >> 1


def run_batch(options: SubmitOptions, feed: Feed, console: Console, resume_command: str) -> ExitCode:
    """Submits the feed's jobs and sees them through. `resume_command`: the command that resumes it.

    Raises TaskpoolError for what ends it early.
    """
    namespace = KernelNamespace()
    clock = SystemClock()
    with ExitStack() as cleanup:
        wakeup = Wakeup(signals_to_hear())
        cleanup.callback(wakeup.close)
        private_state = None
        if options.pool is None:
            private_state = PrivateState(options.batch, options.journal, resume=options.resume)
            wait_for_predecessor(private_state, wakeup, console)
        printer = _printer(options, private_state)
        cleanup.callback(printer.close)
        private = None
        if private_state is not None:
            dealer = PrivateDealer(
                private_state, options.dealer_options, namespace, console, resume_command, options.drain_ns
            )
            private = cleanup.enter_context(dealer)
        pool = private_state.pool if private_state is not None else options.pool or ""
        result = BatchResult(options, printer, console, clock, private, resume_command)
        client, cursor = new_client_id(), 0
        if options.resume and not options.detach:
            session = batch_session(options, pool, clock, client, collects=True)
            asking = open_connection(session, namespace, console)
            cursor = _recall(BatchQueries(asking, clock, wakeup, private), options.batch, result, console)
        session = batch_session(options, pool, clock, client, cursor=cursor)
        connection = open_connection(session, namespace, console)
        cleanup.callback(connection.close)
        batch_run = BatchRun(
            connection,
            feed,
            printer,
            result.totals,
            result.progress,
            console,
            clock,
            wakeup,
            private=private,
            halt=options.halt,
            detach=options.detach,
        )
        return result.run_to_end(batch_run, session)


def _printer(options: SubmitOptions, private_state: PrivateState | None) -> Printer:
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
        if private_state is not None and not private_state.resumed:
            private_state.remove(frozenset())
        raise


def _recall(queries: BatchQueries, batch: str, result: BatchResult, console: Console) -> int:
    """What earlier runs know of the batch, which is ours from here on, so that it cannot change any more."""
    try:
        last = recall(queries, batch, result.totals, result.printer, console)
    except PrivateEnded:
        queries.close(goodbye=False)
        return 0  # it is noticed again, where it is told
    except TaskpoolError:
        queries.close()
        raise
    queries.close(goodbye=False)
    return last
