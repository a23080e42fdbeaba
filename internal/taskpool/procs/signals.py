"""Turn signals into something a loop can wait for, and undo at the start what was inherited of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from signal import SIG_DFL, SIG_IGN, Signals
from types import FrameType

from taskpool.errors import ExitCode

ENDING = frozenset({Signals.SIGINT, Signals.SIGTERM, Signals.SIGQUIT, Signals.SIGHUP})
"""By these a person or a service manager ends a program."""

_WAKEUP_BYTES_MAX = 65_536  # a pipe's capacity: one read empties it

# Python ignores these two itself, so that they come as OSError. nohup(1) ignores SIGHUP on purpose.
_LEFT_IGNORED = frozenset({Signals.SIGPIPE, Signals.SIGXFSZ, Signals.SIGHUP})


def catchable() -> set[int]:
    """Return every signal whose disposition a process may choose."""
    return {int(number) for number in signal.valid_signals()} - {Signals.SIGKILL, Signals.SIGSTOP}


def signal_name(number: int) -> str:
    """Return `SIGSEGV` for 11; real-time signals have numbers only."""
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def reset_inherited() -> None:
    """Undo what the program that started this one ignored or blocked. Call first thing, in the main thread.

    SIG_IGN and the mask cross an exec (execve(2)). An inherited SIG_IGN of SIGCHLD would make the kernel throw away
    every exit status (wait4 then says ECHILD), and with a blocked SIGTERM the program could not be asked to stop.
    """
    for number in catchable() - _LEFT_IGNORED:
        if signal.getsignal(number) is SIG_IGN:
            signal.signal(number, SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ensure_low_fds() -> None:
    """Open /dev/null on those of the descriptors 0, 1, 2 that the parent left closed.

    Otherwise the next file or queue opened would become "standard error", and a stray message would be
    written into it.
    """
    # open(2) gives the lowest free number, so the first one above 2 says that there is no gap below.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def die_of_broken_pipe() -> ExitCode:
    """End as any filter whose reader has gone: without a message, by SIGPIPE. Returns only where that is impossible."""
    # Python ignores SIGPIPE, so that a write raises BrokenPipeError; the default action has to be put back first.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    return ExitCode.JOBS_FAILED  # process 1 of a container cannot die of it


class Wakeup:
    """Turns the given signals into a readable descriptor and a set, from construction until `close`.

    The descriptor only wakes the loop. Which signals came is kept by the handlers, not read from the pipe:
    a pipe that a burst of SIGCHLD has filled would lose the SIGTERM behind it. A signal that comes several
    times before `pending` is returned once. Main thread only; one at a time in a process, because Python has one
    wake-up descriptor.

    Handlers do no more than note the signal: what they raised during a wait on a queue would be lost (ipc/mqueue.py).
    """

    def __init__(self, signals: Iterable[Signals]) -> None:
        self._seen: set[Signals] = set()
        # Non-blocking both ways: the interpreter writes from inside the C handler, and `pending` empties the pipe.
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, self._mark) for number in signals}

    def _mark(self, number: int, frame: FrameType | None) -> None:
        self._seen.add(Signals(number))

    def fileno(self) -> int:
        """Return the descriptor that is readable while a signal is pending; level-triggered."""
        return self._reader

    def pending(self) -> set[Signals]:
        """Return the signals that came since the last call. Never blocks."""
        try:
            os.read(self._reader, _WAKEUP_BYTES_MAX)
        except BlockingIOError:
            pass
        # Read before taking: a signal in between is either in this set or has left a byte for the next turn.
        seen, self._seen = self._seen, set()
        return seen

    def close(self) -> None:
        """Put back the handlers and the wake-up descriptor found at construction. May be called twice."""
        if self._reader < 0:
            return
        for number, handler in self._old_handlers.items():
            # None stands for a handler that Python did not install and cannot put back.
            signal.signal(number, SIG_DFL if handler is None else handler)
        # Before the pipe is closed: the interpreter would write its bytes into whatever gets the number next.
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self._reader)
        os.close(self._writer)
        self._reader = self._writer = -1
