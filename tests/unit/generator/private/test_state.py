"""The state directory of a private pool."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from taskpool.errors import ConfigurationError, UsageError
from taskpool.generator.private.state import NOTE_NAME, PrivateState, private_pool_name
from taskpool.ipc.names import check_pool_name


@pytest.fixture
def pool() -> str:
    return f"test-{os.getpid()}-{os.urandom(4).hex()}"


def test_whose_the_state_is(pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    private_state = PrivateState(pool, None, resume=True)
    assert not private_state.resumed
    assert PrivateState(pool, None, resume=True).resumed
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
