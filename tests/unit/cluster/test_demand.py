"""How many jobs a member asks for."""

from __future__ import annotations

import json

import pytest

from taskpool.clock import MILLISECOND, SECOND
from taskpool.cluster.demand import AHEAD_JOBS_MAX, FETCH_JOBS_MAX, Load, Pace, Share, parse_load, wanted


def load(**changes: object) -> Load:
    told = {"state": "running", "workers_wanted": 4, "jobs": {"queued": 0, "delayed": 0, "running": 0}, "running": []}
    found = parse_load(json.dumps({**told, **changes}).encode())
    assert found is not None
    return found


def paced(run_ns: int) -> Pace:
    pace = Pace()
    pace.add(run_ns)
    return pace


@pytest.mark.parametrize(
    ("share", "count"),
    [
        (Share(None, 0, 0), 0),
        (Share(load(), 0, 0), 4),
        (Share(load(), 3, 0), 1),
        (Share(load(), 9, 0), 0),
        (Share(load(jobs={"running": 3}), 3, 3), 1),
        (Share(load(jobs={"running": 4, "queued": 9}), 1, 1), 0),  # those of the host's own generators come first
        (Share(load(jobs={"running": 4}), 0, 4), 4),  # ours have ended since
        (Share(load(state="paused"), 0, 0), 0),
        (Share(load(state="draining"), 0, 0), 0),
        (Share(load(out_of_service=True), 0, 0), 0),
        (Share(load(workers_wanted=0), 0, 0), 0),
    ],
)
def test_as_many_as_there_are_free_workers(share: Share, count: int) -> None:
    assert wanted(share, paced(1 * SECOND)) == count
    assert wanted(share, Pace()) == count, "before a job has ended, none is taken for short"


@pytest.mark.parametrize(("run_ns", "count"), [(50 * MILLISECOND, 4), (10 * MILLISECOND, 24), (1 * MILLISECOND, 204)])
def test_short_jobs_are_fetched_ahead(run_ns: int, count: int) -> None:
    assert wanted(Share(load(), 0, 0), paced(run_ns)) == count


def test_not_without_a_limit() -> None:
    assert wanted(Share(load(), 0, 0), paced(1)) == FETCH_JOBS_MAX
    assert wanted(Share(load(), AHEAD_JOBS_MAX + 4, 0), paced(1)) == 0


def test_a_pace_follows_what_ends() -> None:
    pace = paced(100)
    pace.add(0)
    assert pace.mean_ns == 100
    pace.add(200)
    assert pace.mean_ns == pytest.approx(110)


def test_what_runs_of_a_batch() -> None:
    told = load(running=[{"job": "cluster-1/7"}, {"job": "cluster-11/8"}, {"job": "other/9"}])
    assert told.running_in("cluster-1") == [7]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"jobs": 5}'])
def test_an_answer_that_is_none(body: bytes) -> None:
    assert parse_load(body) is None
