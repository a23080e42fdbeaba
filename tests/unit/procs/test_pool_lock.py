"""That a pool has one dealer at a time, and never the same epoch twice."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.programs import run, start
from taskpool.clock import SECOND
from taskpool.errors import ConfigurationError, ExitCode, PoolInUse
from taskpool.procs import pool_lock
from taskpool.procs.pool_lock import PoolLock, last_holder, lock_shared

STARTED = 1_769_851_800 * SECOND  # 2026-01-31T09:30:00Z


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[PoolLock]:
    with closing(PoolLock(tmp_path, "demo")) as lock:
        yield lock


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_life_is_a_new_epoch(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        with closing(PoolLock(tmp_path, "demo")) as lock:
            assert lock.acquire(STARTED) == epoch
    path = tmp_path / "pool.lock"
    assert mode_of(path) == 0o600
    assert path.stat().st_size == 512
    assert json.loads(path.read_text()) == {
        "pid": os.getpid(),
        "epoch": 3,
        "started": "2026-01-31T09:30:00.000000Z",
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "host": os.uname().nodename,
    }


def test_a_second_dealer_is_told_who_the_first_is(lock: PoolLock, tmp_path: Path) -> None:
    lock.acquire(STARTED)
    second = PoolLock(tmp_path, "demo")
    with pytest.raises(PoolInUse) as caught:
        second.acquire(STARTED)
    said = f"pool demo is in use by pid {os.getpid()} since 2026-01-31T09:30:00.000000Z (epoch 1)"
    assert str(caught.value) == said
    assert caught.value.exit_code is ExitCode.UNREACHABLE
    lock.close()
    assert second.acquire(STARTED) == 2
    second.close()


def test_a_lock_can_be_held_without_an_epoch(lock: PoolLock, tmp_path: Path) -> None:
    lock.acquire(STARTED)
    with closing(PoolLock(tmp_path, "demo")) as other:
        assert not other.hold()
        lock.close()
        assert other.hold()
        assert not PoolLock(tmp_path, "demo").hold()
    assert not PoolLock(tmp_path / "nowhere", "demo").hold()
    assert lock.acquire(STARTED) == 2


def test_a_holder_on_another_host_is_named(lock: PoolLock, tmp_path: Path) -> None:
    lock.acquire(STARTED)
    path = tmp_path / "pool.lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere"}))
    with pytest.raises(PoolInUse, match=r"in use by pid \d+ on elsewhere since"):
        PoolLock(tmp_path, "demo").acquire(STARTED)


def test_a_holder_that_is_not_the_dealer_in_the_file(lock: PoolLock, tmp_path: Path) -> None:
    lock.acquire(STARTED)
    path = tmp_path / "pool.lock"
    ended = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(ended, 0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": ended}))
    with pytest.raises(PoolInUse, match=rf"by pid {ended} since .*it cannot be seen here: a tp-dealer journal command"):
        PoolLock(tmp_path, "demo").acquire(STARTED)


def test_a_holder_that_has_not_written_yet(lock: PoolLock, tmp_path: Path) -> None:
    lock.acquire(STARTED)
    os.truncate(tmp_path / "pool.lock", 0)
    with pytest.raises(PoolInUse, match="pool demo is in use by another dealer"):
        PoolLock(tmp_path, "demo").acquire(STARTED)


def test_a_killed_dealer_frees_the_pool_while_its_children_live(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from taskpool.procs import pool_lock
from taskpool.procs.pool_lock import PoolLock
lock = PoolLock(Path(sys.argv[1]), "demo")
epoch = lock.acquire(1)
os.posix_spawn("/bin/cat", ["cat"], {})  # it ends when the test closes the pipe
print(epoch, flush=True)
sys.stdin.read()
"""
    with start(program, tmp_path) as dealer:
        assert dealer.stdout
        assert dealer.stdout.readline() == "1\n"
        dealer.kill()
        dealer.wait()
        with closing(PoolLock(tmp_path, "demo")) as lock:
            assert lock.acquire(STARTED) == 2


def test_many_dealers_at_once_get_an_epoch_each(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from taskpool.errors import PoolInUse
from taskpool.procs import pool_lock
from taskpool.procs.pool_lock import PoolLock
for _ in range(100):
    lock = PoolLock(Path(sys.argv[1]), "demo")
    try:
        print(lock.acquire(1))
    except PoolInUse:
        pass
    lock.close()
"""
    first = start(program, tmp_path)
    second = run(program, tmp_path).split()
    epochs = [int(line) for line in first.communicate()[0].split() + second]
    assert sorted(epochs) == list(range(1, len(epochs) + 1))


def test_a_file_whose_creator_died_before_its_epoch(lock: PoolLock, tmp_path: Path) -> None:
    (tmp_path / "pool.lock").touch()
    assert lock.acquire(STARTED) == 1


@pytest.mark.parametrize("text", ["\0" * 512, "garbage", "{}", '{"pid":1,"epoch":"2"}', '{"pid":1,"epo', " " * 512])
def test_a_damaged_file_does_not_restart_the_epochs(lock: PoolLock, tmp_path: Path, text: str) -> None:
    path = tmp_path / "pool.lock"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"{path} is damaged .* no process with TP_WORKER=demo/.* remove"):
        lock.acquire(STARTED)
    assert path.read_text() == text


def test_an_epoch_below_one_is_damage(lock: PoolLock, tmp_path: Path) -> None:
    lock.acquire(STARTED)
    lock.close()
    path = tmp_path / "pool.lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"epoch": -5}))
    with pytest.raises(ConfigurationError, match="damaged"):
        lock.acquire(STARTED)


def test_a_link_is_not_followed(lock: PoolLock, tmp_path: Path) -> None:
    (tmp_path / "pool.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=f"cannot use the lock file {tmp_path}/pool.lock"):
        lock.acquire(STARTED)
    assert not (tmp_path / "elsewhere").exists()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    lock = PoolLock(tmp_path, "demo")
    lock.acquire(STARTED)
    with pytest.raises(PoolInUse):
        PoolLock(tmp_path, "demo").acquire(STARTED)
    lock.close()
    lock.close()
    assert os.listdir("/proc/self/fd") == before


def test_the_last_holder_is_read_without_the_lock(lock: PoolLock, tmp_path: Path) -> None:
    assert last_holder(tmp_path) is None
    lock.acquire(STARTED)
    holder = last_holder(tmp_path)
    assert holder is not None
    assert (holder.pid, holder.epoch) == (os.getpid(), 1)
    (tmp_path / "pool.lock").write_text("garbage")
    assert last_holder(tmp_path) is None


def test_a_dealer_waits_for_a_sweep_and_a_sweep_for_no_dealer(lock: PoolLock, tmp_path: Path) -> None:
    path = tmp_path / "pool.lock"
    assert lock_shared(path) is None, "there is no such file"
    path.touch()
    sweeps = [lock_shared(path), lock_shared(path)]
    epochs: list[int] = []
    dealer = threading.Thread(target=lambda: epochs.append(lock.acquire(STARTED)))
    dealer.start()
    for fd in sweeps:
        assert fd is not None
        os.close(fd)
    dealer.join(20)
    assert epochs == [1]
    assert lock_shared(path) is None, "a dealer has it"


def test_a_sweep_that_does_not_end_is_not_waited_for_without_end(
    lock: PoolLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_lock, "_SWEEP_NS_MAX", SECOND // 20)
    (tmp_path / "pool.lock").touch()
    fd = lock_shared(tmp_path / "pool.lock")
    assert fd is not None
    with pytest.raises(PoolInUse):
        lock.acquire(STARTED)
    os.close(fd)
    assert lock.acquire(STARTED) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(lock: PoolLock, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ConfigurationError, match=rf"pool\.lock: {os.strerror(number)}; set XDG_STATE_HOME"):
        lock.acquire(STARTED)
