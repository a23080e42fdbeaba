"""The processes of a sweep: programs under strace, and programs that start warm.

A point costs half when only the program that is struck starts cold. The others are forked from this process, which
has everything imported, and run the same `main` with the same arguments. The worker is always started by the dealer.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from support.harness import alive, children_of, program

POLL_SECONDS = 0.004
TELL_SIGNAL = signal.SIGUSR2  # no program of ours uses it
TELL_SECONDS = 2.0


class Process(Protocol):
    """A program that was started: its exit code once it has ended (-N: by a signal), and what it said."""

    err: Path
    out: Path

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def close(self) -> None: ...


class Warm:
    """A fork of this process in the place of a program."""

    def __init__(self, argv: Sequence[str], directory: Path, env: dict[str, str]) -> None:
        self.out, self.err = _streams(directory)
        self._code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(_become(list(argv), self.out, self.err, env))

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def tell_where(self) -> str:
        """Where it is, if it has not ended: the system call of each thread, and the stack of each in Python."""
        if self.poll() is not None:
            return ""
        said = len(self.err.read_bytes())
        os.kill(self.pid, TELL_SIGNAL)
        wait_for(lambda: len(self.err.read_bytes()) > said, TELL_SECONDS)
        calls = [read_text(f"/proc/{self.pid}/task/{tid}/syscall") for tid in [self.pid, *threads_of(self.pid)]]
        return f"PID {self.pid}, system calls {calls}, {self.err.read_bytes()[said:].decode(errors='replace')}"

    def close(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Traced:
    """A program under strace, started cold, or a thread of one that runs."""

    def __init__(self, options: Sequence[str], argv: Sequence[str], directory: Path, env: dict[str, str]) -> None:
        self.out, self.err = _streams(directory)
        words = ["strace", *options, program(argv[0]), *argv[1:]]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self._popen = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env)
        self._pid = 0

    @property
    def pid(self) -> int:
        """The program's, not strace's; 0 while there is none."""
        if not self._pid:
            self._pid = next(iter(children_of(self._popen.pid)), 0)
        return self._pid

    def poll(self) -> int | None:
        return self._popen.poll()

    def close(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid or self._popen.pid, signal.SIGKILL)
            self._popen.wait()


def attach(options: Sequence[str], tid: int, directory: Path) -> subprocess.Popen[bytes]:
    """strace on one thread of a running program, once it has hold of it."""
    _, err = _streams(directory)
    with err.open("wb") as log:
        tracer = subprocess.Popen(["strace", *options, "-p", str(tid)], stdin=subprocess.DEVNULL, stderr=log)
    wait_for(lambda: b"attached" in err.read_bytes() or tracer.poll() is not None, 30)
    return tracer


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def read_text(path: str) -> str:
    """What a file of /proc says; empty when its process has gone."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def threads_of(pid: int) -> list[int]:
    """Its threads, without the first."""
    try:
        return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
    except OSError:
        return []


def family_of(pool: str, directory: Path) -> list[int]:
    """What runs for the pool: by a worker's mark, or because it was started with the run's own directory."""
    mark, place = f"\0TP_WORKER={pool}/".encode(), str(directory).encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with suppress(OSError):
            environ = Path("/proc", name, "environ").read_bytes()
            if (mark in b"\0" + environ or place in environ) and alive(int(name)):
                found.append(int(name))
    return found


def _streams(directory: Path) -> tuple[Path, Path]:
    """Where a program's words go. Both exist at once: the next one is told apart by their number."""
    number = len(os.listdir(directory)) // 2
    streams = directory / f"{number}.out", directory / f"{number}.err"
    for path in streams:
        path.touch()
    return streams


def _become(argv: list[str], out: Path, err: Path, env: dict[str, str]) -> int:
    """In the fork: what the interpreter would do between exec and exit."""
    try:
        for fd, path in ((0, Path(os.devnull)), (1, out), (2, err)):
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(opened, fd)
            os.close(opened)
        faulthandler.register(TELL_SIGNAL, file=2)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = [program(argv[0]), *argv[1:]]
        code = _main(argv[0])(argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - the interpreter's own way out
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return code


def _main(name: str) -> Callable[[list[str]], int]:
    from taskpool.dealer import main as dealer
    from taskpool.generator import main as generator

    return {"tp-dealer": dealer.main, "tp-generator": generator.main}[name]


def preload() -> None:
    """Everything the programs import on their way, so that a fork need not."""
    import taskpool.dealer.dealer
    import taskpool.dealer.linux
    import taskpool.generator.admin
    import taskpool.generator.main
    import taskpool.generator.run
    import taskpool.journal.sqlite  # noqa: F401
