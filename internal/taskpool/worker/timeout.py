"""SIGTERM means: the job in hand is past its deadline. To a worker without such a job it means nothing.

The dealer keeps the deadlines and sends the signal; a service manager that signals the whole control
group sends it too, and must not take a job in hand along.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

from taskpool.kinds.base import JobTimedOut


class TimeoutSignal:
    """Raises JobTimedOut in the main thread, at most once for each job, and only past its deadline."""

    def __init__(self) -> None:
        self._deadline_ns: int | None = None
        self.fired = False  # since it was last armed

    def install(self) -> None:
        """Takes the signals over. Handlers, not SIG_IGN: programs that a job starts get the default back."""
        signal.signal(signal.SIGTERM, self._on_term)
        for meant_for_the_dealer in (signal.SIGINT, signal.SIGHUP):
            signal.signal(meant_for_the_dealer, _ignore)

    def arm(self, deadline_ns: int | None) -> None:
        """Lets the signal through from `deadline_ns` (monotonic) on; None: not at all."""
        self.fired = False
        self._deadline_ns = deadline_ns

    def disarm(self) -> None:
        """From now on the signal means nothing again. Until this has run, it may still come."""
        self._deadline_ns = None

    def _on_term(self, _signum: int, _frame: FrameType | None) -> None:
        # The one handler here that acts: nothing else stops Python code in mid-loop. It disarms itself
        # first, so that a second signal cannot interrupt the handling of the first.
        if self._deadline_ns is not None and time.monotonic_ns() >= self._deadline_ns:
            self._deadline_ns = None
            self.fired = True
            raise JobTimedOut


def _ignore(_signum: int, _frame: FrameType | None) -> None:
    """Only wakes whatever was waiting."""
