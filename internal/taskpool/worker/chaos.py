"""Inject the faults of `--chaos` into a worker: real deaths, so that the recovery shown is the real one."""

from __future__ import annotations

import os
import signal

from taskpool.chaos import Chaos, Fault
from taskpool.worker.log import Log


class FaultInjector:
    """Ends or stops this process in those tries that `chaos` picks."""

    def __init__(self, chaos: Chaos, log: Log) -> None:
        self._chaos = chaos
        self._log = log

    def inject(self, seq: int, try_: int) -> None:
        """Inject the fault of this try; return when there is none."""
        match self._chaos.fault(seq, try_):
            case Fault.CRASH:
                self._log.info("Simulated crash!")
                _die_by(self._chaos.crash_signal)
            case Fault.EXIT:
                self._log.info("Simulated exit!")
                os._exit(1)  # no report and no clean-up, as when a library ends the process
            case Fault.HANG:
                self._log.info("Simulated hang!")
                while True:
                    # For ever: the SIGTERM of a time-out only wakes it, since no job is armed to be interrupted yet.
                    # So it tests the SIGKILL that follows.
                    signal.pause()


def _die_by(signum: signal.Signals) -> None:
    """Die by the signal itself, with no handler and no traceback of Python's."""
    # faulthandler has handlers for SIGSEGV, SIGABRT and SIGBUS, and would print where this file raised them.
    if signum != signal.SIGKILL:
        signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signum,))
    os.kill(os.getpid(), signum)
