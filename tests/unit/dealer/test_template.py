"""Workers as copies of a template: whose children they are, what they are called, and what a dead template costs."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import pytest

from support.harness import alive, arguments_of, children_of, until
from support.worker_stage import PROGRAM
from taskpool.clock import SystemClock
from taskpool.core.events import Spawned
from taskpool.dealer.processes import LaunchSpec, WorkerProcesses
from taskpool.dealer.template import WorkerTemplate
from taskpool.identifiers import Epoch, Incarnation
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.names import StaleQueues
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.procs import prctl, procfs
from taskpool.procs.orphans import WorkerList

EVENTS = Shape(10, 1024)


@pytest.fixture(autouse=True)
def subreaper() -> Iterator[None]:
    """Make this process one, as a dealer is."""
    prctl.become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, as it was


@pytest.fixture
def processes(pool: str, tmp_path: Path) -> Iterator[WorkerProcesses]:
    spool = Spool(tmp_path / "spool")
    spool.sweep()
    namespace = KernelNamespace()
    events = namespace.create(names.events(pool), EVENTS)
    spec = LaunchSpec(pool, "home", 1, [*PROGRAM], [], str(spool.directory), 2, Shape(2, 256))
    lists = StaleQueues(tmp_path, Epoch(1)), WorkerList(tmp_path, None)
    try:
        with closing(WorkerProcesses(spec, namespace, spool, SystemClock(), *lists)) as processes:
            yield processes
    finally:
        events.close()
        namespace.unlink(names.events(pool))


def spawn(processes: WorkerProcesses, number: int) -> int:
    spawned = processes.spawn(Incarnation(number))
    assert isinstance(spawned, Spawned)
    return spawned.pid


def template() -> int:
    """Return the pid of the template, which is a child of this process."""
    (pid,) = [pid for pid in children_of(os.getpid()) if "--as-template" in arguments_of(pid)]
    return pid


def numbers() -> list[int]:
    """Return the incarnations on the command lines of this process's children."""
    lines = [words for pid in children_of(os.getpid()) if "--incarnation" in (words := arguments_of(pid))]
    return sorted(int(words[words.index("--incarnation") + 1]) for words in lines)


def test_a_copy_is_a_child_of_the_dealer_with_a_name_and_a_session_of_its_own(processes: WorkerProcesses) -> None:
    first, second = spawn(processes, 1), spawn(processes, 12)
    assert {first, second, template()} <= set(children_of(os.getpid()))
    for pid, incarnation in ((first, 1), (second, 12)):
        words = arguments_of(pid)
        assert int(words[words.index("--incarnation") + 1]) == incarnation
        assert "--as-template" not in words
        stat = procfs.stat_of(pid)
        assert stat is not None
        assert (stat.parent, stat.session) == (os.getpid(), pid)
        assert os.getpgid(pid) == pid


def test_a_template_that_was_killed_is_replaced_and_its_copies_live_on(processes: WorkerProcesses) -> None:
    first, killed = spawn(processes, 1), template()
    os.kill(killed, SIGKILL)
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
    second = spawn(processes, 2)
    third = spawn(processes, 3)
    assert all(map(alive, (first, second, third)))
    assert template() != killed


def test_a_stopped_template_is_ended_and_what_it_had_begun_with_it(processes: WorkerProcesses) -> None:
    first, stopped = spawn(processes, 1), template()
    os.kill(stopped, SIGSTOP)
    second = spawn(processes, 2)
    assert not alive(stopped)
    assert {first, second} <= set(children_of(os.getpid()))
    until(lambda: numbers() == [1, 2], "one worker of each number")  # amid its exec one shows nothing


@pytest.mark.parametrize("room", [0, 3])  # for no socket; for both of its ends, and nothing else
def test_without_descriptors_there_is_no_template_until_there_are_some(room: int) -> None:
    def start(socket_fd: int) -> int:
        os.close(os.dup(socket_fd))
        os.close(os.open(os.devnull, os.O_RDONLY))
        held.append(os.open(os.devnull, os.O_RDONLY))
        held.append(os.open(os.devnull, os.O_RDONLY))
        return os.getpid()

    held: list[int] = []
    template = WorkerTemplate(start)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + room, before[1]))
        template.prepare()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert template.pid == 0
    template.prepare()
    assert template.pid == os.getpid()
    template.reaped(os.getpid())
    for fd in held:
        os.close(fd)


def test_nothing_is_left_at_the_end(processes: WorkerProcesses) -> None:
    pids = [spawn(processes, 1), spawn(processes, 2), template()]
    processes.close()
    assert not any(map(alive, pids))


def test_a_program_that_knows_no_templates_is_started_for_each_worker(pool: str, tmp_path: Path) -> None:
    program = tmp_path / "old-worker"
    program.write_text('#!/bin/sh\necho "$*" >> "$0.log"\ncase "$*" in *--as-template*) exit 2;; esac\nexec sleep 60\n')
    program.chmod(0o755)
    spool = Spool(tmp_path / "spool")
    spool.sweep()
    spec = LaunchSpec(pool, "home", 1, [str(program)], [], str(spool.directory), 2, Shape(2, 256))
    lists = StaleQueues(tmp_path, Epoch(1)), WorkerList(tmp_path, None)
    with closing(WorkerProcesses(spec, KernelNamespace(), spool, SystemClock(), *lists)) as processes:
        for number in (1, 2, 3):
            spawn(processes, number)
        log = Path(f"{program}.log")
        until(lambda: len(log.read_text().splitlines()) == 4, "one template and three workers")
        assert log.read_text().count("--as-template") == 1
