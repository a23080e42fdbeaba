"""The store of a pool without a journal: what the core does not hold itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from msgspec import structs

from support.journals import returned
from taskpool.core.entries import (
    Acknowledged,
    AttemptMade,
    BatchClosed,
    BatchForgotten,
    BatchOpened,
    Entry,
    JobAccepted,
    JobCounts,
    JobRecord,
    OutcomeRecorded,
    QuarantineDropped,
    Traits,
)
from taskpool.core.storage import (
    BatchFound,
    Commit,
    Committed,
    DigestsLoaded,
    FindBatch,
    LoadDigests,
    Loaded,
    LoadJobs,
    LoadOutcomes,
    OutcomesLoaded,
    StoredJob,
)
from taskpool.ipc.spool import Spool
from taskpool.journal.memory import MemoryStore
from taskpool.limits import INLINE_OUTPUT_BYTES_MAX, VALUE_BYTES_MAX
from taskpool.messages import DEFAULT_LIMITS, JobSpec, Outcome, State

FIRST = (-(2**31), 0)


def accepted(ordinal: int, *, batch: str = "b", priority: int = 0, payload: bytes = b"") -> JobAccepted:
    spec = JobSpec("fib", payload)
    return JobAccepted(JobRecord(ordinal, batch, ordinal, priority, spec, Traits(True, ""), 7), b"digest %d" % ordinal)


def recorded(ordinal: int, no: int, state: State = State.SUCCEEDED, *, batch: str = "b") -> OutcomeRecorded:
    return OutcomeRecorded(ordinal, batch, Outcome(no, ordinal, 1, "fib", None, state, 1, 0))


def filled(*entries: Entry) -> MemoryStore:
    store = MemoryStore()
    store.request(Commit(1, list(entries)))
    assert store.answers() == [Committed(1)]
    return store


def load(store: MemoryStore, after: tuple[int, int] = FIRST, limit: int = 100, bytes_max: int = 1000) -> Loaded:
    store.request(LoadJobs(after, limit, bytes_max))
    (answer,) = store.answers()
    assert isinstance(answer, Loaded)
    return answer


def ordinals(loaded: Loaded) -> list[int]:
    return [job.record.ordinal for job in loaded.jobs]


def numbers(store: MemoryStore, after: int = 0, limit: int = 100, batch: str = "b") -> list[int]:
    store.request(LoadOutcomes(batch, after, limit))
    (answer,) = store.answers()
    assert isinstance(answer, OutcomesLoaded)
    assert answer.batch == batch
    return [outcome.no for outcome in answer.items]


def test_it_survives_nothing_and_finds_nothing() -> None:
    store = MemoryStore()
    assert not store.durable
    assert store.restore() is None
    assert store.fileno() == -1
    store.request(FindBatch("b"))
    assert store.answers() == [BatchFound("b", None)]
    store.check()
    store.close(clean=True)
    assert store.answers() == []


def test_answers_come_in_the_order_of_the_requests() -> None:
    store = MemoryStore()
    store.request(Commit(1, [BatchOpened("b", DEFAULT_LIMITS), accepted(1), BatchClosed("b", 1)]))
    store.request(LoadJobs(FIRST, 1, 1))
    store.request(Commit(2, []))
    kinds = [type(answer) for answer in store.answers()]
    assert kinds == [Committed, Loaded, Committed]


def test_a_job_comes_back_as_it_was_accepted() -> None:
    (job,) = load(filled(accepted(3, priority=2, payload=b"x"))).jobs
    record = JobRecord(3, "b", 3, 2, JobSpec("fib", b"x"), Traits(True, ""), 7)
    assert job == StoredJob(record, JobCounts(1, 0, 0, 0, 0), corrupt=False)


def test_jobs_come_best_first_above_a_key() -> None:
    store = filled(accepted(1), accepted(2, priority=1), accepted(3), accepted(4, priority=-1), accepted(5, priority=1))
    assert ordinals(load(store)) == [2, 5, 1, 3, 4]
    assert ordinals(load(store, after=(-1, 2))) == [5, 1, 3, 4]
    assert ordinals(load(store, after=(-1, 5))) == [1, 3, 4]
    assert ordinals(load(store, after=(0, 1))) == [3, 4]
    assert load(store, after=(1, 4)) == Loaded([], more=False)


@pytest.mark.parametrize(("limit", "expected", "more"), [(1, [1], True), (2, [1, 2], True), (3, [1, 2, 3], False)])
def test_so_many_at_most(limit: int, expected: list[int], more: bool) -> None:
    loaded = load(filled(accepted(1), accepted(2), accepted(3)), limit=limit)
    assert (ordinals(loaded), loaded.more) == (expected, more)


@pytest.mark.parametrize(("bytes_max", "expected"), [(0, [1]), (10, [1]), (19, [1]), (20, [1, 2]), (30, [1, 2, 3])])
def test_so_many_bytes_at_most_and_one_job_at_least(bytes_max: int, expected: list[int]) -> None:
    store = filled(*[accepted(ordinal, payload=bytes(10)) for ordinal in (1, 2, 3)])
    loaded = load(store, bytes_max=bytes_max)
    assert (ordinals(loaded), loaded.more) == (expected, len(expected) < 3)


def test_a_job_under_way_does_not_wait_and_one_that_came_back_does_with_its_counts() -> None:
    store = filled(accepted(1), accepted(2), accepted(3), AttemptMade(1, 1, 1), AttemptMade(2, 2, 1))
    assert ordinals(load(store)) == [3]
    store.request(Commit(2, [returned(2, run=1, tries=1, failures=1, crashes=2, unclean_exits=3)]))
    store.request(Commit(3, [returned(1, run=2)]))
    store.answers()
    first, second, third = load(store).jobs
    assert [job.record.ordinal for job in (first, second, third)] == [1, 2, 3]
    assert first.counts == JobCounts(run=2)
    assert second.counts == JobCounts(1, 1, 1, 2, 3)


def test_a_finished_job_is_gone_and_one_in_quarantine_can_come_back() -> None:
    store = filled(accepted(1), accepted(2), recorded(1, 1), recorded(2, 2, State.QUARANTINED))
    assert ordinals(load(store)) == []
    store.request(Commit(2, [returned(2, run=2)]))
    store.answers()
    assert ordinals(load(store)) == [2]


def test_a_dropped_job_leaves_nothing() -> None:
    store = filled(accepted(1), recorded(1, 1, State.QUARANTINED), QuarantineDropped(1))
    with pytest.raises(KeyError):
        store.request(Commit(2, [returned(1, run=2)]))


def test_outcomes_are_kept_until_they_are_acknowledged() -> None:
    store = filled(*[accepted(n) for n in (1, 2, 3)], *[recorded(n, n) for n in (1, 2, 3)])
    assert numbers(store) == [1, 2, 3]
    assert numbers(store, after=1, limit=1) == [2]
    store.request(Commit(2, [Acknowledged("b", 2), Acknowledged("nowhere", 2)]))
    store.answers()
    assert numbers(store) == [3]
    assert numbers(store, batch="nowhere") == []
    store.request(Commit(3, [BatchForgotten("b")]))
    store.answers()
    assert numbers(store) == []


def test_an_answer_names_who_asked() -> None:
    store = MemoryStore()
    store.request(LoadOutcomes("b", 0, 1, 42))
    assert store.answers() == [OutcomesLoaded("b", [], 42)]


def test_digests_of_what_was_accepted() -> None:
    store = filled(*[accepted(n) for n in (1, 2, 3)], recorded(1, 1))
    store.request(LoadDigests("b", 2, 5))
    store.request(LoadDigests("nowhere", 1, 1))
    assert store.answers() == [
        DigestsLoaded("b", 2, [b"digest 2", b"digest 3"]),
        DigestsLoaded("nowhere", 1, []),
    ]
    store.request(Commit(2, [BatchForgotten("b")]))
    store.request(LoadDigests("b", 1, 1))
    assert store.answers()[1] == DigestsLoaded("b", 1, [])


@pytest.mark.parametrize("seed", range(4))
def test_against_a_sorted_list(seed: int) -> None:
    random = Random(seed)
    store, waiting, running, last = MemoryStore(), dict[int, int](), dict[int, int](), 0
    for number in range(300):
        choice = random.random()
        if choice < 0.4:
            last += 1
            waiting[last] = random.randrange(-2, 3)
            store.request(Commit(number, [accepted(last, priority=waiting[last])]))
        elif choice < 0.6 and waiting:
            taken = random.choice(list(waiting))
            running[taken] = waiting.pop(taken)
            store.request(Commit(number, [AttemptMade(number, taken, 1)]))
        elif choice < 0.8 and running:
            back = random.choice(list(running))
            waiting[back] = running.pop(back)
            store.request(Commit(number, [returned(back, run=1, tries=1)]))
        elif running:
            done = random.choice(list(running))
            del running[done]
            store.request(Commit(number, [recorded(done, number)]))
        store.answers()
        after = (random.randrange(-3, 4), random.randrange(last + 2))
        keys = sorted((-priority, ordinal) for ordinal, priority in waiting.items())
        expected = [ordinal for key, ordinal in ((key, key[1]) for key in keys if key > after)]
        loaded = load(store, after=after, limit=5)
        assert (ordinals(loaded), loaded.more) == (expected[:5], len(expected) > 5)


# --- large outcomes -------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.sweep()
    return spool


LARGE = [b"1" * (INLINE_OUTPUT_BYTES_MAX + 1), b"2" * 1_000_000, b"3" * VALUE_BYTES_MAX]


def large(number: int, value: bytes) -> OutcomeRecorded:
    return OutcomeRecorded(number, "b", structs.replace(recorded(number, number).outcome, value=value))


def with_large(shelf: Spool) -> tuple[MemoryStore, list[OutcomeRecorded]]:
    store = MemoryStore(shelf)
    rows = [large(number, value) for number, value in enumerate(LARGE, 1)] + [large(4, b"small")]
    store.request(Commit(1, [*(accepted(number) for number in range(1, 5)), *rows]))
    assert store.answers() == [Committed(1)]
    return store, rows


def items(store: MemoryStore) -> list[Outcome]:
    store.request(LoadOutcomes("b", 0, 10))
    (answer,) = store.answers()
    assert isinstance(answer, OutcomesLoaded)
    return answer.items


def test_large_outcomes_lie_in_files_and_come_back_whole(shelf: Spool) -> None:
    store, rows = with_large(shelf)
    assert len(list(shelf.directory.iterdir())) == len(LARGE)
    for _ in range(2):
        assert items(store) == [row.outcome for row in rows]


@pytest.mark.parametrize(("entry", "left"), [(Acknowledged("b", 2), 1), (BatchForgotten("b"), 0)])
def test_their_files_go_with_them(shelf: Spool, entry: Entry, left: int) -> None:
    store, _ = with_large(shelf)
    store.request(Commit(2, [entry]))
    assert len(list(shelf.directory.iterdir())) == left


def test_without_room_for_a_file_they_stay_in_memory(tmp_path: Path) -> None:
    store, rows = with_large(Spool(tmp_path / "nowhere"))
    assert items(store) == [row.outcome for row in rows]


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"nonsense")])
def test_a_file_that_is_lost_is_told(shelf: Spool, harm: Callable[[Path], object]) -> None:
    store, rows = with_large(shelf)
    for path in shelf.directory.iterdir():
        harm(path)
    *lost, small = items(store)
    assert small == rows[-1].outcome
    for outcome in lost:
        assert outcome.state is State.FAILED
        assert outcome.error is not None
        assert outcome.error.type == "ResultLost"
        assert "succeeded" in outcome.error.message
