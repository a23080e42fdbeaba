"""Clients whose request has not come whole: they wait here, and hold a descriptor but no thread.

One thread reads what they send until a request's head is complete, TLS handshakes included, and hands the connection
on. A client has REQUEST_SECONDS_MAX for that. Of more than HEADS_MAX the one that has waited longest is sent away, so
that clients who stall keep out neither each other nor a probe, which comes whole at once.
"""

from __future__ import annotations

import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

HEADS_MAX = 32  # connections that wait for the rest of their head
REQUEST_SECONDS_MAX = 2  # for the whole head, handshake included; then so long for a body
HEAD_BYTES_MAX = 16 * 1024
_END = b"\r\n\r\n"


class Waiting(Protocol):
    """A connection whose head is not complete."""

    socket: socket.socket
    head: Head

    def close(self) -> None: ...


class Head:
    """What a client has sent, up to the end of its request's head, and perhaps a little more."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self.data = bytearray()
        self.until = time.monotonic() + REQUEST_SECONDS_MAX
        self.greeted = not isinstance(client, ssl.SSLSocket)  # TLS is agreed on, or not wanted

    def read(self) -> bool:
        """Read what is there, without waiting; whether more can change nothing about how the request is answered.

        Raises ssl.SSLWantWriteError when the handshake waits for room, OSError when the client is gone, or speaks no
        TLS.
        """
        self._client.settimeout(0)
        try:
            while len(self.data) <= HEAD_BYTES_MAX:
                if not self.greeted:
                    assert isinstance(self._client, ssl.SSLSocket)
                    self._client.do_handshake()
                    self.greeted = True
                more = self._client.recv(HEAD_BYTES_MAX)
                behind = max(0, len(self.data) - len(_END))
                self.data += more
                if not more or self.data.find(_END, behind) >= 0:
                    return True
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        return True

    def take(self, buffer: memoryview) -> int:
        """Move what was read into the buffer, as far as it fits; return how many bytes it was."""
        count = min(len(buffer), len(self.data))
        buffer[:count] = self.data[:count]
        del self.data[:count]
        return count


class HeadReader:
    """Reads heads on a thread of its own, from construction until `close`."""

    def __init__(self, complete: Callable[[Waiting], None], overdue: Callable[[Waiting], None]) -> None:
        """`complete` and `overdue` get the connection, on that thread, and must not wait."""
        self._complete = complete
        self._overdue = overdue
        self._waiting: dict[int, Waiting] = {}  # by descriptor; the first has waited longest
        self._new: deque[Waiting] = deque()
        self._closed = False
        self._lock = threading.Lock()  # of what is new, and of the descriptor that tells of it
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="pages heads", daemon=True)
        self._thread.start()

    def add(self, connection: Waiting) -> None:
        """Take a new connection. One that comes behind `close` is disconnected."""
        with self._lock:
            if not self._closed:
                self._new.append(connection)
                os.eventfd_write(self._wakeup, 1)
                return
        disconnect(connection)

    def close(self) -> None:
        """Disconnect all who wait. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.eventfd_write(self._wakeup, 1)
        self._thread.join()
        os.close(self._wakeup)

    def _run(self) -> None:
        while not self._closed:
            first = next(iter(self._waiting.values()), None)
            seconds = None if first is None else max(0.0, first.head.until - time.monotonic())
            for key, _ in self._selector.select(seconds):
                if key.fd == self._wakeup:
                    os.eventfd_read(self._wakeup)
                elif key.fd in self._waiting:
                    self._read(self._waiting[key.fd])
            while self._new:
                self._begin(self._new.popleft())
            self._end_overdue()
        for connection in (*self._waiting.values(), *self._new):
            disconnect(connection)
        self._selector.close()

    def _begin(self, connection: Waiting) -> None:
        try:
            self._selector.register(connection.socket, selectors.EVENT_READ)
        except OSError:  # the kernel lacks memory
            disconnect(connection)
            return
        self._waiting[connection.socket.fileno()] = connection
        self._read(connection)  # mostly it is all there, and never waits
        if len(self._waiting) > HEADS_MAX:
            oldest = next(iter(self._waiting.values()))
            self._forget(oldest)
            disconnect(oldest)

    def _read(self, connection: Waiting) -> None:
        events = selectors.EVENT_READ
        try:
            if connection.head.read():
                self._forget(connection)
                self._complete(connection)
                return
        except ssl.SSLWantWriteError:
            events = selectors.EVENT_WRITE
        except OSError:
            self._forget(connection)
            disconnect(connection)
            return
        self._selector.modify(connection.socket, events)

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for connection in list(self._waiting.values()):
            if connection.head.until > now:
                break
            self._forget(connection)
            self._overdue(connection)

    def _forget(self, connection: Waiting) -> None:
        self._selector.unregister(connection.socket)
        del self._waiting[connection.socket.fileno()]


def disconnect(connection: Waiting) -> None:
    """Close a connection."""
    with suppress(OSError):  # the client was quicker
        connection.close()
