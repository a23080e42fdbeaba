"""A file that is not as it should be is refused in words that help, and left as it is (journal/file.py)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.journals import Asked, accepted, kill_a_writer, open_store, opened, recorded, returned, run_sql
from support.programs import run
from support.source_tree import ROOT
from taskpool.core.entries import JobCounts
from taskpool.core.storage import CommitFailed
from taskpool.errors import ExitCode, JournalError
from taskpool.journal import file, schema, tools
from taskpool.messages import End, Try


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Forty jobs in a journal that was closed well."""
    store = open_store(path := tmp_path / "journal.db")
    asked = Asked(store)
    asked.commit(opened(), *(accepted(n, payload=bytes(4000)) for n in range(1, 41)))
    asked.commit(recorded(1))
    store.close(clean=True)
    return path


def foreign(path: Path) -> None:
    path.unlink()
    run_sql(path, "CREATE TABLE t (a)")


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: os.truncate(path, 0), "is empty: it is no journal"),
    "text": (lambda path: path.write_text("hello " * 100), "is not a journal, nor any SQLite database"),
    "foreign": (foreign, "of another program"),
    "newer": (lambda path: run_sql(path, "PRAGMA user_version = 7"), "schema version 7, .* versions up to 2"),
    "version 0": (lambda path: run_sql(path, "PRAGMA user_version = 0"), "damaged: its schema version is 0"),
    "no sentinel": (lambda path: run_sql(path, "DELETE FROM meta WHERE key = 'sentinel'"), "sentinel row is missing"),
    "no tables": (lambda path: run_sql(path, "DROP TABLE meta"), "sentinel row is missing"),
    "half a header": (lambda path: os.truncate(path, 50), "damaged: it has 50 bytes"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 8192), "is damaged"),
    "overwritten": (lambda path: overwrite(path, 4096, b"\xff" * 4096), "is damaged"),
}


@pytest.mark.parametrize(("damage", "text"), DAMAGES.values(), ids=DAMAGES)
def test_refused_and_left_as_it_is(path: Path, damage: Callable[[Path], object], text: str) -> None:
    damage(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=text) as caught:
        open_store(path)
    assert str(path) in str(caught.value)
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert path.read_bytes() == before
    assert not Path(f"{path}-wal").exists()


def test_a_directory_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="Is a directory"):
        open_store(tmp_path)


def test_the_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=f"the directory {tmp_path}/a/b is missing: create it"):
        open_store(tmp_path / "a" / "b" / "journal.db")


def test_a_journal_is_only_its_owners(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = open_store(tmp_path / "journal.db")
    finally:
        os.umask(old)
    Asked(store).commit(opened())
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    store.close(clean=True)


# --- the write-ahead log ---------------------------------------------------------------------------


def test_a_removed_wal_is_noticed_and_the_loss_can_be_accepted(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    kill_a_writer(path, commits=3)
    file.wal_of(path).unlink()
    for _ in range(2):  # looking does not make it forget
        with pytest.raises(JournalError, match=r"journal\.db-wal is missing, .* --accept-loss"):
            open_store(path)
    assert "journal.db-wal is missing" in tools.check(path).text
    with pytest.raises(JournalError, match=r"journal\.db-wal is missing"):
        tools.export(path, bytes)
    with pytest.raises(JournalError, match=r"journal\.db-wal is missing"):
        tools.backup(path, tmp_path / "copy.db")
    tools.accept_loss(path)
    open_store(path).close(clean=True)


def test_a_copy_without_its_wal_is_noticed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "journal.db")
    Asked(store).commit(opened())
    copy = tmp_path / "copy.db"
    shutil.copy(store.path, copy)
    store.close(clean=True)
    with pytest.raises(JournalError, match=r"copy\.db-wal is missing"):
        open_store(copy)


def test_a_removed_journal_whose_wal_is_left_is_not_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    kill_a_writer(path, commits=3)
    path.unlink()
    with pytest.raises(JournalError, match=r"is missing, but its journal\.db-wal is there"):
        open_store(path)


def test_no_false_alarm_when_an_opening_fails_halfway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite removes the -wal with the last connection, also with one that was closed for an error."""
    path = tmp_path / "journal.db"
    kill_a_writer(path, commits=3)

    def broken(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(file, "begin_life", broken)
        with pytest.raises(JournalError, match="disk I/O error"):
            open_store(path)
    store = open_store(path)
    found = store.restore()
    assert found is not None
    assert found.ordinal == 30
    store.close(clean=True)


def test_a_journal_half_made_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    Path(f"{path}.new").write_bytes(b"half")
    Path(f"{path}.new-journal").write_bytes(b"half")
    open_store(path).close(clean=True)
    assert not list(tmp_path.glob("*.new*"))


# --- who else has it --------------------------------------------------------------------------------


IMPORTS = """
import os, sys
from pathlib import Path
from taskpool.errors import JournalError
from taskpool.journal import tools
from taskpool.journal.sqlite import SqliteStore
"""
OPENING = """
try:
    tools.check(Path(sys.argv[1])) if sys.argv[2] == "check" else SqliteStore(Path(sys.argv[1]), 2)
except JournalError as error:
    print(error)
"""
OPEN = IMPORTS + OPENING
AS_NOBODY = IMPORTS + "os.setgroups([]); os.setgid(65534); os.setuid(65534)" + OPENING


@pytest.mark.parametrize("how", ["open", "check"])
def test_a_journal_in_use_is_nobody_elses(path: Path, how: str) -> None:
    store = open_store(path)
    assert "is open in another process: a dealer holds it" in run(OPEN, path, how)
    Asked(store).commit(accepted(100, seq=100))
    store.close(clean=True)


@pytest.fixture
def visible(path: Path) -> Iterator[Path]:
    """The journal where everybody may look; pytest's own directories are closed to others."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(shutil.copy(path, directory))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize(("mode", "text"), [(0o444, "may not write the file"), (0o000, "Permission denied")])
def test_who_may_not_write_it_is_told(visible: Path, mode: int, text: str) -> None:
    visible.chmod(mode)
    assert text in run(AS_NOBODY, visible, "open")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_directory_that_may_not_be_written_is_told(visible: Path) -> None:
    visible.chmod(0o666)
    assert f"may not write the directory {visible.parent}" in run(AS_NOBODY, visible, "open")
    visible.unlink()
    assert "cannot be made: Permission denied: check owner" in run(AS_NOBODY, visible, "open")
    visible.parent.chmod(0o700)
    for how in ("open", "check"):
        assert "Permission denied: check owner" in run(AS_NOBODY, visible, how)


@pytest.mark.needs_tool("unshare", "mount")
def test_a_read_only_file_system_is_told(tmp_path: Path, path: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("may not make mount namespaces")
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, str(tmp_path), sys.executable, "-c", OPEN, str(path), "open"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(command, capture_output=True, text=True, env=env)
    assert "mounted read-only" in ended.stdout, ended.stderr


# --- while it is open ---------------------------------------------------------------------------------


def away(path: Path) -> None:
    path.rename(path.with_suffix(".away"))


def replaced(path: Path) -> None:
    shutil.copy(path, path.with_suffix(".other"))
    path.with_suffix(".other").replace(path)


@pytest.mark.parametrize("wal", [False, True], ids=["database", "wal"])
@pytest.mark.parametrize("how", [Path.unlink, away, replaced])
def test_a_file_that_lost_its_name_is_noticed(path: Path, how: Callable[[Path], object], wal: bool) -> None:
    store = open_store(path)
    asked = Asked(store)
    asked.commit(accepted(100, seq=100))
    store.check()
    asked.commit(accepted(101, seq=101))
    how(file.wal_of(path) if wal else path)
    store.check()
    answer = asked.next()
    assert isinstance(answer, CommitFailed)
    assert "was removed or replaced while the journal was open" in answer.text
    store.close(clean=False)


# --- versions -----------------------------------------------------------------------------------------


def test_an_older_journal_is_migrated_in_one_transaction_and_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_sql(path, "ALTER TABLE batches DROP COLUMN finished_wall_ns")
    step = ("ALTER TABLE batches ADD COLUMN finished_wall_ns INTEGER",)
    monkeypatch.setattr(file, "VERSION", 3)
    with monkeypatch.context() as patch:
        patch.setattr(file, "MIGRATIONS", {2: (*step, "nonsense")})
        with pytest.raises(JournalError, match="nonsense"):
            open_store(path)
    monkeypatch.setattr(file, "MIGRATIONS", {2: step})
    store = open_store(path)
    assert len(Asked(store).jobs()) == 39
    store.close(clean=True)
    assert os.stat(f"{path}.v2").st_mode & 0o777 == 0o600
    kept = sqlite3.connect(f"{path}.v2")
    assert kept.execute("PRAGMA user_version").fetchone() == (2,)
    assert kept.execute("SELECT count(*) FROM jobs").fetchone() == (40,)
    kept.close()


def test_a_journal_of_version_1_is_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript((ROOT / "tests" / "golden" / "journal-1.sql").read_text())
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    lines: list[bytes] = []
    tools.export(path, lines.append)
    assert [json.loads(line)["record"] for line in lines] == ["batch", *["outcome"] * 2, *["job"] * 4]
    assert tools.check(path).problems == []
    assert not Path(f"{path}.v1").exists()
    store = open_store(path, 2)
    restored = store.restore()
    assert restored is not None
    assert [each.job.record.seq for each in restored.in_flight] == [2, 3]
    assert [job.counts for job in restored.quarantined] == [JobCounts(tries=3, crashes=3)]
    asked = Asked(store)
    assert [job.counts for job in asked.jobs()] == [JobCounts(tries=2, failures=1, crashes=1)]
    assert [(outcome.seq, outcome.job, outcome.tries) for outcome in asked.outcomes()] == [(4, "", ()), (1, "", ())]
    asked.commit(returned(2, tries=1, failures=1, told=(Try(1, End.FAILED),)))
    assert asked.jobs()[0].counts.told == (Try(1, End.FAILED),)
    store.close(clean=True)
    assert Path(f"{path}.v1").exists()


def test_there_is_a_step_from_every_older_version() -> None:
    assert set(schema.MIGRATIONS) == set(range(1, schema.VERSION))
    assert set(schema.READINGS) == set(range(1, schema.VERSION))
