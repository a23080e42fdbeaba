"""podman, as people use it, and the containers, pods and volumes of one test, which end with it.

What runs in a container is judged from the host: exit codes, /proc, what was printed, and files on the volume.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from support.harness import DEADLINE_SECONDS, OK, tell, until, workers_of
from support.source_tree import ROOT

IMAGE = os.environ.get("TASKPOOL_IMAGE", "localhost/taskpool:latest")
STATE = "/var/lib/taskpool"
# What a careful person adds. Not even the tmpfs that podman puts on /tmp for a read-only root.
LOCKED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges")
NO_NETWORK = "--network=none"

_numbers = itertools.count(1)
_RESTRICTED = ROOT / "tests" / "container" / "restricted.conf"


def podman(*args: object, code: int | None = OK, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run podman to its end; `code` is the exit code it must have, None for any."""
    command = ["podman", *map(str, args)]
    tell(f"$ {shlex.join(command)[:2000]}")
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=DEADLINE_SECONDS)
    if code is not None and done.returncode != code:
        pytest.fail(
            f"exit code {done.returncode}, expected {code}, of {shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        )
    return done


def settle() -> str | None:
    """Find settings under which podman starts a container here; returns the reason why there are none."""
    first = subprocess.run(_TRIAL, capture_output=True, text=True)
    if first.returncode == OK:
        return None
    if "CONTAINERS_CONF" in os.environ:
        return first.stderr
    os.environ["CONTAINERS_CONF"] = str(_RESTRICTED)
    second = subprocess.run(_TRIAL, capture_output=True, text=True)
    return None if second.returncode == OK else f"{first.stderr}\nwith {_RESTRICTED.name}: {second.stderr}"


_TRIAL = ["podman", "run", "--rm", NO_NETWORK, IMAGE, "--version"]


class Container:
    """One that was started, by name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def inspect(self) -> dict[str, Any]:
        return json.loads(podman("container", "inspect", self.name).stdout)[0]  # type: ignore[no-any-return]

    @property
    def pid(self) -> int:
        """Of its PID 1, on the host; 0 when it does not run."""
        return int(self.inspect()["State"]["Pid"])

    @property
    def log(self) -> str:
        """Both streams, in no order between them."""
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def says(self, text: str, times: int = 1) -> None:
        until(lambda: self.log.count(text) >= times, f"{times} times {text!r} in the log of {self.name}")

    def exec(self, *argv: object, code: int | None = OK) -> str:
        return podman("exec", self.name, *argv, code=code).stdout

    def generator(self, *argv: object, code: int | None = OK) -> str:
        return self.exec("tp-generator", *argv, code=code)

    def workers(self) -> list[int]:
        """Their pids on the host."""
        return workers_of(self.pid)

    def wait(self) -> int:
        """The exit code."""
        until(lambda: not self.inspect()["State"]["Running"], f"the end of {self.name}")
        return int(self.inspect()["State"]["ExitCode"])


class Host:
    """Where the containers of one test are."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._pods: list[str] = []
        self._volumes: list[str] = []

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for name in self._names:
                tell(f"--- log of {name}\n{podman('logs', name, code=None).stderr[-4000:]}")
        for pod in self._pods:
            podman("pod", "rm", "--force", "--ignore", "--time", 0, pod)
        for name in self._names:
            podman("rm", "--force", "--ignore", "--volumes", "--time", 0, name)
        for volume in self._volumes:
            podman("volume", "rm", "--force", volume, code=None)

    def name(self, what: str) -> str:
        return f"tp-test-{os.getpid()}-{next(_numbers)}-{what}"

    def volume(self) -> str:
        name = self.name("state")
        podman("volume", "create", name)
        self._volumes.append(name)
        return name

    def pod(self, *options: object) -> str:
        name = self.name("pod")
        podman("pod", "create", "--name", name, "--share", "ipc", *options)
        self._pods.append(name)
        return name

    def follow(self, *, pods: list[str], names: list[str], volumes: list[str]) -> None:
        """Take a container that another program makes: it ends with this test too."""
        self._pods += pods
        self._names += names
        self._volumes += volumes

    def start(self, *args: object, options: tuple[object, ...] = (), what: str = "dealer") -> Container:
        """A container in the background; `args` go to its program, `options` to podman."""
        name = self.name(what)
        self._names.append(name)
        podman("run", "--detach", "--name", name, *LOCKED, NO_NETWORK, *options, IMAGE, *args)
        return Container(name)

    def dealer(self, *args: object, workers: int = 2, options: tuple[object, ...] = ()) -> Container:
        """A dealer whose workers are all ready."""
        dealer = self.start("-v", "--workers", workers, "--spares", 0, *args, options=options)
        dealer.says(" is ready", workers)
        return dealer


class Ledger:
    """`<word> <job> <attempt>` a line, written by command jobs on the state volume."""

    PATH = f"{STATE}/ledger"

    def __init__(self, volume: str) -> None:
        place = json.loads(podman("volume", "inspect", volume).stdout)[0]["Mountpoint"]
        self._path = Path(place, "ledger")

    @classmethod
    def job(cls, seconds: float) -> list[str]:
        """The words of a command that writes itself down and takes so long in between."""
        say = f'echo "$word $1 $TP_ATTEMPT" >>{cls.PATH}'
        return ["sh", "-c", f"word=start; {say}; sleep {seconds:g}; word=end; {say}; echo $1", "sh", "{}"]

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self._path.read_text().splitlines()] if self._path.exists() else []

    def jobs(self, word: str) -> list[str]:
        return [line[1] for line in self.lines() if line[0] == word]

    def wait(self, word: str, number: int) -> None:
        until(lambda: len(self.jobs(word)) >= number, f"{number} jobs that say {word!r}")
