"""A dealer of one's own: started for one batch, ended with it."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Set
from contextlib import suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import MILLISECOND
from taskpool.errors import ConfigurationError
from taskpool.generator.console import Console
from taskpool.ipc import names
from taskpool.ipc.mailbox import Post
from taskpool.procs.environment import scrubbed
from taskpool.procs.family import end_orphans
from taskpool.procs.signals import catchable
from taskpool.procs.spawn import find_program
from taskpool.procs.statedir import state_directory

DEALER = "tp-dealer"
LIFELINE_FD = 3  # where the dealer finds it
LEAVE_NS_MAX = 2 * limits.TERM_GRACE_NS + limits.DRAIN_TIMEOUT_NS  # between the lifeline's end and SIGKILL


class Exit(NamedTuple):
    """How the dealer ended: one of the two is None."""

    status: int | None
    signal: int | None


class PrivateDealer:
    """The process, its lifeline, and what has to be cleared away behind it.

    The dealer lives in a session of its own, so that a Ctrl-C reaches it through us and once only. The
    lifeline is a pipe whose other end only we hold: when we die, however, the dealer reads its end.
    """

    def __init__(self, pool: str, options: list[str], post: Post, console: Console) -> None:
        """Starts it. Raises ConfigurationError when the program is missing or cannot be started."""
        self.pool = pool
        self.exit: Exit | None = None
        self._post = post
        self._console = console
        self._directory = state_directory(pool)
        self._keep: set[Path] = set()
        reader, self._lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            command = [_find(), "--pool", pool, "--private", "--lifeline-fd", str(LIFELINE_FD), *options]
            self.pid = _spawn(command, reader)
        except ConfigurationError:
            self._cut_lifeline()
            self._remove_directory()
            raise
        finally:
            os.close(reader)
        self.pidfd = os.pidfd_open(self.pid)

    def __enter__(self) -> PrivateDealer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def forward(self, number: Signals) -> None:
        """Hands on a signal that was meant for the batch."""
        if self.exit is None:
            with suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self.pidfd, number)

    def look(self) -> Exit | None:
        """How it ended; None while it lives."""
        if self.exit is None:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            if result is not None:
                exited = result.si_code == os.CLD_EXITED
                self.exit = Exit(result.si_status if exited else None, None if exited else result.si_status)
        return self.exit

    def wait(self, timeout_ns: int) -> Exit | None:
        """Waits for its end, at most so long."""
        deadline = time.monotonic_ns() + timeout_ns
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        while self.look() is None and (rest := deadline - time.monotonic_ns()) > 0:
            poll.poll(rest / MILLISECOND)
        return self.exit

    def keep(self, files: Set[Path]) -> None:
        """These files of jobs' output are told to somebody: they stay."""
        self._keep |= files

    def end(self) -> None:
        """Ends the dealer if it still lives, and clears away what it left. May be called twice."""
        if self.pidfd < 0:
            return
        self._cut_lifeline()
        if self.wait(LEAVE_NS_MAX) is None:
            self._console.warning(f"the private dealer (pid {self.pid}) does not leave and is killed")
            self.forward(Signals.SIGKILL)
            self.wait(LEAVE_NS_MAX)
        os.close(self.pidfd)
        self.pidfd = -1
        if self.exit != Exit(0, None):
            self._clear_away()
        self._remove_directory()

    def _clear_away(self) -> None:
        """It did not leave in good order: its workers' descendants and its queues may be left."""
        try:
            end_orphans(self.pool, 0, time.monotonic_ns() + limits.TERM_GRACE_NS)
        except ConfigurationError as error:
            self._console.warning(str(error))
        if self.exit is not None and self.exit.signal is not None:
            for name in (names.intake, names.control, names.events, names.lock):
                self._post.unlink(name(self.pool))

    def _remove_directory(self) -> None:
        kept = _remove_all_but(self._directory, self._keep)
        if kept:
            self._console.info(f"Output of {kept} streams is kept in {self._directory}")

    def _cut_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def private_pool_name(batch: str | None) -> str:
    """A pool named after its batch if that was named by a person, else a name nobody has."""
    if batch is None:
        return f"private-{os.urandom(8).hex()}"
    return re.sub(r"[^a-z0-9-]", "-", batch.lower())[:32]


def _find() -> str:
    path = find_program(DEALER)
    if path is None:
        raise ConfigurationError(
            f"no {DEALER} beside this program nor on PATH: install it there, or use a running pool with --pool"
        )
    return path


def _spawn(command: list[str], lifeline: int) -> int:
    # Above the descriptor it is moved to: moving one onto itself would leave it to be closed by exec.
    reader = fcntl(lifeline, F_DUPFD_CLOEXEC, LIFELINE_FD + 1)
    moves = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, 2, 1),  # standard output belongs to the jobs
        (os.POSIX_SPAWN_DUP2, reader, LIFELINE_FD),
    ]
    try:
        return os.posix_spawn(
            command[0],
            command,
            scrubbed(os.environ),
            file_actions=moves,
            setsid=True,
            setsigmask=(),
            setsigdef=catchable(),
        )
    except OSError as error:
        raise ConfigurationError(f"cannot start {command[0]}: {error.strerror}") from error
    finally:
        os.close(reader)


def _remove_all_but(directory: Path, keep: Set[Path]) -> int:
    """Empties and removes a directory, except for some files and what leads to them. Returns how many stay."""
    kept = 0
    for root, _, file_names in os.walk(directory, topdown=False):
        for name in file_names:
            path = Path(root, name)
            if path in keep:
                kept += 1
            else:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty: something is kept in it
            os.rmdir(root)
    return kept
