"""Signals as a descriptor and a set, and a clean slate at start."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from signal import Signals

import pytest

from support.programs import run
from taskpool.procs.signals import Wakeup, catchable


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    with closing(Wakeup([Signals.SIGUSR1, Signals.SIGUSR2])) as wakeup:
        yield wakeup


def is_readable(wakeup: Wakeup, seconds: float = 0) -> bool:
    return bool(select.select([wakeup], [], [], seconds)[0])


def test_nothing_is_pending_at_first(wakeup: Wakeup) -> None:
    assert not is_readable(wakeup)
    assert wakeup.pending() == set()


def test_signals_wake_and_are_told_once(wakeup: Wakeup) -> None:
    signal.raise_signal(Signals.SIGUSR1)
    signal.raise_signal(Signals.SIGUSR2)
    signal.raise_signal(Signals.SIGUSR1)
    assert is_readable(wakeup)
    assert wakeup.pending() == {Signals.SIGUSR1, Signals.SIGUSR2}
    assert not is_readable(wakeup)
    assert wakeup.pending() == set()


def test_a_signal_ends_a_wait_that_has_begun(wakeup: Wakeup) -> None:
    sender = threading.Timer(0.02, os.kill, (os.getpid(), Signals.SIGUSR1))
    sender.start()
    assert is_readable(wakeup, 10)
    assert wakeup.pending() == {Signals.SIGUSR1}
    sender.join()


def test_a_full_pipe_loses_no_signal(wakeup: Wakeup) -> None:
    with suppress(BlockingIOError):
        while True:
            os.write(wakeup._writer, bytes(4096))
    signal.raise_signal(Signals.SIGUSR2)
    assert wakeup.pending() == {Signals.SIGUSR2}
    assert not is_readable(wakeup)


def test_close_puts_everything_back() -> None:
    mine = signal.signal(Signals.SIGUSR1, signal.default_int_handler)
    try:
        wakeup = Wakeup([Signals.SIGUSR1])
        fd = wakeup.fileno()
        wakeup.close()
        wakeup.close()
        assert signal.getsignal(Signals.SIGUSR1) is signal.default_int_handler
        assert signal.set_wakeup_fd(-1) == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    finally:
        signal.signal(Signals.SIGUSR1, mine)


def test_kill_and_stop_cannot_be_caught() -> None:
    assert {Signals.SIGKILL, Signals.SIGSTOP}.isdisjoint(catchable())
    assert {Signals.SIGTERM, Signals.SIGCHLD, Signals.SIGRTMAX} <= catchable()


def test_what_was_ignored_or_blocked_before_us_is_undone() -> None:
    program = """
import os, signal, sys
if len(sys.argv) == 1:
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
    os.execv(sys.executable, [*sys.orig_argv, "again"])
from taskpool.procs.signals import reset_inherited
assert signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
reset_inherited()
ignored = [n.name for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]
print(*sorted(ignored), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
pid = os.posix_spawn("/bin/false", ["false"], {})
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert run(program).splitlines() == ["SIGHUP SIGPIPE SIGXFSZ set()", "1"]


def test_closed_standard_descriptors_are_filled() -> None:
    program = """
import os
saved = os.dup(1)
for fd in (0, 1, 2):
    os.close(fd)
from taskpool.procs.signals import ensure_low_fds
ensure_low_fds()
for fd in (0, 1, 2):
    os.write(saved, f"{os.readlink(f'/proc/self/fd/{fd}')} {os.get_inheritable(fd)}\\n".encode())
os.write(saved, f"{os.open(os.devnull, os.O_RDONLY) - saved}".encode())
"""
    *filled, following = run(program).splitlines()
    assert filled == ["/dev/null True"] * 3
    assert int(following) == 1  # nothing of ours is left open


def test_open_standard_descriptors_are_left_alone() -> None:
    program = """
import os
from taskpool.procs.signals import ensure_low_fds
before = [os.fstat(fd) for fd in (0, 1, 2)]
ensure_low_fds()
print(before == [os.fstat(fd) for fd in (0, 1, 2)])
"""
    assert run(program) == "True\n"
