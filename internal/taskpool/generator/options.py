"""What the command line of a submission means, checked as a whole before anything is done."""

from __future__ import annotations

import os
import re
from argparse import Namespace

from msgspec import Struct

from taskpool import chaos, limits
from taskpool.client.session import DealerTimeouts
from taskpool.durations import parse_duration
from taskpool.errors import UsageError
from taskpool.generator.job_limits import KEYS, HaltRule, option_name, parse_halt, parse_limits
from taskpool.generator.output.printer import Form
from taskpool.generator.output.progress import Mode, choose_mode
from taskpool.ipc.names import check_pool_name
from taskpool.log import Format
from taskpool.messages import Limits
from taskpool.procs.state_dir import is_text

_BATCH = re.compile(limits.BATCH_ID_PATTERN)
# Options that are the dealer's own: for a private one they are handed on as they are.
DEALER_OPTIONS = (
    "workers",
    "spares",
    "journal",
    "journal_sync",
    "retain",
    "metrics",
    "worker_exec",
    "chaos",
    "drain_timeout",
)
_NEEDS_OUTCOMES = ("results", "joblog", "keep_order", "output", "halt")


class SubmitOptions(Struct, frozen=True):
    """One submission's options."""

    pool: str | None  # None: a private one
    batch: str
    resume: bool  # go on with it, if it is there
    journal: str | None  # of a private pool: a path; "none"; None: in its state directory
    limits: Limits
    dealer_options: list[str]
    drain_ns: int  # as the private dealer has it
    halt: HaltRule | None
    form: Form
    keep_order: bool
    results: str | None
    joblog: str | None
    detach: bool
    waits: bool
    dealer_timeouts: DealerTimeouts
    dry_run: bool
    progress: Mode


def submit_options(args: Namespace) -> SubmitOptions:
    """Raises UsageError for values and combinations that make no sense."""
    wanted = batch_limits(args)
    _check_pool(args)
    _check_values(args)
    _check_detach(args)
    _check_chaos(args, wanted)
    if args.batch is not None and not _BATCH.match(args.batch):
        raise UsageError(
            f"--batch: expected up to 64 letters, digits, '.', '_' and '-', starting with a letter or digit, "
            f"got {args.batch!r}"
        )
    return SubmitOptions(
        pool=args.pool,
        batch=args.batch or os.urandom(8).hex(),
        resume=args.resume,
        journal=args.journal,
        limits=wanted,
        dealer_options=[] if args.pool is not None else dealer_options(args),
        drain_ns=_drain_ns(args),
        halt=None if args.halt is None else parse_halt(args.halt),
        form=args.output or "value",
        keep_order=args.keep_order,
        results=args.results,
        joblog=args.joblog,
        detach=args.detach,
        waits=not args.no_wait,
        dealer_timeouts=dealer_timeouts(args),
        dry_run=args.dry_run,
        progress=choose_mode(args.progress, quiet=args.quiet, verbose=args.verbose),
    )


def batch_limits(args: Namespace) -> Limits:
    """From the options named as a job object's fields are."""
    fields = {key: getattr(args, key) for key in KEYS if getattr(args, key) is not None}
    if isinstance(text := fields.get("crash_limit"), str) and text.isascii() and text.isdecimal():
        fields["crash_limit"] = int(text[:18])
    return parse_limits(fields, option_name)


def dealer_options(args: Namespace) -> list[str]:
    """The command line of a private dealer, less what ties it to us."""
    given = {name: getattr(args, name) for name in DEALER_OPTIONS}
    del given["journal"]  # its place depends on the batch
    given["metrics"] = args.metrics or "none"
    words: list[str] = []
    for name, value in given.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}={value}"]
    if args.verbose:
        words.append("-v")
    if args.quiet:
        words.append("-q")
    return [*words, f"--log-format={args.log_format}"]


def dealer_timeouts(args: Namespace) -> DealerTimeouts:
    """How long to wait for a dealer."""
    if args.dealer_timeout is not None:
        given_ns = parse_duration(args.dealer_timeout, "--dealer-timeout")
        return DealerTimeouts(given_ns, given_ns)
    if args.pool is None:  # our own: it is coming, however loaded the machine is, and its death is seen at once
        return DealerTimeouts(first_ns=limits.BOOT_NS_MAX)
    return DealerTimeouts()


def verbosity(args: Namespace) -> int:
    return int(args.verbose) - int(args.quiet)


def log_format(args: Namespace) -> Format:
    return "json" if args.log_format == "json" else "text"


def _check_pool(args: Namespace) -> None:
    if args.pool is not None:
        check_pool_name(args.pool)
        for name in DEALER_OPTIONS:
            if getattr(args, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} is for a private pool: with --pool, the dealer of {args.pool!r} has "
                    "options of its own"
                )


def _check_values(args: Namespace) -> None:
    if args.resume and args.batch is None:
        raise UsageError("--resume needs --batch ID: which one is to go on")
    if args.journal == "":
        raise UsageError("--journal: expected a path or none, got ''")
    if args.journal is not None and not is_text(args.journal):
        raise UsageError(f"--journal {args.journal!r}: expected a path in UTF-8")
    if args.retain is not None:
        parse_duration(args.retain, "--retain")


def _drain_ns(args: Namespace) -> int:
    given = args.drain_timeout
    return limits.DRAIN_TIMEOUT_NS if given is None else parse_duration(given, "--drain-timeout")


def _check_detach(args: Namespace) -> None:
    if not args.detach:
        return
    if args.pool is None:
        raise UsageError("--detach needs --pool: a private dealer ends with its generator")
    for name in _NEEDS_OUTCOMES:
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')} needs the outcomes, which --detach does not wait for")


def _check_chaos(args: Namespace, wanted: Limits) -> None:
    if args.chaos is not None and chaos.parse(args.chaos).hang > 0 and not wanted.timeout_ns:
        raise UsageError("--chaos: hang=P makes jobs that never end: it needs --timeout")
