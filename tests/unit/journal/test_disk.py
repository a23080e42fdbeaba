"""A disk that is full, broken or slow (journal/sqlite.py, journal/ballast.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.journals import Asked, open_store, opened
from taskpool.journal import tools
from taskpool.journal.ballast import Ballast

PREPARE = """
import os, resource, select, sys, time
from contextlib import suppress
from pathlib import Path
from support.journals import *
from taskpool.core.storage import *
path = Path(sys.argv[1])
BALLAST = 8 << 20
def until(asked, kind):
    while not isinstance(answer := asked.next(), kind):
        pass
    return answer
"""


def run_program(code: str, path: Path, *prefix: str) -> str:
    """What it prints. Its own path is the first argument."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*prefix, sys.executable, "-c", PREPARE + code, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, env=env, timeout=50)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


# --- full ------------------------------------------------------------------------------------------

FULL = """
store = open_store(path, ballast_bytes=BALLAST)
asked = Asked(store)
asked.commit(opened())
ordinal = number = 0
full = None
while full is None:  # jobs come in until the disk is full
    number += 1
    jobs = range(ordinal + 1, ordinal + 11)
    ordinal += 10
    store.request(Commit(1000 + number, [accepted(n, payload=os.urandom(8000)) for n in jobs]))
    answer = asked.next()
    if isinstance(answer, DiskFull):
        full = answer
        answer = asked.next()
    assert answer == Committed(1000 + number), answer
assert full.full and str(path) in full.text, full
for n in range(1, 201):  # what is under way can be recorded all the same
    asked.commit(attempted(n), recorded(n, value=b'"' + b"x" * 2000 + b'"'))
store.check()
asked.commit()
assert len(asked.outcomes()) == 200
{then}
print(ordinal, flush=True)
"""

ROOM_AGAIN = """
(path.parent / "filler").unlink()
store.check()
assert not until(asked, DiskFull).full
assert Path(f"{path}.ballast").stat().st_size == BALLAST
asked.commit(accepted(ordinal + 1, payload=bytes(100_000)))
ordinal += 1
store.close(clean=True)
"""

KILLED = """
os.kill(os.getpid(), 9)
"""

STARTED_FULL = """
store = open_store(path, 2, ballast_bytes=BALLAST)
asked = Asked(store)
restored = store.restore()
assert restored.unclean_exit and restored.ordinal >= 1000, restored
answers = store.answers()  # the ballast fits again, or not
assert len(asked.outcomes()) == 200
store.close(clean=False)
"""

# A disk of its own: 40 MiB, 20 of which something else takes.
ON_SMALL_DISK = """
mount -t tmpfs -o size=40m tmpfs "$1" && head -c 20971520 /dev/zero > "$1/filler" && shift && exec "$@"
"""


def need_a_small_disk() -> None:
    try_it = ["unshare", "-mUr", "sh", "-c", 'mount -t tmpfs tmpfs "$1"', "sh", "/mnt"]
    if subprocess.run(try_it, capture_output=True).returncode:
        pytest.skip("may not mount a file system")


@pytest.mark.slow
@pytest.mark.needs_tool("unshare", "mount")
def test_on_a_full_disk_outcomes_are_recorded_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    need_a_small_disk()
    small_disk = ("unshare", "-mUr", "sh", "-c", ON_SMALL_DISK, "sh", str(tmp_path))
    printed = run_program(FULL.replace("{then}", ROOM_AGAIN), tmp_path / "journal.db", *small_disk)
    assert int(printed) > 100


# One that was killed, then another on a disk that has not one block left, whatever could be given.
NO_ROOM_AT_ALL = """
if not os.fork():
    store = open_store(path, ballast_bytes=BALLAST)
    asked = Asked(store)
    asked.commit(opened(), *(accepted(n) for n in range(1, 101)))
    {end}
os.wait()
def fill():
    with suppress(OSError):
        with (path.parent / "filler").open("ab", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
lives = 3
for life in range(lives):
    os.truncate(f"{path}.ballast", 0) if os.path.exists(f"{path}.ballast") else None
    fill()
    before = os.path.getsize(path)
    if not os.fork():
        store = open_store(path, 2 + life, ballast_bytes=BALLAST)
        fill()  # also of what the start has made room for
        asked = Asked(store)
        assert "make room, 16 MiB" in until(asked, DiskFull).text
        restored = store.restore()
        assert restored.ordinal == 100 and restored.unclean_exit is {unclean}, restored
        store.request(Commit(1, [accepted(101)]))
        store.check()
        if life < lives - 1:
            {stop}
        store.check()
        assert not select.select([store.fileno()], [], [], 1)[0], "stored where there is no room"
        (path.parent / "filler").unlink()
        assert until(asked, Committed).number == 1
        store.check()
        assert not until(asked, DiskFull).full
        assert len(asked.jobs()) == 101
        store.close(clean=True)
        os._exit(0)
    _, status = os.wait()
    assert status in (0, 9), status
"""


@pytest.mark.slow
@pytest.mark.needs_tool("unshare", "mount")
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "store.close(clean=True); os._exit(0)"])
@pytest.mark.parametrize("stop", ["os.kill(os.getpid(), 9)", "store.close(clean=False); os._exit(0)"])
def test_lives_that_begin_without_room_wait_for_it_and_harm_nothing(tmp_path: Path, end: str, stop: str) -> None:
    need_a_small_disk()
    small_disk = ("unshare", "-mUr", "sh", "-c", ON_SMALL_DISK, "sh", str(tmp_path))
    code = NO_ROOM_AT_ALL.replace("{end}", end).replace("{stop}", stop).replace("{unclean}", str("kill" in end))
    run_program(code, tmp_path / "journal.db", *small_disk)


QUOTA = """
store = open_store(path, 2)
asked = Asked(store)
assert "Disk quota exceeded" in asked.next().text
for n in range(1, 60):
    store.request(Commit(1000 + n, [accepted(n)]))
    until(asked, Committed)
store.close(clean=True)
"""


@pytest.mark.needs_tool("strace")
def test_a_full_quota_is_a_full_disk(tmp_path: Path) -> None:
    """SQLite calls it an I/O error."""
    path = tmp_path / "journal.db"
    store = open_store(path)
    Asked(store).commit(opened())
    store.close(clean=True)
    full = ("-e", "inject=pwrite64:error=EDQUOT:when=41..43", "-e", "inject=fallocate:error=EDQUOT")
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-P", f"{path}-wal", "-P", f"{path}.ballast")
    printed = run_program(QUOTA, path, *strace, "-e", "trace=all", *full)
    assert printed == ""
    store = open_store(path, 3)
    assert len(Asked(store).jobs()) == 59
    store.close(clean=True)
    assert tools.check(path).problems == []


@pytest.mark.slow
@pytest.mark.needs_tool("unshare", "mount")
def test_killed_on_a_full_disk_and_started_on_it_again(tmp_path: Path) -> None:
    need_a_small_disk()
    small_disk = ("unshare", "-mUr", "sh", "-c", ON_SMALL_DISK, "sh", str(tmp_path))
    both = f"""
if not os.fork():
    {FULL.replace("{then}", KILLED).strip().replace(chr(10), chr(10) + "    ")}
os.wait()
{STARTED_FULL}
"""
    run_program(both, tmp_path / "journal.db", *small_disk)


FILE_SIZE = """
store = open_store(path)
asked = Asked(store)
asked.commit(opened())
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
ordinal = 0
while True:
    ordinal += 1
    store.request(Commit(ordinal + 1, [accepted(ordinal, payload=bytes(100_000))]))
    answer = asked.next()
    if isinstance(answer, CommitFailed):
        break
assert "limit on file size (ulimit -f)" in answer.text, answer
store.request(Commit(9999, []))
store.close(clean=False)
assert store.answers() == []
print(ordinal - 1)
"""


def test_a_limit_on_file_size_is_no_full_disk(tmp_path: Path) -> None:
    """SQLite calls it an I/O error. What was answered before is there."""
    path = tmp_path / "journal.db"
    stored = int(run_program(FILE_SIZE, path))
    store = open_store(path, 2)
    assert len(Asked(store).jobs()) >= stored > 0
    store.close(clean=True)


def test_the_ballast_is_real_and_can_be_given_and_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "ballast"
    ballast = Ballast(path, 1 << 20)
    assert ballast.take()
    assert path.stat().st_blocks * 512 >= 1 << 20
    assert ballast.release()
    assert path.stat().st_blocks == 0
    assert not ballast.release()
    assert ballast.retake()
    assert Ballast(path, 1 << 20).release()  # of an earlier life
    ballast.remove()
    assert not path.exists()


def test_a_ballast_that_does_not_fit_takes_nothing(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", 1 << 50)
    assert not ballast.take()
    assert (tmp_path / "ballast").stat().st_blocks == 0
    assert not ballast.retake()


def test_a_store_without_its_ballast_says_at_once_that_the_disk_is_full(tmp_path: Path) -> None:
    store = open_store(tmp_path / "journal.db", ballast_bytes=1 << 50)
    asked = Asked(store)
    assert "make room" in str(asked.next())
    asked.commit()
    store.close(clean=True)


# --- broken ------------------------------------------------------------------------------------------

BROKEN = """
store = open_store(path)
asked = Asked(store)
asked.commit(opened())
answered = 0
for n in range(1, 100):
    store.request(Commit(1000 + n, [accepted(n)]))
    answer = asked.next()
    if isinstance(answer, CommitFailed):
        break
    answered = n
assert "disk I/O error" in answer.text, answer
store.request(Commit(9999, []))
store.request(LoadJobs((-10, 0), 10, 1000))
store.close(clean=False)
assert store.answers() == []
print(answered)
"""


@pytest.mark.needs_tool("strace")
def test_after_a_failed_fsync_nothing_is_served_and_the_next_life_finds_what_was_answered(tmp_path: Path) -> None:
    """Whether the failed commit is there is not known: it may be."""
    path = tmp_path / "journal.db"
    inject = "inject=fdatasync,fsync:error=EIO:when=40"
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", inject)
    answered = int(run_program(BROKEN, path, *strace))
    assert answered > 3
    store = open_store(path, 2)
    found = store.restore()
    assert found is not None
    assert found.unclean_exit
    assert len(Asked(store).jobs()) in (answered, answered + 1)
    store.close(clean=True)
    assert tools.check(path).problems == []


# --- slow --------------------------------------------------------------------------------------------

FSYNC_SECONDS = 0.4

SLOW = """
store = open_store(path)
asked = Asked(store)
print(flush=True)
slowest = 0.0
for n in range(8):
    before = time.monotonic()
    store.request(Commit(n, [opened()] if n == 0 else [accepted(n)]))
    store.request(LoadJobs((-10, 0), 10, 1000))
    store.check()
    store.answers()
    slowest = max(slowest, time.monotonic() - before)
before = time.monotonic()
store.close(clean=True)
print(slowest, time.monotonic() - before)
"""


@pytest.mark.slow
@pytest.mark.needs_tool("strace")
def test_a_slow_disk_blocks_nobody_but_the_thread(tmp_path: Path) -> None:
    inject = f"inject=fdatasync,fsync:delay_enter={int(FSYNC_SECONDS * 1e6)}:when=12+"
    strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", inject)
    slowest, closing = map(float, run_program(SLOW, tmp_path / "journal.db", *strace).split())
    assert closing > FSYNC_SECONDS  # it was slow indeed
    assert slowest < FSYNC_SECONDS  # a call that waited for its own sync would have taken at least that
