"""Python jobs of the end-to-end tests. A worker imports this file: standard library only."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import time


def work(ledger: str, job: str, what: str = "", value: object = None) -> object:
    """Writes itself down as job.sh does, and does `what` in between."""
    lock = os.open(f"{ledger}/locks/{job}", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(ledger, "overlap", job)
        _say(ledger, "start", job)
        _do(ledger, job, what)
        _say(ledger, "end", job)
    finally:
        os.close(lock)
    return value


def die(ledger: str, job: str, number: int) -> None:
    """Writes itself down, and kills its worker by a signal."""
    _say(ledger, "start", job)
    os.kill(os.getpid(), number)


def _say(ledger: str, word: str, job: str) -> None:
    line = os.open(f"{ledger}/lines", os.O_WRONLY | os.O_APPEND)
    os.write(line, f"{word} {job} {os.getpid()}\n".encode())
    os.close(line)


def _do(ledger: str, job: str, what: str) -> None:
    name, _, argument = what.partition("=")
    match name:
        case "segv":
            ctypes.string_at(0)
        case "exit":
            os._exit(int(argument))
        case "raise":
            raise ValueError(argument)
        case "hang":
            while True:
                signal.pause()
        case "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            signal.sigwait([signal.SIGUSR2])
        case "spin":
            end = time.monotonic() + float(argument)
            while time.monotonic() < end:
                pass
        case "print":
            os.write(1, b"x" * int(argument))
        case "gate":
            with open(f"{ledger}/gate", "rb") as gate:
                fcntl.flock(gate, fcntl.LOCK_SH)
        case "grandchild":
            _leave_a_grandchild(ledger, job)


def _leave_a_grandchild(ledger: str, job: str) -> None:
    script = 'echo "grandchild $1 $$" >>"$2/lines"; echo; exec sleep 3600'
    child = subprocess.Popen(
        ["sh", "-c", script, "sh", job, ledger],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        close_fds=False,
        start_new_session=True,
    )
    assert child.stdout is not None
    child.stdout.readline()  # it has said its pid
