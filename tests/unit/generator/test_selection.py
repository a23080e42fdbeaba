"""Which jobs run again, and in which messages that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import pytest

from taskpool.client.queries import BatchQueries
from taskpool.errors import UsageError
from taskpool.generator.parser import build_parser
from taskpool.generator.selection import ENDED_BADLY, Request, Selection, choose_jobs, requests_for, selection_of
from taskpool.limits import RERUN_RANGES_MAX
from taskpool.messages import Outcome, State


class Recorded:
    """The outcomes of a batch: (seq, run, state) each."""

    def __init__(self, *ends: tuple[int, int, State]) -> None:
        self._ends = ends

    def outcomes(self, name: str, after: int, upto: int) -> Iterator[Outcome]:
        for no, (seq, run, state) in enumerate(self._ends, 1):
            yield Outcome(no, seq, run, "command", None, state, 1, 0)


def parse(*words: str) -> Selection:
    return selection_of(build_parser().parse_args(["rerun", "b", *words]))


@pytest.mark.parametrize(
    ("words", "selection"),
    [
        ([], Selection(ENDED_BADLY)),
        (["--all"], Selection(ENDED_BADLY)),
        (["--failed", "--timed-out"], Selection(frozenset({State.FAILED, State.TIMED_OUT}))),
        (["--quarantined", "--jobs", "3,7-9"], Selection(frozenset({State.QUARANTINED}), ((3, 3), (7, 9)))),
    ],
)
def test_what_the_command_line_chooses(words: list[str], selection: Selection) -> None:
    assert parse(*words) == selection


@pytest.mark.parametrize("text", ["0", "3-1", "a", "1,,2", "", "-5", "1-", "9" * 17])
def test_numbers_that_name_no_jobs_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--jobs: expected numbers and ranges of jobs from 1"):
        parse(f"--jobs={text}")


def test_the_last_outcome_of_a_job_decides() -> None:
    ends = [(1, 1, State.FAILED), (2, 1, State.FAILED), (3, 1, State.SUCCEEDED), (1, 2, State.SUCCEEDED)]
    ends += [(2, 2, State.TIMED_OUT), (4, 1, State.CANCELLED)]
    queries = cast(BatchQueries, Recorded(*ends))
    assert choose_jobs(queries, "b", len(ends), Selection(ENDED_BADLY)) == {2: 2, 4: 1}
    assert choose_jobs(queries, "b", len(ends), Selection(ENDED_BADLY, ((3, 9),))) == {4: 1}
    with pytest.raises(UsageError, match="no job of batch 'b' that was asked for has ended as failed"):
        choose_jobs(queries, "b", len(ends), Selection(frozenset({State.FAILED})))


def test_jobs_are_asked_for_by_run_and_in_ranges() -> None:
    assert requests_for({1: 1, 2: 1, 3: 2, 4: 1, 9: 1}) == [Request(1, ((1, 2), (4, 4), (9, 9))), Request(2, ((3, 3),))]
    scattered = requests_for(dict.fromkeys(range(1, 4 * RERUN_RANGES_MAX, 2), 1))
    assert [len(request.ranges) for request in scattered] == [RERUN_RANGES_MAX] * 2
