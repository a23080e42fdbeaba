"""Memory and CPU of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from signal import SIGKILL

import pytest

from support.harness import until
from taskpool.clock import SECOND
from taskpool.generator.top.usage import UsageReader
from taskpool.procs.procfs import listed_children, stat_of

POOL = "usage-of-a-test"
# A worker that is idle, with a child that is not.
BUSY = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"


@pytest.fixture
def worker() -> Iterator[int]:
    started = subprocess.Popen([sys.executable, "-c", BUSY, POOL], start_new_session=True)
    yield started.pid
    os.killpg(started.pid, SIGKILL)
    started.wait()


def cpu_of_children(pid: int) -> int:
    stats = [stat_of(child) for child in listed_children(pid) or ()]
    return sum(stat.cpu_ns for stat in stats if stat is not None)


def test_what_a_worker_has_started_counts(worker: int) -> None:
    reader = UsageReader(POOL)
    until(lambda: cpu_of_children(worker) > 0, "its child to be at work")
    first = reader.read([worker], 10 * SECOND)[worker]
    assert first.cpu_percent is None, "there is nothing to compare with yet"
    before = cpu_of_children(worker)
    until(lambda: cpu_of_children(worker) >= before + SECOND // 10, "its child to work on")
    # By a time of ours: how long it took is the machine's.
    use = reader.read([worker], 11 * SECOND)[worker]
    assert use.cpu_percent is not None
    assert use.cpu_percent >= 10
    own = stat_of(worker)
    assert own is not None
    assert use.rss_bytes is not None
    assert use.rss_bytes > own.resident_bytes, "its child's memory is in it"


def test_a_process_of_another_pool_is_none_of_it(worker: int) -> None:
    assert UsageReader("another-pool").read([worker, 2**22 + 5], SECOND) == {}
