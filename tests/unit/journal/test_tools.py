"""What a person can do with a journal that no dealer has open (journal/tools.py)."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from support.journals import Asked, accepted, attempted, kill_a_writer, open_store, opened, recorded, returned, run_sql
from taskpool.core.entries import BatchClosed
from taskpool.errors import JournalError
from taskpool.journal import file, tools
from taskpool.messages import End, State, Try


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """One job in each state."""
    store = open_store(path := tmp_path / "journal.db")
    asked = Asked(store)
    asked.commit(opened(), *(accepted(n, payload=b"\xff\0") for n in range(1, 5)), BatchClosed("b", 4))
    asked.commit(attempted(2), recorded(3, 1, state=State.QUARANTINED, value=None), recorded(4, 2, value=b'{"a": [1]}'))
    store.close(clean=True)
    return path


def exported(path: Path) -> list[dict[str, Any]]:
    lines: list[bytes] = []
    tools.export(path, lines.append)
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in lines)
    return [json.loads(line) for line in lines]


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def test_check_counts_what_is_there(path: Path) -> None:
    findings = tools.check(path)
    assert findings.problems == []
    assert findings.jobs == {"queued": 1, "running": 1, "quarantined": 1, "finished": 1}
    assert (findings.batches, findings.outcomes, findings.bytes) == (1, 2, path.stat().st_size)
    assert findings.text.startswith("1 batch, jobs: 1 queued, 1 running, 1 quarantined, 1 finished, 2 outcomes, ")


def test_check_and_export_change_nothing(path: Path) -> None:
    before = content(path)
    tools.check(path)
    exported(path)
    assert content(path) == before


def test_an_export_names_the_fields_of_tries(path: Path) -> None:
    store = open_store(path, 2)
    asked = Asked(store)
    tries = (Try(1, End.CRASHED, signal=11),)
    asked.commit(attempted(1), returned(1, tries=1, crashes=1, told=tries), recorded(2, 3, tries=tries))
    store.close(clean=True)
    of_outcomes = [line["tries"] for line in exported(path) if line["record"] == "outcome" and line["tries"]]
    of_jobs = [line["told"] for line in exported(path) if line["record"] == "job" and line["told"]]
    told = [(each["no"], each["end"], each["signal"]) for tries in (*of_outcomes, *of_jobs) for each in tries]
    assert told == [(1, "crashed", 11)] * 2


def test_an_export_of_failures_alone(path: Path) -> None:
    lines: list[bytes] = []
    tools.export(path, lines.append, failed=True)
    (line,) = map(json.loads, lines)
    assert (line["record"], line["batch"], line["seq"], line["state"]) == ("outcome", "b", 3, "quarantined")


def test_check_and_export_leave_the_wal_of_a_killed_dealer(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    kill_a_writer(path, commits=3)
    before = content(path)
    assert tools.check(path).problems == []
    assert len(exported(path)) == 1 + 20 + 10
    assert content(path) == before


DAMAGES = {
    "UPDATE jobs SET crc = crc + 1 WHERE seq = 1": "job b/1: its record is damaged; it will be failed, not run",
    "UPDATE outcomes SET crc = crc + 1 WHERE no = 2": "outcome 2 of job b/4: its record is damaged",
    "UPDATE batches SET crc = crc + 1": "batch b: its limits are damaged",
    "UPDATE batches SET open = 7": "batch b: its count of open jobs is wrong",
    "DELETE FROM outcomes WHERE no = 1": "batch b: its count of jobs or outcomes is wrong",
    "DELETE FROM meta WHERE key = 'sentinel'": "its sentinel row is missing",
}


@pytest.mark.parametrize(("statement", "text"), DAMAGES.items())
def test_check_finds(path: Path, statement: str, text: str) -> None:
    run_sql(path, statement)
    findings = tools.check(path)
    assert any(text in problem for problem in findings.problems), findings.problems
    assert text in findings.text


def test_check_finds_a_broken_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(b"\xff" * 4096)
    assert tools.check(path).problems


def test_export_is_the_whole_journal(path: Path) -> None:
    lines = exported(path)
    assert [line["record"] for line in lines] == ["batch", "outcome", "outcome", "job", "job", "job"]
    batch, parked, done, *jobs = lines
    assert (batch["name"], batch["accepted"], batch["total"], batch["recorded"]) == ("b", 4, 4, 2)
    assert (parked["batch"], parked["seq"], parked["state"], parked["value"]) == ("b", 3, "quarantined", None)
    assert (done["seq"], done["value"], done["finished_at"]) == (4, {"a": [1]}, "1970-01-01T00:00:00.000000Z")
    assert [(job["seq"], job["state"]) for job in jobs] == [(1, "queued"), (2, "running"), (3, "quarantined")]
    assert jobs[0]["spec"]["payload"] == "/wA="


def test_prune_lets_go_and_gives_the_space_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    store = open_store(path)
    asked = Asked(store)
    asked.commit(opened(), *(accepted(n) for n in range(1, 501)), BatchClosed("b", 500))
    asked.commit(*(recorded(n, value=b'"' + bytes(b"x" * 1000) + b'"') for n in range(1, 501)))
    asked.commit(opened("open"), accepted(501, "open", 1))
    asked.commit(attempted(501))
    store.close(clean=False)
    before = path.stat().st_size
    assert tools.prune(path, retain_ns=3600 * 10**9, retain_batches=0) == 0  # nobody has read it
    assert tools.prune(path, retain_ns=0, retain_batches=1000) == 1
    assert path.stat().st_size < before / 4
    assert tools.check(path).problems == []
    store = open_store(path, 2)
    found = store.restore()
    assert found is not None
    assert (found.unclean_exit, [batch.name for batch in found.batches]) == (True, ["open"])
    store.close(clean=True)


def test_a_backup_is_whole_and_starts(tmp_path: Path) -> None:
    path, copy = tmp_path / "journal.db", tmp_path / "copy.db"
    kill_a_writer(path, commits=3)
    tools.backup(path, copy)
    assert file.wal_of(path).exists()
    assert not file.wal_of(copy).exists()
    assert copy.stat().st_mode & 0o077 == 0
    assert tools.check(copy).problems == []
    store = open_store(copy, 3)
    found = store.restore()
    assert found is not None
    assert (found.unclean_exit, found.ordinal, len(found.in_flight)) == (True, 30, 10)
    store.close(clean=True)


def test_a_backup_is_never_open_to_others(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, modes = tmp_path / "copy.db", set[int]()
    read_only = file.read_only

    def watched(path: Path) -> sqlite3.Connection:
        connection = read_only(path)
        connection.set_progress_handler(lambda: modes.add(copy.stat().st_mode & 0o777), 1)
        return connection

    monkeypatch.setattr(file, "read_only", watched)
    umask = os.umask(0)
    try:
        tools.backup(path, copy)
    finally:
        os.umask(umask)
    assert modes == {0o600}
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_backup_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (path := tmp_path / "journal.db").write_bytes(b"no journal" * 1000)
    with pytest.raises(JournalError):
        tools.backup(path, tmp_path / "copy.db")
    assert [each.name for each in tmp_path.iterdir()] == ["journal.db"]


def test_a_backup_replaces_nothing(path: Path, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="is there already"):
        tools.backup(path, path)
    with pytest.raises(JournalError, match="could not be made"):
        tools.backup(path, tmp_path / "no" / "copy.db")


def test_nothing_is_done_while_a_dealer_holds_the_pool(path: Path, tmp_path: Path) -> None:
    lock = tmp_path / "pool.lock"
    tools.check(path, lock)  # there never was a dealer
    lock.touch()
    tools.check(path, lock)
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for use in (
            lambda: tools.check(path, lock),
            lambda: tools.export(path, bytes, lock),
            lambda: tools.prune(path, 0, 0, lock),
            lambda: tools.backup(path, tmp_path / "copy.db", lock),
            lambda: tools.accept_loss(path, lock),
        ):
            with pytest.raises(JournalError, match=f"in use by the dealer that holds {lock}"):
                use()


def test_remove_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    kill_a_writer(path, commits=3)
    tools.remove(path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_journal_is_told(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot be opened: No such file or directory"):
        tools.check(tmp_path / "journal.db")
    assert list(tmp_path.iterdir()) == []
