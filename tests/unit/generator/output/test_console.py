"""Standard error: lines, and the progress below them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.unread import BROKEN, Make, full_pipe, opened, read_until, stopped_terminal
from taskpool.generator.output.console import Console
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
