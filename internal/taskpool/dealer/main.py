"""tp-dealer: run a pool, check its configuration or health, or work on its journal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import closing

from taskpool.dealer import options as dealer_options
from taskpool.dealer.log import DealerLog
from taskpool.dealer.options import DealerOptions
from taskpool.dealer.systemd import Notifier
from taskpool.errors import ExitCode, TaskpoolError, UsageError, counted, system_refused
from taskpool.procs import signals
from taskpool.procs.garbage import collect_rarely
from taskpool.procs.writer import LineWriter

STDERR_FD = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code (`errors.ExitCode`)."""
    # Both before anything is opened: a descriptor below 3 would be taken for standard error, and a signal that was
    # ignored by the parent would stay ignored.
    signals.ensure_low_fds()
    signals.reset_inherited()
    with LineWriter(STDERR_FD, "Dealer") as stderr:
        return _run(list(sys.argv[1:] if argv is None else argv), stderr)


def _run(words: Sequence[str], stderr: LineWriter) -> int:
    # Before the parser, which knows no subcommands.
    if words[:1] == ["journal"]:
        return _journal(words[1:])
    if words[:1] == ["cluster"]:
        return _cluster(words[1:])
    try:
        options = dealer_options.parse(words)
    except UsageError as error:
        sys.stderr.write(f"tp-dealer: {error}\n")
        return ExitCode.USAGE
    log = DealerLog(options.log_format, _level(options), stderr)  # type: ignore[arg-type]
    try:
        return _act(options, log)
    except TaskpoolError as error:
        log.say(logging.ERROR, str(error))
        return error.exit_code
    except OSError as error:  # what no part of the dealer has a better text for
        log.say(logging.ERROR, system_refused(error))
        return ExitCode.ENVIRONMENT


def _journal(words: Sequence[str]) -> int:
    """Run `tp-dealer journal ...`, whose output may go into a pipe that its reader closes."""
    from taskpool.dealer import journal_cli

    try:
        code = journal_cli.run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return signals.die_of_broken_pipe()
    except TaskpoolError as error:
        sys.stderr.write(f"tp-dealer: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"tp-dealer: cannot write the output: {error.strerror}\n")
        _drop_output()
        return ExitCode.ENVIRONMENT


def _cluster(words: Sequence[str]) -> int:
    """Run `tp-dealer cluster ...`."""
    from taskpool.dealer import cluster_cli

    try:
        return cluster_cli.run(words)
    except TaskpoolError as error:
        sys.stderr.write(f"tp-dealer: {error}\n")
        return error.exit_code


def _drop_output() -> None:
    """Discard what is buffered: it would fail again at the interpreter's end, which then exits with 120."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _act(options: DealerOptions, log: DealerLog) -> int:
    """Do what the options ask for. Raises TaskpoolError, OSError."""
    if options.health:
        from taskpool.dealer.health import ask

        return ask(options.pool)
    from taskpool.dealer import dealer  # after the options: --help need not load a dealer
    from taskpool.dealer.linux import LinuxPlatform

    collect_rarely()
    # A page thread holds the interpreter while it renders. By default the loop would wait up to 5 ms for it.
    sys.setswitchinterval(0.0005)
    if options.check_config:
        LinuxPlatform(STDERR_FD).layout(options)
        sys.stderr.write(
            f"tp-dealer: pool {options.pool}: options and limits allow {counted(options.workers, 'worker')}\n"
        )
        return ExitCode.OK
    with closing(Notifier.take()) as notifier:
        leave = dealer.run(options, log, LinuxPlatform(log.relay()), notifier)
    if leave.code is not ExitCode.OK:
        log.say(logging.ERROR, leave.text)
    return leave.code


def _level(options: DealerOptions) -> int:
    """Return the log level. A private dealer writes to its generator's terminal, so it logs less by default."""
    if options.verbosity > 0:
        return logging.DEBUG
    usual = (logging.WARNING, logging.ERROR) if options.private else (logging.INFO, logging.WARNING, logging.ERROR)
    return usual[min(-options.verbosity, len(usual) - 1)]
