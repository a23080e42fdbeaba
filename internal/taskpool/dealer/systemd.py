"""Telling a service manager how the dealer is: sd_notify(3), a datagram of NAME=VALUE lines to a UNIX socket.

Rules of this file:
1. Nobody listening is the usual case, not an error: every method then does nothing.
2. A manager that is gone or stuck never ends or stops the dealer; what it does not take at once is lost, except
   that `ready` and `stopping`, which are said once, wait a moment for room.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import MutableMapping

_SOCKET = "NOTIFY_SOCKET"
_WATCHDOG_USEC = "WATCHDOG_USEC"
_WATCHDOG_PID = "WATCHDOG_PID"
_ROOM_SECONDS_MAX = 1.0
_STATUS_CHARACTERS_MAX = 200  # one line of `systemctl status`


class Notifier:
    """A line to the service manager, if there is one. Call `close` at the end; safe to call twice."""

    def __init__(self, address: str | None = None, watchdog_ns: int | None = None) -> None:
        """`address` is a path, or `@` and an abstract name; `watchdog_ns` the silence that is taken for death.

        An address of another family (vsock) counts as none.
        """
        self._socket: socket.socket | None = None
        self._address = ""
        self.watchdog_every_ns: int | None = None  # how often to call `watchdog`; None: nobody wants to hear it
        if address and address[0] in "/@":
            # The kernel spells an abstract name with a NUL where people write @.
            self._address = "\0" + address[1:] if address[0] == "@" else address
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            if watchdog_ns:
                self.watchdog_every_ns = watchdog_ns // 2  # half, says sd_watchdog_enabled(3): one may be late

    @classmethod
    def take(cls, env: MutableMapping[str, str] = os.environ) -> Notifier:
        """What the environment asks for, which is taken out of it: workers and jobs must not speak for us."""
        address, microseconds, pid = (env.pop(name, "") for name in (_SOCKET, _WATCHDOG_USEC, _WATCHDOG_PID))
        meant = pid in ("", str(os.getpid()))  # otherwise it was inherited, and meant for somebody else
        return cls(address, int(microseconds) * 1000 if meant and microseconds.isdecimal() else None)

    @property
    def listening(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def ready(self, status: str = "") -> None:
        """The pool takes jobs now."""
        self._say("READY=1" + (f"\nSTATUS={_line(status)}" if status else ""), patient=True)

    def stopping(self) -> None:
        """The pool is on its way out."""
        self._say("STOPPING=1", patient=True)

    def watchdog(self) -> None:
        """The loop turns. To be said every `watchdog_every_ns`."""
        self._say("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._say(f"STATUS={_line(text)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, words: str, *, patient: bool = False) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(words.encode(), self._address)
        except BlockingIOError:
            if patient and select.select([], [self._socket], [], _ROOM_SECONDS_MAX)[1]:
                self._say(words)
        except OSError:
            pass  # rule 2


def _line(text: str) -> str:
    """One line: a newline would begin another assignment."""
    return " ".join(text.split())[:_STATUS_CHARACTERS_MAX]
