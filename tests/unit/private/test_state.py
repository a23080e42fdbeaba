"""The state directory of a private pool."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from taskpool.errors import ConfigurationError, PoolInUse, UsageError
from taskpool.ipc.names import check_pool_name
from taskpool.private.notes import private_pool_name
from taskpool.private.state import NOTE_NAME, PrivateState
from taskpool.procs.pool_lock import PoolLock


@pytest.fixture
def pool() -> str:
    return f"test-{os.getpid()}-{os.urandom(4).hex()}"


def test_whose_the_state_is(pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    private_state = PrivateState(pool, None, resume=True)
    assert not private_state.resumed
    with pytest.raises(PoolInUse, match=f"batch '{pool}' is in use by another tp-generator: wait for its end"):
        PrivateState(pool, None, resume=True)
    PoolLock(private_state.directory, pool).begin_after(1, 0)  # as a dealer does
    with pytest.raises(PoolInUse, match=rf"another tp-generator, whose dealer is PID {os.getpid()}: wait"):
        PrivateState(pool, None, resume=True)
    private_state.close()
    with closing(PrivateState(pool, None, resume=True)) as again:
        assert again.resumed
    with pytest.raises(UsageError, match=f"batch '{pool}' exists already, kept in .*: add --resume"):
        PrivateState(pool, None, resume=False)
    with pytest.raises(UsageError, match="was begun with the journal"):
        PrivateState(pool, "none", resume=True)
    (private_state.directory / NOTE_NAME).write_text('{"batch": "other", "journal": null}')
    with pytest.raises(UsageError, match="keeps the state of batch 'other'"):
        PrivateState(pool, None, resume=True)
    (private_state.directory / NOTE_NAME).unlink()
    (private_state.directory / "pool.lock").touch()
    with pytest.raises(UsageError, match=f"holds the state of a pool of that name.* --pool {pool}"):
        PrivateState(pool, None, resume=True)
    (private_state.directory / NOTE_NAME).write_text("?")
    with pytest.raises(ConfigurationError, match="cannot read"):
        PrivateState(pool, None, resume=True)


@pytest.mark.parametrize("batch", ["demo", "9", "x" * 32, "0123456789abcdef"])
def test_a_private_pool_is_named_after_its_batch(batch: str) -> None:
    assert private_pool_name(batch) == batch


def test_no_two_batches_share_a_pool() -> None:
    batches = ["Run_7.b", "run_7.b", "run-7-b", "run-7.b", "RUN-7-B", "x" * 64, "x" * 63, "x" * 32, "A", "a", "a."]
    pools = [private_pool_name(batch) for batch in batches]
    assert len(set(pools)) == len(batches)
    assert [check_pool_name(pool) for pool in pools] == pools
    assert pools[0].startswith("run-7-b-")
    assert private_pool_name(pools[0]) != pools[0], "an id that looks like one of ours"


# --- outputs of earlier batches with the same name -------------------------------------------------


def keep_output(private_state: PrivateState, name: str) -> Path:
    """What a worker does with a large output."""
    file = private_state.directory / "output" / private_state.batch / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(name)
    return file


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_outputs_that_were_told_stay_when_the_batch_is_run_again(pool: str, home: Path) -> None:
    first = PrivateState(pool, None, resume=False)
    told = {keep_output(first, "1.4-1.out"), keep_output(first, "2.9-7-00ff.err")}
    keep_output(first, "3.4-3.out")
    assert first.remove(told) == 2
    second = PrivateState(pool, None, resume=False)
    assert not second.resumed
    assert second.remove(frozenset()) == 0
    assert names_in(home) == {"1.4-1.out", "2.9-7-00ff.err"}
    third = PrivateState(pool, None, resume=False)
    with closing(PoolLock(third.directory, pool)) as lock:
        assert lock.acquire(0) == 10, "no attempt has a token of an earlier batch"
    keep_output(third, "1.10-1.out")
    third.close()
    resumed = PrivateState(pool, None, resume=True)
    keep_output(resumed, "2.11-1.out")
    resumed.remove({keep_output(resumed, "3.11-2.out")})
    assert names_in(home) == {"1.4-1.out", "2.9-7-00ff.err", "3.11-2.out"}


def test_outputs_behind_a_link_to_a_larger_disk(pool: str, home: Path, tmp_path: Path) -> None:
    state = PrivateState(pool, None, resume=False)
    (tmp_path / "large").mkdir()
    (state.directory / "output").symlink_to(tmp_path / "large")
    keep_output(state, "2.1-2.out")
    state.remove({keep_output(state, "1.1-1.out")})
    assert names_in(tmp_path / "large") == {"1.1-1.out"}
    again = PrivateState(pool, None, resume=False)
    with closing(PoolLock(again.directory, pool)) as lock:
        assert lock.acquire(0) == 2


def test_outputs_that_a_journal_elsewhere_names_stay(pool: str, home: Path, tmp_path: Path) -> None:
    state = PrivateState(pool, str(tmp_path / "mine.db"), resume=False)
    keep_output(state, "1.1-1.out")
    assert state.remove(frozenset()) == 0
    assert names_in(home) == {"1.1-1.out"}


def test_whether_any_run_has_named_files(pool: str, home: Path) -> None:
    for resume, says, names in ((False, False, False), (True, False, False), (True, True, True), (True, False, True)):
        with closing(PrivateState(pool, None, resume=resume, names_files=says)) as state:
            assert state.names_files == names


def test_what_was_printed_is_emptied_and_not_kept(pool: str, home: Path, tmp_path: Path) -> None:
    state = PrivateState(pool, None, resume=False, names_files=False)
    printed, waiting = keep_output(state, "1.1-1.out"), keep_output(state, "2.1-2.out")
    elsewhere, link = tmp_path / "elsewhere", state.directory / "output" / pool / "3.1-3.out"
    elsewhere.write_text("not a job's")
    link.symlink_to(elsewhere)
    state.empty([printed, elsewhere, link, state.directory / "output" / pool / "4.1-4.out"])
    assert (printed.read_text(), waiting.read_text(), elsewhere.read_text()) == ("", "2.1-2.out", "not a job's")
    state.close()
    with closing(PrivateState(pool, None, resume=True, names_files=True)) as again:
        again.empty([waiting])
        assert waiting.read_text() == "2.1-2.out", "an object may name it"
        assert again.remove({printed, waiting}) == 1
    assert names_in(home) == {"2.1-2.out", "elsewhere"}
