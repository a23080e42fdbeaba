"""What tests of processes share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from taskpool.procs.process_tree import MARK_VARIABLE


@pytest.fixture
def sleeper(pool: str) -> Iterator[Callable[..., int]]:
    """Starts processes that sleep; those that a test leaves are ended after it, before `pool` looks for them."""
    started: list[int] = []

    def sleep(mark: str | None = None) -> int:
        env = {} if mark is None else {MARK_VARIABLE: mark}
        started.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], env))
        return started[-1]

    yield sleep
    for pid in started:
        with suppress(ChildProcessError, ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
