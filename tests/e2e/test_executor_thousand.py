"""A thousand calls, of which every eighth or so ends badly, each in its own way: what each of their futures has."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

import taskpool
from support.leftovers import processes_of, unlink_queues
from taskpool import Executor

CALLS = 1000
SEED = 1  # of the order they come in
WORKERS = 4
TIMEOUT_S = 1.0
MEMORY = "300M"
EXIT_STATUS = 7


def double(number: int) -> int:
    return 2 * number


def segfault(_: int) -> int:
    return ctypes.string_at(0)[0]


def leave(_: int) -> None:
    os._exit(EXIT_STATUS)


def hang(_: int) -> None:
    while True:
        time.sleep(60)


def take_memory(_: int) -> int:
    return len(bytearray(2 << 30))


def give_a_lock(_: int) -> object:
    return threading.Lock()


BAD: dict[Callable[[int], Any], int] = {segfault: 50, leave: 20, hang: 20, take_memory: 20, give_a_lock: 20}


@pytest.mark.slow
@pytest.mark.timeout(600)  # a machine that is busy, and 70 crashes that run once more in a process of their own
def test_each_of_a_thousand_calls_has_what_it_deserves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    calls = [call for call, count in BAD.items() for _ in range(count)]
    calls += [double] * (CALLS - len(calls))
    random.Random(SEED).shuffle(calls)
    with Executor(WORKERS, memory_limit=MEMORY) as executor:
        # The others have all the time they need on a machine however busy.
        hasty = executor.options(timeout=TIMEOUT_S)
        futures = [(hasty if call is hang else executor).submit(call, n) for n, call in enumerate(calls)]
        for n, (call, future) in enumerate(zip(calls, futures, strict=True)):
            CHECKS[call](n, future)
        stats = executor.stats()
        batch = executor._loop._link.batch
    assert [future.job for future in futures] == [f"{batch}/{n}" for n in range(1, CALLS + 1)]
    assert (stats["submitted"], stats["succeeded"], stats["crashed"]) == (1000, 870, 50 + 20)
    assert (stats["timed_out"], stats["failed"]) == (20, 20 + 20)
    assert (stats["pending"], stats["cancelled"], stats["lost"]) == (0, 0, 0)
    assert processes_of(batch) == {}
    assert unlink_queues(batch, 3, 400) == []  # each crash takes a worker, and each worker a queue
    assert [path for path in tmp_path.rglob("*") if path.name != "taskpool"] == []


# --- what a future of each has --------------------------------------------------------------------


def _is_doubled(number: int, future: Future[Any]) -> None:
    assert future.result() == 2 * number


def _has_crashed(future: Future[Any], name: str) -> taskpool.JobCrashed:
    error: taskpool.JobCrashed = _failed(future, taskpool.JobCrashed)
    assert name in str(error)
    # Once more in a fresh process, where another call may have harmed the first one.
    assert error.attempts in (1, 2), error.attempts
    return error


def _has_segfaulted(_: int, future: Future[Any]) -> None:
    error = _has_crashed(future, "segfault")
    assert (error.signal, error.exit_status) == (signal.SIGSEGV, None)
    assert "in segfault" in (error.traceback or "")
    assert "Segmentation fault" in (error.stderr_tail or "")


def _has_left(_: int, future: Future[Any]) -> None:
    error = _has_crashed(future, "leave")
    assert (error.signal, error.exit_status) == (None, EXIT_STATUS)


def _has_timed_out(_: int, future: Future[Any]) -> None:
    error = _failed(future, taskpool.JobTimedOut)
    assert (error.attempts, f"time-out of {TIMEOUT_S:g} s" in str(error)) == (1, True), error


def _ran_out_of_memory(_: int, future: Future[Any]) -> None:
    error = _failed(future, taskpool.OutOfMemory)
    assert isinstance(error.__cause__, MemoryError)
    assert error.attempts == 1 and "in take_memory" in (error.traceback or "")


def _cannot_be_pickled(_: int, future: Future[Any]) -> None:
    error = future.exception()
    assert type(error) is TypeError
    assert "the result, of type lock, cannot be pickled" in str(error)


def _failed(future: Any, kind: type[Any]) -> Any:
    """Return what the future raises, of this very class and with the name of the future's job."""
    error: Any = future.exception()
    assert type(error) is kind, repr(error)
    assert error.job == future.job
    return error


CHECKS: dict[Callable[[int], Any], Callable[[int, Future[Any]], None]] = {
    double: _is_doubled,
    segfault: _has_segfaulted,
    leave: _has_left,
    hang: _has_timed_out,
    take_memory: _ran_out_of_memory,
    give_a_lock: _cannot_be_pickled,
}
