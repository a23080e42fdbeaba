"""`wait`, `results` and `logs`: what became of a batch, from any terminal and at any time.

They ask and change nothing, so they go on when the dealer restarts in between.
"""

from __future__ import annotations

import select
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from taskpool.client.queries import BatchFacts, BatchQueries
from taskpool.clock import MILLISECOND, Clock
from taskpool.durations import human, parse_duration
from taskpool.errors import ExitCode, UsageError
from taskpool.generator import admin
from taskpool.generator.output.console import Console
from taskpool.generator.output.formats import to_json
from taskpool.generator.output.printer import ERR, OUT, Form, Printer, stream_pieces
from taskpool.generator.output.stream import OutputStream, Piece
from taskpool.generator.signals import first_that_applies, raise_if_stopped
from taskpool.generator.summary import PoolFacts, summary
from taskpool.generator.totals import Totals
from taskpool.messages import Outcome
from taskpool.procs.signals import Wakeup

LOOK_NS_MIN = 20 * MILLISECOND
LOOK_NS_MAX = 500 * MILLISECOND


class QueryContext(NamedTuple):
    """What a reader works with."""

    queries: BatchQueries
    console: Console
    clock: Clock
    wakeup: Wakeup


Reader = Callable[[QueryContext], ExitCode]


def parse(args: Namespace) -> Reader:
    """The reader that a command line asks for. Raises UsageError."""
    batch, seq = admin.parse_target(args.target, whole_batch=args.subcommand != "logs")
    if args.subcommand == "logs":
        return lambda context: logs(context, batch, seq, as_json=args.json)
    if seq:
        raise UsageError(f"{args.subcommand}: expected a batch, got the job {args.target!r}")
    if args.subcommand == "results":
        form: Form = "json" if args.json else args.output
        return lambda context: results(context, batch, form, args.results)
    timeout_ns = None if args.timeout is None else parse_duration(args.timeout, "--timeout")
    return lambda context: wait(context, batch, timeout_ns, as_json=args.json)


def wait(context: QueryContext, batch: str, timeout_ns: int | None, *, as_json: bool = False) -> ExitCode:
    """Until every job of the batch has its outcome. Raises UsageError when there is no such batch."""
    started = context.clock.now().mono
    deadline = None if timeout_ns is None else started + timeout_ns
    pause_ns = LOOK_NS_MIN
    while not (facts := _facts(context.queries, batch)).finished:
        rest_ns = LOOK_NS_MAX if deadline is None else deadline - context.clock.now().mono
        if rest_ns <= 0:
            context.console.error(f"batch {batch!r} has not ended within {human(timeout_ns or 0)}: {_so_far(facts)}")
            return ExitCode.WAIT_TIMED_OUT
        context.queries.rest(min(pause_ns, rest_ns))
        pause_ns = min(pause_ns * 2, LOOK_NS_MAX)
    totals = Totals()
    for outcome in context.queries.outcomes(batch, 0, facts.recorded):
        totals.add(outcome)
    if as_json:
        _write_pieces([Piece(OUT, context.queries.body + b"\n")], context.wakeup)
    total = facts.total or 0
    if totals.finished < total:
        raise UsageError(
            f"batch {batch!r} has ended, and the pool has kept {totals.finished} of its {total} outcomes: without a "
            "journal those that were told are gone"
        )
    context.console.info(*summary(totals, total, context.clock.now().mono - started, PoolFacts()))
    return first_that_applies(totals.codes)


def results(context: QueryContext, batch: str, form: Form, file: str | None) -> ExitCode:
    """Prints what is recorded so far, as the batch's own run prints it. Raises UsageError."""
    facts = _facts(context.queries, batch)
    printer = Printer(batch, form, results=file)
    try:
        printer.begin()
        for outcome in context.queries.outcomes(batch, 0, facts.recorded):
            printer.take(outcome)
            printer.pump()
            if printer.congested:
                _write_out(printer, context.wakeup)
        _write_out(printer, context.wakeup)
    finally:
        printer.close()
    if not facts.finished:
        context.console.info(f"Batch {batch} has not ended: {_so_far(facts)}")
    return ExitCode.OK


def logs(context: QueryContext, batch: str, seq: int, *, as_json: bool = False) -> ExitCode:
    """Prints the two streams of a job's last run, each on ours. Raises UsageError when it has no outcome yet."""
    facts = _facts(context.queries, batch)
    found: Outcome | None = None
    for outcome in context.queries.outcomes(batch, 0, facts.recorded):
        if outcome.seq == seq:
            found = outcome
    if found is None:
        raise UsageError(f"job {batch}/{seq} has no outcome: {_so_far(facts)}")
    if as_json:
        pieces = [Piece(OUT, to_json(batch, found))]
    else:
        output = found.output
        pieces = stream_pieces(OUT, output.stdout, output.stdout_file)
        pieces += stream_pieces(ERR, output.stderr, output.stderr_file)
    _write_pieces(pieces, context.wakeup)
    return ExitCode.OK


def _facts(queries: BatchQueries, batch: str) -> BatchFacts:
    facts = queries.batch(batch)
    if facts is None:
        raise UsageError(f"the pool knows no batch {batch!r}: it never came, or it ended and is not kept any more")
    return facts


def _so_far(facts: BatchFacts) -> str:
    more = "all accepted" if facts.total is not None else "more may come"
    return f"{facts.accepted} jobs ({more}), {facts.open} without an outcome"


def _write_pieces(pieces: list[Piece], wakeup: Wakeup) -> None:
    for stream, content in pieces:
        flow = OutputStream(stream)
        flow.put(content)
        flow.pump()
        while not flow.idle:
            _wait_for_room([flow.fd], wakeup)
            flow.pump()


def _write_out(printer: Printer, wakeup: Wakeup) -> None:
    """Waits until everything is written, whoever reads it."""
    printer.pump()
    while not printer.idle:
        _wait_for_room(printer.writable, wakeup)
        printer.pump()


def _wait_for_room(descriptors: list[int], wakeup: Wakeup) -> None:
    poll = select.poll()
    poll.register(wakeup, select.POLLIN)
    for fd in descriptors:
        poll.register(fd, select.POLLOUT)
    poll.poll()
    raise_if_stopped(wakeup)
