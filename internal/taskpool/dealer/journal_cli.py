"""`tp-dealer journal check|export|prune|backup`: work on a journal while its pool is down.

The tools hold the pool's lock meanwhile, as a dealer does: the journal has one user at a time.
"""

from __future__ import annotations

import sys
from argparse import Namespace, _SubParsersAction
from collections.abc import Sequence
from pathlib import Path

from taskpool import limits
from taskpool.arguments import Parser
from taskpool.dealer.examples import EXAMPLES
from taskpool.durations import parse_duration
from taskpool.errors import ConfigurationError, ExitCode, UsageError, counted
from taskpool.ipc.names import check_pool_name
from taskpool.journal import tools
from taskpool.procs.pool_lock import LOCK_NAME
from taskpool.procs.state_dir import JOURNAL_NAME, check_journal, state_directory


def run(argv: Sequence[str]) -> int:
    """Run the command; return its exit code. Raises ConfigurationError, JournalError, UsageError."""
    args = build_parser().parse_args(argv)
    # The lock file is the pool's own, also for a journal that --journal names: a dealer with that journal holds it.
    # Not created: a mistyped pool must be an error, and not an empty directory from now on.
    directory = state_directory(check_pool_name(args.pool), create=False)
    if args.journal is None and not directory.exists():
        raise ConfigurationError(
            f"pool {args.pool} has no state in {directory}: is --pool right? For a service's pool, be its user and "
            "have STATE_DIRECTORY as it has"
        )
    if args.journal is not None:
        check_journal(args.journal)
    return _ACTIONS[args.action](args, args.journal or directory / JOURNAL_NAME, directory / LOCK_NAME)


def build_parser() -> Parser:
    """Return the parser of the whole command line; man pages and completions are made from it too."""
    parser = Parser(
        prog="tp-dealer journal",
        description="Looks at, copies or shortens the journal of a pool that is not running.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = _add(actions, "check", "read every page and record, say what is wrong")
    check.add_argument(
        "--accept-loss", action="store_true", help="go on without what is missing or damaged, with what SQLite finds"
    )
    export = _add(actions, "export", "write everything to standard output, as JSON Lines")
    export.add_argument("--failed", action="store_true", help="only the outcomes of jobs that did not succeed")
    prune = _add(actions, "prune", "let finished batches go, beyond age and number")
    prune.add_argument("--retain", metavar="T", help="keep batches finished within T (default: 168h)")
    prune.add_argument(
        "--retain-batches", metavar="N", type=int, default=limits.RETAIN_BATCHES_MAX, help="keep N at most"
    )
    backup = _add(actions, "backup", "make a copy that is whole by itself")
    backup.add_argument("target", metavar="FILE", type=Path, help="where to; must not exist")
    parser.describe(EXAMPLES, frozenset())
    return parser


def _add(actions: _SubParsersAction[Parser], name: str, text: str) -> Parser:
    parser = actions.add_parser(name, help=text, description=text)
    parser.add_argument("--pool", metavar="NAME", default="default", help="name of the pool (default: default)")
    parser.add_argument("--journal", metavar="PATH", type=Path, help="the journal (default: the pool's own)")
    return parser


def _check(args: Namespace, path: Path, lock: Path) -> int:
    """Print what is wrong, and how much there is. Raises JournalError when it cannot be read at all."""
    # First the loss, then the check: what is reported is the journal as it will be used.
    if args.accept_loss:
        tools.accept_loss(path, lock)
    findings = tools.check(path, lock)
    sys.stdout.write(f"{findings.text}\n")
    # Not OK with problems: scripts check the exit code before they start the pool again.
    return ExitCode.ENVIRONMENT if findings.problems else ExitCode.OK


def _export(args: Namespace, path: Path, lock: Path) -> int:
    """Print everything as JSON Lines. Raises JournalError behind what could be read of a damaged journal."""
    tools.export(path, sys.stdout.buffer.write, lock, failed=args.failed)
    sys.stdout.flush()  # here, where a full disk under the output can still become an exit code
    return ExitCode.OK


def _prune(args: Namespace, path: Path, lock: Path) -> int:
    """Let finished batches go now, as a dealer would in time. Raises UsageError, JournalError."""
    if args.retain_batches < 0:
        raise UsageError(f"--retain-batches {args.retain_batches}: expected 0 or more")
    retain_ns = limits.RETAIN_NS if args.retain is None else parse_duration(args.retain, "--retain")
    gone = tools.prune(path, retain_ns, args.retain_batches, lock)
    sys.stdout.write(f"{counted(gone, 'batch is', 'batches are')} gone\n")
    return ExitCode.OK


def _backup(args: Namespace, path: Path, lock: Path) -> int:
    """Copy the journal into one file. A copy by cp(1) would lack the commits that are in the -wal."""
    tools.backup(path, args.target, lock)
    sys.stdout.write(f"{args.target} is a whole copy of {path}\n")
    return ExitCode.OK


_ACTIONS = {"check": _check, "export": _export, "prune": _prune, "backup": _backup}
