"""What /proc tells of processes, of those that are gone included."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.programs import run
from taskpool.clock import SECOND
from taskpool.procs import procfs
from taskpool.procs.reap import reap


@pytest.fixture
def zombie() -> Iterator[int]:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield pid
    reap(pid)


@pytest.fixture
def gone() -> int:
    reap(pid := os.posix_spawn("/bin/true", ["true"], {}))
    return pid


def test_this_process() -> None:
    times = os.times()
    stat = procfs.stat_of(os.getpid())
    assert stat is not None
    assert (stat.parent, stat.session) == (os.getppid(), os.getsid(0))
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - stat.start_ticks / os.sysconf("SC_CLK_TCK")
    assert 0 <= age_s < time.monotonic()
    assert stat.resident_bytes > 2**20
    assert stat.virtual_bytes > stat.resident_bytes
    assert not stat.is_dying
    used_ns = (times.user + times.system + times.children_user + times.children_system) * SECOND
    assert stat.cpu_ns >= used_ns - SECOND / 10


def test_a_program_name_cannot_shift_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "a) Z 1 (b"
    path.symlink_to("/bin/sleep")
    pid = os.posix_spawn(path, [str(path), "60"], {})
    try:
        stat = procfs.stat_of(pid)
        assert stat is not None
        assert stat.parent == os.getpid()
    finally:
        os.kill(pid, signal.SIGKILL)
        reap(pid)


def test_the_dead(zombie: int) -> None:
    stat = procfs.stat_of(zombie)
    assert stat is not None
    assert stat.is_dying
    assert stat.parent == os.getpid()


def test_what_is_gone(gone: int) -> None:
    assert procfs.stat_of(gone) is None
    assert procfs.read(gone, "environ") is None
    assert procfs.oom_score_of(gone) == 0
    assert procfs.listed_children(gone) is None
    assert gone not in procfs.all_pids()


def test_a_lack_of_descriptors_is_not_taken_for_an_answer() -> None:
    program = """
import os, resource
from taskpool.procs import procfs
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
for reader in (procfs.stat_of, procfs.oom_score_of, procfs.listed_children):
    try:
        print(reader(os.getpid()))
    except OSError as error:
        print(error.strerror)
"""
    assert run(program) == "Too many open files\n" * 3


def test_own_descriptors() -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    assert fd in procfs.own_descriptors()
    os.close(fd)


def test_the_peak_starts_anew() -> None:
    program = """
from taskpool.procs.procfs import take_own_peak_bytes
take_own_peak_bytes()
block = bytearray(64 << 20)
high = take_own_peak_bytes()
del block
take_own_peak_bytes()
print(high > 64 << 20, take_own_peak_bytes() < high)
"""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak cannot be reset here")
    assert run(program) == "True True\n"


def test_a_process_is_told_by_a_file_that_it_has_open(tmp_path: Path, gone: int) -> None:
    with (tmp_path / "ours").open("w") as ours, (tmp_path / "other").open("w") as other:
        file = os.fstat(ours.fileno())
        assert procfs.has_open(os.getpid(), file)
        holder = os.posix_spawn(
            "/bin/sleep", ["sleep", "60"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, other.fileno(), 7)]
        )
        try:
            assert procfs.has_open(holder, os.fstat(other.fileno()))
            assert not procfs.has_open(holder, file)
        finally:
            os.kill(holder, signal.SIGKILL)
            reap(holder)
    assert not procfs.has_open(os.getpid(), file), "closed by now"
    assert not procfs.has_open(gone, file)
