"""Where the jobs of a command line come from."""

from __future__ import annotations

import os
from argparse import Namespace

from taskpool.errors import UsageError
from taskpool.generator.input.jobs_file import read_jobs
from taskpool.generator.options import batch_limits
from taskpool.kinds import TYPED_KINDS
from taskpool.kinds.source import STDIN, Source


def source_of(args: Namespace) -> Source:
    """Where the jobs come from. Raises UsageError."""
    if args.subcommand != "jobs":
        return TYPED_KINDS[args.subcommand].source(args)
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
