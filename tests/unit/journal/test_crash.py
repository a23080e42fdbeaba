"""What was answered survives: `kill -9` anywhere, and a power cut that leaves any part of what was not yet on the
disk. And whatever was not answered is there whole or not at all (journal/sqlite.py)."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from support.journals import (
    JOBS_A_COMMIT,
    WRITER,
    Asked,
    accepted,
    attempted,
    kill_a_writer,
    open_store,
    opened,
    recorded,
    writer,
)
from taskpool.journal import file, tools
from taskpool.journal.seal import seal_of

KILLS = 12
CUTS = 600
POINTS = 24  # system calls at which a journal's making and first commits are killed


def look(path: Path) -> int:
    """How many commits are there. Each must be there whole, and the journal in order."""
    findings = tools.check(path)
    assert findings.problems == []
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
        (outcomes,) = connection.execute("SELECT count(*) FROM outcomes").fetchone()
        (running,) = connection.execute("SELECT count(*) FROM jobs WHERE state = 1").fetchone()
    connection.close()
    assert jobs % JOBS_A_COMMIT == 0, "half a commit"
    assert outcomes == max(0, jobs - JOBS_A_COMMIT), "half a commit"
    assert running == min(jobs, JOBS_A_COMMIT), "half a commit"
    return int(jobs) // JOBS_A_COMMIT


@pytest.mark.slow
def test_killed_at_random_moments_life_after_life(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    dice = random.Random(20240601)
    there = 0
    for _ in range(KILLS):
        with writer(path, 1_000_000) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()
            select.select([], [], [], dice.uniform(0, 0.15))  # not a wait for anything: the moment of death
            process.kill()
            told = [int(line) for line in process.stdout if line.endswith("\n")]
        found = look(path)
        assert found >= max(told, default=there), f"{told[-1]} commits were answered, {found} are there"
        there = found
    assert there > KILLS


@pytest.mark.slow
@pytest.mark.needs_tool("strace")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync,fsync", "openat", "link,unlink,ftruncate,fallocate"])
def test_killed_at_a_system_call_from_the_making_on(tmp_path: Path, call: str) -> None:
    """Whenever it dies, the journal opens again, or is not there yet and can be made."""
    killed = 0
    for number in range(1, POINTS, 3):
        path = tmp_path / f"{number}.db"
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(tmp_path), "-P", str(path), "-P", f"{path}.new"]
        strace += ["-P", f"{path}-wal", "-P", f"{path}.new-wal", "-P", f"{path}.new-journal", "-P", f"{path}.ballast"]
        command = [*strace, "-e", f"trace={call}", "-e", inject, sys.executable, "-c", WRITER, str(path), "4"]
        ended = subprocess.run([*command, *sys.path], capture_output=True, text=True)
        killed += ended.returncode != 0
        assert ended.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL), ended.stderr
        told = [int(line) for line in ended.stdout.split() if line.isdigit()]
        store = open_store(path, 3)
        asked = Asked(store)
        stored = asked.batch()
        assert (stored.accepted if stored else 0) >= JOBS_A_COMMIT * max(told, default=0)
        store.close(clean=False)
        assert tools.check(path).problems == []
        if ended.returncode == 0:
            break  # it does not make that many such calls
    assert killed > 1


@pytest.mark.slow
def test_a_power_cut_anywhere_behind_the_last_fsync(tmp_path: Path) -> None:
    """With synchronous=FULL a commit is answered once its frames are on the disk. Of what is written later any
    part may be there after a power cut, so the WAL is cut at every frame and at random places in between."""
    base = tmp_path / "live"
    base.mkdir()
    path = base / "journal.db"
    store = open_store(path)
    asked = Asked(store)
    asked.commit(opened())
    wal = file.wal_of(path)
    on_disk = [wal.stat().st_size]  # after so many commits
    seals = [seal_of(path).read_bytes()]
    for done in range(40):
        jobs = range(done * 10 + 1, done * 10 + 11)
        ended = range(done * 10 - 9, done * 10 + 1) if done else range(0)
        asked.commit(*map(accepted, jobs), *map(attempted, jobs), *map(recorded, ended))
        on_disk.append(wal.stat().st_size)
        seals.append(seal_of(path).read_bytes())
    assert on_disk == sorted(set(on_disk)), "the WAL started anew: fewer commits, please"
    database, log = path.read_bytes(), wal.read_bytes()
    store.close(clean=True)
    dice = random.Random(1)
    frames = range(on_disk[0], len(log) + 1, 4096 + 24)
    places = [*frames, *(dice.randrange(on_disk[0], len(log)) for _ in range(CUTS - len(frames)))]
    for number, place in enumerate(places):
        copy = tmp_path / f"{number}.db"
        copy.write_bytes(database)
        answered = sum(size <= place for size in on_disk) - 1
        # Sectors get to the disk in any order: now and then a later part of the transaction under way is there.
        end = on_disk[min(answered + 1, len(on_disk) - 1)] if dice.random() < 0.5 else place
        file.wal_of(copy).write_bytes(log[:place] + (b"?" * 512 + log[place + 512 : end])[: end - place])
        # Written behind its commit and not synced, so it tells of this commit or of an earlier one.
        seal_of(copy).write_bytes(dice.choice(seals[: answered + 1]))
        assert commits_after_a_cut(copy) == answered, f"cut at {place}"
        tools.remove(copy)


def commits_after_a_cut(path: Path) -> int:
    """Opened as a dealer opens it: nothing is refused."""
    connection = file.connect(path, "FULL")
    file.begin_life(connection, path, 2)
    (accepted_jobs, open_jobs) = connection.execute("SELECT accepted, open FROM batches").fetchone()
    (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
    (outcomes,) = connection.execute("SELECT count(*) FROM outcomes").fetchone()
    assert connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
    file.close(connection, path)
    assert accepted_jobs == jobs
    assert outcomes == jobs - open_jobs
    assert jobs % JOBS_A_COMMIT == 0
    return int(jobs) // JOBS_A_COMMIT


def test_garbage_behind_the_last_frame_is_no_commit(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    kill_a_writer(path, commits=3)
    with file.wal_of(path).open("ab") as wal:
        wal.write(random.Random(3).randbytes(3 * 4120 + 17))
    assert look(path) == 3


def test_what_a_kill_left_can_be_copied_elsewhere_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    kill_a_writer(path, commits=3)
    moved = tmp_path / "moved.db"
    shutil.copy(path, moved)
    shutil.copy(file.wal_of(path), file.wal_of(moved))
    os.unlink(path)
    store = open_store(moved, 2)
    found = store.restore()
    assert found is not None
    assert (found.unclean_exit, found.ordinal, len(found.in_flight)) == (True, 30, 10)
    store.close(clean=False)
