"""Where a pool keeps its state."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from taskpool.errors import ConfigurationError
from taskpool.procs.state_dir import identity, state_directory


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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


def test_other_users_may_not_look_in(tmp_path: Path) -> None:
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
