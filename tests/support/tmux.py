"""A terminal of its own for a program, in tmux: keys go in, the screen comes out."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from support.harness import alive, arguments_of, children_of, until

SECONDS = 90.0  # for what takes a moment on an idle machine


class Tmux:
    """One window. The server behind it has a socket of its own, and ends with it."""

    def __init__(self, directory: Path, columns: int, rows: int) -> None:
        self._directory = directory
        self._tmux = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]
        self._size = ["-x", str(columns), "-y", str(rows)]

    def __enter__(self) -> Tmux:
        # A shell that shows no prompt: what is on the screen is the program's.
        self._run("new-session", "-d", "-s", "t", *self._size, "sh", "-c", "PS1= exec sh")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True)

    def start(self, command: Sequence[str]) -> None:
        """Run a program in the foreground, between two notes of how the terminal is set."""
        before, after = self._directory / "before", self._directory / "after"
        script = self._directory / "script"
        run = shlex.join(command)
        script.write_text(f"stty -g >{before}\necho shown before\n{run}\necho ended with $?\nstty -g >{after}\n")
        self._run("send-keys", "-t", "t", f". {script}", "Enter")

    def press(self, *keys: str) -> None:
        self._run("send-keys", "-t", "t", *keys)

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-t", "t", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        return self._run("capture-pane", "-p", "-t", "t")

    def shows(self, text: str) -> str:
        """Wait until a text is on the screen; return the screen."""
        return until(lambda: screen if text in (screen := self.screen()) else "", f"{text!r} on the screen", SECONDS)

    def shows_no_more(self, text: str) -> str:
        return until(lambda: screen if text not in (screen := self.screen()) else "", f"no {text!r} any more", SECONDS)

    def child(self, word: str) -> int:
        """Return the pid of the program that runs in the window, with this word on its command line."""
        shell = int(self._run("display-message", "-p", "-t", "t", "#{pane_pid}"))
        return until(
            lambda: next((pid for pid in children_of(shell) if word in arguments_of(pid) and alive(pid)), 0),
            f"a program with {word!r}",
            SECONDS,
        )

    def is_as_before(self) -> bool:
        """Whether the terminal is set as before the program, shows the screen from before, and has its cursor."""
        if not (self._directory / "after").exists():
            return False
        before, after = ((self._directory / name).read_text() for name in ("before", "after"))
        flags = self._run("display-message", "-p", "-t", "t", "#{alternate_on} #{cursor_flag} #{keypad_flag}")
        return before == after and before != "" and flags.split() == ["0", "1", "0"]

    def _run(self, *words: str) -> str:
        return subprocess.run([*self._tmux, *words], check=True, capture_output=True, text=True).stdout
