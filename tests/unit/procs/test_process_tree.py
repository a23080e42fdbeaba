"""Finding the descendants of a process, and that none of them is left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest

from support.programs import run
from taskpool.procs import process_tree
from taskpool.procs.reap import reap

Sleeper = Callable[..., int]  # conftest.py


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


def test_what_descends_from_a_process_that_its_tracer_keeps_is_ended() -> None:
    """As a worker's command, and all that this has started, in groups and sessions of their own."""
    program = """
from support.harness import alive, arguments_of, children_of, until
from support.tracer import traced
family = "(setsid sh -c 'sleep 60 & sleep 60' & sleep 60) & sleep 60"
pid = subprocess.Popen([sys.executable, "-c", "import os, sys; from taskpool.procs import prctl; "
    "prctl.become_subreaper(); os.system(sys.argv[1])", family], start_new_session=True).pid
def below(pid):
    return [found for child in children_of(pid) for found in (child, *below(child))]
until(lambda: sum(arguments_of(each) == ["sleep", "60"] for each in below(pid)) == 4, "the family")
family = below(pid)
with traced(pid, at_exit=True):
    os.kill(pid, signal.SIGKILL)
    until(lambda: not process_tree.kill_below([pid]), "the family's end")
    print(any(map(alive, family)), reap.peek())
reap.reap(pid)
print(process_tree.kill_descendants() >= 0)
"""
    assert run(SUBREAPER + program).splitlines() == ["False None", "True"]


def test_a_process_that_keeps_forking_is_ended() -> None:
    program = """
subprocess.run(["/bin/sh", "-c", "(while :; do /bin/true; /bin/true & done) &"], stdout=subprocess.DEVNULL)
print(process_tree.kill_descendants() >= 1, process_tree.children_of())
"""
    assert run(SUBREAPER + program) == "True []\n"


@pytest.mark.parametrize(
    "escape",
    [
        "setsid sh -c 'setsid sleep 60 & sleep 60 & wait'",
        "env -i setsid sleep 60",
        "env -i sh -c '(setsid sleep 60 &)'",
    ],
)
def test_the_process_tree_of_a_dead_worker_is_ended_and_no_other(escape: str) -> None:
    """As the dealer does it: reap the dead, kill what is no worker, wait for SIGCHLD, again."""
    program = """
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
def start(text):
    to_stderr = [(os.POSIX_SPAWN_DUP2, 2, 1)]
    return os.posix_spawn("/bin/sh", ["sh", "-c", text], os.environ, setpgroup=0, file_actions=to_stderr)
other = start("exec sleep 60")
worker = start(sys.argv[1] + " & sleep 60 & kill -KILL $$")
reap.reap(worker)
def left():
    while (pid := reap.peek()) is not None:
        reap.reap(pid)
    return process_tree.kill_strays(set(process_tree.children_of()) - {other})
rounds = 0
while left():
    assert signal.sigtimedwait({signal.SIGCHLD}, 10), "no child died"
    rounds += 1
print(rounds > 0, process_tree.children_of() == [other])
process_tree.kill_descendants()
"""
    assert run(SUBREAPER + program, escape) == "True True\n"


def test_the_dying_count_until_they_are_reaped() -> None:
    """Their children may not be ours yet, so "none left" would be said too early."""
    zombie = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    assert process_tree.kill_strays([zombie]) == 1
    assert reap(zombie).status == 0
