"""Signals that end a generator, and the exit codes they lead to."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from signal import Signals

from taskpool.client.connection import TurnHandler
from taskpool.errors import PRECEDENCE, ExitCode, TaskpoolError
from taskpool.procs.signals import ENDING, Wakeup
from taskpool.procs.wait import Descriptor

# As a shell has it, 128 and the signal's number. QUIT and HUP share the code of TERM: what a caller needs to know is
# whether it was a Ctrl-C.
STOP_SIGNALS = {
    Signals.SIGINT: ExitCode.INTERRUPTED,
    Signals.SIGTERM: ExitCode.TERMINATED,
    Signals.SIGQUIT: ExitCode.TERMINATED,
    Signals.SIGHUP: ExitCode.TERMINATED,
}
assert STOP_SIGNALS.keys() == ENDING


class Interrupted(TaskpoolError):
    """A signal came while there was no batch of ours to report on."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__("interrupted")
        self.exit_code = code


class RaiseOnSignal(TurnHandler):
    """Ends a connection's loop with Interrupted when a signal that stops the generator has come."""

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup

    def readable(self) -> Iterable[Descriptor]:
        return (self._wakeup,)

    def before_receive(self, now: int) -> None:
        raise_if_stopped(self._wakeup)


def what_follows(number: Signals, interrupts: int) -> str:
    """Say what a private pool does about a signal, where that may take a while; empty where it does not.

    `interrupts`: how many SIGINTs there were, with this one.
    """
    if number is Signals.SIGINT and interrupts == 1:
        return "Interrupted: jobs that run may end, and no other starts. Ctrl-C again stops them"
    if number is Signals.SIGINT and interrupts == 2:
        return "Interrupted again: the jobs that run are stopped. A third Ctrl-C does not wait for that"
    if number in (Signals.SIGTERM, Signals.SIGHUP):
        return f"{number.name}: jobs that run may end within --drain-timeout, and no other starts"
    return ""


def handled_signals() -> list[Signals]:
    """Return the signals to catch: those that stop the generator, and USR1, which a private dealer answers."""
    # A SIGHUP that is ignored stays so: nohup(1) has set that, to let the batch outlive its terminal.
    wanted = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return [*wanted, Signals.SIGUSR1]


def raise_if_stopped(wakeup: Wakeup) -> None:
    """Raise Interrupted when a signal that stops the generator has come."""
    take_others(wakeup)


def take_others(wakeup: Wakeup) -> set[Signals]:
    """Raise Interrupted when a signal that stops the generator has come; return the others that have."""
    came = wakeup.pending()
    # Several may have come since the last look; the exit code must not hang on the order of a set.
    if stopping := came & STOP_SIGNALS.keys():
        raise Interrupted(first_that_applies(STOP_SIGNALS[number] for number in stopping))
    return came


def first_that_applies(codes: Iterable[ExitCode]) -> ExitCode:
    """Return, of several exit codes, the one to leave with; see `errors.PRECEDENCE`."""
    return min(codes, key=PRECEDENCE.index, default=ExitCode.OK)
