"""sd_notify against a real socket: what a service manager gets to read."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskpool.clock import SECOND
from taskpool.core.reactor import Reactor
from taskpool.core.state import PoolConfig
from taskpool.dealer.systemd import Notifier, ServiceReporter

MESSAGE_BYTES_MAX = 4096


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket, and how NOTIFY_SOCKET spells it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@taskpool-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0") if request.param == "abstract" else name)
        listener.setblocking(False)
        yield listener, name


def heard(listener: socket.socket) -> list[str]:
    """Every message that has come."""
    messages = []
    while True:
        try:
            messages.append(listener.recv(MESSAGE_BYTES_MAX).decode())
        except BlockingIOError:
            return messages


def test_every_message(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    notifier = Notifier(name)
    notifier.ready()
    notifier.ready("2 workers")
    notifier.watchdog()
    notifier.status("3 jobs\nqueued")
    notifier.stopping()
    notifier.close()
    notifier.close()
    expected = ["READY=1", "READY=1\nSTATUS=2 workers", "WATCHDOG=1", "STATUS=3 jobs queued", "STOPPING=1"]
    assert heard(listener) == expected


def test_a_status_is_one_short_line(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    notifier = Notifier(name)
    notifier.status("x\nMAINPID=1 " + "y" * 1000)
    notifier.close()
    (message,) = heard(listener)
    assert message.startswith("STATUS=x MAINPID=1 yyy")
    assert len(message) < 220
    assert "\n" not in message


def test_the_environment_is_taken(manager: tuple[socket.socket, str]) -> None:
    """Otherwise every worker, and every job's command, could speak to the service manager in the dealer's name."""
    listener, name = manager
    env = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    notifier = Notifier.take(env)
    assert env == {"HOME": "/"}
    assert notifier.listening
    assert notifier.watchdog_every_ns == 15_000_000_000
    notifier.ready()
    notifier.close()
    assert not notifier.listening
    assert heard(listener) == ["READY=1"]


@pytest.mark.parametrize(
    "env",
    [
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"},  # another process's
        {"WATCHDOG_USEC": "often"},
        {"WATCHDOG_USEC": "0"},
        {},
    ],
)
def test_no_watchdog(manager: tuple[socket.socket, str], env: dict[str, str]) -> None:
    notifier = Notifier.take({"NOTIFY_SOCKET": manager[1], **env})
    assert notifier.listening
    assert notifier.watchdog_every_ns is None
    notifier.close()


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234"])
def test_without_a_manager_nothing_happens(address: str | None) -> None:
    notifier = Notifier(address, watchdog_ns=1000)
    notifier.ready("status")
    notifier.watchdog()
    assert not notifier.listening
    assert notifier.watchdog_every_ns is None


def test_a_manager_that_has_gone(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "gone"))
    notifier.ready()
    notifier.watchdog()
    notifier.close()


def test_a_manager_that_does_not_read(manager: tuple[socket.socket, str]) -> None:
    """Its socket is full: the dealer goes on, and does not lose a second for each watchdog message."""
    listener, name = manager
    notifier = Notifier(name)
    for _ in range(2000):
        notifier.watchdog()
    notifier.status("never heard")
    assert set(heard(listener)) == {"WATCHDOG=1"}
    notifier.stopping()
    notifier.close()
    assert heard(listener) == ["STOPPING=1"]


def test_the_reporter_tells_each_change_once_and_feeds_the_watchdog(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    notifier = Notifier(name, watchdog_ns=4 * SECOND)
    core = Reactor(PoolConfig(name="demo", epoch=1, workers=2), {})
    reporter = ServiceReporter(notifier, core)
    reporter.after_turn(SECOND // 2)
    assert heard(listener) == [], "no worker is ready"
    core.supervisor.respawn.ready()
    reporter.after_turn(SECOND // 2)
    reporter.after_turn(SECOND // 2 + 1)
    assert heard(listener) == ["READY=1\nSTATUS=2 workers"]
    for turn in range(1, 5):
        reporter.after_turn(turn * SECOND)
    assert heard(listener) == ["WATCHDOG=1"] * 4, "one turn may be late"
    core.pool.draining = True
    reporter.after_turn(4 * SECOND)
    reporter.after_turn(4 * SECOND)
    assert heard(listener) == ["STOPPING=1"]
    notifier.close()


def test_a_reporter_without_a_manager_does_nothing() -> None:
    core = Reactor(PoolConfig(name="demo", epoch=1, workers=2), {})
    core.supervisor.respawn.ready()
    ServiceReporter(Notifier(), core).after_turn(SECOND)
