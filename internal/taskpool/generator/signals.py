"""Signals that end a generator, and the exit codes they lead to."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from signal import Signals

from taskpool.errors import PRECEDENCE, ExitCode, TaskpoolError
from taskpool.procs.signals import Wakeup

STOP_SIGNALS = {
    Signals.SIGINT: ExitCode.INTERRUPTED,
    Signals.SIGTERM: ExitCode.TERMINATED,
    Signals.SIGQUIT: ExitCode.TERMINATED,
    Signals.SIGHUP: ExitCode.TERMINATED,
}


class Interrupted(TaskpoolError):
    """A signal came before there was anything to tell."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__("interrupted")
        self.exit_code = code


def signals_to_hear() -> list[Signals]:
    """Those that stop us, but not a SIGHUP that nohup(1) has us ignore; and USR1, for a private dealer."""
    wanted = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return [*wanted, Signals.SIGUSR1]


def raise_if_stopped(wakeup: Wakeup) -> None:
    """Raises Interrupted when a signal that stops us has come."""
    if came := wakeup.pending() & STOP_SIGNALS.keys():
        raise Interrupted(first_that_applies(STOP_SIGNALS[number] for number in came))


def first_that_applies(codes: Iterable[ExitCode]) -> ExitCode:
    """Of several exit codes, the one to leave with."""
    return min(codes, key=PRECEDENCE.index, default=ExitCode.OK)
