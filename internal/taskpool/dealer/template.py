"""The dealer's side of the template of its workers (worker/template.py): start it, ask it for workers, end it.

Nothing depends on it: without one each worker is a program of its own, which only takes longer.
"""

from __future__ import annotations

import _socket
import os
import signal
import struct
from collections.abc import Callable
from contextlib import suppress

from taskpool.clock import SECOND
from taskpool.errors import WorkerCannotBoot
from taskpool.procs.spawn import TEMPLATE_READY
from taskpool.procs.wait import wait_ready

_FDS = struct.Struct("2i")
_ANSWER_BYTES_MAX = 256
_BOOT_NS_MAX = 3 * SECOND  # so long the first worker waits for it: what one of its own may take on a busy machine
_COPY_NS_MAX = 3 * SECOND  # for a copy, which takes a thousandth of it where there is a processor free


class CopyLost(Exception):
    """The template is dead or stopped, perhaps with a worker half made."""


class WorkerTemplate:
    """One template process at a time. Main thread only, as for workers: it dies with the thread that spawned it."""

    def __init__(self, start: Callable[[int], int]) -> None:
        """`start` starts the process with the socket it is given, and returns its pid. Raises WorkerCannotBoot."""
        self._start = start
        self.pid = 0  # 0: there is none
        self._channel: _socket.socket | None = None
        self._ready = False
        self._works = True  # until one ends before it was ready: the next would, too
        self._boot_ns_max = _BOOT_NS_MAX

    def prepare(self) -> None:
        """Start one, if there is none, and go on without waiting for it."""
        if self.pid or not self._works:
            return
        try:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        except OSError:  # out of descriptors: the next worker tries again
            return
        try:
            self.pid = self._start(theirs.fileno())
        except (WorkerCannotBoot, OSError) as error:
            self._works = isinstance(error, OSError)  # else the worker that is started without it tells why
            ours.close()
            return
        finally:
            theirs.close()
        self._channel, self._ready = ours, False

    def copy(self, incarnation: int, capture_fd: int, reports_fd: int) -> int:
        """Return the pid of a new worker; 0: it has to be started without a template.

        The first one waits for the template, which was started a moment before it. Raises CopyLost when the template
        does not answer: it has to `end`, and what it has begun with it.
        """
        timeout_ns, self._boot_ns_max = self._boot_ns_max, 0
        if self._channel is None or not self._is_ready(timeout_ns):
            return 0
        fds = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, _FDS.pack(capture_fd, reports_fd))
        try:
            self._channel.sendmsg([b"%d" % incarnation], [fds])
        except OSError:
            raise CopyLost from None
        answer = self._answer(_COPY_NS_MAX)
        if not answer:
            raise CopyLost
        return int(answer) if answer.isdigit() else 0

    def reaped(self, pid: int) -> bool:
        """A child was reaped. Whether it was the template."""
        if not pid or pid != self.pid:
            return False
        self._works = self._works and self._ready
        self._close()
        self.pid = 0
        return True

    def end(self) -> None:
        """Kill it; it is gone once it is reaped."""
        if self.pid:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # it leads a session; a program around it may have started others
        self._close()

    def _is_ready(self, timeout_ns: int) -> bool:
        if not self._ready:
            self._ready = self._answer(timeout_ns) == TEMPLATE_READY
        return self._ready

    def _answer(self, timeout_ns: int) -> bytes:
        """Return what it says in this time; nothing when it says nothing, or is gone."""
        assert self._channel is not None
        if not wait_ready([self._channel.fileno()], timeout_ns=timeout_ns):
            return b""
        try:
            return self._channel.recv(_ANSWER_BYTES_MAX)
        except OSError:
            return b""

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
