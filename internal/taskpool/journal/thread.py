"""The thread behind the store: it takes requests in order, and its answers wait for the loop.

Rules of this file:
1. The caller never waits: a request is an append, and answers are taken when there are some.
2. Requests that wait together are handed over together, in their order; the engine decides what they share.
3. A thread that ends unasked says so as a failed commit. Silence would leave the loop waiting for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from taskpool.core.storage import CommitFailed, StoreEvent
from taskpool.errors import JournalError

REQUESTS_TAKEN_MAX = 64  # handed over at once
_QUIT_SECONDS_MAX = 5.0  # how long a close that need not be clean waits for the disk

_Request = TypeVar("_Request")
_Handled_contra = TypeVar("_Handled_contra", contravariant=True)


class Handler(Protocol[_Handled_contra]):
    """What the thread runs. Everything here is called on the thread and nowhere else."""

    def handle(self, requests: Sequence[_Handled_contra]) -> None: ...

    def idle(self) -> float | None:
        """Nothing is requested: do a little of what is left to do. Seconds until there may be more; None: until a
        request comes."""

    def close(self) -> None: ...


class Answers:
    """Where the thread puts its answers. The descriptor is readable while there is one."""

    def __init__(self) -> None:
        self._items: list[StoreEvent] = []
        self._lock = threading.Lock()
        # An eventfd is one descriptor that epoll can wait for; a condition variable is none.
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def put(self, *events: StoreEvent) -> None:
        with self._lock:  # both under the lock: the descriptor must not stay readable with nothing behind it
            self._items += events
            if self._fd >= 0:
                os.eventfd_write(self._fd, 1)

    def take(self) -> list[StoreEvent]:
        if not self._items:  # the loop asks several times a turn, mostly in vain
            return []
        with self._lock:
            if self._fd >= 0:
                os.eventfd_read(self._fd)
            items, self._items = self._items, []
        return items

    def close(self) -> None:
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class JournalThread(Generic[_Request]):
    """Runs a handler on a thread of its own."""

    def __init__(self, handler: Handler[_Request], answers: Answers) -> None:
        self._handler = handler
        self._answers = answers
        # Its put never waits, so a request costs the loop no more than an append.
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        # A daemon: a disk that hangs in the kernel must not keep a dealer from exiting.
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._started = False

    def request(self, request: _Request) -> None:
        """Start the thread with the first request: until then its handler is the caller's. Raises JournalError when the
        system gives no thread; then it stays the caller's."""
        self._requests.put(request)
        if not self._started:
            try:
                self._thread.start()
            except RuntimeError as error:
                raise JournalError(
                    f"the journal's thread cannot be started: {error}; a limit on processes or memory is reached "
                    "(ulimit -u, TasksMax=, --pids-limit)"
                ) from error
            self._started = True

    def stop(self, *, patient: bool) -> bool:
        """Handle what was requested, then end. Whether it did; only an impatient caller gives up waiting."""
        if not self._started:
            self._handler.close()
            return True
        self._requests.put(None)
        # A clean close promises that all is stored, so it waits for as long as the disk takes.
        self._thread.join(None if patient else _QUIT_SECONDS_MAX)
        return not self._thread.is_alive()

    def _run(self) -> None:
        in_order = False
        try:
            while (requests := self._take()) is not None:
                self._handler.handle(requests)
            self._handler.close()
            in_order = True
        finally:
            # By an exception that has no place here: its traceback goes to stderr, and the dealer ends.
            if not in_order:
                self._answers.put(CommitFailed("the journal's thread ended by an error in the program"))

    def _take(self) -> list[_Request] | None:
        """The next requests, at least one; None: to end."""
        # What is left to do is done only when nothing waits: a request never stands behind retention.
        first = self._next(self._handler.idle)
        if first is None:
            return None
        requests = [first]
        # All that came while the last sync took its time: the more there is, the more one sync covers.
        while len(requests) < REQUESTS_TAKEN_MAX:
            try:
                request = self._requests.get_nowait()
            except Empty:
                break
            if request is None:
                self._requests.put(None)  # to be found again behind these
                break
            requests.append(request)
        return requests

    def _next(self, idle: Callable[[], float | None]) -> _Request | None:
        while True:
            try:
                return self._requests.get_nowait()
            except Empty:
                timeout = idle()
            try:
                return self._requests.get(timeout=timeout)
            except Empty:
                continue
