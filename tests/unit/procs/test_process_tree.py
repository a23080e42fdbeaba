"""Finding the descendants of a process, and that none of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from support.harness import marked
from support.programs import dies, run, start
from taskpool.clock import SECOND
from taskpool.errors import ConfigurationError
from taskpool.procs import process_tree, procfs
from taskpool.procs.reap import peek, reap

Sleeper = Callable[..., int]


@pytest.fixture
def sleeper(pool: str) -> Iterator[Sleeper]:
    """Starts processes that sleep; those that a test leaves are ended after it, before `pool` looks for them."""
    started: list[int] = []

    def sleep(mark: str | None = None) -> int:
        env = {} if mark is None else {process_tree.MARK_VARIABLE: mark}
        started.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], env))
        return started[-1]

    yield sleep
    for pid in started:
        with suppress(ChildProcessError, ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def in_a_while() -> int:
    return time.monotonic_ns() + 10 * SECOND


# --- finding ------------------------------------------------------------------------------------------


def test_children_are_found_both_ways(sleeper: Sleeper) -> None:
    before = set(process_tree.children_of())
    started = {sleeper(), sleeper()}
    os.waitid(os.P_PID, zombie := os.posix_spawn("/bin/true", ["true"], {}), os.WEXITED | os.WNOWAIT)
    expected = before | started | {zombie}
    assert set(process_tree.children_of()) == set(process_tree.children_of(os.getpid())) == expected
    assert set(process_tree._children_by_scan(os.getpid())) == expected
    assert process_tree.children_of(started.pop()) == []
    reap(zombie)


def test_children_of_every_thread_are_found() -> None:
    ready, leave = threading.Event(), threading.Event()
    started: list[int] = []

    def sleep() -> None:
        started.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], {}))
        ready.set()
        leave.wait(20)

    thread = threading.Thread(target=sleep)
    thread.start()
    ready.wait(20)
    try:
        assert started[0] in process_tree.children_of()
    finally:
        os.kill(started[0], signal.SIGKILL)
        reap(started[0])
        leave.set()
        thread.join()


def test_the_dead_have_no_children() -> None:
    reap(pid := os.posix_spawn("/bin/true", ["true"], {}))
    assert process_tree.children_of(pid) == []


def test_a_mark_is_read_amid_an_exec(sleeper: Sleeper) -> None:
    """posix_spawn returns before the new program's environment can be read: an empty answer is not the truth."""
    for n in range(50):
        assert process_tree.mark_of(sleeper(f"demo/1/{n}")) == f"demo/1/{n}"


def test_processes_without_a_mark(sleeper: Sleeper) -> None:
    assert process_tree.mark_of(sleeper()) is None  # its environment is empty
    zombie = os.posix_spawn("/bin/true", ["true"], {process_tree.MARK_VARIABLE: "demo/1/1"})
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    assert process_tree.mark_of(zombie) is None
    reap(zombie)
    assert process_tree.mark_of(zombie) is None  # not there at all


def test_a_mark_is_a_whole_variable() -> None:
    env = {"NOT_TP_WORKER": "demo/1/1", "TP_WORKER_TOO": "demo/1/1", "A": "TP_WORKER=demo/1/1"}
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], env)
    assert process_tree.mark_of(pid) is None
    os.kill(pid, signal.SIGKILL)
    reap(pid)


def test_a_program_name_cannot_confuse_the_reader(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "a) Z 1 (b")
    os.symlink("/bin/sleep", path)
    pid = os.posix_spawn(path, [path, "60"], {"A": "1"})
    try:
        assert process_tree.mark_of(pid) is None  # waits for the exec
        assert pid in process_tree._children_by_scan(os.getpid())
    finally:
        os.kill(pid, signal.SIGKILL)
        reap(pid)


# --- ending -------------------------------------------------------------------------------------------

SUBREAPER = """
import os, signal, subprocess, sys
from taskpool.procs import reap
from taskpool.procs import process_tree
from taskpool.procs import prctl
from support.harness import marked
prctl.become_subreaper()
"""


def test_no_descendant_is_left() -> None:
    """Nor orphans, nor those in sessions of their own, deaf to signals, stopped, or without an environment."""
    program = """
print(process_tree.kill_descendants())
subprocess.run(["/bin/sh", "-c", '''
    (sleep 60 & sleep 60 & wait) &
    setsid sh -c 'trap "" TERM HUP INT; sleep 60 & wait' &
    env -i /bin/sleep 60 &
    sh -c 'kill -STOP $$' &
'''], stdout=subprocess.DEVNULL)
print(process_tree.kill_descendants() >= 4, process_tree.children_of())
print(process_tree.kill_descendants())
"""
    assert run(SUBREAPER + program).splitlines() == ["0", "True []", "0"]


def test_a_process_that_keeps_forking_is_ended() -> None:
    program = """
subprocess.run(["/bin/sh", "-c", "(while :; do /bin/true; /bin/true & done) &"], stdout=subprocess.DEVNULL)
print(process_tree.kill_descendants() >= 1, process_tree.children_of())
"""
    assert run(SUBREAPER + program) == "True []\n"


def test_the_process_tree_of_a_dead_worker_is_ended_and_no_other(pool: str) -> None:
    """As the dealer does it: reap the dead, kill what carries the mark, wait for SIGCHLD, again."""
    program = """
pool = sys.argv[1]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
def start(mark, text):
    to_stderr = [(os.POSIX_SPAWN_DUP2, 2, 1)]
    return os.posix_spawn("/bin/sh", ["sh", "-c", text], {"TP_WORKER": mark}, setpgroup=0, file_actions=to_stderr)
worker = start(f"{pool}/home/1/1", "setsid sh -c 'setsid sleep 60 & sleep 60 & wait' & sleep 60 & kill -KILL $$")
other = start(f"{pool}/home/1/2", "exec sleep 60")
reap.reap(worker)
def left():
    while (pid := reap.peek()) is not None:
        reap.reap(pid)
    return process_tree.kill_marked(set(process_tree.children_of()) - {other}, f"{pool}/home/1/1")
rounds = 0
while left():
    assert signal.sigtimedwait({signal.SIGCHLD}, 10), "no child died"
    rounds += 1
print(rounds > 0, marked(pool) == [other], process_tree.mark_of(other) == f"{pool}/home/1/2")
process_tree.kill_descendants()
"""
    assert run(SUBREAPER + program, pool) == "True True True\n"


def test_strangers_are_spared(sleeper: Sleeper, pool: str) -> None:
    strangers = [sleeper(), sleeper(f"{pool}/home/1/10"), sleeper(f"{pool}/home/2/1")]
    assert process_tree.kill_marked(strangers, f"{pool}/home/1/1") == 0
    assert peek() is None


def test_the_dying_count_until_they_are_reaped() -> None:
    """Their children may not be ours yet, so "none left" would be said too early."""
    zombie = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    assert process_tree.kill_marked([zombie], "demo/1/1") == 1
    assert reap(zombie).status == 0


def test_a_process_whose_first_thread_has_ended_is_ended_too(pool: str) -> None:
    """It looks like a zombie, shows no environment, and runs on."""
    program = """
import ctypes, os, threading
threading.Thread(target=lambda: ctypes.CDLL(None).pause()).start()
SYS_exit = {"x86_64": 60}.get(os.uname().machine, 93)
ctypes.CDLL(None).syscall(SYS_exit, 0)  # ends this one thread
"""
    undead = start(program, env={process_tree.MARK_VARIABLE: process_tree.worker_mark(pool, "home", 1, 1)})
    with undead:
        while not process_tree._is_dying(undead.pid):
            assert undead.poll() is None
        assert process_tree.kill_marked([undead.pid], f"{pool}/home/1/1") == 1
        assert undead.wait(20) == -signal.SIGKILL


def test_a_child_that_cannot_be_looked_into_is_ended(pool: str) -> None:
    """Root may look, so this is tried as another user."""
    program = """
import os, shutil, sys, tempfile
from taskpool.procs import process_tree
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
with tempfile.TemporaryDirectory() as directory:
    hidden = shutil.copy(shutil.which("sleep"), f"{directory}/hidden")
    os.chmod(hidden, 0o111)
    pid = os.posix_spawn(hidden, ["sleep", "60"], {"TP_WORKER": sys.argv[1]})
    print(process_tree.mark_of(pid), process_tree.kill_marked([pid], sys.argv[1]), os.waitpid(pid, 0)[1])
"""
    assert run(program, f"{pool}/home/1/1") == f"None 1 {signal.SIGKILL.value}\n"


@pytest.mark.needs_tool("setpriv")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a child as another user")
def test_another_users_child_is_spared_though_it_cannot_be_looked_into(pool: str) -> None:
    """Root of a container may kill any process, and look into those of its own user only."""
    program = """
import os, subprocess, sys
from taskpool.procs import process_tree
with subprocess.Popen(["sleep", "60"], user=65534) as stranger:
    looked = subprocess.run(["cat", f"/proc/{stranger.pid}/environ"], capture_output=True).returncode
    print(looked, process_tree.kill_marked([stranger.pid], sys.argv[1]))
    stranger.kill()
"""
    capabilities = "--bounding-set=-all,+kill,+setuid,+setgid"
    assert run(program, f"{pool}/home/1/1", under=("setpriv", capabilities)) == "1 0\n"


def test_orphans_of_other_epochs_are_ended(sleeper: Sleeper, pool: str) -> None:
    orphans = [sleeper(f"{pool}/home/1/1"), sleeper(f"{pool}/home/1/2"), sleeper(f"{pool}/home/3/1")]
    others = (f"{pool}/home/2/1", f"{pool}x/home/1/1", f"{pool}/elsewhere/1/1", f"{pool}/home2/1/1")
    spared = {sleeper(mark) for mark in others}
    assert process_tree.end_orphans(pool, "home", 2, in_a_while()) == 3
    assert {reap(pid).signal for pid in orphans} == {signal.SIGKILL}
    assert {*marked(pool), *marked(f"{pool}x")} == spared
    assert process_tree.end_orphans(pool, "home", 2, in_a_while()) == 0


def test_orphans_need_not_be_our_children(pool: str) -> None:
    shell = subprocess.run(
        ["/bin/sh", "-c", "setsid sleep 60 >/dev/null & echo $!"],
        env={process_tree.MARK_VARIABLE: f"{pool}/home/1/1"},
        stdout=subprocess.PIPE,
    )
    orphan = os.pidfd_open(int(shell.stdout))
    assert process_tree.end_orphans(pool, "home", 2, in_a_while()) == 1
    assert dies(orphan)
    os.close(orphan)


def test_an_orphan_that_keeps_forking_is_ended(pool: str) -> None:
    env = {process_tree.MARK_VARIABLE: f"{pool}/home/1/1"}
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "while :; do /bin/true; done"], env)
    assert process_tree.end_orphans(pool, "home", 2, in_a_while()) >= 1
    assert reap(pid).signal == signal.SIGKILL
    assert marked(pool) == []


def test_an_orphan_born_behind_the_scan_is_found_by_the_next(
    sleeper: Sleeper, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = sleeper(f"{pool}/home/1/1"), sleeper(f"{pool}/home/1/1")
    scans = iter([[early]])
    monkeypatch.setattr(procfs, "all_pids", lambda: next(scans, [early, late]))
    assert process_tree.end_orphans(pool, "home", 2, in_a_while()) == 2


def test_orphans_alive_at_the_deadline_are_named(sleeper: Sleeper, pool: str) -> None:
    pid = sleeper(f"{pool}/home/1/1")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ConfigurationError, match=f"earlier life of pool {pool} do not die: {pid};"):
        process_tree.end_orphans(pool, "home", 2, deadline_mono_ns=0)
    assert os.listdir("/proc/self/fd") == before


def test_a_dealer_started_by_a_job_does_not_end_itself(pool: str) -> None:
    program = """
import sys, time
from taskpool.procs.process_tree import end_orphans
print(end_orphans(sys.argv[1], "home", 2, time.monotonic_ns() + 10**10))
"""
    assert run(program, pool, env={process_tree.MARK_VARIABLE: f"{pool}/home/1/1"}) == "0\n"
