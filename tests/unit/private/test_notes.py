"""What is kept of private batches, and what is said of ids that name none."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from taskpool.clock import SECOND
from taskpool.errors import PoolInUse, UsageError
from taskpool.private import notes
from taskpool.private.forget import find, forget, forget_expired
from taskpool.private.notes import Summary, Typed
from taskpool.private.state import Beginning, PrivateState


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    return f"test-{os.getpid()}-{os.urandom(4).hex()}"


def begin(batch: str, *, resume: bool = False, typed: Typed | None = None, retain_ns: int = 9) -> PrivateState:
    return PrivateState(batch, None, resume=resume, names_files=False, beginning=Beginning(typed, True, retain_ns))


SUCCEEDED = Summary(2, {"succeeded": 2}, True, 1)
FAILED = Summary(2, {"succeeded": 1, "failed": 1}, True, 1)
STOPPED = Summary(2, {"succeeded": 1}, False, 1)


@pytest.mark.parametrize(
    ("summary", "state"),
    [(SUCCEEDED, "succeeded"), (FAILED, "failed"), (STOPPED, "interrupted"), (None, "interrupted")],
)
def test_where_a_batch_stands(batch: str, summary: Summary | None, state: str) -> None:
    with closing(begin(batch)) as private_state:
        assert find(batch).state == "running"
        if summary is not None:
            private_state.conclude(summary)
    kept = find(batch)
    assert (kept.state, kept.summary, kept.note.named) == (state, summary, True)
    with closing(begin(batch, resume=True)) as private_state:
        assert find(batch).summary == summary
        private_state.begin_run()
        assert find(batch).summary is None, "it was that of the run before"


def test_what_was_typed_is_kept_byte_for_byte_until_it_is_typed_anew(batch: str) -> None:
    first = Typed([b"command", b"\xff", b"a\nb"], b"/in\xfe", 7)
    begin(batch, typed=first).close()
    assert notes.typed_of(batch) == first
    begin(batch, resume=True).close()
    assert notes.typed_of(batch) == first
    begin(batch, resume=True, typed=Typed([b"fib"])).close()
    assert notes.typed_of(batch) == Typed([b"fib"])


def test_a_batch_goes_when_it_is_forgotten_and_not_while_it_is_in_use(batch: str) -> None:
    private_state = begin(batch)
    with pytest.raises(PoolInUse, match=f"batch '{batch}' is in use"):
        forget(find(batch))
    private_state.close()
    assert forget(find(batch)) == 0
    assert not private_state.directory.exists()
    with pytest.raises(UsageError, match=f"forget: there is no batch '{batch}' that is kept here$"):
        find(batch)


def test_what_has_succeeded_goes_when_its_time_is_over(batch: str) -> None:
    for name, summary in ((batch, SUCCEEDED), (f"{batch}-f", FAILED), (f"{batch}-r", SUCCEEDED)):
        with closing(begin(name, retain_ns=SECOND)) as private_state:
            private_state.conclude(summary)
    used = find(batch).used_wall_ns
    forget_expired(used)
    assert len(notes.known_ids()) == 3
    with closing(begin(f"{batch}-r", resume=True)) as held:
        held.conclude(SUCCEEDED)
        forget_expired(used + 60 * SECOND)
        assert sorted(notes.known_ids()) == [f"{batch}-f", f"{batch}-r"]


def test_an_id_that_is_not_known_is_told_with_those_nearest_and_begins_nothing(batch: str, tmp_path: Path) -> None:
    begin("night-run").close()
    with pytest.raises(
        UsageError, match=r"no batch 'nigth-run' to resume; did you mean night-run\?; --resume=or-begin"
    ):
        PrivateState("nigth-run", None, resume=True, beginning=Beginning(must_exist=True))
    assert [path.name for path in (tmp_path / "taskpool").iterdir()] == ["night-run"]
    own = tmp_path / "own"
    own.touch()  # a journal that a person has named may have it
    PrivateState("nigth-run", str(own), resume=True, beginning=Beginning(must_exist=True)).close()
