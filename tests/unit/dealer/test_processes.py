"""Worker processes where descriptors run out, and what a slot's worker uses; the rest is tested end to end."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from support.harness import alive, children_of, until
from support.tracer import traced
from taskpool.clock import SECOND, Instant, SystemClock
from taskpool.core.events import Exited, Spawned, SpawnFailed
from taskpool.core.metric import families as metrics_of
from taskpool.core.reactor import Reactor
from taskpool.core.state import PoolConfig
from taskpool.core.worker import Worker, WorkerState
from taskpool.dealer.processes import LaunchSpec, WorkerProcesses
from taskpool.dealer.slot_usage import NOTHING, SlotUsage, use_of
from taskpool.identifiers import Epoch, Incarnation
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.names import StaleQueues
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.procs.orphans import WorkerList

ONE, TWO = Incarnation(1), Incarnation(2)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The worker: it sleeps, whatever it is told."""
    path = tmp_path / "tp-worker"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def processes(pool: str, program: Path, tmp_path: Path) -> Iterator[WorkerProcesses]:
    spool = Spool(tmp_path / "spool")
    spool.sweep()
    spec = LaunchSpec(pool, "home", 1, [str(program)], [], str(spool.directory), 2, Shape(2, 256))
    lists = StaleQueues(tmp_path, Epoch(1)), WorkerList(tmp_path, None)
    with closing(WorkerProcesses(spec, KernelNamespace(), spool, SystemClock(), *lists)) as processes:
        yield processes


class NoDescriptors:
    """As long as it lasts, this process gets no new descriptor."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._before)


def test_without_descriptors_no_worker_starts_and_none_is_taken_for_exited(processes: WorkerProcesses) -> None:
    started = processes.spawn(ONE)
    assert isinstance(started, Spawned)
    processes.kill(ONE, "KILL")
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
    with NoDescriptors():
        assert isinstance(processes.spawn(TWO), SpawnFailed)
        processes.reap(SystemClock().now().mono)
        assert processes.take_exited() == []
    (exited,) = processes.take_exited()
    assert isinstance(exited, Exited)
    assert exited.incarnation == ONE
    assert processes.empty


@pytest.mark.parametrize("at_exit", [True, False])
def test_a_tracer_that_does_nothing_keeps_no_dead_worker_alive(
    processes: WorkerProcesses, program: Path, at_exit: bool
) -> None:
    program.write_text("#!/bin/sh\nsleep 60 & wait\n")
    started = processes.spawn(ONE)
    assert isinstance(started, Spawned)
    below = until(lambda: children_of(started.pid), "what the worker starts")
    with traced(started.pid, at_exit=at_exit):
        processes.kill(ONE, "KILL")
        exited: list[Exited] = []

        def exits() -> bool:
            processes.reap(SystemClock().now().mono)
            exited.extend(processes.take_exited())
            return bool(exited)

        until(exits, "the exit of the worker")
        assert [(each.incarnation, each.signal) for each in exited] == [(ONE, SIGKILL)]
        until(lambda: not any(map(alive, below)), "the end of its group")
        assert processes.empty
        assert started.pid in children_of(os.getpid()), "its tracer has it still"

    def is_reaped() -> bool:
        processes.reap(SystemClock().now().mono)
        return started.pid not in children_of(os.getpid())

    until(is_reaped, "the end of the zombie")


# --- what they use ---------------------------------------------------------------------------------------


def test_a_slot_shows_what_its_worker_uses() -> None:
    supervisor = Reactor(PoolConfig(name="demo", epoch=3, workers=2), {}).supervisor
    code = "import os, sys; spent = [i * i for i in range(10**6)]; print(os.times().user, flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        own_account = float(child.stdout.readline())
        worker = Worker(ONE, Instant(0, 0))
        worker.pid, worker.slot, worker.state = child.pid, 1, WorkerState.BUSY
        supervisor.workers[worker.incarnation] = worker
        families: dict[str, Any] = {metric.name: dict(samples) for metric, samples in metrics_of(SlotUsage(supervisor))}
        cpu_ns = families["taskpool_worker_cpu_seconds_total"]
        resident = families["taskpool_worker_resident_memory_bytes"]
        child.stdin.close()
    assert cpu_ns[("2",)] >= own_account * SECOND
    assert resident[("2",)] > 2**23
    assert (cpu_ns[("1",)], resident[("1",)]) == (0, 0)
    assert use_of(child.pid) == NOTHING, "it is gone"


def test_a_process_that_is_no_child_is_not_read() -> None:
    assert use_of(os.getpid()) == NOTHING
    assert use_of(1) == NOTHING
