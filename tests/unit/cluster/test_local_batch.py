"""Which batch a member's jobs are in, from one life to the next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from taskpool.client.queries import BatchQueries, BatchStatus
from taskpool.cluster.engine import JobKey
from taskpool.cluster.job import Mark
from taskpool.cluster.local_batch import LOOKS_MAX, Left, Note, find, load_note, save_note
from taskpool.errors import ConfigurationError
from taskpool.messages import Answer, Outcome, State

NOTE = Note("host.1")


def mark(seq: int) -> Mark:
    return Mark(JobKey("b", seq, 1), "normal.1.2.3", 0, bytes(16), None)


class FakeQueries:
    """A dealer's answers. A job that is `late` is not known until it was asked for some times."""

    def __init__(self, **batches: BatchStatus) -> None:
        self.batches = {name.replace("_", "-"): status for name, status in batches.items()}
        self.ended: dict[int, int] = {}  # job by the number of its outcome
        self.late: dict[int, int] = {}
        self.slept = 0

    def batch(self, name: str) -> BatchStatus | None:
        return self.batches.get(name)

    def outcomes(self, name: str, after: int, upto: int) -> Iterator[Outcome]:
        for no in range(after + 1, upto + 1):
            yield Outcome(no, self.ended[no], 1, "fib", None, State.SUCCEEDED, 1, 0)

    def job(self, name: str, seq: int) -> Answer:
        self.late[seq] = self.late.get(seq, 0) - 1
        if self.late[seq] >= 0:
            return Answer(1, "show", ok=False, body=b"{}")
        label = mark(seq).text() if seq < 100 else "a person's"
        body = {"state": "queued", "label": label, "kind": "fib"}
        return Answer(1, "show", ok=True, body=msgspec.json.encode(body))

    def sleep(self, duration_ns: int) -> None:
        self.slept += 1


def found(queries: FakeQueries) -> tuple[Note, Left]:
    return find(cast("BatchQueries", cast("Any", queries)), NOTE)


def status(**changes: Any) -> BatchStatus:
    return BatchStatus(**{"accepted": 0, "recorded": 0, "acknowledged": 0, "open": 0, **changes})


def test_a_note_is_kept(tmp_path: Path) -> None:
    first = load_note(tmp_path)
    assert first.batch == "cluster-1"
    save_note(tmp_path, first.next())
    assert load_note(tmp_path) == first.next()
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.json"]


def test_a_note_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_bytes(b'{"member": 5}')
    with pytest.raises(ConfigurationError, match=r"cluster\.json cannot be read .*Remove it"):
        load_note(tmp_path)


def test_the_first_life_finds_nothing() -> None:
    assert found(FakeQueries()) == (NOTE, Left())


def test_batches_that_are_closed_are_passed_over() -> None:
    queries = FakeQueries(cluster_1=status(total=0), cluster_2=status(total=5))
    note, left = found(queries)
    assert (note.batch, left) == ("cluster-3", Left())


def test_jobs_without_an_outcome_are_found_with_what_they_are() -> None:
    queries = FakeQueries(cluster_1=status(accepted=4, recorded=2, acknowledged=1, cancelled=True))
    queries.ended = {1: 3, 2: 1}
    _, left = found(queries)
    assert left == Left(1, ((2, mark(2)), (4, mark(4))), 2, cancelled=True)


def test_a_dealer_that_still_reads_its_journal_is_asked_again() -> None:
    queries = FakeQueries(cluster_1=status(accepted=2))
    queries.late = {2: 3}
    _, left = found(queries)
    assert left.open == ((1, mark(1)), (2, mark(2)))
    assert queries.slept == 3


def test_a_job_that_is_not_found_does_not_hold_up_the_others() -> None:
    queries = FakeQueries(cluster_1=status(accepted=1))
    queries.late = {1: LOOKS_MAX + 1}
    _, left = found(queries)
    assert left.open == ()
    assert queries.slept == LOOKS_MAX - 1
