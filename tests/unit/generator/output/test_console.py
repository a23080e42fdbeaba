"""Standard error: lines, and the progress below them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.outcomes import outcome
from support.unread import BROKEN, Make, full_pipe, opened, read_until, stopped_terminal
from taskpool.clock import SECOND
from taskpool.generator.output.console import Console, ProgressBar
from taskpool.generator.totals import Totals
from taskpool.messages import State
from taskpool.procs.writer import LineWriter


class Screen:
    """A pipe, and the writer of its lines."""

    def __init__(self, make: Make, stack: ExitStack) -> None:
        self.reader, writer = stack.enter_context(opened(make))
        self.writer = LineWriter(writer, "test")
        stack.callback(self.writer.close)

    def text(self) -> str:
        """What was written since the last call."""
        assert self.writer.flush()
        return os.read(self.reader, 65_536).decode()


@pytest.fixture
def screen() -> Iterator[Screen]:
    with ExitStack() as stack:
        yield Screen(os.pipe, stack)


def test_the_bar_is_taken_away_for_a_line_and_drawn_again(screen: Screen) -> None:
    console = Console(screen.writer)
    console.bar("[##..]")
    assert screen.text() == "[##..]"
    console.info("hello")
    assert screen.text() == "\r\x1b[K[TaskGenerator] hello\n[##..]"
    console.hide_bar()
    console.detail("not without -v")
    assert screen.text() == "\r\x1b[K"
    console.hide_bar()
    console.info("goodbye")
    assert screen.text() == "[TaskGenerator] goodbye\n"


@pytest.mark.parametrize("make", [full_pipe, stopped_terminal])
def test_of_bars_that_were_not_seen_the_last_is_drawn(make: Make) -> None:
    with ExitStack() as stack:
        screen = Screen(make, stack)
        console = Console(screen.writer)
        for number in range(100_000):
            console.bar(f"[{number}]")
        console.hide_bar()
        console.bar("[end]\n")
        assert screen.writer.dropped == 0
        assert len(b"".join(read_until(screen.reader, b"[end]\n"))) < 100


@pytest.mark.parametrize("make", BROKEN)
def test_a_closed_standard_error_is_survived(make: Make) -> None:
    with ExitStack() as stack:
        console = Console(Screen(make, stack).writer)
        for _ in range(3):
            console.error("x")
            console.bar("[##..]")
            console.hide_bar()


def test_quiet_leaves_errors(screen: Screen) -> None:
    console = Console(screen.writer, verbosity=-1)
    console.info("a")
    console.warning("b")
    console.error("c")
    assert screen.text() == "tp-generator: c\n"


def test_progress_as_json(screen: Screen) -> None:
    totals = Totals()
    totals.add(outcome(state=State.FAILED))
    progress = ProgressBar("json", Console(screen.writer), totals, started=0)
    progress.show(4, SECOND // 2)
    progress.show(4, SECOND)
    assert json.loads(screen.text()) == {
        "type": "progress",
        "finished": 1,
        "total": 4,
        "failed": 1,
        "crashes": 0,
        "elapsed_seconds": 1.0,
    }


def test_the_time_left_is_by_what_this_run_has_done(screen: Screen) -> None:
    totals = Totals()
    for seq in range(1, 15):
        totals.add(outcome(seq), earlier=True)
    progress = ProgressBar("bar", Console(screen.writer), totals, started=0)
    progress.begin(5 * SECOND)
    progress.show(20, 6 * SECOND)
    assert screen.text().endswith("14/20 done, 6.0s")
    totals.add(outcome(15))
    totals.add(outcome(16))
    progress.show(20, 9 * SECOND)
    assert screen.text().endswith("16/20 done, 9.0s, 8.0s left")


def test_progress_as_a_bar(screen: Screen) -> None:
    totals = Totals()
    totals.add(outcome())
    progress = ProgressBar("bar", Console(screen.writer), totals, started=0)
    progress.show(3, 10 * SECOND)
    assert screen.text() == "[##########....................] 1/3 done, 10s, 20s left"
    progress.show(None, 20 * SECOND)
    assert screen.text().endswith("1/? done, 20s")
