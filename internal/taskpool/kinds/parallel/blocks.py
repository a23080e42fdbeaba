"""`--pipe`: a stream of bytes, cut into blocks of whole records; each is the standard input of a job.

The places of the cuts are GNU parallel's: it reads up to a multiple of the block size and cuts behind the last record
there, or behind every N (`-N`). What is left goes before what comes next. So they depend on the input alone, not on how
a pipe hands it over, and a batch that goes on has the same jobs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from math import ceil
from typing import TYPE_CHECKING

from msgspec import Struct

from taskpool import limits
from taskpool.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

# A block is a job's payload, with its command line.
BLOCK_BYTES_MAX = limits.PAYLOAD_BYTES_MAX - limits.COMMAND_BYTES_MAX
_BLOCK_BYTES = 1024 * 1024
_SIZE = re.compile(r"([0-9]{1,9})([kKmM]?)", re.ASCII)
_UNITS = {"": 1, "k": 1000, "K": 1024, "m": 1000_000, "M": 1024 * 1024}
_ESCAPE = re.compile(rb"\\([0rnt'\"\\])")
_ESCAPED = {b"0": b"\0", b"r": b"\r", b"n": b"\n", b"t": b"\t"}
_BLANK_LINES = re.compile(rb"^\s*\n", re.MULTILINE)
_GROWTH = 1.3  # GNU parallel's factor: another one would cut in other places


class BlockOptions(Struct, frozen=True):
    """How the input is cut."""

    bytes_wanted: int = _BLOCK_BYTES
    recstart: bytes = b""
    recend: bytes = b"\n"
    records: int | None = None  # in a block; None: as many as fit
    header_lines: int = 0  # they stand before each block
    skip_blank: bool = False


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("blocks of the input, as GNU parallel has them")
    group.add_argument("--pipe", action="store_true", help="cut the input; each block is the standard input of a job")
    group.add_argument("--block", "--block-size", metavar="SIZE", help="bytes of a block: 100k, 2M (1M)")
    group.add_argument("--recstart", metavar="STR", help="a record begins with it")
    group.add_argument("--recend", metavar="STR", help="a record ends with it (newline)")


def block_options(args: Namespace) -> BlockOptions | None:
    """Return what the options mean; None: the input is not cut. Raises UsageError."""
    if not args.pipe:
        for name in ("block", "recstart", "recend"):
            if getattr(args, name) is not None:
                raise UsageError(f"--{name} needs --pipe, which cuts the input into blocks")
        return None
    recend = b"\n" if args.recstart is None else b""
    return BlockOptions(
        _BLOCK_BYTES if args.block is None else _size(args.block),
        b"" if args.recstart is None else _unescaped(args.recstart),
        recend if args.recend is None else _unescaped(args.recend),
        _records(args),
        _header_lines(args.header),
        args.no_run_if_empty,
    )


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    size = 0 if match is None else int(match[1]) * _UNITS[match[2]]
    if not 1 <= size <= BLOCK_BYTES_MAX:
        raise UsageError(
            f"--block: expected 1 to {BLOCK_BYTES_MAX} bytes, with k or M behind the number, got {text!r}; a block "
            "travels with its job: for larger ones, split the input into files"
        )
    return size


def _unescaped(text: str) -> bytes:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), os.fsencode(text))


def _records(args: Namespace) -> int | None:
    if args.max_lines is not None:
        raise UsageError("--pipe: -L counts lines of arguments; -N N makes blocks of N records")
    found: int | None = args.max_args if args.max_replace_args is None else args.max_replace_args
    if found is not None and found < 1:
        raise UsageError(f"--pipe: -N: expected 1 record or more, got {found}")
    return found


def _header_lines(text: str | None) -> int:
    if text is None:
        return 0
    if text != ":" and not (text.isascii() and text.isdecimal() and len(text) <= 6 and int(text)):
        raise UsageError(f"--pipe: --header: expected : (the first line) or a number of lines, got {text!r}")
    return 1 if text == ":" else int(text)


class BlockCutter:
    """Cuts one input. Holds no more than a block and what was handed in last."""

    def __init__(self, options: BlockOptions) -> None:
        self._options = options
        self._separator = options.recend + options.recstart
        self._wanted = options.bytes_wanted
        self._header: bytes | None = None if options.header_lines else b""
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what comes next; give the blocks that it completes. Raises UsageError for a record without end."""
        if self._header is None:
            data = self._without_header(data)
        left = memoryview(data)
        while left:
            room = self._wanted - len(self._held) % self._wanted
            self._held += left[:room]
            if len(left) < room:
                return
            left = left[room:]
            yield from self._cut()

    def end(self) -> Iterator[bytes]:
        """Give what is left."""
        # An input that ends within its header is all records, as in GNU parallel.
        self._header = self._header or b""
        self._clean()
        if self._options.records is not None:
            yield from self._by_number(self._options.records)
        if self._held:
            yield self._take(0, len(self._held))
            self._held.clear()

    def _without_header(self, data: bytes) -> bytes:
        self._held += data
        at = -1
        for _ in range(self._options.header_lines):
            at = self._held.find(b"\n", at + 1)
            if at < 0:
                self._check_room()
                return b""
        self._header = bytes(self._held[: at + 1])
        rest = bytes(self._held[at + 1 :])
        self._held.clear()
        return rest

    def _cut(self) -> Iterator[bytes]:
        """Cut what is held, up to a whole number of block sizes."""
        self._clean()
        if not self._held:
            return
        found = False
        for block in self._at_last() if self._options.records is None else self._by_number(self._options.records):
            found = True
            yield block
        if not found:
            self._check_room()
            self._wanted = min(ceil(self._wanted * _GROWTH + 1), BLOCK_BYTES_MAX)

    def _at_last(self) -> Iterator[bytes]:
        at = self._held.rfind(self._separator)
        # An end of 0 is the start of the first record, found by --recstart alone: an empty block would be no job's.
        if at >= 0 and (end := at + len(self._options.recend)):
            yield self._take(0, end)
            del self._held[:end]

    def _by_number(self, count: int) -> Iterator[bytes]:
        """Cut behind every `count` records."""
        start = 0
        while start < len(self._held) and (end := self._behind(start, count)) >= 0:
            yield self._take(start, end)
            start = end
        del self._held[:start]

    def _behind(self, start: int, count: int) -> int:
        if not self._separator:
            return min(start + count, len(self._held))  # a record is a byte
        at = start
        for _ in range(count):
            at = self._held.find(self._separator, at + 1)
            if at < 0:
                return -1
        return at + len(self._options.recend)

    def _take(self, start: int, end: int) -> bytes:
        assert self._header is not None
        if len(self._header) + end - start > BLOCK_BYTES_MAX:
            raise self._too_long()
        return self._header + self._held[start:end]

    def _clean(self) -> None:
        if self._options.skip_blank:
            # All that is held, each time: a blank line may have come in two pieces.
            self._held = bytearray(_BLANK_LINES.sub(b"", self._held))

    def _check_room(self) -> None:
        if len(self._held) > BLOCK_BYTES_MAX:
            raise self._too_long()

    def _too_long(self) -> UsageError:
        return UsageError(
            f"--pipe: a block of records longer than {BLOCK_BYTES_MAX} bytes, which no job takes: is "
            f"{self._separator!r} what is between records (--recend, --recstart)? Fewer of them: -N, --block"
        )
