"""A dealer of one's own: started for one batch, ended with it, and started again when it is killed."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Set
from contextlib import closing, suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import MILLISECOND, NEVER, SECOND
from taskpool.errors import ConfigurationError, ExitCode
from taskpool.generator.output.console import Console
from taskpool.generator.output.formats import signal_name
from taskpool.generator.private.state import PrivateState
from taskpool.generator.signals import STOP_SIGNALS, raise_if_stopped
from taskpool.ipc import names
from taskpool.ipc.names import StaleQueues
from taskpool.ipc.queue import QueueNamespace
from taskpool.procs.environment import scrubbed
from taskpool.procs.pool_lock import PoolLock, last_holder
from taskpool.procs.process_tree import end_orphans
from taskpool.procs.signals import Wakeup, catchable
from taskpool.procs.spawn import find_program
from taskpool.procs.state_dir import identity

DEALER = "tp-dealer"
LIFELINE_FD = 3  # where the dealer finds it
REVIVALS_MAX = 5  # how often a killed dealer is started again
LEAVE_NS_MAX = 2 * limits.TERM_GRACE_NS + limits.DRAIN_TIMEOUT_NS  # between the lifeline's end and SIGKILL
INTERRUPTS_MAX = 3  # so many mean: leave now
LAST_CALL_NS = 1 * SECOND  # how long it may take then to leave in good order


class Exit(NamedTuple):
    """How the dealer ended: one of the two is None."""

    status: int | None
    signal: int | None


class PrivateDealer:
    """The process, its lifeline, and what has to be cleared away behind it.

    The dealer lives in a session of its own, so that a Ctrl-C reaches it through us and once only. The
    lifeline is a pipe whose other end only we hold: when we die, however, the dealer reads its end.
    """

    def __init__(
        self,
        state: PrivateState,
        options: list[str],
        namespace: QueueNamespace,
        console: Console,
        resume_command: str = "",
        drain_ns: int = limits.DRAIN_TIMEOUT_NS,
    ) -> None:
        """Starts it. Raises ConfigurationError when the program is missing or cannot be started. `resume_command`: the
        command that resumes the batch, told if it must be. `drain_ns`: its --drain-timeout."""
        self.resume_command = resume_command
        self.state = state
        self.pool = state.pool
        self.exit: Exit | None = None
        self.began = False  # the batch is known to a dealer: there is something to resume
        self.succeeded = False  # every job has: there is nothing to resume
        self.leave_by = NEVER  # then it is killed
        self.given_up = False  # it was
        self._drain_ns = drain_ns
        self._interrupts = 0
        self._namespace = namespace
        self._console = console
        self._keep: set[Path] = set()
        self._options = options
        self._revivals = 0
        self._ended = False
        self.pid = self.pidfd = self._lifeline = -1
        try:
            self._start()
        except ConfigurationError:
            self._release_state()
            raise

    def _start(self) -> None:
        reader, self._lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            options = [f"--journal={self.state.journal or 'none'}", *self._options]
            command = [_find(), "--pool", self.pool, "--private", "--lifeline-fd", str(LIFELINE_FD), *options]
            self.pid = _spawn(command, reader)
            self.pidfd = os.pidfd_open(self.pid)
        except ConfigurationError:
            self._cut_lifeline()
            raise
        finally:
            os.close(reader)

    @property
    def journaled(self) -> bool:
        """What was accepted survives the dealer."""
        return self.state.journal is not None

    def __enter__(self) -> PrivateDealer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def forward(self, number: Signals) -> None:
        """Hands on a signal that was meant for the batch."""
        if self.exit is None and self.pidfd >= 0:
            with suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self.pidfd, number)

    def tell(self, number: Signals, now: int) -> None:
        """Hands on a signal that a person sent to us. One that orders it to leave has a limit, because it may be
        stopped or hang; a first and a second SIGINT have none, and who does not want to wait sends a third."""
        # To a dealer, HUP means to read its configuration resume_command.
        self.forward(Signals.SIGTERM if number is Signals.SIGHUP else number)
        if number is Signals.SIGINT:
            self._interrupts += 1
            wait_ns = LAST_CALL_NS if self._interrupts >= INTERRUPTS_MAX else NEVER
        else:
            wait_ns = self._drain_ns + LEAVE_NS_MAX if number in STOP_SIGNALS else NEVER
        self.leave_by = min(self.leave_by, now + wait_ns)

    def kill_if_overdue(self, now: int) -> None:
        """Kills it when it has not left in time. The journal has all that it was to keep."""
        if now >= self.leave_by and self.look() is None:
            self._give_up()

    def _give_up(self) -> None:
        self._console.warning(f"the private dealer (pid {self.pid}) does not leave and is killed")
        self.forward(Signals.SIGKILL)
        self.given_up, self.leave_by = True, NEVER

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

    def revive(self) -> bool:
        """Starts it again where its journal stands, if it was killed and that was not too often; whether it lives.

        The new one looks after what the killed one left. Raises ConfigurationError when it cannot be started.
        """
        if self.exit is None:
            return True
        if self.exit.signal is None or not self.journaled or self._revivals >= REVIVALS_MAX:
            return False
        self._revivals += 1
        self._console.warning(
            f"The private dealer (pid {self.pid}) was killed by {signal_name(self.exit.signal)}; starting it again "
            f"({self._revivals} of {REVIVALS_MAX} times), nothing is lost"
        )
        self._cut_lifeline()
        os.close(self.pidfd)
        self.pidfd = -1
        for name in (names.intake, names.control):  # or a hello would wait where nobody reads
            self._namespace.unlink(name(self.pool))
        self._start()
        self.exit = None
        return True

    def keep(self, files: Set[Path]) -> None:
        """These files of jobs' output are told to somebody: they stay."""
        self._keep |= files

    def end(self) -> None:
        """Ends the dealer if it still lives, and clears away what it left. May be called twice."""
        if self._ended:
            return
        self._ended = True
        self._cut_lifeline()
        if self.pidfd >= 0:
            if self.wait(LEAVE_NS_MAX) is None:
                self._give_up()
                self.wait(LEAVE_NS_MAX)
            os.close(self.pidfd)
            self.pidfd = -1
        if self.exit != Exit(0, None) and not self._in_use:
            self._clear_away()
        self._release_state()

    def _clear_away(self) -> None:
        """It did not leave in good order: its workers' descendants and its queues may be left.

        Only what nobody owns: while we hold the pool's lock, no dealer works in it or comes up.
        """
        with closing(PoolLock(self.state.directory, self.pool)) as lock:
            if lock.hold():
                self._end_and_unlink()

    def _end_and_unlink(self) -> None:
        try:
            end_orphans(self.pool, identity(self.state.directory), 0, time.monotonic_ns() + limits.TERM_GRACE_NS)
        except ConfigurationError as error:
            self._console.warning(str(error))
        if self.exit is not None and self.exit.signal is not None:
            for name in (names.intake, names.control, names.events, names.lock):
                self._namespace.unlink(name(self.pool))
            StaleQueues(self.state.directory).sweep(self._namespace, self.pool)

    @property
    def _in_use(self) -> bool:
        """Our dealer found another one in the pool: all that is there is theirs."""
        return self.exit is not None and self.exit.status == ExitCode.UNREACHABLE

    @property
    def stays(self) -> bool:
        """Whether the state is kept for another run. One that was found is only given up when all is done; one
        that somebody else has in use is theirs."""
        return self._in_use or (self.journaled and not self.succeeded and (self.began or self.state.resumed))

    def _release_state(self) -> None:
        if self.stays:
            if self.resume_command and (self.began or self.state.resumed):
                self._console.notice(
                    f"Batch {self.state.batch} is kept in {self.state.directory}; remove that directory to forget it. "
                    f"To resume: {self.resume_command}"
                )
            return
        kept = self.state.remove(self._keep)
        if kept:
            self._console.info(f"Output of {kept} streams is kept in {self.state.directory}")

    def _cut_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def wait_for_predecessor(state: PrivateState, wakeup: Wakeup, console: Console) -> None:
    """Until the dealer of an earlier run has left: its generator was killed, so it is about to.

    Raises Interrupted. If it stays, the dealer that is started next says so.
    """
    holder = last_holder(state.directory)
    if holder is None:
        return
    try:
        pidfd = os.pidfd_open(holder.pid)
    except ProcessLookupError:
        return
    try:
        if _is_private_dealer(holder.pid, state.pool):
            console.info(f"Waiting for the dealer of an earlier run to leave (pid {holder.pid})")
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.register(wakeup, select.POLLIN)
            poll.poll(LEAVE_NS_MAX / MILLISECOND)
    finally:
        os.close(pidfd)
    raise_if_stopped(wakeup)


def _is_private_dealer(pid: int, pool: str) -> bool:
    """Whether the pid has not gone to somebody else since."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"--private" in words and pool.encode() in words


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
