"""What the command line of a submission means, checked as a whole before anything is started."""

from __future__ import annotations

import os
import re
from argparse import Namespace

from msgspec import Struct

from taskpool import chaos, limits
from taskpool.client.session import ConnectTimeouts
from taskpool.cluster.subjects import Address, parse_address
from taskpool.durations import parse_duration
from taskpool.errors import UsageError
from taskpool.generator.dealer_values import check_dealer_values
from taskpool.generator.halt import HaltRule, parse_halt
from taskpool.generator.job_limits import KEYS, option_name, parse_limits
from taskpool.generator.output.printer import Form
from taskpool.generator.output.progress import ProgressMode, choose_mode
from taskpool.ipc.names import check_pool_name
from taskpool.log import Format
from taskpool.messages import Limits
from taskpool.private.process import LaunchOptions
from taskpool.procs.niceness import parse_niceness
from taskpool.procs.state_dir import is_text

_BATCH = re.compile(limits.BATCH_ID_PATTERN)
# Options that are the dealer's own: a private one gets them as they are, so that only it has to know their values.
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
    "delay",
    "nice",
)
STDOUT = "-"  # as a value of --results
# What a detached generator cannot do, because it leaves before the outcomes come.
_NEEDS_OUTCOMES = ("results", "joblog", "output_dir", "keep_order", "output", "halt")


class SubmitOptions(Struct, frozen=True):
    """One submission's options."""

    pool: str | None  # None: a private one
    cluster: Address | None  # where the engine is that several hosts share; None: the pool is this host's
    batch: str
    named: bool  # by a person
    resume: bool  # go on with it
    must_exist: bool  # or it is an error
    journal: str | None  # of a private pool: a path; "none"; None: in its state directory
    limits: Limits
    launch: LaunchOptions  # of a private dealer
    retain_ns: int  # how long a private batch with a name is kept when it has succeeded
    halt: HaltRule | None
    form: Form
    keep_order: bool
    results: str | None
    joblog: str | None
    output_dir: str | None
    detach: bool
    wait_for_room: bool  # in a full pool
    timeouts: ConnectTimeouts
    dry_run: bool
    progress: ProgressMode


def submit_options(args: Namespace) -> SubmitOptions:
    """Check a parsed command line and return what it means. Raises UsageError."""
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
        cluster=_cluster(args),
        batch=args.batch or os.urandom(8).hex(),  # random: no two runs on any machine share it
        named=args.batch is not None,
        resume=bool(args.resume),
        must_exist=args.resume == "known",
        journal=args.journal,
        limits=wanted,
        launch=LaunchOptions() if args.pool is not None else _launch_options(args),
        retain_ns=limits.RETAIN_NS if args.retain is None else parse_duration(args.retain, "--retain"),
        halt=None if args.halt is None else parse_halt(args.halt),
        form=_form(args),
        keep_order=args.keep_order,
        results=None if args.results == STDOUT else args.results,
        joblog=args.joblog,
        output_dir=args.output_dir,
        detach=args.detach,
        wait_for_room=not args.no_wait,
        timeouts=connect_timeouts(args),
        dry_run=args.dry_run,
        progress=choose_mode(args.progress, quiet=args.quiet, verbose=args.verbose),
    )


def _has_tags(args: Namespace) -> bool:
    # Only the kind that makes labels of arguments has these options.
    return getattr(args, "tag", False) or getattr(args, "tagstring", None) is not None


def _form(args: Namespace) -> Form:
    if args.results == STDOUT and args.output == "value":
        raise UsageError("--results - writes outcome objects to standard output: leave out --output value")
    if args.output == "json" or args.results == STDOUT:
        return "json"
    return "tagged" if _has_tags(args) else "value"


def batch_limits(args: Namespace) -> Limits:
    """Return the limits from the options that are named as a job object's fields are. Raises UsageError."""
    fields = {key: getattr(args, key) for key in KEYS if getattr(args, key) is not None}
    # In a job object this field is a number or a word; on the command line both come as text.
    if isinstance(text := fields.get("crash_limit"), str) and text.isascii() and text.isdecimal():
        fields["crash_limit"] = int(text[:18])
    return parse_limits(fields, option_name)


def _launch_options(args: Namespace) -> LaunchOptions:
    given = {name: getattr(args, name) for name in DEALER_OPTIONS}
    del given["journal"], given["nice"]  # its place depends on the batch; what it is started with, no option of its own
    given["metrics"] = args.metrics or "none"  # two private pools at once must not want the same port
    words: list[str] = []  # joined by `=`: a value that begins with a dash stays a value
    for name, value in given.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}={value}"]
    if args.verbose:
        words.append("-v")
    if args.quiet:
        words.append("-q")  # the dealer writes to the same standard error
    words.append(f"--log-format={args.log_format}")
    drain = args.drain_timeout
    drain_ns = limits.DRAIN_TIMEOUT_NS if drain is None else parse_duration(drain, "--drain-timeout")
    return LaunchOptions(tuple(words), drain_ns, None if args.nice is None else parse_niceness(args.nice))


def connect_timeouts(args: Namespace) -> ConnectTimeouts:
    """Return how long to wait for a dealer. Raises UsageError."""
    if args.dealer_timeout is not None:
        given_ns = parse_duration(args.dealer_timeout, "--dealer-timeout")
        return ConnectTimeouts(given_ns, given_ns)
    # A private dealer was just started: it comes, however loaded the machine is, and its death is seen at once.
    if args.pool is None:
        return ConnectTimeouts(connect_ns=limits.BOOT_NS_MAX)
    return ConnectTimeouts()


def verbosity(args: Namespace) -> int:
    """Return -1 for quiet, 1 for verbose, else 0."""
    return int(args.verbose) - int(args.quiet)


def log_format(args: Namespace) -> Format:
    """Return the form of log lines."""
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


def _cluster(args: Namespace) -> Address | None:
    if args.cluster is None:
        for name in ("cluster_creds", "cluster_ca"):
            if getattr(args, name) is not None:
                raise UsageError(f"{option_name(name)} is for --cluster, which is missing")
        return None
    address = parse_address(args.cluster)._replace(creds=args.cluster_creds, ca=args.cluster_ca)
    if args.pool is None:
        raise UsageError(f"--cluster {args.cluster}: --pool says which of its pools")
    # Refused rather than ignored: it would have to end jobs on other hosts.
    if args.halt is not None:
        raise UsageError("--halt is not possible with --cluster: this version cancels no jobs on other hosts")
    return address


def _check_values(args: Namespace) -> None:
    if args.resume and args.batch is None:
        raise UsageError("--resume needs --batch ID: which one is to go on; `tp-generator batches` lists them")
    if args.journal == "":
        raise UsageError("--journal: expected a path or none, got ''")
    # The dealer tells paths in messages, which carry them as text.
    if args.journal is not None and not is_text(args.journal):
        raise UsageError(f"--journal {args.journal!r}: expected a path in UTF-8")
    check_dealer_values(args)


def _check_detach(args: Namespace) -> None:
    if not args.detach:
        return
    if args.pool is None:
        raise UsageError("--detach needs --pool: a private dealer ends with its generator")
    if _has_tags(args):
        raise UsageError("--tag needs the outcomes, which --detach does not wait for")
    # Refused rather than ignored: each of them asks for something that would silently not be done.
    for name in _NEEDS_OUTCOMES:
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')} needs the outcomes, which --detach does not wait for")


def _check_chaos(args: Namespace, wanted: Limits) -> None:
    # Without a time-out nothing ends a job that hangs, and the demonstration would wait for ever.
    if args.chaos is not None and chaos.parse(args.chaos).hang > 0 and not wanted.timeout_ns:
        raise UsageError("--chaos: hang=P makes jobs that never end: it needs --timeout")
