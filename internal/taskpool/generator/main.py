"""tp-generator: submits jobs, and commands a running pool."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import msgspec

from taskpool.arguments import Parser
from taskpool.client.opening import new_client_id, open_connection
from taskpool.client.queries import BatchQueries
from taskpool.client.session import SessionOptions
from taskpool.clock import AwakeClock, SystemClock
from taskpool.errors import ExitCode, QueueLimit, TaskpoolError, UsageError, system_refused
from taskpool.generator import admin, batches, queries, settings
from taskpool.generator.advice import Advice, absolute, output_options, resume_command, stdin_again, typed_now
from taskpool.generator.input.feed import open_feed, preview
from taskpool.generator.input.jobs_file import job_schema
from taskpool.generator.options import connect_timeouts, log_format, submit_options, verbosity
from taskpool.generator.output.console import WHO, Console
from taskpool.generator.output.outcome_object import outcome_schema
from taskpool.generator.output.stream import OutputClosed, OutputStream, Piece, write_out, write_pieces
from taskpool.generator.parser import QUERIES, build_parser
from taskpool.generator.rerun import rerun
from taskpool.generator.resume import resume
from taskpool.generator.signals import RaiseOnSignal, handled_signals
from taskpool.generator.source import source_of
from taskpool.generator.submit import Jobs, run_batch
from taskpool.ipc.names import check_pool_name
from taskpool.kinds import KINDS, TYPED_KINDS
from taskpool.messages import JobSpec
from taskpool.private.state import enter_directory
from taskpool.procs import signals
from taskpool.procs.garbage import collect_rarely
from taskpool.procs.settings import Settings, with_sources
from taskpool.procs.writer import LineWriter

STDOUT, STDERR = 1, 2


def _doctor(args: Namespace, console: Console) -> ExitCode:
    from taskpool.generator.doctor.examination import doctor  # a submission starts without it

    return doctor(args, console)


def _selftest(args: Namespace, console: Console) -> ExitCode:
    from taskpool.generator.selftest.selftest import selftest  # as above

    return selftest(args, console)


def _top(args: Namespace, console: Console) -> ExitCode:
    from taskpool.generator.top.top import top  # as above

    return top(args, console)


def _tell_faults(args: Namespace, console: Console) -> None:
    from taskpool.generator.doctor.examination import tell_faults  # as above

    tell_faults(console, getattr(args, "workers", None))


# Subcommands with connections of their own, or none: they look after batches, kept ones among them, pools or this host.
KEPT: dict[str, Callable[[Namespace, Console], ExitCode]] = {
    "resume": resume,
    "rerun": rerun,
    "batches": batches.batches,
    "forget": batches.forget,
    "doctor": _doctor,
    "top": _top,
    "selftest": _selftest,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    # First thing: a program that started us may have left descriptors closed and signals ignored or blocked.
    signals.ensure_low_fds()
    signals.reset_inherited()
    with LineWriter(STDERR, WHO) as stderr:
        try:
            return _run(sys.argv[1:] if argv is None else argv, stderr)
        except OutputClosed:  # `tp-generator ... | head`
            stderr.flush()
            return signals.die_of_broken_pipe()


def _run(argv: Sequence[str], stderr: LineWriter) -> int:
    if argv[:1] == ["--complete"]:  # not of the parser: for shells, not for people
        return _print_offers(argv[1:], stderr)
    parser = build_parser()
    args = parser.parse_args(argv)
    console = Console(stderr, verbosity=verbosity(args), fmt=log_format(args))
    below: Settings = {}
    try:
        below = settings.below(parser, args, console.warning)
        if below:
            args = settings.parse_below(parser, argv, settings.values(below))
            console = Console(stderr, verbosity=verbosity(args), fmt=log_format(args))
        if args.subcommand in TYPED_KINDS or args.subcommand == "jobs":
            return submit(args, console, argv, below, parser)
        if args.subcommand == "config":
            return _print_settings(args, below)
        if args.subcommand in KEPT:
            return KEPT[args.subcommand](args, console)
        return command(args, console)
    except OutputClosed:
        raise
    except KeyboardInterrupt:  # before anything was started: later, signals are caught
        return ExitCode.INTERRUPTED
    except TaskpoolError as error:
        console.error(str(with_sources(error, below) if isinstance(error, UsageError) else error))
        if isinstance(error, QueueLimit):
            _tell_faults(args, console)
        return error.exit_code
    except OSError as error:
        console.error(system_refused(error))
        return ExitCode.ENVIRONMENT


def submit(args: Namespace, console: Console, argv: Sequence[str], below: Settings, parser: Parser) -> ExitCode:
    """Submit one batch and wait for it. `below` are the settings that the command line has not given."""
    if args.subcommand == "jobs" and args.schema:
        return _print_schema(job_schema())
    collect_rarely()
    options = submit_options(args)
    if os.sep in sys.argv[0]:
        sys.argv[0] = absolute(sys.argv[0])  # the other programs are looked for beside it
    # Before anything is looked for: what is relative on the command line counts from where the batch was begun.
    if options.resume and options.pool is None and (problem := enter_directory(options.batch)) is not None:
        console.warning(f"batch {options.batch} was begun in {problem}; relative paths now count from here")
    args.batch = options.batch  # of it depends the order of --shuf
    # With what is set by files and variables, which may be others where it is typed.
    full = [argv[0], *settings.as_words(parser, below), *argv[1:]]
    command = resume_command(sys.argv[0], full, options.batch, len(getattr(args, "template", ())))
    source = source_of(args)  # before a dry run too, so that it finds the same faults
    if options.dry_run:
        return _print_jobs(preview(source))
    advice = Advice(sys.argv[0], options.batch, options.pool, command, output_options(args), stdin=stdin_again(source))
    typed = typed_now(argv, source, settings.values(below))  # before the feed has read of it
    if options.cluster is not None:
        from taskpool.generator.cluster_run import run_in_cluster  # a batch of one host starts faster without

        return run_in_cluster(options, open_feed(source), console, advice)
    code = run_batch(options, Jobs(open_feed(source), typed=typed), console, advice)
    if options.pool is None:
        settings.tell_origins(below, code, console.warning)  # a private dealer that refuses them knows no files
    if code is ExitCode.ENVIRONMENT and options.pool is None:
        _tell_faults(args, console)  # it may lie at the host
    return code


def command(args: Namespace, console: Console) -> ExitCode:
    """Ask a running pool one thing, and print the answer."""
    if args.subcommand == "results" and args.schema:
        return _print_schema(outcome_schema())
    # Parsed before the pool is called: a misspelt target needs no dealer to be refused.
    query = queries.parse(args) if args.subcommand in (*QUERIES, "show") else None
    request = admin.request_from(args) if query is None else None
    timeouts = connect_timeouts(args)
    options = SessionOptions(
        pool=check_pool_name(args.pool),
        client=new_client_id(),
        pid=os.getpid(),
        timeouts=timeouts,
        collect_pages=True,  # for `results`, `wait`, `logs` and `show`; a command is sent no outcomes
    )
    clock = AwakeClock(SystemClock())
    with (
        closing(signals.Wakeup(handled_signals())) as wakeup,
        closing(open_connection(options, console, clock)) as link,
    ):
        handler = RaiseOnSignal(wakeup)
        if query is not None:
            return query(queries.QueryContext(BatchQueries(link, clock, handler), console, clock, wakeup))
        assert request is not None
        answer = admin.ask(link, request, clock, handler, timeouts.connect_ns)
    # Printed with the connection closed: a slow reader must not keep a reply slot from other generators.
    text, error = admin.render(answer, as_json=args.json)
    write_pieces([Piece(STDOUT, text)])
    if error is not None:
        console.error(error)
        return ExitCode.USAGE
    return ExitCode.OK


def _print_jobs(jobs: Iterator[JobSpec]) -> ExitCode:
    with closing(OutputStream(STDOUT)) as output:
        try:
            for job in jobs:
                # As bytes: an argument may be a file name that is not UTF-8.
                output.put(os.fsencode(KINDS[job.kind].command_line(job.payload)) + b"\n")
                if output.congested:
                    write_out(output)
        except UsageError:
            write_out(output)  # the jobs before the bad line
            raise
        write_out(output)
    return ExitCode.OK


def _print_offers(words: Sequence[str], stderr: LineWriter) -> ExitCode:
    from taskpool.generator.completion import offers  # for shells only

    lines = offers(words, Console(stderr, verbosity=-1, fmt="text"))
    write_pieces([Piece(STDOUT, b"".join(os.fsencode(line) + b"\n" for line in lines))])
    return ExitCode.OK


def _print_settings(args: Namespace, below: Settings) -> ExitCode:
    write_pieces([Piece(STDOUT, settings.render(below, as_json=args.json))])
    return ExitCode.OK


def _print_schema(schema: dict[str, Any]) -> ExitCode:
    text = msgspec.json.format(msgspec.json.encode(schema), indent=2)
    write_pieces([Piece(STDOUT, text + b"\n")])
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
