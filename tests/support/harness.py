"""Real programs, started as people start them, and judged from outside: exit codes, what they print, /proc,
and files the jobs themselves write. Nothing here asks the code under test whether it is right.

The programs are those of the directory TASKPOOL_BIN, so that the same tests judge frozen programs:
    TASKPOOL_BIN=dist/taskpool .venv/bin/python -m pytest tests/e2e
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import posix_ipc
import pytest

from support.source_tree import ROOT
from taskpool.procs.control_group import ControlGroup, own_directory

_T = TypeVar("_T")

DEADLINE_SECONDS = 50.0  # for what takes a second on an idle machine
POLL_SECONDS = 0.01

# The exit codes of the programs (README); not imported, because they are public.
OK, FAILED, USAGE, ENVIRONMENT, UNREACHABLE, HALTED, QUARANTINED, REFUSED = range(8)
INTERRUPTED, TERMINATED = 130, 143


def programs_directory() -> Path:
    """Return where the programs under test are."""
    if given := os.environ.get("TASKPOOL_BIN"):
        return Path(given).absolute()
    installed = ROOT / ".venv" / "bin"
    return installed if (installed / "tp-generator").exists() else Path(sys.executable).parent


def program(name: str) -> str:
    """Return the path of `tp-generator`, `tp-dealer` or `tp-worker`."""
    path = programs_directory() / name
    assert path.exists(), f"{path} is missing: make setup, or set TASKPOOL_BIN"
    return str(path)


def until(condition: Callable[[], _T], what: str, seconds: float = DEADLINE_SECONDS) -> _T:
    """Wait until the condition is true and return what it gave; fail the test at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:g} s: {what}", pytrace=True)
        time.sleep(POLL_SECONDS)  # polling: what is waited for is not a child's end or a descriptor of ours
    return found


def shared_memory() -> set[str]:
    """Return what Python programs of this user hold in shared memory. Those that run beside the tests count, too."""
    found = set()
    for entry in os.scandir("/dev/shm"):
        with suppress(FileNotFoundError):
            if entry.name.startswith(("psm_", "sem.mp-")) and entry.stat().st_uid == os.geteuid():
                found.add(entry.name)
    return found


def tell(text: str) -> None:
    """Print what is shown with a failure, and with -s: seeds, counts, and the commands that repeat what happened."""
    sys.stdout.write(f"{text}\n")


class Program:
    """One of our programs as a process. What it prints goes to files, so that it never waits for us."""

    def __init__(
        self,
        argv: Sequence[str],
        directory: Path,
        *,
        stdin: bytes | int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = list(argv)
        number = len(list(directory.glob("*.err")))
        self._out, self._err = directory / f"{number}.out", directory / f"{number}.err"
        tell(f"$ {_shortened(shlex.join(self.argv))}")
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE if isinstance(stdin, bytes) else stdin or subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err if stderr is None else stderr,
                env=os.environ | dict(env or {}),
                cwd=cwd,
            )
        if isinstance(stdin, bytes):
            self._feed(stdin)

    def _feed(self, data: bytes) -> None:
        assert self.popen.stdin is not None
        with suppress(BrokenPipeError):
            self.popen.stdin.write(data)
            self.popen.stdin.close()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def stdout(self) -> str:
        return self._out.read_text(errors="surrogateescape")

    @property
    def stdout_bytes(self) -> bytes:
        return self._out.read_bytes()

    @property
    def stderr(self) -> str:
        return self._err.read_text(errors="surrogateescape")

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    def objects(self) -> list[dict[str, Any]]:
        """Standard output as JSON Lines."""
        return [json.loads(line) for line in self.lines]

    def says(self, pattern: str, seconds: float = DEADLINE_SECONDS) -> re.Match[str]:
        """Wait until standard error matches."""
        found = until(lambda: self._search(pattern), f"{pattern!r} in the log of {self.argv[0]}", seconds)
        assert isinstance(found, re.Match), f"ended with {found} and never said {pattern!r}:\n{self.stderr}"
        return found

    def _search(self, pattern: str) -> re.Match[str] | int | None:
        ended = self.popen.poll()
        found = re.search(pattern, self.stderr, re.MULTILINE)
        return found if found or ended is None else ended or 256

    def send(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Wait for the end; returns the exit code, -N when a signal killed it."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds:g} s: {shlex.join(self.argv)}\n{self.stderr[-4000:]}")

    def ends(self, code: int, seconds: float = DEADLINE_SECONDS) -> Program:
        """Wait for the end, which must have this exit code."""
        ended = self.wait(seconds)
        assert ended == code, f"exit code {ended}, expected {code}; it said:\n{self.stderr[-4000:]}"
        return self

    def close(self) -> bool:
        """End it; returns whether it still ran."""
        running = self.popen.poll() is None
        if running:
            self.popen.kill()
            self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        return running


class Stage:
    """A pool's name, a directory, and the programs started in one test. All of them end with it."""

    def __init__(self, pool: str, directory: Path) -> None:
        self.pool = pool
        self.pools = [pool]  # and others that a test makes
        self.directory = directory
        self._logs = directory / "printed"
        self._logs.mkdir()
        self._programs: list[Program] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = [started.close() for started in reversed(self._programs)]
        if any(ended):  # the test has failed half way: what was killed could not clear away its queues
            self._sweep(self.pool)
        for pool in self.pools[1:]:  # the fixture `pool` looks after the first only
            self._sweep(pool)

    def start(self, argv: Sequence[str], **how: Any) -> Program:
        started = Program(argv, self._logs, **how)
        self._programs.append(started)
        return started

    def generator(self, *args: object, **how: Any) -> Program:
        return self.start([program("tp-generator"), *map(str, args)], **how)

    def private(self, *args: object, **how: Any) -> Program:
        """Start a generator with a private pool that has this test's name, so that what it leaves is found."""
        return self.generator(args[0], "--batch", self.pool, *args[1:], **how)

    def ask(self, verb: str, *args: object) -> dict[str, Any]:
        """Send a command to the pool; returns its JSON answer."""
        asked = self.generator(*verb.split(), "--pool", self.pool, "--json", *args).ends(OK)
        return json.loads(asked.stdout)  # type: ignore[no-any-return]

    def dealer(self, *args: object, ready: int = 1, under: Sequence[str] = (), **how: Any) -> Program:
        """Start a dealer of the pool and wait until so many workers are ready; `under` is a program that execs it."""
        options = ["--pool", self.pool, "--metrics", "none", "--journal", "none", "-v", *map(str, args)]
        started = self.start([*under, program("tp-dealer"), *options], **how)
        if ready:
            started.says(r"(?:\[Supervisor\] Worker PID \d+ is ready[\s\S]*)" + f"{{{ready}}}")
        return started

    @staticmethod
    def _sweep(pool: str) -> None:
        for pid in marked(pool):  # orphans that left their family; the next dealer would have ended them
            kill(pid)
        names = [f"{pool}.{role}" for role in ("intake", "control", "events", "lock", "reply.0", "reply.1")]
        names += [f"{pool}.{epoch}.w{number}" for epoch in range(1, 9) for number in range(1, 200)]
        for name in names:
            with suppress(posix_ipc.ExistentialError):
                posix_ipc.unlink_message_queue(f"/tp.{name}")
        # A dealer that was killed leaves its control group to the next one of its pool, which a test may not start.
        around = own_directory()
        for group in around.glob(f"tp.{pool}.*") if around is not None else ():
            ControlGroup(group).remove()


def _shortened(text: str) -> str:
    return text if len(text) < 2000 else f"{text[:1500]} ... {text[-400:]}"


# --- /proc: whatever is asked about may be gone by the time we look ---------------------------------------


def arguments_of(pid: int) -> list[str]:
    """Return the command line; empty for what is dead or a zombie."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return data.decode(errors="surrogateescape").split("\0")[:-1]


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def state_of(pool: str) -> Path:
    """Return a pool's state directory, which may not be there."""
    return Path(os.environ["XDG_STATE_HOME"], "taskpool", pool)


def dealer_of(generator: Program) -> int:
    """Return the pid of a generator's private dealer, once it has one."""
    return until(
        lambda: next((pid for pid in children_of(generator.pid) if "--private" in arguments_of(pid)), 0),
        "the private dealer of a generator",
    )


def workers_of(dealer: int) -> list[int]:
    """Return the pids of the dealer's workers that are alive."""
    return [pid for pid in children_of(dealer) if "--incarnation" in arguments_of(pid)]


def templates_of(dealer: int) -> list[int]:
    """Return the pid of what the dealer's workers are copied from, if it is alive."""
    return [pid for pid in children_of(dealer) if "--as-template" in arguments_of(pid)]


def marked(pool: str) -> list[int]:
    """Return all processes of the pool's workers and of their jobs, by the mark in their environment."""
    return [pid for pid, environ in _environments() if f"\0TP_WORKER={pool}/".encode() in b"\0" + environ]


def _environments() -> Iterator[tuple[int, bytes]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), Path(entry.path, "environ").read_bytes()


def alive(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> bool:
    """Send a signal; returns whether there was such a process."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


# --- queues, as a stranger sees them -----------------------------------------------------------------------


@contextmanager
def opened(name: str) -> Iterator[posix_ipc.MessageQueue]:
    """Open a queue to send to. Raises posix_ipc.ExistentialError."""
    queue = posix_ipc.MessageQueue(name, read=False)
    try:
        yield queue
    finally:
        queue.close()


def send_raw(name: str, messages: Sequence[bytes]) -> None:
    """Send raw bytes to a queue, as a program that does not speak the protocol would."""
    with opened(name) as queue:
        for message in messages:
            queue.send(message, timeout=DEADLINE_SECONDS)


def queue_exists(name: str) -> bool:
    try:
        with opened(name):
            return True
    except posix_ipc.ExistentialError:
        return False
