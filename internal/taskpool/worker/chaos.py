"""What `--chaos` does to a worker: real deaths, so that what is proved is the real recovery."""

from __future__ import annotations

import os
import signal

from taskpool.chaos import Chaos, Fate
from taskpool.worker.log import Log


class Faults:
    """Lets the fates happen that `chaos` has in store."""

    def __init__(self, chaos: Chaos, log: Log) -> None:
        self._chaos = chaos
        self._log = log

    def inject(self, seq: int, try_: int) -> None:
        """The fate of this try. Returns only to the spared."""
        match self._chaos.fate(seq, try_):
            case Fate.CRASH:
                self._log.info("Simulated crash!")
                _die_by(self._chaos.crash_signal)
            case Fate.EXIT:
                self._log.info("Simulated exit!")
                os._exit(1)  # no clean-up, no last words: as a library that gives up does it
            case Fate.HANG:
                self._log.info("Simulated hang!")
                while True:
                    signal.pause()  # for ever: SIGTERM wakes it, and finds no job to interrupt


def _die_by(signum: signal.Signals) -> None:
    """By the kernel's hand: no handler of ours, no traceback."""
    if signum != signal.SIGKILL:
        signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signum,))
    os.kill(os.getpid(), signum)
