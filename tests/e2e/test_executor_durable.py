"""`taskpool.Executor` with a journal, and in a named pool: kills of dealer and program, and going on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import taskpool
from support import programs
from support.harness import Stage
from support.ledger import Ledger
from support.leftovers import unlink_queues
from taskpool import Executor
from taskpool.generator.main import main as tp_generator

DEADLINE_S = 60.0


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a batch of this test's own. Afterwards no queue of it may be there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    name = f"t{os.getpid()}-{os.urandom(3).hex()}"
    yield name
    assert unlink_queues(name, 9, 20) == []


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)  # polling: what happens in another process has nothing to wait on


def note(n: int, ledger: Path, gate: Path | None = None) -> int:
    """Write down that the call runs; then wait for the gate, if there is one."""
    with ledger.open("a") as file:
        file.write(f"{n}\n")
    while gate is not None and not gate.exists():
        time.sleep(0.01)
    return n * n


def crash() -> None:
    os.abort()


def lines(ledger: Path) -> list[int]:
    return [int(line) for line in ledger.read_text().split()] if ledger.exists() else []


def test_the_dealer_is_killed_and_the_run_goes_on(batch: str, tmp_path: Path) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    with Executor(2, journal=True, batch=batch) as executor:
        futures = [executor.submit(note, n, ledger, gate if n >= 10 else None) for n in range(200)]
        for future in futures[:10]:
            future.result(DEADLINE_S)
        wait_until(lambda: len(lines(ledger)) >= 12)
        private = executor._loop._link.private
        assert private is not None
        os.kill(private.pid, signal.SIGKILL)
        gate.touch()
        assert [future.result(DEADLINE_S) for future in futures] == [n * n for n in range(200)]
        assert executor.stats()["lost"] == 0
    ran = lines(ledger)
    assert sorted(set(ran)) == list(range(200))
    assert all(ran.count(n) == 1 for n in range(10))  # what had its result did not run again


def test_a_second_run_gets_what_is_there_in_any_order(batch: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    with Executor(2, journal=True, batch=batch) as executor:
        results = list(executor.map(note, range(20), [ledger] * 20))
        crashed = executor.submit(crash).exception(DEADLINE_S)
        twice = [executor.submit(note, 99, ledger).result(DEADLINE_S) for _ in range(2)]
    assert results == [n * n for n in range(20)]
    assert isinstance(crashed, taskpool.JobCrashed)
    assert len(lines(ledger)) == 22
    with Executor(2, journal=True, batch=batch) as executor:
        futures = [executor.submit(note, n, ledger) for n in reversed(range(25))]
        again = executor.submit(crash).exception(DEADLINE_S)
        thrice = [executor.submit(note, 99, ledger).result(DEADLINE_S) for _ in range(3)]
        assert [future.result(DEADLINE_S) for future in futures] == [n * n for n in reversed(range(25))]
    assert isinstance(again, taskpool.JobCrashed)
    assert twice + twice[:1] == thrice
    assert sorted(lines(ledger)) == [*range(25), 99, 99, 99]  # the n-th submission of the same call is the same job
    assert tp_generator(["forget", batch]) == 0


PROGRAM = """
import os, sys, time
from pathlib import Path
import taskpool

def work(n, ledger, gate):
    with open(ledger, "a") as file:
        file.write(f"{n}\\n")
    while n >= 10 and not os.path.exists(gate):
        time.sleep(0.01)
    return {"n": n * n}

if __name__ == "__main__":
    batch, ledger, gate = sys.argv[1:]
    with taskpool.Executor(2, journal=True, batch=batch) as executor:
        futures = [executor.submit(work, n, ledger, gate) for n in range(30)]
        for future in futures[:10]:
            future.result()
        print("ten", flush=True)
        print(sum(future.result()["n"] for future in futures))
"""


def test_the_program_is_killed_and_started_again(batch: str, tmp_path: Path) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    with programs.start(PROGRAM, batch, ledger, gate) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ten\n"
        wait_until(lambda: len(lines(ledger)) >= 12)
        program.kill()
        program.wait()
    gate.touch()
    total = sum(n * n for n in range(30))
    assert programs.run(PROGRAM, batch, ledger, gate) == f"ten\n{total}\n"
    ran = lines(ledger)
    assert sorted(set(ran)) == list(range(30))
    assert all(ran.count(n) == 1 for n in range(10))  # what had its result did not run again
    before = len(ran)
    assert programs.run(PROGRAM, batch, ledger, gate) == f"ten\n{total}\n"
    assert len(lines(ledger)) == before
    assert tp_generator(["forget", batch]) == 0


def test_an_interrupted_run_leaves_its_calls_to_the_next_one(batch: str, tmp_path: Path) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    with pytest.raises(KeyboardInterrupt), Executor(1, journal=True, batch=batch) as executor:
        first = executor.submit(note, 1, ledger, gate)
        wait_until(lambda: lines(ledger) == [1])
        raise KeyboardInterrupt
    assert first.cancelled()
    gate.touch()
    with Executor(1, journal=True, batch=batch) as executor:
        assert executor.submit(note, 1, ledger, gate).result(DEADLINE_S) == 1
        assert executor._loop._connection is not None
        assert executor._loop._connection.session.submissions.submitted == 1
    assert tp_generator(["forget", batch]) == 0


def test_what_was_cancelled_runs_when_it_is_submitted_again(batch: str, tmp_path: Path) -> None:
    ledger, gate = tmp_path / "ledger", tmp_path / "gate"
    with Executor(1, journal=True, batch=batch) as executor:
        future = executor.submit(note, 1, ledger, gate)
        wait_until(lambda: lines(ledger) == [1])
        assert future.cancel()
    gate.touch()
    with Executor(1, journal=True, batch=batch) as executor:
        assert executor.submit(note, 1, ledger, gate).result(DEADLINE_S) == 1
    assert lines(ledger) == [1, 1]
    assert tp_generator(["forget", batch]) == 0


def test_a_batch_that_is_in_use_is_refused(batch: str) -> None:
    with Executor(1, journal=True, batch=batch) as executor:
        assert executor.submit(int, "3").result(DEADLINE_S) == 3
        with pytest.raises(taskpool.PoolError, match=f"batch '{batch}' is in use"):
            Executor(1, journal=True, batch=batch)
    assert tp_generator(["forget", batch]) == 0


# --- named pools ----------------------------------------------------------------------------------


def test_calls_run_in_a_named_pool(stage: Stage, ledger: Ledger) -> None:
    stage.dealer("--workers", "2", "--journal", "none", "--metrics", "none")
    with Executor(pool=stage.pool, crash_limit=1) as executor:
        assert list(executor.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        assert isinstance(executor.submit(crash).exception(DEADLINE_S), taskpool.JobCrashed)
        large = bytes(3_000_000)
        assert executor.submit(bytes.__add__, large, b"x").result(DEADLINE_S) == large + b"x"
    with pytest.raises(ValueError, match="max_workers=2 is for a private pool"):
        Executor(2, pool=stage.pool)


def test_no_dealer_is_the_end(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.limits.FIRST_WELCOME_NS", 1)
    executor = Executor(pool=pool)
    with pytest.raises(taskpool.PoolError, match="no dealer answers for pool"):
        executor.submit(abs, 1).result(DEADLINE_S)
    with pytest.raises(taskpool.PoolError):
        executor.submit(abs, 1)
    executor.shutdown()


def test_the_command_line_has_no_calls(stage: Stage, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.write_text('{"kind":"call","call":"x"}\n')
    command = [sys.executable, "-c", "from taskpool.generator.main import main; raise SystemExit(main())"]
    ended = subprocess.run([*command, "jobs", str(jobs)], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "field 'kind': jobs of kind 'call' are made by Python programs (taskpool.Executor)" in ended.stderr
    assert subprocess.run([*command, "call"], capture_output=True).returncode == 2
