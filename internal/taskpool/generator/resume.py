"""`resume`: a batch goes on without its command being typed again.

A private batch keeps what was typed to begin it. Where its pool has all of its jobs, that says how outcomes are shown
and by how many workers it runs; where it has not, also where the rest of them comes from.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import Namespace
from functools import partial

from taskpool import limits
from taskpool.errors import ExitCode, UsageError
from taskpool.generator.advice import Advice, absolute, output_options, reads_stdin
from taskpool.generator.input.feed import Feed, open_feed
from taskpool.generator.options import submit_options
from taskpool.generator.output.console import Console
from taskpool.generator.parser import build_parser
from taskpool.generator.settings import parse_below
from taskpool.generator.source import source_of
from taskpool.generator.submit import Jobs, run_batch
from taskpool.kinds.source import STDIN
from taskpool.private import notes
from taskpool.private.notes import Typed, typed_of
from taskpool.private.state import enter_directory
from taskpool.procs.garbage import collect_rarely

_BATCH = re.compile(limits.BATCH_ID_PATTERN)
_NOT_TYPED = ["jobs", "-"]  # a command line without options of its own
_UNSAID = (None, False, "auto", "text")  # what an option is that was not given


def resume(args: Namespace, console: Console) -> ExitCode:
    """Go on with a batch. Raises TaskpoolError."""
    batch = batch_of(args)
    collect_rarely()
    typed = begun_by(args, batch, console)
    words = prepare(args, typed)
    options = submit_options(words)
    advice = Advice(sys.argv[0], batch, options.pool, "", output_options(words), _stdin_of(typed, words))
    return run_batch(options, Jobs(None, partial(_reopen, words, typed, batch)), console, advice)


def batch_of(args: Namespace) -> str:
    """Return the batch that is to go on. Raises UsageError."""
    if args.target is None:
        raise UsageError(
            f"{args.subcommand}: expected BATCH, the id of a batch (`tp-generator batches` lists them), got none"
            + ("; a pool that is paused goes on with `tp-generator unpause`" if args.subcommand == "resume" else "")
        )
    if not _BATCH.match(args.target):
        raise UsageError(f"{args.subcommand}: expected BATCH, the id of a batch, got {args.target!r}")
    return str(args.target)


def begun_by(args: Namespace, batch: str, console: Console) -> Typed | None:
    """Return what was typed to begin a private batch, and go to where that was; None when it is not known."""
    if args.pool is not None:
        return None
    if args.journal is None and notes.find(batch) is None:  # a journal that is named may have it
        raise UsageError(f"{args.subcommand}: {notes.unknown(batch, notes.known_ids(), 'that is kept here')}")
    if os.sep in sys.argv[0]:
        sys.argv[0] = absolute(sys.argv[0])  # the other programs are looked for beside it
    if (problem := enter_directory(batch)) is not None:
        console.warning(f"batch {batch} was begun in {problem}; relative paths now count from here")
    return typed_of(batch)


def prepare(args: Namespace, typed: Typed | None) -> Namespace:
    """Return the command line of the batch: what was typed then, under what is given now."""
    words = _NOT_TYPED if typed is None else list(map(os.fsdecode, typed.words))
    prepared = parse_below(build_parser(), words, {} if typed is None else typed.settings)
    for name, value in vars(args).items():
        if hasattr(prepared, name) and name != "subcommand" and value not in _UNSAID:
            setattr(prepared, name, value)
    prepared.batch, prepared.resume = args.target, "known"
    prepared.detach = prepared.dry_run = False
    return prepared


def _stdin_of(typed: Typed | None, words: Namespace) -> str | None:
    """See `Advice.stdin`."""
    if typed is None or typed.stdin is not None:
        return None
    if words.subcommand == "jobs":
        return "" if words.file == "-" else None
    try:
        return "" if reads_stdin(source_of(words)) else None
    except UsageError:  # a file of it is gone, which only matters when it is wanted again
        return None


def _reopen(words: Namespace, typed: Typed | None, batch: str) -> Feed:
    """Open the input of a batch again, because its pool has not all of it. Raises UsageError."""
    if typed is None:
        raise UsageError(
            f"resume: not all jobs of batch {batch!r} were accepted, and what was typed to begin it is not kept: give "
            f"the whole command again, with --batch {batch} --resume"
        )
    source = source_of(words)
    if reads_stdin(source) and typed.stdin is not None:
        _become_stdin(typed.stdin, typed.offset, batch)
    elif reads_stdin(source) and os.isatty(STDIN):
        raise UsageError(
            f"resume: the jobs of batch {batch!r} came from standard input, and not all were accepted: give all of "
            f"them again, from the first: `... | tp-generator resume {batch}`"
        )
    return open_feed(source)


def _become_stdin(path: bytes, offset: int, batch: str) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        os.lseek(fd, offset, os.SEEK_SET)
    except OSError as error:
        raise UsageError(
            f"resume: the jobs of batch {batch!r} came from {os.fsdecode(path)}, and not all were accepted; it cannot "
            f"be read any more ({error.strerror}): bring it back"
        ) from error
    os.dup2(fd, STDIN)
    os.close(fd)
