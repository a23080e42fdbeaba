"""Jobs that did not succeed: their lines, their causes, and how many of the lines are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.outcomes import outcome
from taskpool.generator.failures import DETAIL_BYTES_MAX, Causes, Flood, cause, describe
from taskpool.messages import JobError, Output, State

FAILED, LIMIT = State.FAILED, DETAIL_BYTES_MAX


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"exit_status": 1, "job": "convert a.png b.jpg", "output": Output(stderr="first\nno such file\n\n")},
            "Job 57 failed (exit 1): convert a.png b.jpg: no such file",
        ),
        ({"exit_status": 1, "job": "true"}, "Job 57 failed (exit 1): true"),
        ({"exit_status": 1, "job": "true", "label": "mine"}, "Job 57 (mine) failed (exit 1): true"),
        ({"exit_status": 1, "job": "x", "attempts": 3}, "Job 57 failed (exit 1, 3 attempts): x"),
        ({"signal": 11, "job": "x"}, "Job 57 failed (SIGSEGV): x"),
        ({"error": JobError("m.Wrong", " why\nso "), "job": "m:f()"}, "Job 57 failed (m.Wrong): m:f(): why\\nso"),
        ({"error": JobError("Wrong"), "job": "m:f()"}, "Job 57 failed (Wrong): m:f()"),
        ({"state": State.TIMED_OUT, "job": "sleep 9", "signal": 15}, "Job 57 timed-out: sleep 9"),
        ({"state": State.TIMED_OUT, "job": "x", "attempts": 2}, "Job 57 timed-out (2 attempts): x"),
        ({"state": State.QUARANTINED, "signal": 11, "crashes": 3}, "Job 57 quarantined (SIGSEGV, 3 crashes): fib"),
        ({"state": State.QUARANTINED, "signal": 64, "crashes": 1}, "Job 57 quarantined (SIGRTMAX, 1 crash): fib"),
        ({"state": State.QUARANTINED, "signal": 40, "crashes": 1}, "Job 57 quarantined (signal 40, 1 crash): fib"),
        (
            {"state": State.QUARANTINED, "error": JobError("DealerLost", "4 times"), "job": "x"},
            "Job 57 quarantined (DealerLost): x: 4 times",
        ),
        ({"exit_status": 1, "output": Output(stderr="\x1b[31mred")}, "Job 57 failed (exit 1): fib: \\x1b[31mred"),
        (
            {"exit_status": 1, "output": Output(stderr="x" * 900)},
            f"Job 57 failed (exit 1): fib: {'x' * (LIMIT - 3)}...",
        ),
        ({"exit_status": 1, "output": Output(stderr_file="/gone/err")}, "Job 57 failed (exit 1): fib"),
        ({"exit_status": 0}, "Job 57 failed (failed): fib"),
    ],
)
def test_a_failure_in_one_line(changes: dict[str, Any], line: str) -> None:
    assert describe(outcome(57, **{"state": FAILED, **changes})) == line


def test_the_last_line_of_much_output_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "err"
    path.write_bytes(b"x" * 100_000 + b"\n the \xff end \n \n")
    text = describe(outcome(1, FAILED, exit_status=2, job="c", output=Output(stderr_file=str(path))))
    assert text == "Job 1 failed (exit 2): c: the \\xff end"


def test_causes_are_counted_by_the_last_run_of_each_job() -> None:
    causes = Causes()
    assert causes.text() == ""
    for seq in (5, 1, 3):
        causes.add(outcome(seq, FAILED, exit_status=1))
    causes.add(outcome(2, State.TIMED_OUT))
    causes.add(outcome(4, State.CANCELLED))
    causes.add(outcome(7, State.QUARANTINED, signal=11, crashes=3))
    assert causes.text() == "3 × exit 1, 1 × SIGSEGV, 1 × timed out"
    causes.add(outcome(7))  # it was requeued
    causes.add(outcome(5, FAILED, exit_status=2))
    assert causes.text() == "2 × exit 1, 1 × exit 2, 1 × timed out"


def test_many_causes_are_told_by_the_most_frequent() -> None:
    causes = Causes()
    for seq in range(1, 1001):
        causes.add(outcome(seq, FAILED, error=JobError(f"E{seq // 2:03}")))
    assert causes.text() == "2 × E001, 2 × E002, 2 × E003, 2 × E004, 2 × E005, 2 × E006, 988 × other causes"


@pytest.mark.parametrize("kind", ["a\nb", "x" * 1000])
def test_a_cause_is_a_short_printable_word(kind: str) -> None:
    word = cause(outcome(1, FAILED, error=JobError(kind)))
    assert word.isprintable() and len(word) <= 200


def test_the_first_failures_get_a_line_and_then_a_count_at_each_doubling() -> None:
    flood = Flood()
    admitted, counted = 0, []
    for number in range(1, 101):
        if flood.admit():
            admitted += 1
        elif flood.counts_now():
            counted.append(number)
    assert (admitted, counted) == (10, [20, 40, 80])
