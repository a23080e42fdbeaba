"""Where a pool keeps its state, and that it has one dealer at a time and never the same epoch twice."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.programs import run, start
from taskpool.clock import SECOND
from taskpool.errors import ConfigurationError, ExitCode, PoolInUse
from taskpool.procs.state_dir import PoolLock, identity, state_directory

STARTED = 1_769_851_800 * SECOND  # 2026-01-31T09:30:00Z


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[PoolLock]:
    with closing(PoolLock(tmp_path, "demo")) as lock:
        yield lock


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- the directory ------------------------------------------------------------------------------------


def test_each_place_in_its_order(tmp_path: Path) -> None:
    service, state, home = tmp_path / "service", tmp_path / "state", tmp_path / "home"
    env = {"STATE_DIRECTORY": f"{service}:/nowhere", "XDG_STATE_HOME": str(state)}
    assert state_directory("demo", env) == service / "demo"
    del env["STATE_DIRECTORY"]
    assert state_directory("demo", env) == state / "taskpool" / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        assert state_directory("demo", {}) == home / ".local/state/taskpool/demo"
        assert state_directory("demo", {"XDG_STATE_HOME": "relative"}) == home / ".local/state/taskpool/demo"


def test_nobody_else_may_look_in(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    directory = state_directory("demo", env)
    assert mode_of(directory) == 0o700
    directory.chmod(0o755)
    assert mode_of(state_directory("demo", env)) == 0o700


def test_each_directory_is_told_from_any_other(tmp_path: Path) -> None:
    one, other, link = tmp_path / "one", tmp_path / "other", tmp_path / "link"
    one.mkdir()
    other.mkdir()
    link.symlink_to(one)
    assert identity(one) == identity(link) != identity(other)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taskpool").write_text("a file is in the way")
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/taskpool/demo: Not a directory; set XDG_STATE_HOME"):
        state_directory("demo", {"XDG_STATE_HOME": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="taskpool/demo: Not a directory; set STATE_DIRECTORY"):
        state_directory("demo", {"STATE_DIRECTORY": f"{tmp_path}/taskpool", "XDG_STATE_HOME": str(tmp_path)})


def test_a_directory_that_no_message_can_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not UTF-8: set XDG_STATE_HOME to another"):
        state_directory("demo", {"XDG_STATE_HOME": f"{tmp_path}/\udcff"})
    assert list(tmp_path.iterdir()) == []


def test_the_directory_of_a_pool_that_never_was_is_not_made(tmp_path: Path) -> None:
    directory = state_directory("demo", {"XDG_STATE_HOME": str(tmp_path)}, create=False)
    assert directory == tmp_path / "taskpool/demo"
    assert list(tmp_path.iterdir()) == []


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "~")
    with pytest.raises(ConfigurationError, match="has no home directory for the pool's state: set XDG_STATE_HOME"):
        state_directory("demo", {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    os.chown(state_directory("demo", env), 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to uid 12345, and this is uid 0: use another --pool"):
        state_directory("demo", env)


# --- the lock -----------------------------------------------------------------------------------------


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


def test_a_holder_that_has_not_written_yet(lock: PoolLock, tmp_path: Path) -> None:
    lock.acquire(STARTED)
    os.truncate(tmp_path / "pool.lock", 0)
    with pytest.raises(PoolInUse, match="pool demo is in use by another dealer"):
        PoolLock(tmp_path, "demo").acquire(STARTED)


def test_a_killed_dealer_frees_the_pool_while_its_children_live(tmp_path: Path) -> None:
    program = """
import os, sys
from pathlib import Path
from taskpool.procs.state_dir import PoolLock
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
from taskpool.procs.state_dir import PoolLock
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
