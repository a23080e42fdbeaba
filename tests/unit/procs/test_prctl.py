"""Ties between processes, tried by really cutting them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from support.programs import dies, run, start

CHILD = """
import signal, sys
from taskpool.procs.prctl import ParentTie
ParentTie(int(sys.argv[1]))
print("armed", flush=True)
signal.pause()
"""

PARENT = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_worker_dies_with_its_dealer() -> None:
    with start(PARENT) as dealer:
        assert dealer.stdout
        worker = os.pidfd_open(int(dealer.stdout.readline()))
        dealer.kill()
        assert dies(worker)
        os.close(worker)


def test_a_parent_that_is_gone_before_the_arming() -> None:
    """The kernel sends nothing any more, so the process ends itself, and in the same way."""
    gone = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(gone, 0)
    with start(CHILD, gone) as orphan:
        printed, complaint = orphan.communicate(timeout=20)
    assert (orphan.returncode, printed, complaint) == (-signal.SIGKILL, "", "")


def test_a_parent_that_is_there_keeps_it_alive() -> None:
    with start(CHILD, os.getpid()) as child:
        assert child.stdout
        assert child.stdout.readline() == "armed\n"
        child.kill()


FAMILY = """
import os, signal, subprocess, sys
from taskpool.procs.prctl import ParentTie, become_subreaper
tie = ParentTie(int(sys.argv[1]))
become_subreaper()
text = "trap '' HUP TERM; (env -i setsid sh -c 'echo $$; exec sleep 60' &); sleep 60"
with tie.descendants_first():
    child = subprocess.Popen(["sh", "-c", text], stdout=subprocess.PIPE)
    print(child.stdout.readline().decode().strip(), flush=True)
    os.kill(os.getpid(), signal.SIGHUP)  # anybody may send it
    print("unharmed", flush=True)
    signal.pause()
"""


def test_descendants_go_before_a_process_whose_parent_dies() -> None:
    parent = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {FAMILY!r}, str(os.getpid())], stdout=subprocess.PIPE)
print(child.stdout.readline().decode().strip(), child.stdout.readline().decode().strip(), child.pid, flush=True)
sys.stdin.read()
"""
    with start(parent) as dealer:
        assert dealer.stdout
        grandchild, unharmed, worker = dealer.stdout.readline().split()
        assert unharmed == "unharmed"
        pidfds = [os.pidfd_open(int(pid)) for pid in (grandchild, worker)]
        dealer.kill()
        assert all(map(dies, pidfds))
        for pidfd in pidfds:
            os.close(pidfd)


def test_a_parent_that_dies_before_the_block_takes_no_descendant_along_alone() -> None:
    """The block begins with a look: a child that is there is ended with the process."""
    code = """
import os, signal, sys
from taskpool.procs.prctl import ParentTie, become_subreaper
tie = ParentTie(os.getppid())
become_subreaper()
child = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
print(child, flush=True)
sys.stdin.readline()
tie._parent = 0  # no process has it, as if the parent had died and the kernel had said nothing
with tie.descendants_first():
    print("alive", flush=True)
"""
    with start(code) as worker:
        assert worker.stdout
        child = os.pidfd_open(int(worker.stdout.readline()))
        assert worker.communicate("\n", timeout=20)[0] == ""
        assert dies(child)
        os.close(child)
        assert worker.returncode == -signal.SIGKILL


def test_orphans_come_to_the_subreaper() -> None:
    program = """
import os, subprocess
from taskpool.procs.prctl import become_subreaper
become_subreaper()
shell = subprocess.run(["sh", "-c", "sleep 60 >/dev/null & echo $!"], stdout=subprocess.PIPE)
orphan = int(shell.stdout)
stat = open(f"/proc/{orphan}/stat").read()
print(int(stat.rpartition(")")[2].split()[1]) == os.getpid())
os.kill(orphan, 9)
print(os.waitpid(orphan, 0)[0] == orphan)
"""
    assert run(program).split() == ["True", "True"]


def test_a_worker_goes_before_its_dealer_when_memory_runs_out() -> None:
    program = """
from taskpool.procs.prctl import lower_oom_protection
lower_oom_protection()
print(open("/proc/self/oom_score_adj").read())
"""
    assert int(run(program)) == max(500, int(Path("/proc/self/oom_score_adj").read_text()))


def test_a_process_already_less_protected_stays_so() -> None:
    program = """
from taskpool.procs.prctl import lower_oom_protection
open("/proc/self/oom_score_adj", "w").write("900")
lower_oom_protection()
print(open("/proc/self/oom_score_adj").read())
"""
    assert int(run(program)) == 900
