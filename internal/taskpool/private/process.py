"""The dealer of a private pool: started for one batch, ended with it, and started again when it is killed.

Any thread may hold one: the dealer is tied to its client by a pipe, not by the thread that has started it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import closing, suppress
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from signal import Signals
from types import TracebackType
from typing import NamedTuple, Protocol

from taskpool import limits
from taskpool.client.connection import Notices
from taskpool.clock import NEVER, SECOND, AwakeClock, SystemClock
from taskpool.errors import ConfigurationError, ExitCode, counted
from taskpool.ipc import names
from taskpool.ipc.names import StaleQueues
from taskpool.ipc.queue import QueueNamespace
from taskpool.private.state import PrivateState
from taskpool.procs.niceness import run_at
from taskpool.procs.orphans import end_orphans, last_life
from taskpool.procs.pool_lock import HELD_LOOK_NS, PoolLock, is_held, last_holder
from taskpool.procs.signals import ENDING, catchable, signal_name
from taskpool.procs.spawn import find_program
from taskpool.procs.wait import Descriptor, wait_until

DEALER = "tp-dealer"
LIFELINE_FD = 3  # where the dealer finds it
RESTARTS_MAX = 5  # more, and whatever kills it will do so again
LEAVE_NS_MAX = 2 * limits.TERM_GRACE_NS + limits.DRAIN_TIMEOUT_NS  # between the lifeline's end and SIGKILL
INTERRUPTS_MAX = 3  # so many mean: leave now
QUICK_EXIT_NS = 1 * SECOND  # how long it may take then to leave in good order


class KeepingNotices(Notices, Protocol):
    """Where a private dealer says what a person may want to know."""

    def notice(self, text: str) -> None:
        """Say something even when asked to be quiet: it names what the person can do."""


class DealerExit(NamedTuple):
    """How the dealer ended: one of the two is None."""

    status: int | None
    signal: int | None


class LaunchOptions(NamedTuple):
    """How the dealer is started."""

    words: tuple[str, ...] = ()  # its command line, less what ties it to the generator
    drain_ns: int = limits.DRAIN_TIMEOUT_NS  # its --drain-timeout
    niceness: int | None = None  # its own and its jobs'; None: as here


class PrivateDealer:
    """The process, its lifeline, and what has to be cleared away behind it. A `DealerProcess` for a connection.

    The dealer lives in a session of its own, so that a Ctrl-C at the terminal reaches it only through the generator,
    and once. The lifeline is a pipe whose writing end only the generator holds: however that dies, the kernel closes
    the end, the dealer reads end-of-file, and leaves.
    """

    def __init__(
        self,
        state: PrivateState,
        launch: LaunchOptions,
        namespace: QueueNamespace,
        console: KeepingNotices,
        how_to_resume: str = "",
    ) -> None:
        """Start it. `how_to_resume` is what a person is told when the batch is kept.

        Raises ConfigurationError when the program is missing or cannot be started.
        """
        self.state = state
        self.pool = state.pool
        self.exit: DealerExit | None = None
        self.kill_at = NEVER  # when it is killed, on the monotonic clock
        self.killed_overdue = False
        self._how_to_resume = how_to_resume
        self._batch_known = False
        self._all_succeeded = False
        self._exit_expected = False
        self._launch = launch
        self.interrupts = 0  # SIGINTs passed on
        self._namespace = namespace
        self._console = console
        self._kept_files: set[Path] = set()
        self._restarts = 0
        self._closed = False
        self.pid = self.pidfd = self._lifeline = -1
        try:
            self._start()
        except ConfigurationError:
            self._release_state()
            raise

    def _start(self) -> None:
        reader, self._lifeline = os.pipe2(os.O_CLOEXEC)
        try:
            options = [f"--journal={self.state.journal or 'none'}", *self._launch.words]
            command = [_find(), "--pool", self.pool, "--private", "--lifeline-fd", str(LIFELINE_FD), *options]
            self.pid = self._spawn(command, reader)
            self.pidfd = os.pidfd_open(self.pid)
        except ConfigurationError:
            self._close_lifeline()
            raise
        finally:
            os.close(reader)

    def _spawn(self, command: list[str], reader: int) -> int:
        environment, niceness = self.state.environment(), self._launch.niceness
        if niceness is None:
            return _spawn(command, reader, environment)
        try:
            return run_at(niceness, lambda: _spawn(command, reader, environment))
        except PermissionError as error:  # the right was there when the command line was read
            raise ConfigurationError(f"cannot start {command[0]} with --nice {niceness}: {error.strerror}") from error

    @property
    def journaled(self) -> bool:
        """Whether what was accepted survives the dealer."""
        return self.state.journal is not None

    def __enter__(self) -> PrivateDealer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- its life ---------------------------------------------------------------------------------

    def poll(self) -> DealerExit | None:
        """Return how it ended; None while it lives."""
        if self.exit is None:
            # By pidfd: it names this very process, even when its pid has been given to another one.
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            if result is not None:
                exited = result.si_code == os.CLD_EXITED
                self.exit = DealerExit(result.si_status if exited else None, None if exited else result.si_status)
        return self.exit

    def has_ended(self) -> bool:
        """Return whether it has ended and was not started again."""
        return self.poll() is not None

    def wait(self, timeout_ns: int) -> DealerExit | None:
        """Wait for its end, at most so long; return how it ended, None when it has not."""
        clock = AwakeClock(SystemClock())
        deadline = clock.now().mono + timeout_ns
        while self.poll() is None and clock.now().mono < deadline:
            wait_until(deadline, clock, (self.pidfd,))
        return self.exit

    def expect_exit(self) -> None:
        """Start it no more, because it is about to leave: the batch is done, or was stopped."""
        self._exit_expected = True

    def restart(self) -> bool:
        """Start it again if it was killed and its journal has what it knew; return whether it lives.

        Raises ConfigurationError when it cannot be started.
        """
        if self.exit is None:
            return True
        # One that ended by itself chose to, and has said why; without a journal a new one would know of no job.
        if self._exit_expected or self.exit.signal is None or not self.journaled or self._restarts >= RESTARTS_MAX:
            return False
        self._restarts += 1
        self._console.warning(
            f"The private dealer PID {self.pid} was killed by {signal_name(self.exit.signal)}; starting it again "
            f"({self._restarts} of {RESTARTS_MAX} times), nothing is lost"
        )
        # The new one gets a lifeline of its own.
        self._close_lifeline()
        os.close(self.pidfd)
        self.pidfd = -1
        for name in (names.intake, names.control):  # or a hello would wait in a queue that is not read any more
            self._namespace.unlink(name(self.pool))
        # Nothing else is cleared away: a dealer that starts ends what an earlier one left (docs/protocol.md, 10).
        self._start()
        self.exit = None
        return True

    # --- signals ----------------------------------------------------------------------------------

    def send_signal(self, number: Signals) -> None:
        """Send it a signal, if it lives."""
        if self.exit is None and self.pidfd >= 0:
            with suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self.pidfd, number)

    def pass_on(self, number: Signals, now: int) -> None:
        """Pass on a signal that a person sent to the generator, and set the limit for leaving that it implies."""
        # HUP from a closing terminal means the end; to a dealer it means to read its configuration again.
        self.send_signal(Signals.SIGTERM if number is Signals.SIGHUP else number)
        # A dealer that is told to leave has a limit, because it may be stopped or hang. A first and a second SIGINT
        # have none, since running jobs may finish however long they take; a third one means that a person waits.
        if number is Signals.SIGINT:
            self.interrupts += 1
            wait_ns = QUICK_EXIT_NS if self.interrupts >= INTERRUPTS_MAX else NEVER
        else:
            wait_ns = self._launch.drain_ns + LEAVE_NS_MAX if number in ENDING else NEVER
        self.kill_at = min(self.kill_at, now + wait_ns)

    def kill_if_overdue(self, now: int) -> None:
        """Kill it when it has not left in time. The journal has all that it was to keep."""
        if now >= self.kill_at and self.poll() is None:
            self._kill()

    def _kill(self) -> None:
        self._console.warning(f"the private dealer PID {self.pid} did not exit in time; killing it")
        self.send_signal(Signals.SIGKILL)
        self.killed_overdue, self.kill_at = True, NEVER

    # --- what becomes of its state ----------------------------------------------------------------

    def note_batch_known(self) -> None:
        """Note that a dealer has welcomed the batch: there is something to resume."""
        self._batch_known = True

    def note_all_succeeded(self) -> None:
        """Note that every job has succeeded: there is nothing to resume."""
        self._all_succeeded = True

    def advise(self, text: str) -> None:
        """Have a person told this when the batch is kept."""
        if self._how_to_resume:  # else there is nothing to advise
            self._how_to_resume = text

    def omit_resume_command(self) -> None:
        """Say nothing of resuming, because the same command would be refused again."""
        self._how_to_resume = ""

    def keep_files(self, files: Set[Path]) -> None:
        """Leave these files of jobs' output when the state is removed: outcomes that were written name them."""
        self._kept_files |= files

    @property
    def keeps_state(self) -> bool:
        """Whether the state stays for another run."""
        # One that an earlier run has left is removed only when all is done; one that another dealer uses is not ours.
        known = self._batch_known or self.state.resumed
        # With a name it can be asked about, and a script that resumes it learns that nothing is left to do.
        wanted = not self._all_succeeded or self.state.named
        return self._in_use or (self.journaled and wanted and known)

    def close(self) -> None:
        """End the dealer if it still lives, and clear away what it left. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._close_lifeline()
        if self.pidfd >= 0:
            if self.wait(LEAVE_NS_MAX) is None:
                self._kill()
                self.wait(LEAVE_NS_MAX)
            os.close(self.pidfd)
            self.pidfd = -1
        if self.exit != DealerExit(0, None) and not self._in_use:
            clear_away(self.state, self._namespace, self._console)
        self._release_state()

    def let_go(self) -> None:
        """Close what a forked child has of it, and leave the dealer to the parent."""
        self._closed = True
        self._close_lifeline()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self.state.close()

    @property
    def _in_use(self) -> bool:
        """Whether our dealer found another one in the pool, which owns all that is there."""
        return self.exit is not None and self.exit.status == ExitCode.UNREACHABLE

    def _release_state(self) -> None:
        self._tell_or_remove()
        self.state.close()

    def _tell_or_remove(self) -> None:
        if self.keeps_state:
            known = self._batch_known or self.state.resumed
            if self._how_to_resume and known and not self._all_succeeded:
                self._console.notice(
                    f"Batch {self.state.batch} is kept in {self.state.directory}, until `tp-generator forget "
                    f"{self.state.batch}`. {self._how_to_resume}"
                )
            return
        kept = self.state.remove(self._kept_files)
        if kept:
            self._console.info(f"Output of {counted(kept, 'stream')} is kept in {self.state.directory}")

    def _close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def clear_away(state: PrivateState, namespace: QueueNamespace, console: Notices | None = None) -> None:
    """End what a dealer left that did not leave in good order: its workers' descendants and its queues."""
    # Only under the pool's lock: while it is held here, no other dealer works in the pool or comes up.
    with closing(PoolLock(state.directory, state.pool)) as lock:
        if not lock.hold():
            return
        try:
            end_orphans(last_life(state.directory, state.pool), 0, time.monotonic_ns() + limits.TERM_GRACE_NS)
        except ConfigurationError as error:
            if console is not None:
                console.warning(str(error))
        # A dealer that exits unlinks its queues itself. One that was killed could not, and one that could not start
        # leaves what it found.
        names.unlink_pool(namespace, state.pool, state.directory)
        StaleQueues(state.directory).end(namespace, state.pool)


def wait_for_predecessor(
    state: PrivateState, console: Notices, readable: Iterable[Descriptor] = (), check: Callable[[], None] = lambda: None
) -> None:
    """Wait until the dealer of an earlier run has left. `check` is called when one of the descriptors can be read, and
    ends the wait by what it raises.

    If it stays, the dealer that is started next finds the pool in use and says so.
    """
    # Its generator was killed, for the state is ours, so its lifeline has ended and it is about to leave. One that is
    # only coming up leaves at once (dealer/takeover.py).
    clock, readable = AwakeClock(SystemClock()), [*readable]
    deadline = clock.now().mono + LEAVE_NS_MAX
    told = False
    while is_held(state.directory) and (now := clock.now().mono) < deadline:
        if not told and (holder := last_holder(state.directory)):
            console.info(f"Waiting for the dealer of an earlier run, PID {holder.pid}, to exit")
            told = True
        wait_until(min(deadline, now + HELD_LOOK_NS), clock, readable)
        check()


def _find() -> str:
    path = find_program(DEALER)
    if path is None:
        raise ConfigurationError(
            f"no {DEALER} beside this program nor on PATH: install it there, or use a running pool with --pool"
        )
    return path


def _spawn(command: list[str], lifeline: int, environment: Mapping[str, str]) -> int:
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
            environment,
            file_actions=moves,
            setsid=True,
            setsigmask=(),
            setsigdef=catchable(),
        )
    except OSError as error:
        raise ConfigurationError(f"cannot start {command[0]}: {error.strerror}") from error
    finally:
        os.close(reader)
