"""Interrupt the job in hand when the dealer says by SIGTERM that its time is over.

The dealer keeps the deadlines and sends the signal. A service manager that signals the whole control group (systemd's
KillMode=control-group) sends it too, and must not end a job that is still in time: so the signal counts only past the
deadline, and means nothing to a worker without a job. Whether workers stop is the dealer's to decide.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.pthread_sigmask makes enums
import os
import signal
import time
from types import FrameType

from taskpool.kinds.base import JobTimedOut

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class TimeoutSignal:
    """Raises JobTimedOut in the main thread, at most once for each job, and only past its deadline."""

    def __init__(self) -> None:
        self._deadline_ns: int | None = None
        self.fired = False  # since it was last armed
        self._mask: set[int] = set()  # while a fork is under way

    def install(self) -> None:
        """Handle the signals from now on. Handlers, not SIG_IGN: a program that a job starts would inherit that.

        A process that a job forks gets the usual ones: multiprocessing ends its processes by SIGTERM.
        """
        signal.signal(signal.SIGTERM, self._on_term)
        signal.signal(signal.SIGINT, _ignore)  # meant for the dealer
        os.register_at_fork(before=self._hold, after_in_parent=self._release, after_in_child=self._reset)

    def arm(self, deadline_ns: int | None) -> None:
        """Let the signal interrupt the job from `deadline_ns` (monotonic) on; None: not at all."""
        self.fired = False
        self._deadline_ns = deadline_ns

    def disarm(self) -> None:
        """Ignore the signal again. Until this has returned, it may still interrupt."""
        self._deadline_ns = None

    def _hold(self) -> None:
        # Blocked, so that a signal right behind the fork waits for its usual handler.
        self._mask = _signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def _release(self) -> None:
        _signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _reset(self) -> None:
        for number in _SIGNALS:
            if signal.getsignal(number) in (self._on_term, _ignore):  # not one that the job has put there
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        self._release()

    def _on_term(self, _signum: int, _frame: FrameType | None) -> None:
        # The one handler here that acts: nothing else stops Python code in mid-loop. It disarms itself
        # first, so that a second signal cannot interrupt the handling of the first.
        if self._deadline_ns is not None and time.monotonic_ns() >= self._deadline_ns:
            self._deadline_ns = None
            self.fired = True
            raise JobTimedOut


def _ignore(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing. The signal still ends a wait in the kernel, which then starts again."""
