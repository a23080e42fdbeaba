"""Jobs that have ended without success stay, so that a person may have them run again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.journals import Asked, accepted, attempted, open_store, opened, recorded, returned, run_sql
from taskpool.core.entries import BatchClosed, Entry, JobCounts
from taskpool.core.storage import CommitFailed, EndedLoaded, LoadEnded
from taskpool.messages import State

ALL = [(1, 99)]


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    store = open_store(tmp_path / "journal.db")
    yield Asked(store)
    store.close(clean=True)


def ended(asked: Asked, ranges: list[tuple[int, int]] = ALL, run: int = 0, after: int = 0, limit: int = 9) -> list[int]:
    asked.store.request(LoadEnded("b", ranges, run, after, limit))
    answer = asked.next()
    assert isinstance(answer, EndedLoaded)
    return [job.record.seq for job in answer.jobs]


def three(asked: Asked) -> None:
    """Jobs 1 to 4: failed, succeeded, timed out, cancelled."""
    asked.commit(opened(), *(accepted(n) for n in range(1, 5)), BatchClosed("b", 4))
    states = (State.FAILED, State.SUCCEEDED, State.TIMED_OUT, State.CANCELLED)
    asked.commit(*(recorded(n, state=state) for n, state in enumerate(states, 1)))


def test_what_has_not_succeeded_is_found_with_what_it_is(asked: Asked) -> None:
    three(asked)
    assert ended(asked) == [1, 3, 4]
    assert ended(asked, [(1, 2), (4, 4)]) == [1, 4]
    assert ended(asked, after=1, limit=1) == [3]
    assert ended(asked, run=1) == [1, 3, 4]
    assert ended(asked, run=2) == []
    asked.store.request(LoadEnded("b", ALL, 0, 0, 1))
    answer = asked.next()
    assert isinstance(answer, EndedLoaded)
    assert answer.jobs[0].record == accepted(1).job and not answer.jobs[0].corrupt


@pytest.mark.parametrize("in_one_commit", [True, False])
@pytest.mark.parametrize(("state", "found"), [(State.FAILED, [1, 3, 4]), (State.SUCCEEDED, [3, 4])])
def test_a_new_run_is_open_until_its_own_outcome(
    asked: Asked, in_one_commit: bool, state: State, found: list[int]
) -> None:
    three(asked)
    entries: list[Entry] = [returned(1, run=2), attempted(1, 7), recorded(1, 5, state=state, run=2)]
    if in_one_commit:
        asked.commit(*entries)
    else:
        asked.commit(entries[0])
        batch = asked.batch()
        assert batch is not None and batch.open == 1
        assert [job.counts for job in asked.jobs()] == [JobCounts(2, 0, 0, 0, 0)]
        assert ended(asked) == [3, 4]
        asked.commit(entries[1])
        asked.commit(entries[2])
    batch = asked.batch()
    assert batch is not None and (batch.open, batch.recorded) == (0, 5)
    assert ended(asked) == found
    assert ended(asked, run=2) == found[:-2]


@pytest.mark.parametrize(
    "entries",
    [
        [recorded(1, 5, state=State.FAILED)],  # a second outcome of the run
        [recorded(2, 5)],
        [recorded(2, 5, state=State.FAILED, run=1)],
        [returned(1, run=2), recorded(1, 5, run=2), recorded(1, 6, run=2)],
        [recorded(3, 5, run=1)],
    ],
)
def test_one_outcome_a_run(asked: Asked, entries: list[Entry]) -> None:
    three(asked)
    from taskpool.core.storage import Commit

    asked.store.request(Commit(99, entries))
    assert isinstance(asked.next(), CommitFailed)


def test_it_outlives_the_dealer_and_its_new_run_is_taken_over(tmp_path: Path) -> None:
    store = open_store(tmp_path / "journal.db")
    asked = Asked(store)
    three(asked)
    asked.commit(returned(3, run=2))
    store.close(clean=False)
    again = open_store(tmp_path / "journal.db", 2)
    restored = again.restore()
    assert restored is not None and [batch.open for batch in restored.batches] == [1]
    assert ended(Asked(again)) == [1, 4]
    again.close(clean=True)


def test_a_batch_that_was_finished_ages_from_its_new_end(tmp_path: Path) -> None:
    store = open_store(tmp_path / "journal.db")
    asked = Asked(store)
    three(asked)
    asked.commit(returned(1, run=2))
    store.close(clean=True)
    run_sql(tmp_path / "journal.db", "UPDATE batches SET name = 'open' WHERE finished_wall_ns IS NULL AND open = 1")
    again = open_store(tmp_path / "journal.db", 2)
    assert Asked(again).batch("open") is not None
    again.close(clean=True)


def test_what_an_earlier_version_has_let_go_of_is_not_found(tmp_path: Path) -> None:
    store = open_store(tmp_path / "journal.db")
    three(Asked(store))
    store.close(clean=True)
    run_sql(tmp_path / "journal.db", "UPDATE jobs SET spec = NULL WHERE seq = 1")
    again = open_store(tmp_path / "journal.db", 2)
    assert ended(Asked(again)) == [3, 4]
    again.close(clean=True)
