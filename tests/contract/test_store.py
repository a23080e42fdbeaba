"""What a store promises (journal/store.py), asked of the one in memory and of the journal in the same words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from support.journals import FIRST, MANY, Asked, accepted, attempted, open_store, opened, recorded, returned
from taskpool.core.entries import Acknowledged, BatchCancelled, BatchForgotten, Entry, JobCounts, QuarantineDropped
from taskpool.core.storage import (
    Commit,
    Committed,
    DigestsLoaded,
    LoadDigests,
    Loaded,
    LoadJobs,
    LoadOutcomes,
    OutcomesLoaded,
    StoredJob,
)
from taskpool.journal.memory import MemoryStore
from taskpool.limits import OUTCOMES_IN_FLIGHT_BYTES_MAX
from taskpool.messages import End, State, Try


@pytest.fixture(params=["memory", "journal"])
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Asked]:
    store = MemoryStore() if request.param == "memory" else open_store(tmp_path / "journal.db")
    assert store.restore() is None
    yield Asked(store)
    store.close(clean=True)


def keys(jobs: list[StoredJob]) -> list[tuple[int, int]]:
    return [(-job.record.priority, job.record.ordinal) for job in jobs]


def test_jobs_come_back_as_they_were_accepted(asked: Asked) -> None:
    entry = accepted(7, seq=3, priority=5, payload=b"\0\xff")
    asked.commit(opened(), entry)
    assert asked.jobs() == [StoredJob(entry.job, JobCounts(1, 0, 0, 0, 0), corrupt=False)]


def test_jobs_come_by_priority_then_by_age(asked: Asked) -> None:
    asked.commit(opened(), *(accepted(n, priority=priority) for n, priority in enumerate([0, 9, -5, 9, 0], 1)))
    assert keys(asked.jobs()) == [(-9, 2), (-9, 4), (0, 1), (0, 5), (5, 3)]


def test_jobs_come_in_portions_without_gap_or_overlap(asked: Asked) -> None:
    asked.commit(opened(), *(accepted(n, priority=n % 3) for n in range(1, 21)))
    whole = keys(asked.jobs())
    found, after, more = [], FIRST, True
    while more:
        portion = asked.loaded(after, 7)
        found += keys(portion.jobs)
        after, more = found[-1], portion.more
    assert found == whole


@pytest.mark.parametrize(("bytes_max", "count"), [(0, 1), (99, 1), (100, 1), (200, 2), (250, 2), (300, 3)])
def test_a_portion_is_bounded_by_bytes_but_never_empty(asked: Asked, bytes_max: int, count: int) -> None:
    asked.commit(opened(), *(accepted(n, payload=bytes(100)) for n in range(1, 4)))
    portion = asked.loaded(bytes_max=bytes_max)
    assert len(portion.jobs) == count
    assert portion.more == (count < 3)


def test_a_running_job_is_not_queued(asked: Asked) -> None:
    asked.commit(opened(), accepted(1), accepted(2))
    asked.commit(attempted(1))
    assert keys(asked.jobs()) == [(0, 2)]


def test_a_job_comes_back_with_its_counts(asked: Asked) -> None:
    asked.commit(opened(), accepted(1), accepted(2))
    asked.commit(attempted(1))
    asked.commit(returned(1, run=1, tries=4, failures=2, crashes=1, unclean_exits=3))
    job = asked.jobs()[0]
    assert (job.record.ordinal, job.counts) == (1, JobCounts(1, 4, 2, 1, 3))


def test_what_is_told_of_its_tries_comes_back_with_a_job(asked: Asked) -> None:
    asked.commit(opened(), accepted(1), accepted(2))
    first, second = Try(1, End.FAILED, exit_status=3), Try(2, End.CRASHED, signal=11, stderr_tail="last words")
    asked.commit(attempted(1), returned(1, tries=1, failures=1, told=(first,)))
    assert asked.jobs()[0].counts.told == (first,)
    asked.commit(attempted(1, 2, 2))
    asked.commit(returned(1, tries=2, failures=1, crashes=1, told=(first, second)))
    assert asked.jobs()[0].counts.told == (first, second)
    asked.commit(attempted(1, 3, 3), recorded(1, attempts=3, tries=(first, second)))
    assert [outcome.tries for outcome in asked.outcomes()] == [(first, second)]


def test_a_finished_job_is_not_queued(asked: Asked) -> None:
    asked.commit(opened(), accepted(1), accepted(2))
    asked.commit(attempted(1))
    asked.commit(recorded(1))
    assert keys(asked.jobs()) == [(0, 2)]


def test_a_job_sent_and_finished_within_one_commit(asked: Asked) -> None:
    asked.commit(opened(), accepted(1), accepted(2), accepted(3))
    asked.commit(
        *(attempted(1), attempted(2), recorded(1), returned(2, run=1, tries=1, failures=1), attempted(2, 9, 2)),
        *(recorded(2, attempts=2), attempted(3), returned(3, run=1)),
    )
    assert keys(asked.jobs()) == [(0, 3)]
    assert [(outcome.no, outcome.attempts) for outcome in asked.outcomes()] == [(1, 1), (2, 2)]


def test_a_quarantined_job_can_run_again(asked: Asked) -> None:
    asked.commit(opened(), accepted(1))
    asked.commit(attempted(1))
    asked.commit(recorded(1, state=State.QUARANTINED, crashes=3))
    assert asked.jobs() == []
    asked.commit(returned(1, run=2))
    assert [(job.counts.run, job.counts.crashes) for job in asked.jobs()] == [(2, 0)]
    asked.commit(attempted(1))
    asked.commit(recorded(1, 2, run=2))
    assert [(outcome.no, outcome.run) for outcome in asked.outcomes()] == [(1, 1), (2, 2)]


def test_where_one_commit_ends_and_the_next_begins_makes_no_difference(asked: Asked) -> None:
    """A slow disk makes large commits: a job can leave quarantine and be back there within one."""
    cuts = combinations(range(len(_twice_in_quarantine("b", 1, 2)) + 1), 2)
    for number, (first, second) in enumerate(cuts):
        one, other = 2 * number + 1, 2 * number + 2
        batch = f"b{number}"
        rows = _twice_in_quarantine(batch, one, other)
        for part in (rows[:first], rows[first:second], rows[second:]):
            asked.commit(*part)
        found = [(job.record.ordinal, job.counts.run, job.counts.crashes) for job in asked.jobs()]
        assert found == [(one, 3, 1), (other, 1, 0)]
        assert [(outcome.no, outcome.run) for outcome in asked.outcomes(batch)] == [(1, 1), (2, 2)]
        asked.commit(recorded(one, 3, batch=batch, run=3), recorded(other, 4, batch=batch))
        assert asked.jobs() == []


def _twice_in_quarantine(batch: str, one: int, other: int) -> list[Entry]:
    parked = [recorded(one, run, batch=batch, seq=1, run=run, state=State.QUARANTINED, crashes=1) for run in (1, 2)]
    return [
        *(opened(batch), accepted(one, batch, 1), accepted(other, batch, 2)),
        *(attempted(one, 1), parked[0]),
        *(returned(one, run=2), attempted(one, 2), parked[1]),
        *(returned(one, run=3), attempted(one, 3), returned(one, run=3, crashes=1)),
    ]


def test_a_dropped_job_keeps_its_outcome(asked: Asked) -> None:
    asked.commit(opened(), accepted(1), accepted(2))
    asked.commit(recorded(1, state=State.QUARANTINED))
    asked.commit(QuarantineDropped(1), BatchCancelled("b"))
    assert keys(asked.jobs()) == [(0, 2)]
    assert [outcome.state for outcome in asked.outcomes()] == [State.QUARANTINED]


def test_outcomes_come_in_order_from_where_the_reader_stands(asked: Asked) -> None:
    asked.commit(opened(), opened("other"), *(accepted(n) for n in range(1, 6)), accepted(6, "other", 1))
    asked.commit(recorded(3, 1), recorded(6, 1, batch="other", seq=1), recorded(1, 2), recorded(5, 3))
    assert [outcome.seq for outcome in asked.outcomes()] == [3, 1, 5]
    assert [outcome.no for outcome in asked.outcomes(after=1, limit=1)] == [2]
    assert [outcome.seq for outcome in asked.outcomes("other")] == [1]
    assert asked.outcomes(after=3) == []
    assert asked.outcomes("unknown") == []


def test_outcomes_come_in_portions_bounded_by_bytes(asked: Asked) -> None:
    asked.commit(opened(), *(accepted(n) for n in range(1, 5)))
    half = OUTCOMES_IN_FLIGHT_BYTES_MAX // 2
    sizes = [half - 4096, half - 4096, half, half]
    asked.commit(*(recorded(n, value=bytes(size)) for n, size in enumerate(sizes, 1)))
    assert [outcome.no for outcome in asked.outcomes()] == [1, 2]
    assert [outcome.no for outcome in asked.outcomes(after=2)] == [3]
    assert [outcome.no for outcome in asked.outcomes(after=3)] == [4]
    assert [outcome.no for outcome in asked.outcomes(limit=1)] == [1]


def test_an_acknowledgement_loses_nothing_that_came_after_it(asked: Asked) -> None:
    asked.commit(opened(), accepted(1), accepted(2))
    asked.commit(recorded(1), recorded(2))
    asked.commit(Acknowledged("b", 1))
    assert [outcome.no for outcome in asked.outcomes(after=1)] == [2]


def test_digests_stay_when_jobs_are_finished(asked: Asked) -> None:
    asked.commit(opened(), *(accepted(n) for n in range(1, 6)))
    asked.commit(recorded(2))
    asked.store.request(LoadDigests("b", 2, 3))
    assert asked.next() == DigestsLoaded("b", 2, [b"digest 2", b"digest 3", b"digest 4"])
    asked.store.request(LoadDigests("b", 5, 3))
    assert asked.next() == DigestsLoaded("b", 5, [b"digest 5"])


def test_a_forgotten_batch_is_gone_and_its_name_free(asked: Asked) -> None:
    asked.commit(opened(), accepted(1))
    asked.commit(recorded(1))
    asked.commit(BatchForgotten("b"), opened(), accepted(2, seq=1))
    assert asked.outcomes() == []
    assert keys(asked.jobs()) == [(0, 2)]


def test_nobody_is_found_under_an_unknown_name(asked: Asked) -> None:
    assert asked.batch("unknown") is None


def test_answers_come_in_the_order_of_the_requests_and_reads_see_what_was_asked_before(asked: Asked) -> None:
    store = asked.store
    store.request(Commit(1, [opened(), accepted(1)]))
    store.request(LoadJobs(FIRST, 10, MANY))
    store.request(Commit(2, [recorded(1)]))
    store.request(LoadJobs(FIRST, 10, MANY))
    store.request(LoadOutcomes("b", 0, 10, 5))
    store.request(Commit(3, []))
    first, before, second, after, outcomes, third = (asked.next() for _ in range(6))
    assert (first, second, third) == (Committed(1), Committed(2), Committed(3))
    assert isinstance(before, Loaded)
    assert [job.record.ordinal for job in before.jobs] == [1]
    assert after == Loaded([], more=False)
    assert isinstance(outcomes, OutcomesLoaded)
    assert (len(outcomes.items), outcomes.reader) == (1, 5)


def test_no_answer_without_a_request(asked: Asked) -> None:
    asked.commit(opened())
    assert asked.store.answers() == []
    asked.store.check()
    asked.commit()
    assert asked.store.answers() == []
