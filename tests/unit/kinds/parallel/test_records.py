"""Inputs, records and packs by themselves, where GNU parallel is not at hand to compare with."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskpool.errors import UsageError
from taskpool.kinds.parallel import inputs, records
from taskpool.kinds.parallel.options import InputOptions
from taskpool.kinds.parallel.packing import Filling, by_number
from taskpool.kinds.parallel.words import Input, split

Values = list[bytes]


def values(text: str) -> Values:
    return [letter.encode() for letter in text]


def combined(*lists: str, linked: str = "") -> list[str]:
    """Records as words; `linked`: the numbers of the inputs that go in step with the one before."""
    others = [values(each) for each in lists[1:]]
    flags = [str(number) in linked for number in range(1, len(lists))]
    found = records.combined(iter(values(lists[0])), others, flags)
    return [b"".join(record).decode() for record in found if record is not None]


@pytest.mark.parametrize(
    ("lists", "linked", "expected"),
    [
        (["ab"], "", "a b"),
        (["ab", "12"], "", "a1 a2 b1 b2"),
        (["ab", "12", "XY"], "", "a1X a1Y a2X a2Y b1X b1Y b2X b2Y"),
        (["abc", "12"], "1", "a1 b2"),
        (["ab", "123"], "1", "a1 b2"),
        (["ab", "12", "XY"], "1", "a1X a1Y b2X b2Y"),
        (["ab", "12", "XY"], "2", "a1X a2Y b1X b2Y"),
        (["ab", "12", "XY"], "12", "a1X b2Y"),
        (["ab", ""], "", "a b"),
        (["", "12"], "", "1 2"),
        (["ab", ""], "1", "a"),
        (["", ""], "", ""),
    ],
)
def test_combinations(lists: list[str], linked: str, expected: str) -> None:
    assert combined(*lists, linked=linked) == expected.split()


@given(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4))
def test_combinations_are_those_of_itertools(lists: list[str]) -> None:
    assert combined(*lists) == ["".join(each) for each in itertools.product(*lists)]


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (["abc", "12"], "a1 b2 c1"),
        (["ab", "12345"], "a1 b2 a3 b4 a5"),
        (["ab", "1", "XYZ"], "a1X b1Y a1Z"),
        (["", "12"], "1 2"),
        (["ab", ""], "a b"),
        (["", ""], ""),
    ],
)
def test_a_short_input_begins_again(lists: list[str], expected: str) -> None:
    found = records.recycled(iter(values(lists[0])), [values(each) for each in lists[1:]])
    assert [b"".join(record).decode() for record in found if record is not None] == expected.split()


def test_columns_and_blanks() -> None:
    split_up = records.in_columns([(b" a , b", b"c"), None, (b"",)], re.compile(b","))
    assert list(records.trimmed(split_up, "lr")) == [(b"a", b"b", b"c"), None, (b"",)]
    assert records.columns_of(b"a1b", re.compile(b"([0-9])|x")) == [b"a", b"1", b"b"]
    assert list(records.trimmed([(b" a ",)], "l")) == [(b"a ",)]
    assert list(records.trimmed([(b" a ",)], "r")) == [(b" a",)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, [(), (), ()]), (1, [(b"a",), (b"b",), (b"c",)]), (2, [(b"a", b"b"), (b"c",)]), (9, [(b"a", b"b", b"c")])],
)
def test_so_many_to_a_job(count: int, expected: list[tuple[bytes, ...]]) -> None:
    assert list(by_number(iter([(b"a",), (b"b",), (b"c",)]), count)) == expected
    with_lines: Iterator[records.Record | None] = iter([None, (b"a",), None, (b"b",), None])
    assert [item for item in by_number(with_lines, 2) if item is not None] == [(b"a", b"b")]


@pytest.mark.parametrize(
    ("room", "count", "slots", "sizes"),
    [
        (100, None, None, [7]),
        (100, None, 1, [7]),
        (100, None, 2, [4, 3]),
        (100, None, 9, [1] * 7),
        (3, None, None, [3, 3, 1]),
        (3, None, 2, [3, 3, 1]),
        (100, 3, 2, [3, 3, 1]),
        (100, 5, 2, [5, 1, 1]),
    ],
)
def test_as_many_as_fit(room: int, count: int | None, slots: int | None, sizes: list[int]) -> None:
    filling = Filling(lambda record: len(record[0]), room, count, slots)
    assert [len(job) for job in filling.jobs((each,) for each in values("abcdefg")) if job is not None] == sizes


def test_one_that_does_not_fit() -> None:
    with pytest.raises(UsageError, match="takes 4 bytes of a command line, which has room for 3"):
        list(Filling(lambda record: len(record[0]), 3, None, None).jobs([(b"abcd",)]))


def cleaned(items: list[bytes | None], **options: Any) -> list[bytes | None]:
    return list(inputs.cleaned(items, InputOptions(**options)))


def test_blank_values_and_lines_that_go_on() -> None:
    assert cleaned([b"a", None, b"", b" ", b"b"], skip_blank=True) == [b"a", None, b"b"]
    assert cleaned([b"a ", None, b"b", b"c", b"d "], joins_lines=True) == [None, b"a b", b"c", b"d "]


def test_words_and_inputs() -> None:
    words, found = split(["echo", "{}", ":::+", "a", ":::", "::::", "f", "-", "::::+", "g", "h", ":::", "b", "c"])
    assert words == [b"echo", b"{}"]
    assert found == [
        Input((b"a",)),
        Input(()),
        Input(file="f"),
        Input(file="-"),
        Input(file="g", linked=True),
        Input(file="h", linked=True),
        Input((b"b", b"c")),
    ]
    assert [each.is_stdin for each in found].index(True) == 3
    assert split(["echo", "--", ":"]) == ([b"echo", b"--", b":"], [])
