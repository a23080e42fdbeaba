"""What `--chaos` does to a worker: real deaths, so that what is proved is the real recovery."""

from __future__ import annotations

import os
import signal

from taskpool.chaos import Chaos, Fate
from taskpool.worker.log import Log


def inject(chaos: Chaos, seq: int, try_: int, log: Log) -> None:
    """Lets the fate of this try happen. Returns only to the spared."""
    match chaos.fate(seq, try_):
        case Fate.CRASH:
            log.info("Simulated crash!")
            crash(chaos.crash_signal)
        case Fate.EXIT:
            log.info("Simulated exit!")
            os._exit(1)  # no clean-up, no last words: as a library that gives up does it
        case Fate.HANG:
            log.info("Simulated hang!")
            while True:
                signal.pause()  # for ever: SIGTERM wakes it, and finds no job to interrupt


def crash(signum: signal.Signals) -> None:
    """Dies by that signal, by the kernel's hand: no handler of ours, no traceback."""
    if signum != signal.SIGKILL:
        signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signum,))
    os.kill(os.getpid(), signum)
