"""The words behind the options: a template, and the inputs behind `:::`, `:::+`, `::::` and `::::+`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

_LISTS = (b":::", b":::+")
_FILES = (b"::::", b"::::+")
SEPARATORS = (*_LISTS, *_FILES)


class Input(NamedTuple):
    """One input, as it is named on the command line."""

    values: tuple[bytes, ...] | None = None  # None: they are in a file
    file: str = ""  # -: standard input
    linked: bool = False  # goes in step with the input before it

    @property
    def is_stdin(self) -> bool:
        return self.values is None and self.file == "-"


def split(template: Sequence[str]) -> tuple[list[bytes], list[Input]]:
    """Take the words behind the options apart. No inputs: they come from standard input."""
    words = [os.fsencode(word) for word in template]
    ends = [at for at, word in enumerate(words) if word in SEPARATORS]
    inputs: list[Input] = []
    for start, end in pairwise([*ends, len(words)]):
        inputs += _inputs(words[start], words[start + 1 : end], first=not inputs)
    return words[: ends[0]] if ends else words, inputs


def _inputs(separator: bytes, words: list[bytes], *, first: bool) -> Iterator[Input]:
    linked = separator.endswith(b"+") and not first  # to nothing, as GNU parallel takes it
    if separator in _LISTS:
        yield Input(tuple(words), linked=linked)
    else:
        yield from (Input(file=os.fsdecode(word), linked=linked) for word in words)
