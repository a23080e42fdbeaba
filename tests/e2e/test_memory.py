"""The dealer's memory does not grow with what waits: for the disk, for a reader, or for its turn.

Judged by the peak that the kernel has seen (VmHWM in /proc/PID/status). Each test moves more than that.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from support.harness import OK, Program, Stage, until

MIB = 1024 * 1024
PEAK_MIB_MAX = 200
JOBS = 55
LARGE_BYTES = 4 * MIB - 300  # of a value or a payload, with what is around it
RESULT = json.dumps(["x", LARGE_BYTES]).encode()
ARGUMENT = json.dumps(["x" * LARGE_BYTES]).encode()

assert JOBS * LARGE_BYTES > PEAK_MIB_MAX * MIB


def peak_mib(dealer: Program) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{dealer.pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def submit(stage: Stage, call: str, line: bytes, *how: str) -> Program:
    lines = b"\n".join([line] * JOBS)
    return stage.generator("python", "--pool", stage.pool, "--batch", "b", *how, call, stdin=lines)


@pytest.fixture(params=["journal", "none"])
def dealer(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Program]:
    journal = "none" if request.param == "none" else str(stage.directory / "j")
    dealer = stage.dealer("--workers", 4, "--journal", journal)
    yield dealer
    assert peak_mib(dealer) < PEAK_MIB_MAX


def test_large_results_that_have_no_reader(stage: Stage, dealer: Program) -> None:
    submit(stage, "operator:mul", RESULT, "--detach").ends(OK)
    stage.generator("wait", "b", "--pool", stage.pool).ends(OK)
    lines = stage.generator("results", "b", "--pool", stage.pool, "--json").ends(OK).lines
    assert len(lines) == JOBS
    assert all(len(json.loads(line)["value"]) == LARGE_BYTES for line in lines)


def test_large_results_with_a_reader_that_stands(stage: Stage, dealer: Program) -> None:
    generator = submit(stage, "operator:mul", RESULT, "--output", "json")
    until(lambda: generator.stdout, "the first outcome")
    generator.send(SIGSTOP)
    time.sleep(3)  # what is ready meanwhile has no reader
    generator.send(SIGCONT)
    assert len(generator.ends(OK).lines) == JOBS


def test_large_arguments_that_come_at_once(stage: Stage, dealer: Program) -> None:
    generator = submit(stage, "builtins:len", ARGUMENT, "--output", "json").ends(OK)
    assert [each["value"] for each in generator.objects()] == [LARGE_BYTES] * JOBS
