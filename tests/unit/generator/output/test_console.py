"""Standard error: lines, and the progress below them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from support.outcomes import outcome
from taskpool.clock import SECOND
from taskpool.generator.output.console import Console, ProgressBar
from taskpool.generator.totals import Totals
from taskpool.messages import State


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def read_all(fd: int) -> str:
    return os.read(fd, 65_536).decode()


def test_the_bar_is_taken_away_for_a_line_and_drawn_again(pipe: tuple[int, int]) -> None:
    console = Console(fd=pipe[1])
    console.bar("[##..]")
    console.info("hello")
    console.hide_bar()
    console.detail("not without -v")
    assert read_all(pipe[0]) == "[##..]\r\x1b[K[TaskGenerator] hello\n[##..]\r\x1b[K"


def test_a_closed_standard_error_is_survived(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    Console(fd=pipe[1]).error("x")


def test_quiet_leaves_errors(pipe: tuple[int, int]) -> None:
    console = Console(verbosity=-1, fd=pipe[1])
    console.info("a")
    console.warning("b")
    console.error("c")
    assert read_all(pipe[0]) == "tp-generator: c\n"


def test_progress_as_json(pipe: tuple[int, int]) -> None:
    totals = Totals()
    totals.add(outcome(state=State.FAILED))
    progress = ProgressBar("json", Console(fd=pipe[1]), totals, started=0)
    progress.show(4, SECOND // 2)
    progress.show(4, SECOND)
    assert json.loads(read_all(pipe[0])) == {
        "type": "progress",
        "finished": 1,
        "total": 4,
        "failed": 1,
        "crashes": 0,
        "elapsed_seconds": 1.0,
    }


def test_progress_as_a_bar(pipe: tuple[int, int]) -> None:
    totals = Totals()
    totals.add(outcome())
    progress = ProgressBar("bar", Console(fd=pipe[1]), totals, started=0)
    progress.show(3, 10 * SECOND)
    assert read_all(pipe[0]) == "[##########....................] 1/3 done, 10s, 20s left"
    progress.show(None, 20 * SECOND)
    assert read_all(pipe[0]).endswith("1/? done, 20s")
