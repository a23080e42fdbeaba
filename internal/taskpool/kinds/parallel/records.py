"""Records: one value of each input, in GNU parallel's order; and the columns of a value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, cycle, product

Record = tuple[bytes, ...]
Values = Iterable[bytes | None]  # None: the next one takes a line


def combined(first: Values, others: Sequence[list[bytes]], linked: Sequence[bool]) -> Iterator[Record | None]:
    """Give all combinations, those of the last input first. `linked`: for each of `others`, whether it goes in step
    with the input before it; of linked ones, what has no partner is left out.

    An input without values has one empty value, unless all are without.
    """
    groups: list[list[list[bytes]]] = [[]]  # the first one goes with `first`
    for values, is_linked in zip(others, linked, strict=True):
        if is_linked:
            groups[-1].append(values or [b""])
        else:
            groups.append([values or [b""]])
    rest = [list(zip(*group, strict=False)) for group in groups[1:]]
    for head in _in_step(_never_empty(first, needed=any(others)), groups[0]):
        if head is None:
            yield None
        else:
            for tail in product(*rest):
                yield (*head, *chain.from_iterable(tail))


def _never_empty(values: Values, *, needed: bool) -> Iterator[bytes | None]:
    for value in values:
        needed = needed and value is None
        yield value
    if needed:
        yield b""


def _in_step(first: Iterable[bytes | None], partners: Sequence[list[bytes]]) -> Iterator[Record | None]:
    rows = zip(*partners, strict=False) if partners else None
    for value in first:
        if value is None:
            yield None
        elif rows is None:
            yield (value,)
        elif (row := next(rows, None)) is not None:
            yield (value, *row)
        else:
            return


def recycled(first: Values, others: Sequence[list[bytes]]) -> Iterator[Record | None]:
    """Give records of inputs that all go in step; those that are shorter begin again (`--link`)."""
    needed = max(map(len, others), default=0)
    partners = [cycle(values or [b""]) for values in others]
    kept: list[bytes] = []  # of the first input, what may have to begin again
    for value in first:
        if value is None:
            yield None
            continue
        if len(kept) < needed:
            kept.append(value)
        yield (value, *map(next, partners))
    again = cycle(kept or [b""])
    for _ in range(len(kept), needed):
        yield (next(again), *map(next, partners))


def in_columns(records: Iterable[Record | None], separator: re.Pattern[bytes]) -> Iterator[Record | None]:
    """Split each value into its columns."""
    for record in records:
        yield None if record is None else tuple(chain.from_iterable(columns_of(value, separator) for value in record))


def columns_of(value: bytes, separator: re.Pattern[bytes]) -> list[bytes]:
    """Return the columns of one value. A group of the separator is a column too, as in Perl."""
    return [column or b"" for column in separator.split(value)]


def trimmed(records: Iterable[Record | None], how: str) -> Iterator[Record | None]:
    """Remove white space at the left (`l`) or right (`r`) of each value."""
    for record in records:
        yield None if record is None else tuple(_trim(value, how) for value in record)


def _trim(value: bytes, how: str) -> bytes:
    value = value.lstrip() if "l" in how else value
    return value.rstrip() if "r" in how else value
