from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpool.log import excerpt, render


def test_text_looks_as_it_always_did() -> None:
    assert render("text", "Worker 1470", "Starting up") == "[Worker 1470] Starting up\n"


def test_text_leaves_the_fields_out() -> None:
    assert render("text", "Dealer", "Sent job 1 -> fib(40)", {"seq": 1}) == "[Dealer] Sent job 1 -> fib(40)\n"


def test_json_has_the_same_facts() -> None:
    line = render(
        "json", "Supervisor", "Worker PID 1469 killed by SIGSEGV", {"pid": 1469, "signal": "SIGSEGV"}, "warning"
    )
    record = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record.pop("ts"))
    assert record == {
        "level": "warning",
        "who": "Supervisor",
        "text": "Worker PID 1469 killed by SIGSEGV",
        "pid": 1469,
        "signal": "SIGSEGV",
    }


def test_a_field_cannot_pass_for_another_level_or_speaker() -> None:
    record = json.loads(render("json", "Dealer", "hello", {"level": "error", "who": "me", "text": "bye", "ts": "now"}))
    assert (record["level"], record["who"], record["text"]) == ("info", "Dealer", "hello")
    assert record["ts"] != "now"


@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_whatever_is_said_stays_one_line(text: str, value: str) -> None:
    """A job's label or a file name must not forge a line, nor play with the terminal."""
    shown = render("text", "Dealer", text)
    assert shown.endswith("\n")
    assert shown[:-1].isprintable()
    line = render("json", "Dealer", text, {"label": value})
    assert line.count("\n") == 1
    assert set(json.loads(line)) == {"ts", "level", "who", "text", "label"}


def test_escapes_show_what_was_there() -> None:
    assert render("text", "Dealer", "a\nb\x1b[31m\udcff") == "[Dealer] a\\nb\\x1b[31m\\udcff\n"
    assert json.loads(render("json", "Dealer", "a\nb\udcff"))["text"] == "a\nb\\udcff"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is", "as it is"),
        ("ten bytes.", "ten bytes."),
        ("ten bytes. And more", "ten byt..."),
        ("a\nb\x1b[m", "a\\nb\\x1b[m"),
        ("\n" * 5, "\\n" * 5),
        ("\n" * 6, "\\n" * 3 + "..."),
        ("ünïcödé", "ünïc..."),
        ("\udcff", "\\udcff"),
    ],
)
def test_an_excerpt_is_one_line_of_so_many_bytes(text: str, shown: str) -> None:
    assert excerpt(text, 10) == shown


@given(st.text(st.characters(exclude_categories=())), st.integers(3, 40))
def test_an_excerpt_of_whatever_it_is_fits(text: str, most: int) -> None:
    shown = excerpt(text, most)
    assert len(shown.encode()) <= most and shown.isprintable()
