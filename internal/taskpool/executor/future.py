"""The future of one call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from taskpool.executor.call import Call

T = TypeVar("T")


class CallFuture(Future[T]):
    """A future whose `cancel` ends the job even when it runs already.

    It stays pending until the job's outcome is there, and so can be cancelled until then: `cancel` returns False only
    for one that is done.
    """

    def __init__(self, call: Call, on_cancel: Callable[[CallFuture[Any]], None]) -> None:
        super().__init__()
        self.call: Call | None = call  # None: it is on its way, or is not needed any more
        self.batch = ""
        self.seq = 0  # of the job, from 1; 0: it has none yet
        self.file: Path | None = None  # what of the call no message can take
        self._on_cancel = on_cancel
        self._told = False

    @property
    def job(self) -> str | None:
        """The job's name, `BATCH/NUMBER`; None while it has none."""
        return f"{self.batch}/{self.seq}" if self.seq else None

    def running(self) -> bool:
        """Return whether the call is with the pool and has not ended. It may still wait there for a worker."""
        return self.seq > 0 and not self.done()

    def cancel(self) -> bool:
        """Cancel the call, which ends its job if it runs. Return False when it is done already."""
        if not super().cancel():
            return False
        self._on_cancel(self)
        return True

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Have `fn` called with this future once it is done: at once if it is, else mostly in the loop's thread."""
        super().add_done_callback(lambda future: _call(fn, future))

    def set_running_or_notify_cancel(self) -> bool:
        """Begin its end, or wake what waits for a cancelled future. Only the loop's thread."""
        running = super().set_running_or_notify_cancel()
        # A second time would raise RuntimeError, and `cancel` may come between any two steps of the loop.
        self._told = self._told or not running
        return running

    def remove_file(self) -> None:
        """Remove the file that the worker has read the call from, if there is one."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
            self.file = None

    def tell_cancelled(self) -> None:
        """Wake what waits for a cancelled future, once. Only the loop's thread."""
        if not self._told:
            # `cancel` itself wakes `result` and runs callbacks; `wait` and `as_completed` hear of it only by this.
            self.set_running_or_notify_cancel()


def _call(fn: Callable[[Future[T]], object], future: Future[T]) -> None:
    """Call a callback such that none ends the loop's thread.

    The base class logs an Exception, and lets others through: the SystemExit, say, that `future.result()` raises
    where the call has raised it.
    """
    try:
        fn(future)
    except Exception:
        raise
    except BaseException as error:
        if threading.current_thread() is threading.main_thread():  # a Ctrl-C amid it, for instance
            raise
        raise RuntimeError(f"a callback raised {error!r}") from error
