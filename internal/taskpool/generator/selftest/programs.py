"""Programs of this package as processes: started, found, ended; and what they leave on this host.

What is left is looked for from outside, by name, and not through what the pool says of itself.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from taskpool.clock import MILLISECOND, SECOND, AwakeClock, SystemClock
from taskpool.errors import ConfigurationError, QueueError, QueueMissing
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.procs import procfs
from taskpool.procs.signals import catchable
from taskpool.procs.spawn import find_program, scrubbed
from taskpool.procs.state_dir import state_directory
from taskpool.procs.wait import Descriptor, wait_until

GENERATOR, DEALER = "tp-generator", "tp-dealer"
_END_NS_MAX = 30 * SECOND  # for one that was told to end, before it is killed
_INCARNATIONS = 300  # workers of one dealer that are looked for; a self-test has tens
_LINGER_NS = 10 * SECOND  # how long what was killed may take to be gone
_LOOK_NS = 50 * MILLISECOND


def environment() -> dict[str, str]:
    """Return this program's environment without settings of this package: they could make it another test."""
    return {name: value for name, value in scrubbed(os.environ).items() if not name.startswith("TP_")}


def find(name: str) -> str:
    """Return the path of a program. Raises ConfigurationError."""
    path = find_program(name)
    if path is None:
        raise ConfigurationError(f"no {name} beside this program nor on PATH: install it there")
    return path


class Process:
    """One program. What it prints goes to files, so that it never waits for its reader."""

    def __init__(self, words: Sequence[str], out: Path, err: Path, *, stdin: int, env: Mapping[str, str]) -> None:
        """Start it; `stdin` is a descriptor. Raises ConfigurationError."""
        self.status: int | None = None  # its exit status, or minus the signal that ended it
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        actions = [
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(out), flags, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, str(err), flags, 0o600),
        ]
        try:
            # A session of its own: a Ctrl-C at the terminal is for the self-test, which ends it in good order.
            self.pid = os.posix_spawn(
                words[0], [*words], env, file_actions=actions, setsid=True, setsigmask=(), setsigdef=catchable()
            )
        except OSError as error:
            raise ConfigurationError(f"cannot start {words[0]}: {error.strerror}") from error
        self._pidfd = os.pidfd_open(self.pid)

    def has_ended(self) -> bool:
        """Whether it has ended; then `status` says how."""
        if self.status is None:
            result = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            if result is not None:
                exited = result.si_code == os.CLD_EXITED
                self.status = result.si_status if exited else -result.si_status
        return self.status is not None

    def wait(self, timeout_ns: int, readable: Sequence[Descriptor] = ()) -> bool:
        """Wait for its end, or until one of the descriptors can be read; return whether it has ended."""
        if not self.has_ended():
            clock = AwakeClock(SystemClock())
            wait_until(clock.now().mono + timeout_ns, clock, (self._pidfd, *readable))
        return self.has_ended()

    def end(self) -> None:
        """End it, and return when it is gone. May be called twice."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._pidfd >= 0 and not self.has_ended():
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, number)
                self.wait(_END_NS_MAX)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def ask(
    words: Sequence[str], directory: Path, env: Mapping[str, str], timeout_ns: int
) -> tuple[int | None, bytes, str]:
    """Run a program to its end. Return its exit status (None: it did not end in time), output and standard error."""
    out, err = directory / "asked.out", directory / "asked.err"
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        process = Process(words, out, err, stdin=nothing, env=env)
    finally:
        os.close(nothing)
    ended = process.wait(timeout_ns)
    # Its status is none of its own when it had to be killed.
    process.end()
    return process.status if ended else None, out.read_bytes(), err.read_text(errors="backslashreplace").strip()


# --- on this host ---------------------------------------------------------------------------------


def child_of(pid: int, word: str) -> int | None:
    """Return a living child of a process that has this word on its command line."""
    for child in procfs.all_pids():
        # Not by the kernel's list of children, which not every kernel has.
        stat = procfs.stat_of(child)
        if stat is not None and stat.parent == pid and not stat.is_dying and word in _arguments(child):
            return child
    return None


def belongs_to(pid: int, pool: str) -> bool:
    """Say whether a process is one of the pool's programs."""
    return pool in _arguments(pid)


def left_of(pool: str, epochs: int) -> list[str]:
    """Say what is left of a pool that has ended, after a while for what is just going. `epochs`: how many dealers."""
    clock = AwakeClock(SystemClock())
    deadline = clock.now().mono + _LINGER_NS
    while (processes := list(_processes(pool))) and (now := clock.now().mono) < deadline:
        wait_until(min(deadline, now + _LOOK_NS), clock, ())
    return processes + [f"the queue {name}" for name in _queues(pool, epochs)]


def directory_of(pool: str) -> Path:
    """Return where the pool's state is, or was. Raises ConfigurationError."""
    return state_directory(pool, create=False)


def _processes(pool: str) -> Iterator[str]:
    mark = f"\0TP_WORKER={pool}/".encode()
    for pid in procfs.all_pids():
        if pid == os.getpid() or (stat := procfs.stat_of(pid)) is None or stat.is_dying:
            continue
        # What a job has started carries the mark of its worker; the programs name their pool.
        if mark in b"\0" + (procfs.read(pid, "environ") or b"") or pool in _arguments(pid):
            yield f"the process {pid} ({' '.join(_arguments(pid))[:80]})"


def _queues(pool: str, epochs: int) -> Iterator[str]:
    workers = (names.worker(pool, epoch, n) for epoch in range(1, epochs + 1) for n in range(1, _INCARNATIONS))
    shared = (names.intake(pool), names.control(pool), names.events(pool), names.lock(pool))
    for name in (*shared, *names.replies(pool), *workers):
        try:
            KernelNamespace().open(name, send=True, receive=False).close()
        except QueueMissing:
            continue
        except QueueError:
            pass  # it is there, and cannot be opened
        yield name


def _arguments(pid: int) -> list[str]:
    return (procfs.read(pid, "cmdline") or b"").decode(errors="replace").split("\0")
