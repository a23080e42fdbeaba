"""The peers' side: which are on this machine, and their drivers (bench.peers) run as programs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import Wrong
from support.pages import free_port
from support.source_tree import ROOT

ARRAYS = ROOT / "build" / "bench-venv" / "arrays"
TURN_SECONDS_MAX = 900.0
REDIS_SECONDS_MAX = 20.0

# Python peers, by the name of their distribution; and programs, each with how it says its version.
DISTRIBUTIONS = ("celery", "dask", "distributed", "joblib", "loky", "pebble", "redis", "rq")
PROGRAMS = {
    "parallel": ("parallel", "--version"),
    "xargs": ("xargs", "--version"),
    "tsp": ("tsp", "-V"),
    "redis-server": ("redis-server", "--version"),
    "g++": ("g++", "--version"),
}
PACKAGES = {"parallel": "parallel", "xargs": "findutils", "tsp": "task-spooler", "redis-server": "redis-server"}

ASK_VERSIONS = """
import importlib.metadata, json, platform, sys
versions = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


class Peers(NamedTuple):
    """The peers' Python, a directory for what they write, and the versions of those that are here."""

    python: str
    work: Path
    versions: Mapping[str, str]

    def missing(self, *names: str) -> str | None:
        """Say what to install of these; None when all are here."""
        absent = [name for name in names if name not in self.versions]
        packages = [f"apt-get install {PACKAGES.get(name, name)}" for name in absent if name not in DISTRIBUTIONS]
        packages += [f"pip install {name} (make bench does)" for name in absent if name in DISTRIBUTIONS]
        return "; ".join(packages) or None

    def ask(self, module: str, *arguments: object, env: Mapping[str, str] | None = None) -> Any:
        """Run a driver to its end; return the JSON that it prints. Raises Wrong."""
        command = [self.python, "-m", f"bench.peers.{module}", *map(str, arguments)]
        return json.loads(run(command, self.work, env=self.env | dict(env or {}), cwd=ROOT / "tests"))

    @property
    def env(self) -> dict[str, str]:
        """What drivers and their workers run with: they import `bench.peers`, and write nothing elsewhere."""
        own = {"PYTHONPATH": str(ROOT / "tests"), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self.work)}
        return os.environ | own


def find_arrays() -> Path | None:
    """Return the directory that numpy was put into, for both sides to import it from; None when it is not here."""
    return ARRAYS if (ARRAYS / "numpy").is_dir() else None


def find_peers(python: Path, work: Path) -> Peers:
    """Look for all of them. Without the environment that `make bench` makes, the standard library's are left."""
    program = str(python) if python.exists() else sys.executable
    said = subprocess.run([program, "-c", ASK_VERSIONS, *DISTRIBUTIONS], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(said.stdout)
    for name, command in PROGRAMS.items():
        if shutil.which(command[0]) is not None:
            asked = subprocess.run(command, capture_output=True, text=True)
            versions[name] = (asked.stdout or asked.stderr).partition("\n")[0].removeprefix(f"{name} ")
    return Peers(program, work, versions)


def run(
    command: Sequence[str],
    work: Path,
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: str = "",
    codes: Sequence[int] = (0,),
) -> str:
    """Run a program to its end; return what it prints. Raises Wrong for another exit code, and past the time."""
    with (work / "peer.err").open("w+b") as err:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd or work,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(stdin, timeout=TURN_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            raise Wrong(f"{command[0]} has not ended after {TURN_SECONDS_MAX:g} s") from None
        finally:
            # With a session of its own, whatever a peer has left running is found in its group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode not in codes:
            err.seek(0)
            said = err.read().decode(errors="replace").strip().splitlines()[-3:]
            raise Wrong(f"{Path(command[0]).name} ended with {process.returncode}: {' | '.join(said)}")
    return printed


@contextmanager
def redis_server(work: Path) -> Iterator[str]:
    """Run a server of our own, as durable as it can be; gives its address."""
    port = free_port()
    directory = work / f"redis-{port}"
    directory.mkdir()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if "Ready to accept connections" in line:
                break
        else:
            raise Wrong(f"redis-server ended with {server.wait(REDIS_SECONDS_MAX)}")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.communicate(timeout=REDIS_SECONDS_MAX)
        shutil.rmtree(directory)
