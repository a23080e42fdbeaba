"""Text of any origin takes exactly the columns that it is given, and nothing in it acts on a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpool.generator.top.cells import fit, human_bytes, human_rate, human_seconds, sparkline, width

HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "<img src=x onerror=alert(1)>",
    "line\nline\r\n\ttab\0nul",
    "文字化け全角",
    "ｆｕｌｌ",
    "e" + "\u0301" * 500,
    "\u202eright to left\u202c",
    "a\u200bb\ufeffc",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\ud800 half of a pair",
    "x" * 4 * 1024 * 1024,
    "文" * 4 * 1024 * 1024,
    "\u0301" * 4 * 1024 * 1024,
    "",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("columns", [0, 1, 2, 3, 7, 80, 200])
def test_hostile_text_fits(text: str, columns: int) -> None:
    shown = fit(text, columns)
    assert width(shown) == columns
    assert all(char.isprintable() or char == "\u0301" for char in shown)
    assert len(shown) <= 3 * columns, "marks are bounded"


@given(st.text(max_size=300), st.integers(0, 120))
def test_any_text_fits(text: str, columns: int) -> None:
    shown = fit(text, columns)
    assert width(shown) == columns
    assert "\x1b" not in shown


def test_short_text_is_filled_up_and_long_text_is_marked() -> None:
    assert fit("abc", 5) == "abc  "
    assert fit("abcdef", 5) == "abcd~"
    assert fit("abcde", 5) == "abcde"
    assert fit("文字文", 5) == "文字~"
    assert fit("a文字文", 5) == "a文 ~", "a wide character is not cut in two"


def test_escapes_are_shown_as_text() -> None:
    assert fit("\x1b[1m", 9) == "\\x1b[1m  "


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (1000, "1.0K"), (18 * 2**20, "18M"), (2**60, "1024P"), (5 * 2**30, "5.0G")],
)
def test_sizes(size: int | None, text: str) -> None:
    assert human_bytes(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "-"), (0.04, "0.0s"), (59.9, "59.9s"), (61, "1:01"), (3 * 3600 + 420, "3h07"), (90_000, "1d01")),
        *((float("nan"), "-"), (float("inf"), "-"), (-1, "-")),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(None, "-"), (0.5, "0.50"), (42.42, "42.4"), (12_345.0, "12k")])
def test_rates(rate: float | None, text: str) -> None:
    assert human_rate(rate) == text


def test_a_sparkline_ends_with_the_newest() -> None:
    assert sparkline([0, 1, 2, 4, 8], 5) == " ▁▂▄█"
    assert sparkline([1, 0.001], 4) == "  █▁", "what is not nothing is seen"
    assert sparkline([], 3) == "   "
    assert sparkline([0, 0], 2) == "  "
    assert sparkline([9, 1, 1], 2) == "██", "scaled to what is seen"
