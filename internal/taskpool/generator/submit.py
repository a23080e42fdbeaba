"""One submission: its parts put together, for a new batch and for one that is resumed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

from msgspec import structs

from taskpool.client.connection import Connection, DealerEnded
from taskpool.client.opening import new_client_id, open_connection
from taskpool.client.queries import BatchQueries, BatchStatus
from taskpool.client.session import SessionOptions
from taskpool.clock import AwakeClock, SystemClock
from taskpool.errors import ExitCode, TaskpoolError, UsageError, counted
from taskpool.generator.advice import Advice
from taskpool.generator.input.feed import Feed
from taskpool.generator.options import SubmitOptions
from taskpool.generator.output.console import Console
from taskpool.generator.output.printer import Files, Printer
from taskpool.generator.output.progress import Progress
from taskpool.generator.result import BatchResult
from taskpool.generator.run import BatchRun, RunParts
from taskpool.generator.selection import Selection, choose_jobs
from taskpool.generator.signals import RaiseOnSignal, handled_signals, raise_if_stopped
from taskpool.generator.totals import Totals
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.private.forget import forget_expired, forget_succeeded
from taskpool.private.notes import Typed, unknown
from taskpool.private.process import PrivateDealer, wait_for_predecessor
from taskpool.private.state import Beginning, PrivateState, unknown_batch
from taskpool.procs.prctl import require_pidfds
from taskpool.procs.signals import Wakeup


class Jobs(NamedTuple):
    """The input of one batch."""

    feed: Feed | None  # None: it is opened when the pool turns out not to have all of it
    reopen: Callable[[], Feed] | None = None  # then
    typed: Typed | None = None  # what was typed, if it was
    again: Selection | None = None  # jobs of the batch that run again; then there is no feed


class _Recalled(NamedTuple):
    """What a pool has of the batch that is resumed."""

    last_no: int = 0  # the last outcome that an earlier run has acknowledged
    status: BatchStatus | None = None  # None: it knows no such batch
    again: dict[int, int] | None = None  # jobs that run again, with the run that has ended


def run_batch(options: SubmitOptions, jobs: Jobs, console: Console, advice: Advice) -> ExitCode:
    """Submit the jobs and wait for their outcomes. `advice` is what a person is told about a batch that is kept.

    Raises TaskpoolError for what ends it early.
    """
    clock = AwakeClock(SystemClock())
    began = clock.now()
    with ExitStack() as cleanup:
        # First: a signal that comes while the parts are made is kept, and dealt with in the first turn of the loop.
        wakeup = Wakeup(handled_signals())
        cleanup.callback(wakeup.close)
        # Everything that can refuse the batch comes before the dealer is started: the state, then the output files.
        private_state = None
        if options.pool is None:
            require_pidfds()  # to hold its dealer by
            private_state = _take_state(options, jobs.typed)
            cleanup.callback(private_state.close)
            wait_for_predecessor(private_state, console, (wakeup,), lambda: raise_if_stopped(wakeup))
        printer = _open_printer(options, private_state)
        cleanup.callback(printer.close)
        private = None
        if private_state is not None:
            how_to_resume = advice.to_resume(input_complete=False)
            private = PrivateDealer(private_state, options.launch, KernelNamespace(), console, how_to_resume)
            cleanup.enter_context(private)
        totals = Totals()
        progress = Progress(options.progress, console, totals, clock.now().mono)
        feed = Feed.ended_before() if jobs.feed is None else jobs.feed
        parts = RunParts(options, feed, printer, totals, progress, console, clock, began, wakeup, private)
        session_options = _session_options(options, private)
        recalled = _Recalled()
        if options.must_exist and private is None:
            _refuse_unknown(parts, session_options)
        # A detached run takes no outcomes, so it has none to count before.
        if options.resume and not options.detach:
            recalled = _recall(parts, session_options, jobs.again)
        parts = parts._replace(again=recalled.again)
        if jobs.feed is None:
            parts, session_options = _without_input(parts, session_options, jobs, recalled)
        if private_state is not None:
            private_state.begin_run()
        # Over new queues, but as the same client: for the dealer it is one connection that says hello again.
        connection = _connect(parts, session_options, cursor=recalled.last_no)
        cleanup.callback(connection.close)
        return BatchResult(parts, BatchRun(parts, connection), advice).run_to_end()


def _take_state(options: SubmitOptions, typed: Typed | None) -> PrivateState:
    forget_expired(SystemClock().now().wall)
    if not options.resume:
        forget_succeeded(options.batch)
    return PrivateState(
        options.batch,
        options.journal,
        resume=options.resume,
        names_files=options.form == "json" or options.results is not None,
        beginning=Beginning(typed, options.named, options.retain_ns, options.must_exist),
    )


def _without_input(
    parts: RunParts, options: SessionOptions, jobs: Jobs, recalled: _Recalled
) -> tuple[RunParts, SessionOptions]:
    """Take the jobs as the pool has them, if it has all; else open the input again. Raises UsageError."""
    if recalled.again:
        return parts, structs.replace(options, adopt=True)
    if recalled.status is not None and recalled.status.total is not None:
        return parts, structs.replace(options, adopt=True)
    if jobs.reopen is None:  # the dealer ended before it was asked which jobs run again: the run says how
        return parts, structs.replace(options, adopt=True)
    try:
        return parts._replace(feed=jobs.reopen()), options
    except UsageError:
        if parts.private is not None:
            parts.private.omit_resume_command()  # the error says what to give
        raise


def _session_options(options: SubmitOptions, private: PrivateDealer | None) -> SessionOptions:
    """Return what the connection is about that holds the batch."""
    return SessionOptions(
        pool=options.pool or "" if private is None else private.pool,
        client=new_client_id(),
        pid=os.getpid(),
        batch=options.batch,
        limits=options.limits,
        detached=options.detach,
        wait_for_room=options.wait_for_room,
        timeouts=options.timeouts,
        private=private is not None,
        resume=options.resume,
    )


def _connect(parts: RunParts, options: SessionOptions, *, cursor: int = 0, collect_pages: bool = False) -> Connection:
    changed = structs.replace(options, cursor=cursor, collect_pages=collect_pages)
    return open_connection(changed, parts.console, parts.clock, parts.private)


def _open_printer(options: SubmitOptions, private_state: PrivateState | None) -> Printer:
    try:
        return Printer(
            options.batch,
            options.form,
            keep_order=options.keep_order,
            files=Files(
                results=options.results,
                joblog=options.joblog,
                output_dir=options.output_dir,
                append=options.resume,
                links=private_state is not None and private_state.gives_outputs_away,
            ),
        )
    except UsageError:
        # Or the same command, corrected, would be told that its batch exists already.
        if private_state is not None and not private_state.resumed:
            private_state.remove(frozenset())
        raise


def _refuse_unknown(parts: RunParts, options: SessionOptions) -> None:
    """Raise UsageError when a named pool has no such batch. Asked without it, for a hello with it would open it."""
    connection = _connect(parts, structs.replace(options, batch=None), collect_pages=True)
    queries = BatchQueries(connection, parts.clock, RaiseOnSignal(parts.wakeup))
    try:
        if queries.batch(parts.options.batch) is None:
            text = unknown(parts.options.batch, queries.batches(), f"in pool {parts.options.pool!r}")
            raise UsageError(f"--resume: {text}; --resume=or-begin begins it")
    finally:
        queries.close()


def _recall(parts: RunParts, options: SessionOptions, again: Selection | None) -> _Recalled:
    """Count the outcomes that an earlier run has acknowledged, which are not sent again. `again`: choose jobs by them.

    Raises DealerUnreachable, Interrupted, and UsageError when the pool has not kept them.
    """
    # As the client that will run the batch: from here on the dealer lets no other one have it, so it cannot change.
    connection = _connect(parts, options, collect_pages=True)
    queries = BatchQueries(connection, parts.clock, RaiseOnSignal(parts.wakeup))
    try:
        recalled = _count_acknowledged(parts, queries)
        if again is not None:
            recalled = recalled._replace(again=_choose(parts, queries, recalled.status, again))
        elif recalled.status is not None and _has_new_runs(parts, queries, recalled.status):
            recalled = recalled._replace(again={})
        elif recalled.status is not None and recalled.status.finished:
            parts.console.info(f"Batch {parts.options.batch} has ended already: nothing of it is left to run")
    except DealerEnded:
        queries.close(goodbye=False)
        return _Recalled()  # the run sees it too, and says how it ended
    except TaskpoolError:
        queries.close()
        raise
    queries.close(goodbye=False)
    return recalled


def _choose(parts: RunParts, queries: BatchQueries, status: BatchStatus | None, again: Selection) -> dict[int, int]:
    """Return the jobs that run again. Raises UsageError."""
    batch = parts.options.batch
    try:
        if parts.private is not None and (status is None or status.total is None):
            raise UsageError(f"rerun: batch {batch!r} lacks jobs of its input: `tp-generator resume {batch}` first")
        return choose_jobs(queries, batch, 0 if status is None else status.recorded, again)
    except UsageError:
        if parts.private is not None:
            parts.private.omit_resume_command()  # what is wrong is in the error
        raise


def _has_new_runs(parts: RunParts, queries: BatchQueries, status: BatchStatus) -> bool:
    """Whether jobs that have outcomes are open all the same, or have ended again since: they were to run again, and the
    run that asked for it was interrupted."""
    batch = parts.options.batch
    told_later = [outcome.seq for outcome in queries.outcomes(batch, status.acknowledged, status.recorded)]
    first_ends = sum(not parts.totals.has(seq) for seq in set(told_later))
    if first_ends < len(told_later):
        return True
    return parts.totals.finished + first_ends + status.open > status.accepted


def _count_acknowledged(parts: RunParts, queries: BatchQueries) -> _Recalled:
    batch = parts.options.batch
    status = queries.batch(batch)
    if status is None or not (status.accepted or status.total is not None):
        if parts.options.must_exist and parts.private is not None and not parts.private.state.resumed:
            raise UsageError(unknown_batch(batch))
        parts.console.info(f"There is nothing to resume: batch {batch} begins")
        return _Recalled()
    last = 0
    # Those not acknowledged are sent again after the hello, and counted then.
    for outcome in queries.outcomes(batch, 0, status.acknowledged):
        parts.totals.add(outcome, earlier=True)
        parts.progress.pace.add(outcome, earlier=True)
        parts.printer.recall(outcome)
        if parts.private is not None and parts.private.state.names_files:
            parts.printer.note_files(outcome)  # by the run that printed it
        last = outcome.no
    # A dealer without a journal forgets what is acknowledged.
    if last != status.acknowledged:
        raise UsageError(
            f"--resume: what came of {counted(status.acknowledged, 'job')} of batch {batch!r} was told to an earlier "
            "run, and without a journal the pool does not keep what was told: how the whole batch ends cannot be known"
        )
    return _Recalled(last, status)
