"""Tells the service manager how the pool is. Fed by the loop itself: a loop that stands still feeds no watchdog."""

from __future__ import annotations

from taskpool.core.reactor import Reactor
from taskpool.dealer.systemd import Notifier


class ServiceReporter:
    """Says ready once the first worker is up, stopping once the pool drains, and in between that it lives."""

    def __init__(self, notifier: Notifier, core: Reactor) -> None:
        self._notifier = notifier
        self._core = core
        self._said_ready = False
        self._said_stopping = False
        self._fed_ns = 0

    def turn(self, now_ns: int) -> None:
        """After each turn of the loop."""
        if not self._notifier.listening:
            return
        if not self._said_ready and self._core.supervisor.respawn.ever_ready:
            self._said_ready = True
            self._notifier.ready(f"{self._core.supervisor.wanted} workers")
        if not self._said_stopping and (self._core.pool.draining or self._core.shutdown.exiting):
            self._said_stopping = True
            self._notifier.stopping()
        every_ns = self._notifier.watchdog_every_ns
        if every_ns is not None and now_ns - self._fed_ns >= every_ns // 2:  # turns come once a second at least
            self._fed_ns = now_ns
            self._notifier.watchdog()
