"""A durable run of `taskpool.Executor` under `kill -9`, of its dealer and of the program, again and again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import programs
from support.leftovers import processes_of, unlink_queues
from taskpool.generator.main import main as tp_generator

DEADLINE_S = 120.0
CALLS = 500
KILLS = 12  # half of them of the program
SEED = 5
CRASHES = 50  # every so manieth call ends by a signal

# Each line of the log is one write(2) to a file that is appended to: the order is that of the events.
PROGRAM = """
import os, sys, time
from concurrent.futures import as_completed
import taskpool

def say(log, text):
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text}\\n".encode())
    os.close(fd)

def work(n, log, crashes):
    say(log, f"ran {n}")
    time.sleep(0.01)
    if n % crashes == 1:
        os.abort()
    return n * n

batch, log, calls, crashes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
say(log, "begun -")
with taskpool.Executor(3, journal=True, batch=batch) as executor:
    futures = {executor.submit(work, n, log, crashes): n for n in range(calls)}
    for future in as_completed(futures):
        error = future.exception()
        say(log, f"got {futures[future]} {future.result() if error is None else error.signal}")
"""


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a batch of this test's own. Afterwards no process and no queue of it may be there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    name = f"t{os.getpid()}-{os.urandom(3).hex()}"
    yield name
    left = processes_of(name)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == {}
    assert unlink_queues(name, KILLS + 9, 60) == []


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)  # polling: what happens in another process has nothing to wait on


def events(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def value(n: int) -> str:
    return str(int(signal.SIGABRT) if n % CRASHES == 1 else n * n)


def kill_dealer(batch: str) -> None:
    """Kill the dealer that is there just now, if one is: it may be on its way after the last kill."""
    for pid, words in processes_of(batch).items():
        if "tp-dealer" in words:
            os.kill(pid, signal.SIGKILL)


def recorded(state: Path, copy: Path) -> set[int]:
    """The calls whose outcome is in the journal, of a pool that is gone; read in a copy, as reading may change it."""
    shutil.copytree(state, copy)
    with sqlite3.connect(copy / "journal.db") as journal:
        rows = journal.execute("SELECT seq FROM outcomes").fetchall()
    journal.close()
    return {seq - 1 for (seq,) in rows}  # each run submits the same calls in the same order


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_call_is_lost_and_none_with_an_outcome_runs_again(batch: str, tmp_path: Path) -> None:
    log, chance = tmp_path / "log", random.Random(SEED)
    known: list[tuple[int, set[int]]] = []  # so many events, and the calls that had an outcome in the journal by then
    program = start(batch, log)
    try:
        for kill in range(KILLS):
            wanted = len(events(log)) + chance.randint(20, 70)
            wait_until(lambda: len(events(log)) >= wanted or program.poll() is not None)  # noqa: B023 - called here
            assert program.poll() is None, complaint(program)  # or all of it ran before it could be killed
            if kill % 2:
                kill_dealer(batch)
                continue
            end(program)
            wait_until(lambda: not processes_of(batch))  # its dealer and its workers go with it
            known.append((len(events(log)), recorded(tmp_path / "state" / "taskpool" / batch, tmp_path / str(kill))))
            program = start(batch, log)
        assert program.wait(DEADLINE_S) == 0, complaint(program)
    finally:
        end(program)
    judge(events(log), known)
    assert tp_generator(["forget", batch]) == 0


def start(batch: str, log: Path) -> subprocess.Popen[str]:
    return programs.start(PROGRAM, batch, log, CALLS, CRASHES)


def end(program: subprocess.Popen[str]) -> None:
    program.kill()
    program.communicate()


def complaint(program: subprocess.Popen[str]) -> str:
    return program.communicate()[1]


def judge(said: list[list[str]], known: list[tuple[int, set[int]]]) -> None:
    """Check all that was ever run and got."""
    finished: set[str] = set()
    got: list[str] = []  # in one run of the program
    for what, n, *rest in said:
        if what == "begun":
            got = []
        elif what == "got":
            assert rest == [value(int(n))]
            got.append(n)
            finished.add(n)
        else:
            assert n not in finished, f"call {n} ran again, after a program had its outcome"
    for position, calls in known:
        again = {int(n) for what, n, *_ in said[position:] if what == "ran"}
        assert not again & calls, "these had an outcome in the journal when the program was started again"
    assert known[-1][1]  # or nothing was looked at
    assert sorted(map(int, got)) == list(range(CALLS))  # the last run: each once
