"""Where a pool keeps its state."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.source_tree import ROOT
from taskpool.errors import ConfigurationError
from taskpool.procs.state_dir import check_journal, identity, state_directory


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


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    for variable in ("XDG_STATE_HOME", "STATE_DIRECTORY"):
        with pytest.raises(ConfigurationError, match=f"allows 3839: set {variable} to a shorter path"):
            state_directory("demo", {variable: f"{tmp_path}" + "/d" * 2000}, create=False)


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


# --- what another user could have made -------------------------------------------------------------

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
OTHER = 12345


def give(path: Path, uid: int = OTHER) -> Path:
    """Makes a file, directory or link another user's."""
    os.chown(path, uid, -1, follow_symlinks=False)
    return path


def refused(env: dict[str, str], match: str) -> None:
    """No start, and nothing of the pool is made."""
    with pytest.raises(ConfigurationError, match=match):
        state_directory("demo", env)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory for all, such as /tmp."""
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of this user's that is nobody's business."""
    path = tmp_path / "home"
    (path / "spool").mkdir(parents=True)
    (path / "spool/mail").write_text("precious")
    path.chmod(0o755)
    return path


def untouched(home: Path) -> bool:
    return mode_of(home) == 0o755 and (home / "spool/mail").read_text() == "precious"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        directory = state_directory("demo", {"XDG_STATE_HOME": str(tmp_path / "a/b")})
    finally:
        os.umask(before)
    assert {mode_of(path) for path in (directory, *directory.parents[:3])} == {0o700}


@pytest.mark.parametrize("place", ["", "taskpool", "taskpool/demo"])
def test_links_of_this_user_are_followed(tmp_path: Path, place: str) -> None:
    large = tmp_path / "large"
    large.mkdir()
    link = tmp_path / "state" / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to("../" * (link.relative_to(tmp_path).as_posix().count("/")) + "large")
    directory = state_directory("demo", {"XDG_STATE_HOME": str(tmp_path / "state")})
    assert directory == tmp_path / "state/taskpool/demo"
    assert directory.resolve().is_relative_to(large)
    assert mode_of(directory) == 0o700


@pytest.mark.parametrize("name", ["spool", "output"])
def test_a_link_of_this_user_to_a_larger_disk_is_followed(tmp_path: Path, name: str) -> None:
    directory = state_directory("demo", {"XDG_STATE_HOME": str(tmp_path)})
    (tmp_path / "large").mkdir(mode=0o755)
    (directory / name).symlink_to(tmp_path / "large")
    state_directory("demo", {"XDG_STATE_HOME": str(tmp_path)})
    assert mode_of(tmp_path / "large") == 0o700


@pytest.mark.parametrize("place", ["", "taskpool", "taskpool/demo"])
def test_nothing_is_made_where_a_link_leads_to_no_directory(tmp_path: Path, place: str) -> None:
    """To a disk that is not mounted, say."""
    link = tmp_path / "state" / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "disk" / "mine")
    refused({"XDG_STATE_HOME": str(tmp_path / "state")}, "taskpool/demo: No such file or directory; set XDG_STATE_HOME")
    assert not (tmp_path / "disk").exists()


def test_a_link_where_others_may_write(shared: Path, home: Path) -> None:
    (shared / "taskpool").symlink_to(home)
    refused({"XDG_STATE_HOME": str(shared)}, r"shared/taskpool is a symbolic link in a directory to which others may")
    assert untouched(home)


def test_links_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "taskpool").symlink_to("taskpool")
    refused({"XDG_STATE_HOME": str(tmp_path)}, "taskpool is one of more than 40 symbolic links")


@pytest.mark.parametrize("mode", [0o777, 0o707, 0o2777])
def test_where_others_may_rename(shared: Path, mode: int) -> None:
    shared.chmod(mode)
    refused({"XDG_STATE_HOME": str(shared)}, rf"replace what is in {shared} \(mode {mode:04o}, .*chmod go-w {shared}")
    refused({"STATE_DIRECTORY": f"{shared}/deep"}, "set STATE_DIRECTORY to a directory of your own")
    assert list(shared.iterdir()) == []


def test_the_group_of_this_user_alone_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    os.chown(tmp_path, -1, os.getegid())
    state_directory("demo", {"XDG_STATE_HOME": str(tmp_path)})


@as_root
def test_another_group_may_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    os.chown(tmp_path, -1, OTHER)
    refused({"XDG_STATE_HOME": str(tmp_path)}, f"mode 0775, uid 0, gid {OTHER}")


@as_root
@pytest.mark.parametrize("place", ["taskpool", "taskpool/demo"])
def test_a_directory_made_in_advance(shared: Path, place: str) -> None:
    (shared / place).mkdir(parents=True)
    give(shared / place)
    refused({"XDG_STATE_HOME": str(shared)}, f"shared/{place} .* belongs to uid {OTHER}, and this is uid 0")
    refused({"STATE_DIRECTORY": f"{shared}/taskpool"}, f"belongs to uid {OTHER}")


@as_root
def test_a_home_of_another_user(tmp_path: Path) -> None:
    give(tmp_path)
    refused({"XDG_STATE_HOME": f"{tmp_path}/.local/state"}, f"{tmp_path} .* belongs to uid {OTHER}")
    assert list(tmp_path.iterdir()) == []


@as_root
@pytest.mark.parametrize("place", ["link", "link/state", "taskpool", "taskpool/demo"])
def test_a_link_that_another_user_made(tmp_path: Path, home: Path, place: str) -> None:
    base = tmp_path / "base"
    link = base / place.replace("/state", "")
    link.parent.mkdir(parents=True)
    link.symlink_to(home)
    give(link)
    refused(
        {"XDG_STATE_HOME": str(base / place) if "link" in place else str(base)},
        f"{link} is a symbolic link that uid {OTHER} has made",
    )
    assert untouched(home)


@as_root
@pytest.mark.parametrize("name", ["spool", "output"])
def test_inner_directories_of_another_user(tmp_path: Path, home: Path, name: str) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    place = state_directory("demo", env) / name
    place.symlink_to(home)
    give(place)
    refused(env, f"{name} is a symbolic link that uid {OTHER} has made")
    assert untouched(home)
    place.unlink()
    place.mkdir()
    give(place)
    refused(env, rf"demo/{name} \(mode 0755\) belongs to uid {OTHER}")


FILES = ["pool.lock", "worker-queues", "private.json", "journal.db"]
FILES += [f"journal.db{end}" for end in ("-wal", "-shm", "-journal", ".ballast", ".new")]


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, home: Path, name: str) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    file = state_directory("demo", env) / name
    makers: list[tuple[Callable[[], object], Callable[[], None], str]] = [
        (lambda: os.link(home / "spool/mail", file), file.unlink, "has 2 names: it is a hard link"),
        (lambda: file.symlink_to(home / "spool/mail"), file.unlink, "is a symbolic link"),
        (lambda: os.mkfifo(file), file.unlink, "is not a regular file"),
        (file.mkdir, file.rmdir, "is not a regular file"),
    ]
    for make, remove, what in makers:
        make()
        refused(env, f"{file} {what}: look what it is, and remove it")
        remove()
    assert untouched(home)


def test_a_journal_that_was_just_being_made(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    directory = state_directory("demo", env)
    (directory / "journal.db.new").touch()
    os.link(directory / "journal.db.new", directory / "journal.db")
    state_directory("demo", env)


@as_root
@pytest.mark.parametrize("name", FILES)
def test_files_of_another_user(tmp_path: Path, name: str) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    file = state_directory("demo", env) / name
    file.touch()
    give(file)
    refused(env, f"{file} belongs to uid {OTHER}")


# --- a journal elsewhere ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "-wal", "-journal", ".ballast", ".new"])
def test_a_journal_elsewhere(shared: Path, home: Path, end: str) -> None:
    check_journal(shared / "j.db")
    (shared / f"j.db{end}").symlink_to(home / "spool/mail")
    with pytest.raises(ConfigurationError, match=rf"j.db is not safe: {shared}/j.db{end} is a symbolic link"):
        check_journal(shared / "j.db")
    (shared / f"j.db{end}").unlink()
    shared.chmod(0o777)
    with pytest.raises(ConfigurationError, match=f"may rename and replace what is in {shared} "):
        check_journal(shared / "j.db")


def test_a_journal_that_cannot_be_looked_at_is_explained_where_it_is_opened(tmp_path: Path) -> None:
    check_journal(tmp_path / "missing/j.db")


@as_root
@pytest.mark.parametrize("end", ["", "-wal", "-shm", ".ballast"])
def test_a_journal_of_another_user(tmp_path: Path, end: str) -> None:
    (tmp_path / f"j.db{end}").touch()
    give(tmp_path / f"j.db{end}")
    with pytest.raises(ConfigurationError, match=f"j.db{end} belongs to uid {OTHER}"):
        check_journal(tmp_path / "j.db")


# --- mounts and user namespaces --------------------------------------------------------------------

ASK = """
from taskpool.errors import ConfigurationError
from taskpool.procs.state_dir import state_directory
try:
    print(state_directory("demo"))
except ConfigurationError as error:
    print("refused:", error)
"""


def ask_under(command: list[str], env: dict[str, str]) -> str:
    """What a process says that is started by another program."""
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip(f"{command[0]} is not possible here")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "internal"), **env}
    run = subprocess.run([*command, sys.executable, "-c", ASK], env=environment, capture_output=True, text=True)
    return run.stdout.strip() or run.stderr


@pytest.mark.needs_tool("unshare")
def test_a_volume_to_which_all_may_write(tmp_path: Path) -> None:
    """As kubelet makes an emptyDir. What is no mount's root is refused, and so is what a person names."""
    mount = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o mode=0777 none {tmp_path} && exec "$0" "$@"']
    assert ask_under(mount, {"STATE_DIRECTORY": str(tmp_path)}) == f"{tmp_path}/demo"
    assert f"replace what is in {tmp_path}" in ask_under(mount, {"XDG_STATE_HOME": str(tmp_path)})
    tmp_path.chmod(0o777)
    assert f"replace what is in {tmp_path}" in ask_under(["env"], {"STATE_DIRECTORY": str(tmp_path)})


@pytest.mark.needs_tool("unshare")
@pytest.mark.parametrize("users", ["-U", "-Uc", "-Ur"])
def test_a_user_namespace_that_does_not_know_root(tmp_path: Path, users: str) -> None:
    assert ask_under(["unshare", users], {"XDG_STATE_HOME": str(tmp_path)}) == f"{tmp_path}/taskpool/demo"


@as_root
@pytest.mark.needs_tool("unshare")
def test_a_user_namespace_takes_no_unknown_users_directory_for_a_pools(shared: Path) -> None:
    (shared / "taskpool").mkdir()
    give(shared / "taskpool")
    said = ask_under(["unshare", "-Ur"], {"XDG_STATE_HOME": str(shared)})
    assert said.startswith("refused:")
    assert f"{shared}/taskpool (mode 0755) belongs to uid 65534" in said
