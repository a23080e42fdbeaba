"""Which jobs of a batch are to run again, and how a pool is asked for it."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterable
from typing import NamedTuple

from taskpool import limits
from taskpool.client.queries import BatchQueries
from taskpool.errors import UsageError
from taskpool.messages import Outcome, Ranges, State

_RANGE = re.compile(r"(\d{1,16})(?:-(\d{1,16}))?", re.ASCII)
_BY_OPTION = {"failed": State.FAILED, "timed_out": State.TIMED_OUT, "quarantined": State.QUARANTINED}
ENDED_BADLY = frozenset({State.FAILED, State.TIMED_OUT, State.CANCELLED, State.QUARANTINED})


class Selection(NamedTuple):
    """Which jobs are to run again."""

    states: frozenset[State]
    ranges: tuple[tuple[int, int], ...] = ()  # none: all

    def wants(self, outcome: Outcome) -> bool:
        """Whether a job whose last outcome this is runs again."""
        within = not self.ranges or any(first <= outcome.seq <= last for first, last in self.ranges)
        return within and outcome.state in self.states


class Request(NamedTuple):
    """Jobs to be asked for in one message."""

    run: int  # that has ended
    ranges: Ranges


def selection_of(args: Namespace) -> Selection:
    """Return what the command line chooses. Raises UsageError."""
    states = frozenset(state for name, state in _BY_OPTION.items() if getattr(args, name))
    ranges = () if args.jobs is None else tuple(_parse_range(text) for text in args.jobs.split(","))
    return Selection(ENDED_BADLY if args.all or not states else states, ranges)


def _parse_range(text: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(text.strip())
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last <= limits.JOB_SEQ_MAX:
        raise UsageError(f"--jobs: expected numbers and ranges of jobs from 1, like 3,7-9, got {text!r}")
    return first, last


def choose_jobs(queries: BatchQueries, batch: str, recorded: int, selection: Selection) -> dict[int, int]:
    """Return the jobs that run again, and for each the run that has ended. Raises UsageError when there are none."""
    chosen: dict[int, int] = {}
    for outcome in queries.outcomes(batch, 0, recorded):
        if selection.wants(outcome):
            chosen[outcome.seq] = outcome.run
        else:
            chosen.pop(outcome.seq, None)  # a later run of it ended otherwise
    if not chosen:
        states = ", ".join(sorted(selection.states))
        raise UsageError(
            f"rerun: no job of batch {batch!r} that was asked for has ended as {states}: nothing is to run again; "
            "what a job was is not kept when it has succeeded"
        )
    return chosen


def requests_for(chosen: dict[int, int]) -> list[Request]:
    """Put jobs into as few messages as they fit."""
    by_run = {run: _ranges(seq for seq in sorted(chosen) if chosen[seq] == run) for run in sorted({*chosen.values()})}
    return [
        Request(run, tuple(ranges[at : at + limits.RERUN_RANGES_MAX]))
        for run, ranges in by_run.items()
        for at in range(0, len(ranges), limits.RERUN_RANGES_MAX)
    ]


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return rising numbers as ranges, first and last."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
