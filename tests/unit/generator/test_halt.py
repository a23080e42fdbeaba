"""`--halt`: its words, and when it is reached."""

from __future__ import annotations

import pytest

from taskpool.errors import UsageError
from taskpool.generator.halt import parse_halt
from taskpool.messages import State


@pytest.mark.parametrize(
    ("spec", "counted", "jobs", "reached"),
    [
        ("now,fail=1", 0, 5, False),
        ("now,fail=1", 1, None, True),
        ("soon,success=3", 2, 100, False),
        ("soon,success=3", 3, 100, True),
        # A share is of all jobs, rounded up, and not judged before they are counted.
        ("soon,fail=25%", 2, 10, False),
        ("soon,fail=25%", 3, 10, True),
        ("soon,fail=1%", 0, 10, False),
        ("soon,fail=1%", 1, 10, True),
        ("soon,done=1%", 99, None, False),
        ("soon,done=100%", 9, 10, False),
        ("soon,done=100%", 10, 10, True),
        ("soon,done=50%", 0, 0, False),
    ],
)
def test_when_it_is_reached(spec: str, counted: int, jobs: int | None, reached: bool) -> None:
    rule = parse_halt(spec)
    assert rule is not None
    assert rule.reached(counted, jobs) is reached


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("1", "soon,fail=1"),
        ("2", "now,fail=1"),
        ("-1", "soon,success=1"),
        ("-2", "now,success=1"),
        ("7%", "soon,fail=7%"),
    ],
)
def test_short_forms(short: str, long: str) -> None:
    assert parse_halt(short) == parse_halt(long)


@pytest.mark.parametrize("spec", ["never", "0"])
def test_never(spec: str) -> None:
    assert parse_halt(spec) is None


@pytest.mark.parametrize(
    ("reason", "states"),
    [
        ("fail", {State.FAILED, State.TIMED_OUT, State.QUARANTINED}),
        ("success", {State.SUCCEEDED}),
        ("done", {State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.QUARANTINED}),
        ("quarantined", {State.QUARANTINED}),
    ],
)
def test_what_is_counted(reason: str, states: set[State]) -> None:
    rule = parse_halt(f"now,{reason}=1")
    assert rule is not None
    assert rule.states == states
    assert rule.is_failure is (reason in ("fail", "quarantined"))


@pytest.mark.parametrize(
    "spec",
    ["", "now", "now,fail", "now,fail=0", "now,fail=101%", "soon,done=0%", "later,fail=1", "now,crash=1", "3", "0%"],
)
def test_wrong_rules(spec: str) -> None:
    with pytest.raises(UsageError, match=f"--halt: expected never, or now.soon.*got '{spec}'"):
        parse_halt(spec)
