"""`wait`, `results`, `logs` and `show`: how a batch stands or ended, from any terminal and at any time.

They ask and change nothing, so they go on when the dealer restarts in between.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from taskpool.client.queries import BatchQueries, BatchStatus
from taskpool.clock import MILLISECOND, Clock
from taskpool.durations import human, parse_duration
from taskpool.errors import ExitCode, UsageError, counted
from taskpool.generator import admin
from taskpool.generator.failures import UNREMARKABLE, command_that_shows_failures
from taskpool.generator.options import STDOUT
from taskpool.generator.output.console import Console
from taskpool.generator.output.formats import to_json
from taskpool.generator.output.job_view import ended_job, lay_out_job
from taskpool.generator.output.printer import ERR, OUT, Files, Form, Printer, stream_pieces
from taskpool.generator.output.stream import Piece, write_out, write_pieces
from taskpool.generator.signals import first_that_applies
from taskpool.generator.totals import PoolFacts, Totals
from taskpool.messages import Outcome
from taskpool.procs.signals import Wakeup

# How often `wait` asks: the dealer sends outcomes only to the client that holds the batch, so another one has to look.
# The pause doubles, so that a short batch is seen to end at once and a long one costs the dealer little.
LOOK_NS_MIN = 20 * MILLISECOND
LOOK_NS_MAX = 500 * MILLISECOND


class QueryContext(NamedTuple):
    """What a query works with."""

    queries: BatchQueries
    console: Console
    clock: Clock
    wakeup: Wakeup


Query = Callable[[QueryContext], ExitCode]


def parse(args: Namespace) -> Query:
    """Return the query that a command line asks for. Raises UsageError."""
    if args.target is None:
        raise UsageError(f"{args.subcommand}: expected BATCH, the id of a batch, got none")
    batch, seq = admin.parse_target(args.target, whole_batch=args.subcommand not in ("logs", "show"))
    if args.subcommand == "show":
        return lambda context: show(context, batch, seq, as_json=args.json)
    if args.subcommand == "logs":
        return lambda context: logs(context, batch, seq, as_json=args.json)
    if seq:
        raise UsageError(f"{args.subcommand}: expected a batch, got the job {args.target!r}")
    if args.subcommand == "results":
        to_stdout = args.results == STDOUT
        form: Form = "json" if args.json or to_stdout else args.output
        form = "failure" if args.failed and form == "value" else form
        # Anew: all that is recorded is printed again.
        files = Files(results=None if to_stdout else args.results, output_dir=args.output_dir)
        return lambda context: results(context, batch, form, files, failed=args.failed)
    timeout_ns = None if args.timeout is None else parse_duration(args.timeout, "--timeout")
    return lambda context: wait(context, batch, timeout_ns, as_json=args.json)


def wait(context: QueryContext, batch: str, timeout_ns: int | None, *, as_json: bool = False) -> ExitCode:
    """Wait until every job of the batch has its outcome, and say what they add up to.

    Raises UsageError when there is no such batch, or its outcomes are not all kept.
    """
    started = context.clock.now().mono
    deadline = None if timeout_ns is None else started + timeout_ns
    pause_ns = LOOK_NS_MIN
    while not (status := _status(context.queries, batch)).finished:
        # Judged after the question: a batch that ended in time is never called late.
        left_ns = LOOK_NS_MAX if deadline is None else deadline - context.clock.now().mono
        if left_ns <= 0:
            context.console.error(f"batch {batch!r} has not ended within {human(timeout_ns or 0)}: {_so_far(status)}")
            return ExitCode.WAIT_TIMED_OUT
        context.queries.sleep(min(pause_ns, left_ns))
        pause_ns = min(pause_ns * 2, LOOK_NS_MAX)
    # Its end is what the batch's own run would have said: the same totals, hence the same exit code.
    totals = Totals()
    for outcome in context.queries.outcomes(batch, 0, status.recorded):
        totals.add(outcome)
    if as_json:
        # As the dealer sent it, so that a newer dealer's fields are there too.
        write_pieces([Piece(OUT, context.queries.body + b"\n")], context.wakeup)
    total = status.total or 0
    if totals.finished < total:  # an exit code of the outcomes that are left would be a guess
        raise UsageError(
            f"batch {batch!r} has ended, and the pool has kept {totals.finished} of its {total} outcomes: without a "
            "journal those that were told are gone"
        )
    context.console.info(*totals.summary(total, context.clock.now().mono - started, PoolFacts()))
    if causes := totals.causes.text():
        command = command_that_shows_failures(context.queries.pool, batch)
        context.console.info(f"Failures: {causes}. To see them: {command}")
    return first_that_applies(totals.exit_codes)


def results(context: QueryContext, batch: str, form: Form, files: Files, *, failed: bool = False) -> ExitCode:
    """Print what is recorded so far, as the batch's own run prints it; `failed`: only of jobs that did not succeed.

    Raises UsageError.
    """
    status = _status(context.queries, batch)
    printer = Printer(batch, form, files=files)
    try:
        printer.begin()
        for outcome in context.queries.outcomes(batch, 0, status.recorded):
            if failed and outcome.state in UNREMARKABLE:
                continue
            printer.take(outcome)
            printer.pump()
            if printer.congested:  # pages are read only as fast as the output is
                write_out(printer, context.wakeup)
        write_out(printer, context.wakeup)
    finally:
        printer.close()
    # To standard error, behind the outcomes: on standard output are outcomes only.
    if not status.finished:
        context.console.info(f"Batch {batch} has not ended: {_so_far(status)}")
    return ExitCode.OK


def logs(context: QueryContext, batch: str, seq: int, *, as_json: bool = False) -> ExitCode:
    """Print the two streams of a job's last run, each on ours. Raises UsageError when it has no outcome yet."""
    status = _status(context.queries, batch)
    found = _last_outcome(context.queries, batch, seq)
    if found is None:
        raise UsageError(f"job {batch}/{seq} has no outcome: {_so_far(status)}")
    if as_json:
        pieces = [Piece(OUT, to_json(batch, found))]
    else:
        output = found.output
        pieces = stream_pieces(OUT, output.stdout, output.stdout_file)
        pieces += stream_pieces(ERR, output.stderr, output.stderr_file)
    write_pieces(pieces, context.wakeup)
    return ExitCode.OK


def show(context: QueryContext, batch: str, seq: int, *, as_json: bool = False) -> ExitCode:
    """Describe a job wherever it is, with the tries of its run that did not succeed."""
    answer = context.queries.job(batch, seq)
    text, error = admin.render(answer, as_json=as_json, lay_out=lay_out_job)
    if error is not None and (ended := _last_outcome(context.queries, batch, seq)) is not None:
        body, error = ended_job(batch, ended), None
        text = body + b"\n" if as_json else lay_out_job(msgspec.json.decode(body)).encode(errors="backslashreplace")
    write_pieces([Piece(OUT, text)], context.wakeup)
    if error is not None:  # the dealer's: it knows whether it keeps jobs that have ended
        context.console.error(error)
        return ExitCode.USAGE
    return ExitCode.OK


def _last_outcome(queries: BatchQueries, batch: str, seq: int) -> Outcome | None:
    """Return the outcome of a job's last run; None when the pool has none."""
    status = queries.batch(batch)
    found: Outcome | None = None
    for outcome in () if status is None else queries.outcomes(batch, 0, status.recorded):
        if outcome.seq == seq:
            found = outcome  # and look further: a requeued job has one outcome for each run
    return found


def _status(queries: BatchQueries, batch: str) -> BatchStatus:
    status = queries.batch(batch)
    if status is None:
        raise UsageError(f"the pool knows no batch {batch!r}: it never came, or it ended and is not kept any more")
    return status


def _so_far(status: BatchStatus) -> str:
    more = "all accepted" if status.total is not None else "more may come"
    return f"{counted(status.accepted, 'job')} ({more}), {status.open} without an outcome"
