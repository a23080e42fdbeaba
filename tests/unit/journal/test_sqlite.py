"""One life of a dealer hands its jobs to the next (journal/sqlite.py, core/recovery.py reads it)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.journals import Asked, accepted, attempted, open_store, opened, recorded, returned
from taskpool.core.entries import (
    Acknowledged,
    BatchCancelled,
    BatchClosed,
    BatchForgotten,
    BatchRecord,
    Entry,
    JobCounts,
    QuarantineDropped,
)
from taskpool.core.storage import Commit, CommitFailed, Restored, StoredJob
from taskpool.journal import tools
from taskpool.messages import End, Limits, State, Try


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def live(path: Path, *commits: list[Entry], epoch: int = 1, clean: bool = True, chosen: bool = False) -> None:
    """A whole life: these commits, then the end."""
    store = open_store(path, epoch)
    asked = Asked(store)
    for rows in commits:
        asked.commit(*rows)
    store.close(clean=clean, chosen=chosen)


def restored(path: Path, epoch: int = 2) -> Restored | None:
    store = open_store(path, epoch)
    found = store.restore()
    store.close(clean=False)
    return found


def test_a_new_journal_has_nothing_to_hand_over(path: Path) -> None:
    live(path)
    assert restored(path) is None


def test_an_unclean_end_is_told_until_a_clean_one(path: Path) -> None:
    live(path, [opened(), accepted(1)], clean=False)
    for epoch in (2, 3):
        found = restored(path, epoch)
        assert found is not None
        assert found.unclean_exit
    live(path, epoch=4, clean=True)
    found = restored(path, 5)
    assert found is not None
    assert not found.unclean_exit


def test_an_end_that_was_chosen_is_not_held_against_an_attempt_under_way(path: Path) -> None:
    live(path, [opened(), accepted(1)], [attempted(1)], clean=False, chosen=True)
    found = restored(path)
    assert found is not None
    assert not found.unclean_exit
    assert len(found.in_flight) == 1


@pytest.mark.parametrize("chosen", [True, False])
def test_a_life_that_took_nothing_over_does_not_tell_how_the_one_before_ended(path: Path, *, chosen: bool) -> None:
    live(path, [opened(), accepted(1)], [attempted(1)], clean=False, chosen=chosen)
    live(path, epoch=2, clean=False, chosen=True)
    found = restored(path, 3)
    assert found is not None
    assert found.unclean_exit is not chosen


def test_an_attempt_under_way_is_found(path: Path) -> None:
    live(path, [opened(), accepted(1)], [attempted(1)], clean=False)
    found = restored(path)
    assert found is not None
    assert found.unclean_exit


def test_what_was_under_way_comes_back_with_its_token(path: Path) -> None:
    live(
        path,
        [opened(), *(accepted(n) for n in range(1, 5))],
        [attempted(2, n=70, try_=3), attempted(3), recorded(3, 1)],
    )
    found = restored(path)
    assert found is not None
    assert [(each.epoch, each.n, each.job.record.seq, each.job.counts.tries) for each in found.in_flight] == [
        (1, 70, 2, 3)
    ]
    assert found.ordinal == 4


def test_an_attempt_keeps_its_own_epoch_when_a_life_does_not_get_to_it(path: Path) -> None:
    live(path, [opened(), accepted(1)], [attempted(1)], clean=False)
    restored(path, 2)
    found = restored(path, 3)
    assert found is not None
    assert [each.epoch for each in found.in_flight] == [1]


def test_batches_with_open_jobs_come_back_and_others_are_found_by_name(path: Path) -> None:
    limits: dict[str, Any] = {"timeout_ns": 5, "retries": 2}
    live(
        path,
        [opened("open", **limits), opened("done"), opened("empty")],
        [accepted(1, "open", 1), accepted(2, "open", 2), accepted(3, "done", 1), BatchClosed("done", 1)],
        [recorded(1, 1, batch="open", seq=1), recorded(3, 1, batch="done", seq=1), Acknowledged("done", 1)],
    )
    store = open_store(path, 2)
    found = store.restore()
    assert found is not None
    assert found.batches == [BatchRecord("open", Limits(**limits), 2, None, 1, 0, 1)]
    asked = Asked(store)
    assert asked.batch("done") == BatchRecord("done", Limits(), 1, 1, 1, 1, 0)
    assert asked.batch("empty") == BatchRecord("empty", Limits(), 0, None, 0, 0, 0)
    store.close(clean=True)


def test_a_job_in_quarantine_comes_back_with_its_batch(path: Path) -> None:
    told = (Try(3, End.CRASHED, signal=11), Try(4, End.CRASHED, signal=6))
    parked = recorded(1, state=State.QUARANTINED, attempts=4, crashes=3, tries=told)
    live(path, [opened(), accepted(1)], [attempted(1)], [parked])
    found = restored(path)
    assert found is not None
    assert found.quarantined == [StoredJob(accepted(1).job, JobCounts(tries=4, crashes=3, told=told))]
    assert [(batch.name, batch.open) for batch in found.batches] == [("b", 0)]


def test_a_requeued_job_is_open_again_until_its_next_outcome(path: Path) -> None:
    again = returned(1, run=2)
    parked = recorded(1, 1, state=State.QUARANTINED)
    live(path, [opened(), accepted(1)], [parked])
    live(path, [again], epoch=2)
    found = restored(path, 3)
    assert found is not None
    assert (found.batches[0].open, found.quarantined) == (1, [])
    live(path, [attempted(1), recorded(1, 2, run=2)], epoch=4)
    found = restored(path, 5)
    assert found is not None
    assert found.batches == []


@pytest.mark.parametrize("at_once", [False, True])
def test_a_dropped_job_does_not_come_back(path: Path, at_once: bool) -> None:
    rows: list[list[Entry]] = [[recorded(1, state=State.QUARANTINED)], [QuarantineDropped(1)]]
    live(path, [opened(), accepted(1)], *([rows[0] + rows[1]] if at_once else rows))
    found = restored(path)
    assert found is not None
    assert (found.batches, found.quarantined) == ([], [])
    assert tools.check(path).problems == []


def test_a_cancelled_batch_stays_cancelled(path: Path) -> None:
    live(path, [opened(), accepted(1)], [BatchCancelled("b")], [recorded(1, state=State.CANCELLED), accepted(2)])
    found = restored(path)
    assert found is not None
    assert [batch.cancelled for batch in found.batches] == [True]


def test_parked_and_requeued_within_one_commit(path: Path) -> None:
    again = returned(1, run=2)
    live(path, [opened(), accepted(1)], [recorded(1, 1, state=State.QUARANTINED), again])
    found = restored(path)
    assert found is not None
    assert (found.batches[0].open, found.quarantined) == (1, [])


def test_a_forgotten_batch_does_not_come_back(path: Path) -> None:
    live(path, [opened(), accepted(1)], [recorded(1)], [BatchForgotten("b")])
    store = open_store(path, 2)
    assert Asked(store).batch() is None
    store.close(clean=True)


# --- rows that contradict the journal: an error of the program, never a second outcome --------------


CONTRADICTIONS: dict[str, list[Entry]] = {
    "a second outcome of a run": [recorded(1, 2)],
    "a number twice": [recorded(2, 1)],
    "an outcome of a job never accepted": [recorded(9, 2)],
    "a job of a batch never opened": [accepted(9, "nowhere", 1)],
    "a job twice": [accepted(2)],
    "a place in the batch twice": [accepted(9, seq=2)],
    "two outcomes in one commit": [recorded(2, 2), recorded(2, 3)],
    "back after its outcome": [recorded(2, 2), returned(2, run=2)],
}


@pytest.mark.parametrize("rows", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_are_refused_whole(path: Path, rows: list[Entry]) -> None:
    live(path, [opened(), accepted(1), accepted(2)], [recorded(1)])
    store = open_store(path, 2)
    store.request(Commit(1, [accepted(3), *rows]))
    store.request(Commit(2, [accepted(4)]))
    answer = Asked(store).next()
    assert isinstance(answer, CommitFailed)
    assert str(path) in answer.text
    store.close(clean=False)
    assert store.answers() == []  # nothing is served after a failure
    store = open_store(path, 3)
    asked = Asked(store)
    assert [job.record.seq for job in asked.jobs()] == [2]
    assert len(asked.outcomes()) == 1
    store.close(clean=True)


def test_one_run_ends_in_quarantine_once(path: Path) -> None:
    live(path, [opened(), accepted(1)], [recorded(1, state=State.QUARANTINED)])
    store = open_store(path, 2)
    store.request(Commit(1, [recorded(1, 2, state=State.QUARANTINED)]))
    assert isinstance(Asked(store).next(), CommitFailed)
    store.close(clean=False)


def test_what_retention_overtook_is_no_error(path: Path) -> None:
    live(path, [Acknowledged("gone", 5)], [BatchCancelled("gone")])


# --- the thread ------------------------------------------------------------------------------------


def test_commits_that_wait_together_share_a_transaction_and_are_answered_each(path: Path) -> None:
    transactions: list[int] = []
    store = open_store(path, observe=lambda rows, ns: transactions.append(rows))
    asked = Asked(store)
    asked.commit(opened())
    for number in range(1, 501):
        store.request(Commit(100 + number, [accepted(number)]))
    answers = [asked.next() for _ in range(500)]
    assert [answer.number for answer in answers if not isinstance(answer, Restored)] == list(range(101, 601))  # type: ignore[union-attr]
    assert sum(transactions) == 501
    assert len(transactions) < 300
    store.close(clean=True)


def test_closing_stores_what_was_asked_for(path: Path) -> None:
    store = open_store(path)
    store.request(Commit(1, [opened()]))
    for number in range(1, 201):
        store.request(Commit(number + 1, [accepted(number)]))
    store.close(clean=True)
    found = restored(path)
    assert found is not None
    assert found.batches[0].accepted == 200
    assert not Path(f"{path}-wal").exists()


def test_close_may_be_said_twice_and_without_a_request(path: Path) -> None:
    store = open_store(path)
    store.close(clean=True)
    store.close(clean=True)
    assert restored(path) is None


def test_nothing_of_the_store_stays_behind_in_the_process(path: Path) -> None:
    def descriptors() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    live(path)
    before = descriptors()
    for epoch in range(2, 6):
        live(path, epoch=epoch)
    assert descriptors() == before


def test_rows_of_any_size_are_stored_in_one_commit(path: Path) -> None:
    """Large rows go alone, small ones in groups of 32, and what is left over one by one."""
    sizes = [10, 70_000, 3_000_000, *[20] * 70, 65_536, 65_537]
    jobs = [accepted(number, payload=bytes(size)) for number, size in enumerate(sizes, 1)]
    outcomes = [recorded(number, value=b"1" * size) for number, size in enumerate(sizes, 1)]
    store = open_store(path)
    asked = Asked(store)
    asked.commit(opened(), *jobs)
    assert [job.record.spec.payload for job in asked.jobs()] == [entry.job.spec.payload for entry in jobs]
    asked.commit(*outcomes)
    found = asked.outcomes()
    assert found == [entry.outcome for entry in outcomes]
    assert asked.jobs() == []
    store.close(clean=True)
