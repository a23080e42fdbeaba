"""What is compared in C is what the looks in Python compare."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.source_tree import PACKAGE
from taskpool.worker.properties import PROPERTIES

kernel_state = pytest.importorskip("taskpool.worker.kernel_state", reason="not compiled: there was no C compiler")

# One change for each property that is marked as part of the kernel's state.
CHANGES = {
    "resource limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))",
    "another user or group": "os.setgroups([*os.getgroups(), 7])",
    "other settings of prctl(2)": "libc.prctl(15, b'renamed', 0, 0, 0)",
    "a timer": "signal.setitimer(signal.ITIMER_VIRTUAL, 1000)",
    "blocked signals": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])",
    "another niceness": "os.nice(1)",
    "another scheduling policy": "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))",
    "other CPUs": "os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])",
    "another I/O priority": "prctl.set_io_priority(2 << 13 | 7)",
    "another OOM score": "prctl.set_oom_score(b'901')",
    "another umask": "os.umask(0o123)",
    "another time zone": "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "another locale": "_locale.setlocale(_locale.LC_ALL, 'C.UTF-8')",
    "another file as standard input": "os.dup2(os.open('/etc', os.O_RDONLY), 0)",
}
PROGRAM = """
import _locale, ctypes, os, resource, signal, sys, time
from taskpool.procs import prctl
from taskpool.worker.kernel_state import kernel_state
from taskpool.worker.properties import PROPERTIES
libc = ctypes.CDLL(None)
(looked,) = [each for each in PROPERTIES if each.what == sys.argv[1]]
fd = prctl.oom_score_fd()
before = kernel_state(fd), looked.look()
assert before == (kernel_state(fd), looked.look()), "it is the same as long as nothing is changed"
exec(sys.argv[2])
after = kernel_state(fd), looked.look()
print(*(a != b for a, b in zip(before, after)))
"""
NEEDS_ROOT = {"another user or group"}
NEEDS_TWO_CPUS = {"other CPUs"}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_shows_in_the_bytes_too(what: str) -> None:
    if what in NEEDS_ROOT and os.geteuid() != 0:
        pytest.skip("only root may")
    if what in NEEDS_TWO_CPUS and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one CPU only")
    environment = {"PYTHONPATH": str(PACKAGE.parent), "LC_ALL": "C", "TZ": "UTC"}
    command = [sys.executable, "-X", "utf8=0", "-c", PROGRAM, what, CHANGES[what]]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True True\n", "")


def test_each_property_that_is_marked_is_changed_above() -> None:
    assert {each.what for each in PROPERTIES if each.in_kernel_state} == set(CHANGES)


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    """More groups than are compared: then each property is looked at in Python."""
    if os.geteuid() != 0:
        pytest.skip("only root may")
    program = (
        "import os; os.setgroups(range(1000)); from taskpool.worker.kernel_state import kernel_state\n"
        "assert kernel_state(-1) == b''\n"
        "from taskpool.worker.process_state import ProcessState\n"
        "state = ProcessState(); assert state.restore() is None; os.umask(0o123); assert state.restore() is None\n"
        "assert os.umask(0) != 0o123"
    )
    subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(PACKAGE.parent)}, check=True)
