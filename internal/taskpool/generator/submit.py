"""One submission: its parts put together, for a new batch and for one that is resumed."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from contextlib import ExitStack

from msgspec import structs

from taskpool import limits
from taskpool.client.connection import Connection, DealerEnded
from taskpool.client.queries import BatchQueries
from taskpool.client.session import Session, SessionOptions
from taskpool.client.transport import Transport
from taskpool.clock import AwakeClock, SystemClock
from taskpool.errors import ExitCode, TaskpoolError, UsageError
from taskpool.generator.input.feed import Feed
from taskpool.generator.options import SubmitOptions
from taskpool.generator.output.console import Console, ProgressBar
from taskpool.generator.output.printer import Printer
from taskpool.generator.private.process import PrivateDealer, wait_for_predecessor
from taskpool.generator.private.state import PrivateState
from taskpool.generator.result import BatchResult
from taskpool.generator.run import BatchRun, RunParts
from taskpool.generator.signals import RaiseOnSignal, handled_signals
from taskpool.generator.totals import Totals
from taskpool.ipc.mqueue import KernelNamespace, kernel_limits
from taskpool.ipc.sizing import choose
from taskpool.procs.signals import Wakeup

_COMMAND_CHARS_MAX = 16 * 1024  # a longer one is no use on a terminal


def run_batch(options: SubmitOptions, feed: Feed, console: Console, resume_command: str) -> ExitCode:
    """Submit the feed's jobs and wait for their outcomes. `resume_command` is what a person is told to resume it.

    Raises TaskpoolError for what ends it early.
    """
    clock = AwakeClock(SystemClock())
    with ExitStack() as cleanup:
        # First: a signal that comes while the parts are made is kept, and dealt with in the first turn of the loop.
        wakeup = Wakeup(handled_signals())
        cleanup.callback(wakeup.close)
        # Everything that can refuse the batch comes before the dealer is started: the state, then the output files.
        private_state = None
        if options.pool is None:
            private_state = PrivateState(options.batch, options.journal, resume=options.resume)
            wait_for_predecessor(private_state, wakeup, console)
        printer = _open_printer(options, private_state)
        cleanup.callback(printer.close)
        private = None
        if private_state is not None:
            private = PrivateDealer(private_state, options.launch, KernelNamespace(), console, resume_command)
            cleanup.enter_context(private)
        totals = Totals()
        progress = ProgressBar(options.progress, console, totals, clock.now().mono)
        parts = RunParts(options, feed, printer, totals, progress, console, clock, wakeup, private)
        session_options = _session_options(options, private)
        cursor = 0
        # A detached run takes no outcomes, so it has none to count before.
        if options.resume and not options.detach:
            cursor = _recall(parts, session_options)
        # Over new queues, but as the same client: for the dealer it is one connection that says hello again.
        connection = _connect(parts, session_options, cursor=cursor)
        cleanup.callback(connection.close)
        return BatchResult(parts, BatchRun(parts, connection), resume_command).run_to_end()


def open_connection(
    options: SessionOptions, console: Console, clock: AwakeClock, private: PrivateDealer | None = None
) -> Connection:
    """Return a connection over a reply queue as large as this machine's limits leave for it."""
    # As the dealer sizes its queues, so that all replies together stay within the byte limit it has counted on.
    shape = choose(limits.WORKER_QUEUES_MIN, kernel_limits()).reply
    session = Session(options, clock.now().mono)
    return Connection(session, Transport(KernelNamespace(), options.pool, shape), console, clock, private)


def new_client_id() -> int:
    """Return 63 random bits: the dealer tells its clients apart by them, those of earlier runs included."""
    return int.from_bytes(os.urandom(8), "big") >> 1


def resume_command(program: str, argv: Sequence[str], batch: str) -> str:
    """Return the command that goes on with the batch which `program argv...` has begun, ready for a shell."""
    subcommand, *words = argv
    # Behind `--` stands the command of the jobs, whose options are not ours. Ours are found by their exact names: the
    # parser takes no abbreviations.
    options = words[: words.index("--")] if "--" in words else words
    added = [] if any(word == "--batch" or word.startswith("--batch=") for word in options) else ["--batch", batch]
    added += [] if "--resume" in options else ["--resume"]
    command = shlex.join([_as_typed(program), subcommand, *added, *words])
    if len(command) > _COMMAND_CHARS_MAX:
        return f"the same command with {' '.join(added)} behind {subcommand!r}"
    return command


def _as_typed(program: str) -> str:
    """Return the program's name alone, if a shell finds the same program by it."""
    name = os.path.basename(program)
    found = shutil.which(name)  # by the name alone a shell may find another installation
    return name if found is not None and os.path.realpath(found) == os.path.realpath(program) else program


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
            results=options.results,
            joblog=options.joblog,
            append=options.resume,
        )
    except UsageError:
        # Or the same command, corrected, would be told that its batch exists already.
        if private_state is not None and not private_state.resumed:
            private_state.remove(frozenset())
        raise


def _recall(parts: RunParts, options: SessionOptions) -> int:
    """Count the outcomes that an earlier run has acknowledged, which are not sent again; return the last's number.

    Raises DealerUnreachable, Interrupted, and UsageError when the pool has not kept them.
    """
    # As the client that will run the batch: from here on the dealer lets no other one have it, so it cannot change.
    connection = _connect(parts, options, collect_pages=True)
    queries = BatchQueries(connection, parts.clock, RaiseOnSignal(parts.wakeup))
    try:
        last = _count_acknowledged(parts, queries)
    except DealerEnded:
        queries.close(goodbye=False)
        return 0  # the run sees it too, and says how it ended
    except TaskpoolError:
        queries.close()
        raise
    queries.close(goodbye=False)
    return last


def _count_acknowledged(parts: RunParts, queries: BatchQueries) -> int:
    batch = parts.options.batch
    status = queries.batch(batch)
    if status is None or not status.accepted:
        parts.console.info(f"There is nothing to resume: batch {batch} begins")
        return 0
    last = 0
    # Those not acknowledged are sent again after the hello, and counted then.
    for outcome in queries.outcomes(batch, 0, status.acknowledged):
        parts.totals.add(outcome)
        parts.printer.skip(outcome.seq)
        last = outcome.no
    # A dealer without a journal forgets what is acknowledged.
    if last != status.acknowledged:
        raise UsageError(
            f"--resume: {status.acknowledged} outcomes of batch {batch!r} were told to an earlier run, and without a "
            "journal the pool does not keep what was told: how the whole batch ends cannot be known"
        )
    return last
