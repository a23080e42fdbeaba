"""`taskpool.Executor` at the prompt of an interpreter, on a terminal of its own: Ctrl-C and Ctrl-D are real keys."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from support.leftovers import processes_of, unlink_queues

DEADLINE_S = 60.0
PROMPT, MORE = ">>> ", "... "
CTRL_C, CTRL_D = b"\x03", b"\x04"


class Terminal:
    """An interpreter whose controlling terminal this is."""

    def __init__(self, env: dict[str, str]) -> None:
        self._fd, slave = pty.openpty()
        # What is printed has no colours and no lines that are redrawn: those are not looked at here.
        plain = {"TERM": "dumb", "PYTHON_BASIC_REPL": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        self.program = subprocess.Popen(
            [sys.executable, "-i", "-q"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=os.environ | plain | env,
            start_new_session=True,
        )
        os.close(slave)
        self._printed = ""
        self._read_to(PROMPT)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.program.kill()
        self.program.wait()
        os.close(self._fd)

    def type(self, line: str, prompt: str = PROMPT) -> str:
        """What is printed for a line, up to the next prompt."""
        os.write(self._fd, line.encode() + b"\n")
        return self._read_to(prompt).partition("\r\n")[2].replace("\r\n", "\n")

    def begin(self, line: str) -> None:
        """Type a line that does not end by itself."""
        os.write(self._fd, line.encode() + b"\n")

    def press(self, key: bytes) -> str:
        os.write(self._fd, key)
        return self._read_to(PROMPT)

    def leave(self) -> int:
        """End it as people do, and give its exit status."""
        os.write(self._fd, CTRL_D)
        with suppress(OSError):  # EIO: the last process on this terminal is gone
            while self._read():
                pass
        return self.program.wait(DEADLINE_S)

    def _read_to(self, text: str) -> str:
        while text not in self._printed:
            self._printed += self._read()
        found, _, self._printed = self._printed.partition(text)
        return found

    def _read(self) -> str:
        ready, _, _ = select.select([self._fd], [], [], DEADLINE_S)
        assert ready, f"no more came than {self._printed!r}"
        return os.read(self._fd, 65536).decode()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with Terminal({"XDG_STATE_HOME": str(tmp_path / "state")}) as terminal:
        # So that Ctrl-C is for it: of the terminal that it was given it is the leader's now.
        terminal.type("import fcntl, termios; _ = fcntl.ioctl(0, termios.TIOCSCTTY, 0)")
        yield terminal


def wait_until_gone(batch: str) -> None:
    until = time.monotonic() + DEADLINE_S
    while processes_of(batch):
        assert time.monotonic() < until
        time.sleep(0.01)  # polling: what happens in another process has nothing to wait on


@pytest.mark.slow
def test_an_executor_at_the_prompt(terminal: Terminal, tmp_path: Path) -> None:
    for line in ("import os, taskpool, time", "executor = taskpool.Executor(1)", "scale = 2"):
        assert terminal.type(line) == ""
    batch = terminal.type("print(executor.submit(abs, 1).job or executor._loop._link.batch)").strip().partition("/")[0]
    terminal.type("def area(side): return scale * side * side", MORE)
    terminal.type("")
    assert terminal.type("executor.submit(area, 3).result()") == "18\n"
    terminal.type("scale = 3")
    assert terminal.type("executor.submit(area, 3).result()") == "27\n"  # as it is now
    terminal.type("class Point: x = 1", MORE)
    terminal.type("")
    assert terminal.type("type(executor.submit(Point).result()) is Point") == "True\n"
    assert terminal.type("list(executor.map(lambda n: n + 1, range(3)))") == "[1, 2, 3]\n"
    assert terminal.type("executor.submit(print, 'said').result()") == "said\n"
    crash = terminal.type("executor.submit(os.abort).exception()")
    assert crash.startswith("JobCrashed('") and f"killed by {signal.SIGABRT.name}" in crash

    started = tmp_path / "started"
    terminal.type("def hang(started): open(started, 'w').close(); time.sleep(600)", MORE)
    terminal.type("")
    terminal.type(f"future = executor.submit(hang, {str(started)!r})")
    terminal.begin("future.result()")
    until = time.monotonic() + DEADLINE_S
    while not started.exists():
        assert time.monotonic() < until
        time.sleep(0.01)  # polling, as above
    assert "KeyboardInterrupt" in terminal.press(CTRL_C)
    assert terminal.type("future.done(), future.cancel()") == "(False, True)\n"  # to wait no more is not to cancel
    assert terminal.type("executor.submit(area, 1).result()") == "3\n"
    assert terminal.leave() == 0
    wait_until_gone(batch)
    assert unlink_queues(batch, 3, 20) == []
    assert [path for path in (tmp_path / "state").rglob("*") if path.name != "taskpool"] == []
