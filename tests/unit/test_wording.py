"""Numbers with their nouns, and durations, as people write and read them."""

from __future__ import annotations

import pytest

from taskpool.clock import SECOND
from taskpool.durations import parse_duration
from taskpool.errors import UsageError, counted


def test_a_noun_agrees_with_its_number() -> None:
    assert [counted(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
    assert [counted(number, "crash", "crashes") for number in (1, 3)] == ["1 crash", "3 crashes"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("500ms", 0.5), ("1.5s", 1.5), ("2m", 120), ("1h30m", 5400), ("0.5h", 1800), ("1s1ms", 1.001)],
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text, "--timeout") == round(seconds * SECOND)


@pytest.mark.parametrize("text", ["", "s", "5x", "1m1h", "1ms1s", "-1s", "1e3", "5 m", "٣s", "1.s"])
def test_a_bad_duration_says_what_is_accepted(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text, "--timeout")
    assert str(caught.value) == (
        f"--timeout: expected a duration such as 90 (seconds), 500ms, 1.5s, 2m or 1h30m, got {text!r}"
    )
