"""How far a batch is: a bar, lines, JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from support.outcomes import outcome
from taskpool.clock import SECOND
from taskpool.generator.output.console import Console
from taskpool.generator.output.progress import Progress, ProgressMode, choose_mode
from taskpool.generator.totals import Totals
from taskpool.messages import Outcome, State
from taskpool.procs.writer import LineWriter


class Shown:
    """A progress, and what it has written."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        self._writer = LineWriter(writer, "test")
        self.totals = Totals()

    def begin(self, mode: ProgressMode) -> Progress:
        return Progress(mode, Console(self._writer), self.totals, started=0)

    def add(self, progress: Progress, *outcomes: Outcome, earlier: bool = False) -> None:
        for each in outcomes:
            self.totals.add(each, earlier=earlier)
            progress.pace.add(each, earlier=earlier)

    def text(self) -> str:
        """What was written since the last call."""
        assert self._writer.flush()
        return os.read(self._reader, 65_536).decode()

    def close(self) -> None:
        self._writer.close()
        os.close(self._reader)


@pytest.fixture
def shown() -> Iterator[Shown]:
    with closing(Shown()) as made:
        yield made


def test_a_bar_says_how_far_it_is_and_how_fast(shown: Shown) -> None:
    progress = shown.begin("bar")
    shown.add(progress, outcome())
    progress.running = 2
    progress.show(3, 10 * SECOND)
    assert shown.text() == "[#########..................] 1/3 done (33 %), 2 running, 0.1/s, 10s, 20s left"
    progress.show(None, 20 * SECOND)
    assert shown.text().endswith("1/? done, 2 running, 0.0/s, 20s"), "an endless input has no end to reach"


def test_a_bar_counts_what_went_wrong(shown: Shown) -> None:
    progress = shown.begin("bar")
    shown.add(progress, outcome(1), outcome(2, State.QUARANTINED, crashes=3), outcome(3, State.FAILED))
    progress.show(100, 10 * SECOND)
    text = shown.text()
    assert "3/100 done (3 %), 2 failed, 3 crashes, 1 quarantined, 0.3/s" in text and len(text) < 80


def test_a_bar_reaches_its_end_and_stays(shown: Shown) -> None:
    progress = shown.begin("bar")
    shown.add(progress, outcome(1), outcome(2))
    progress.running = 1
    progress.show(2, 10 * SECOND, last=True)
    assert shown.text() == "[##############################] 2/2 done (100 %), 0.2/s, 10s\n"


def test_a_bar_that_was_stopped_goes(shown: Shown) -> None:
    progress = shown.begin("bar")
    shown.add(progress, outcome(1))
    progress.show(2, SECOND)
    assert shown.text()
    progress.show(2, 10 * SECOND, last=True)
    assert shown.text() == "\r\x1b[K"


def test_lines_come_when_something_has_changed(shown: Shown) -> None:
    progress = shown.begin("plain")
    for second in range(1, 60):
        progress.show(2, second * SECOND)
    assert shown.text() == "0/2 done (0 %), 0.0/s, 5.0s\n"
    shown.add(progress, outcome(1))
    progress.show(2, 60 * SECOND)
    assert shown.text() == "1/2 done (50 %), 1.1/min, 1m00s, 1m00s left\n"


def test_json_has_it_all_with_the_time(shown: Shown) -> None:
    progress = shown.begin("json")
    shown.add(progress, outcome(1), outcome(2, State.FAILED), outcome(3, State.QUARANTINED, crashes=3))
    progress.running = 2
    progress.show(6, SECOND // 2)
    progress.show(6, SECOND)
    record = json.loads(shown.text())
    assert record.pop("ts").endswith("Z")
    assert record == {
        "type": "progress",
        "finished": 3,
        "total": 6,
        "running": 2,
        "failed": 2,
        "states": {"succeeded": 1, "failed": 1, "quarantined": 1},
        "crashes": 3,
        "jobs_per_second": 3.0,
        "elapsed_seconds": 1.0,
        "left_seconds": 1.0,
    }


def test_the_time_left_is_by_what_this_run_has_done(shown: Shown) -> None:
    progress = shown.begin("bar")
    shown.add(progress, *(outcome(seq) for seq in range(1, 15)), earlier=True)
    progress.pace.begin(5 * SECOND)
    progress.show(20, 6 * SECOND)
    assert shown.text().endswith("14/20 done (70 %), 0.0/s, 6.0s")
    shown.add(progress, outcome(15), outcome(16))
    progress.show(20, 9 * SECOND)
    assert shown.text().endswith("16/20 done (80 %), 0.5/s, 9.0s, 8.0s left")


def test_nothing_is_drawn_where_nobody_watches(shown: Shown) -> None:
    assert choose_mode("auto", quiet=False, verbose=False) == "none" and choose_mode("bar", quiet=True, verbose=True)
    progress = shown.begin("none")
    progress.show(2, 10 * SECOND)
    progress.show(2, 20 * SECOND, last=True)
    assert progress.due is None and not progress.is_shown
