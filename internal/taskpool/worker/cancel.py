"""End the program that this worker waits for when the dealer says by SIGUSR1 that its job is cancelled.

The handler is there only while a program is waited for. At any other time the signal ends the worker, which the dealer
wants as well; and a job within the worker may use it as it likes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from taskpool.kinds.base import JobCancelled

_SIGNAL = signal.SIGUSR1


class CancelSignal:
    """Raises JobCancelled in the main thread, at most once for each program, where that may be interrupted."""

    def __init__(self) -> None:
        self.came = False  # while a program was waited for, or was about to be
        self._may_interrupt = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Remember the signal within the block, instead of dying of it."""
        before = signal.signal(_SIGNAL, self._on_signal)
        try:
            yield
        finally:
            signal.signal(_SIGNAL, before)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise JobCancelled within the block when the signal comes, or has come."""
        try:
            self._may_interrupt = True
            if self.came:
                raise JobCancelled
            yield
        finally:
            self._may_interrupt = False

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        self.came = True
        # Elsewhere an exception would leave a program without anyone who waits for it.
        if self._may_interrupt:
            self._may_interrupt = False
            raise JobCancelled
