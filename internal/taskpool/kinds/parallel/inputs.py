"""The values of one input, before they meet those of others: read, delimited, joined where lines go on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

from taskpool.errors import UsageError
from taskpool.kinds.parallel.options import InputOptions
from taskpool.kinds.parallel.words import Input
from taskpool.kinds.source import STDIN

_T = TypeVar("_T")


def open_input(name: str) -> int:
    """Open a file to read it. Raises UsageError."""
    if name == "-":
        return STDIN
    try:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from error


def read_whole(given: Input, options: InputOptions) -> list[bytes]:
    """Return all values of an input. A pipe is read to its end. Raises UsageError."""
    if given.values is not None:
        # In GNU parallel too, -d splits what is behind ::: as well. Without it, an argument is one, whatever it holds.
        pieces = given.values if options.delimiter is None else _split_each(given.values, options.delimiter)
        return list(pieces)
    fd = open_input(given.file)
    if os.isatty(fd):
        raise UsageError(
            f"arguments are to come from {given.file}, which is a terminal: give arguments, a file or a pipe"
        )
    try:
        with open(fd, "rb", closefd=fd != STDIN) as file:
            text = file.read()
    except OSError as error:
        raise UsageError(f"cannot read {given.file}: {error.strerror}") from error
    values = text.split(options.ends_line)
    return values if values[-1] else values[:-1]


def _split_each(values: Iterable[bytes], delimiter: bytes) -> Iterator[bytes]:
    for value in values:
        yield from value.split(delimiter)


def as_they_come(lines: Iterator[bytes]) -> Iterator[bytes | None]:
    """Give the lines of the file that is read as the jobs run, and None before each."""
    while True:
        yield None
        try:
            line = next(lines)
        except StopIteration:
            return
        yield line


def cleaned(values: Iterable[bytes | None], options: InputOptions) -> Iterator[bytes | None]:
    """Leave out blank values and join lines that go on, where that is asked for."""
    begun = b""
    for value in values:
        if value is None:
            yield None
            continue
        whole = begun + value
        begun = b""
        if options.skip_blank and not whole.strip():
            continue
        # Of blanks at its end GNU parallel takes that a line goes on in the next one.
        if options.joins_lines and whole[-1:].isspace():
            begun = whole
            continue
        yield whole
    if begun:
        yield begun


def take_header(values: Iterator[bytes | None]) -> Iterator[bytes | None]:
    """Give the items up to the first value, that included: the line that names columns."""
    for value in values:
        yield value
        if value is not None:
            return
