"""The dealer's worker processes where the machine gives out; the rest of it is tried end to end."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from taskpool.clock import SystemClock
from taskpool.core.events import Exited, Spawned, SpawnFailed
from taskpool.dealer.staff import Hire, Staff
from taskpool.ids import Incarnation
from taskpool.ipc.budget import Shape
from taskpool.ipc.mqueue import KernelPost
from taskpool.ipc.spool import Spool

ONE, TWO = Incarnation(1), Incarnation(2)


@pytest.fixture
def staff(pool: str, tmp_path: Path) -> Iterator[Staff]:
    """Its workers sleep, whatever they are told."""
    program = tmp_path / "tp-worker"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    spool = Spool(tmp_path / "spool")
    spool.sweep()
    hire = Hire(pool, "home", 1, [str(program)], [], str(spool.directory), 2, Shape(2, 256))
    with closing(Staff(hire, KernelPost(), spool, SystemClock(), lambda incarnation: None)) as staff:
        yield staff


class NoDescriptors:
    """As long as it lasts, this process gets no new descriptor."""

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._before)


def test_without_descriptors_nobody_is_started_and_nobody_buried(staff: Staff) -> None:
    started = staff.spawn(ONE)
    assert isinstance(started, Spawned)
    staff.kill(ONE, "KILL")
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
    with NoDescriptors():
        assert isinstance(staff.spawn(TWO), SpawnFailed)
        staff.look()
        assert staff.bury() == []
    (exited,) = staff.bury()
    assert isinstance(exited, Exited)
    assert exited.incarnation == ONE
    assert staff.empty
