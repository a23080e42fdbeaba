"""tp-generator: what a person types."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence

import msgspec

from taskpool.client.queries import BatchQueries
from taskpool.clock import SystemClock
from taskpool.errors import ExitCode, TaskpoolError, UsageError, system_refused
from taskpool.generator import admin, queries
from taskpool.generator.input.feed import Source, open_feed, preview
from taskpool.generator.input.jobs_file import job_schema, read_jobs
from taskpool.generator.options import batch_limits, dealer_timeouts, log_format, submit_options, verbosity
from taskpool.generator.output.console import Console
from taskpool.generator.output.stream import OutputClosed
from taskpool.generator.parser import READERS, VERBS, build_parser
from taskpool.generator.resuming import resume_command
from taskpool.generator.signals import signals_to_hear
from taskpool.generator.submit import open_connection, query_session, run_batch
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.names import check_pool_name
from taskpool.kinds import KINDS
from taskpool.messages import JobSpec
from taskpool.procs import signals

STDIN = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    signals.ensure_low_fds()
    signals.reset_inherited()
    args = build_parser().parse_args(argv)
    console = Console(verbosity=verbosity(args), fmt=log_format(args))
    try:
        if args.subcommand in KINDS or args.subcommand == "jobs":
            return submit(args, console, sys.argv[1:] if argv is None else argv)
        return command(args, console)
    except OutputClosed:
        return signals.die_of_broken_pipe()
    except KeyboardInterrupt:  # before anything was started: later, signals are heard
        return ExitCode.INTERRUPTED
    except TaskpoolError as error:
        console.error(str(error))
        return error.exit_code
    except OSError as error:
        console.error(system_refused(error))
        return ExitCode.ENVIRONMENT


def submit(args: Namespace, console: Console, argv: Sequence[str]) -> ExitCode:
    """One batch."""
    if args.subcommand == "jobs" and args.schema:
        return _print_schema()
    options = submit_options(args)
    source = source_of(args)
    if options.dry_run:
        return _print_jobs(preview(source))
    return run_batch(options, open_feed(source), console, resume_command(sys.argv[0], argv, options.batch))


def command(args: Namespace, console: Console) -> ExitCode:
    """One question to a running pool."""
    reader = queries.parse(args) if args.subcommand in READERS else None
    wish = wish_of(args) if reader is None else None
    waits = dealer_timeouts(args)
    clock = SystemClock()
    pool = check_pool_name(args.pool)
    session = query_session(pool, clock, waits)
    wakeup = signals.Wakeup(signals_to_hear())
    connection = open_connection(session, KernelNamespace(), console)
    try:
        if reader is not None:
            return reader(queries.QueryContext(BatchQueries(connection, clock, wakeup), console, clock, wakeup))
        assert wish is not None
        answer = admin.ask(connection, wish, clock, wakeup, waits.first_ns)
    finally:
        connection.close()
        wakeup.close()
    text, error = admin.tell(answer, as_json=args.json)
    admin.write_all(text)
    if error is not None:
        console.error(error)
        return ExitCode.USAGE
    return ExitCode.OK


def source_of(args: Namespace) -> Source:
    """Where the jobs come from. Raises UsageError."""
    if args.subcommand != "jobs":
        kind = KINDS[args.subcommand]

        def make_jobs(lines: Iterator[bytes]) -> Iterator[JobSpec]:
            payloads = kind.jobs(args, lines)  # not in the expression, which would ask only for the first job
            return (JobSpec(kind.name, payload) for payload in payloads)

        return Source(make_jobs, STDIN, "standard input") if kind.reads_lines(args) else Source(make_jobs)
    if args.file is None:
        raise UsageError("jobs: expected a FILE of job objects, or - for standard input, got neither")
    base = batch_limits(args)
    name = "standard input" if args.file == "-" else args.file
    fd = STDIN if args.file == "-" else _open(args.file)
    return Source(lambda lines: read_jobs(lines, name, base), fd, name)


def _open(name: str) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error


def _print_jobs(jobs: Iterator[JobSpec]) -> ExitCode:
    for job in jobs:
        line = KINDS[job.kind].command_line(job.payload)
        admin.write_all(os.fsencode(line) + b"\n")
    return ExitCode.OK


def _print_schema() -> ExitCode:
    text = msgspec.json.format(msgspec.json.encode(job_schema()), indent=2)
    admin.write_all(text + b"\n")
    return ExitCode.OK


def wish_of(args: Namespace) -> admin.Wish:
    """What the command line asks of a pool. Raises UsageError."""
    if args.subcommand == "scale":
        return admin.Wish("scale", number=admin.parse_scale(args.change))
    if args.subcommand == "quarantine":
        if args.action == "list" or args.target == "all":
            return admin.Wish(f"quarantine-{args.action}")
        return admin.Wish(f"quarantine-{args.action}", *admin.parse_target(args.target, whole_batch=True))
    _, target_name, whole_batch = VERBS[args.subcommand]
    if target_name is None:
        return admin.Wish(args.subcommand)
    return admin.Wish(args.subcommand, *admin.parse_target(args.target, whole_batch=whole_batch))


if __name__ == "__main__":
    sys.exit(main())
