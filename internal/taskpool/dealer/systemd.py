"""Report the dealer's state to a service manager: sd_notify(3), a datagram of NAME=VALUE lines to a UNIX socket.

Rules of this file:
1. To have no manager is the usual case, not an error: every method then does nothing.
2. A manager that is gone or stuck never ends or stops the dealer. What it does not take at once is lost, except
   that `ready` and `stopping`, which are sent once, wait a moment for room.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from taskpool.clock import SECOND
from taskpool.errors import counted
from taskpool.procs.wait import wait_ready

if TYPE_CHECKING:  # main imports this file for every command, and --help need not load the core
    from taskpool.core.reactor import Reactor

_SOCKET = "NOTIFY_SOCKET"
_WATCHDOG_USEC = "WATCHDOG_USEC"
_WATCHDOG_PID = "WATCHDOG_PID"
_ROOM_NS_MAX = SECOND
_STATUS_CHARACTERS_MAX = 200  # one line of `systemctl status`


class Notifier:
    """The connection to the service manager, if there is one. Call `close` at the end; safe to call twice."""

    def __init__(self, address: str | None = None, watchdog_ns: int | None = None) -> None:
        """Open a socket for `address`, a path, or `@` and an abstract name. An address of another family (vsock)
        counts as none. After `watchdog_ns` without a `watchdog` message the manager kills the dealer."""
        self._socket: socket.socket | None = None
        self._address = ""
        self.watchdog_every_ns: int | None = None  # how often to call `watchdog`; None: never
        if address and address[0] in "/@":
            # unix(7): an abstract name begins with a NUL, for which the variable has an @.
            self._address = "\0" + address[1:] if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            if watchdog_ns:
                self.watchdog_every_ns = watchdog_ns // 2  # half, says sd_watchdog_enabled(3): one may be late

    @classmethod
    def take(cls, env: MutableMapping[str, str] = os.environ) -> Notifier:
        """Do what the environment asks for, and remove it there: workers and jobs would inherit it, and could report
        in the dealer's name."""
        address, microseconds, pid = (env.pop(name, "") for name in (_SOCKET, _WATCHDOG_USEC, _WATCHDOG_PID))
        meant = pid in ("", str(os.getpid()))  # otherwise it was inherited and is another process's
        return cls(address, int(microseconds) * 1000 if meant and microseconds.isdecimal() else None)

    @property
    def listening(self) -> bool:
        """Whether there is a manager to report to."""
        return self._socket is not None

    def ready(self, status: str = "") -> None:
        """Report that the pool takes jobs now."""
        self._send("READY=1" + (f"\nSTATUS={_line(status)}" if status else ""), patient=True)

    def stopping(self) -> None:
        """Report that the pool is draining or leaving."""
        self._send("STOPPING=1", patient=True)

    def watchdog(self) -> None:
        """Report that the loop is turning, every `watchdog_every_ns`."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={_line(text)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str, *, patient: bool = False) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(text.encode(), self._address)
        except BlockingIOError:
            if patient and wait_ready((), (self._socket,), _ROOM_NS_MAX):
                self._send(text)
        except OSError:
            pass  # rule 2


class ServiceReporter:
    """Report ready once the first worker is up, stopping once the pool drains, and in between the watchdog.

    The loop itself calls it after each turn, and no thread or timer does: a loop that hangs must starve the watchdog.
    """

    def __init__(self, notifier: Notifier, core: Reactor) -> None:
        self._notifier = notifier
        self._core = core
        self._ready_sent = False
        self._stopping_sent = False
        self._watchdog_ns = 0  # when it was last sent

    def after_turn(self, now_ns: int) -> None:
        """Report what has changed."""
        if not self._notifier.listening:
            return
        if not self._ready_sent and self._core.supervisor.respawn.ever_ready:
            self._ready_sent = True
            self._notifier.ready(counted(self._core.supervisor.wanted, "worker"))
        if not self._stopping_sent and (self._core.pool.draining or self._core.shutdown.exiting):
            self._stopping_sent = True
            self._notifier.stopping()
        every_ns = self._notifier.watchdog_every_ns
        # From half of it on: an idle loop turns once a second, so its turns do not fall on the period.
        if every_ns is not None and now_ns - self._watchdog_ns >= every_ns // 2:
            self._watchdog_ns = now_ns
            self._notifier.watchdog()


def _line(text: str) -> str:
    """Return the text as one line: a newline would begin another assignment."""
    return " ".join(text.split())[:_STATUS_CHARACTERS_MAX]
