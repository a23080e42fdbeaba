"""SQLite's write-ahead log, read without SQLite, which silently ignores all that follows the first bad frame.

The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log. A header with two salts, then frames: a page
each. A frame is good if it carries the salts and if its checksum goes on from that of the frame before. The last frame
of a transaction tells how many pages the database has then.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from taskpool.journal.schema import PAGE_BYTES

HEADER_BYTES = 32
FRAME_HEAD_BYTES = 24
FRAME_BYTES = FRAME_HEAD_BYTES + PAGE_BYTES
GOES_ON = bytes(4)  # in place of `pages`
_MAGIC = 0x377F0682  # its last bit: checksums are over big-endian words
_WORD_MASK = 0xFFFFFFFF
_EIGHT = {order: struct.Struct(f"{order}8I").iter_unpack for order in "<>"}
_EIGHT_BYTES = 32

Checksum = tuple[int, int]


class Frame(NamedTuple):
    """What stands in front of a page."""

    page: int
    pages: int  # of the whole database after this transaction; 0: it has more frames
    salts: bytes
    checksum: bytes

    @classmethod
    def parse(cls, head: bytes) -> Frame:
        """Of FRAME_HEAD_BYTES."""
        page, pages, salts, checksum = struct.unpack(">II8s8s", head)
        return cls(page, pages, salts, checksum)


class Contents(NamedTuple):
    """What SQLite will make of a log, and whether it is all that was committed."""

    salts: bytes  # empty: there is no good header
    frames: int  # up to the end of the last transaction that is whole
    commits: dict[int, bytes]  # by their last frame, counted from 1, its checksum
    images: dict[int, int]  # of each page, its newest frame, counted from 1
    pages: int  # of the database with these frames; 0: there are none
    bad: int | None  # the first frame that is not good, if it must have been: a later transaction follows its own


EMPTY = Contents(b"", 0, {}, {}, 0, None)


def offset_of(frame: int) -> int:
    """Where a frame begins, counted from 1."""
    return HEADER_BYTES + (frame - 1) * FRAME_BYTES


def salts_of(header: bytes) -> bytes:
    """Of a header that is known to be good."""
    return header[16:24]


def read(log: BinaryIO, *, synced: bool = True) -> Contents:
    """Check every frame. `synced`: each transaction was on the disk before the next one was written."""
    log.seek(0)
    header = log.read(HEADER_BYTES)
    order = _order(header)
    if order is None:
        return EMPTY
    salts, checksum = salts_of(header), _sum(order, header[:24], (0, 0))
    number = done = pages = 0
    commits: dict[int, bytes] = {}
    images: dict[int, int] = {}
    begun: dict[int, int] = {}  # images of the transaction whose end has not come yet
    for head, page in _frames(log):
        frame = Frame.parse(head)
        checksum = _sum(order, page, _sum(order, head[:8], checksum))
        if frame.salts != salts or frame.checksum != _packed(checksum) or not frame.page:
            break
        number += 1
        begun[frame.page] = number
        if frame.pages:
            images |= begun
            begun = {}
            done, pages = number, frame.pages
            commits[number] = frame.checksum
    bad = number + 1 if synced and _goes_on(log, number + 1, salts, order) else None
    return Contents(salts, done, commits, images, pages, bad)


def images_of(log: BinaryIO, number: int) -> Iterator[bytes]:
    """Whatever frames there are of a page, good or not."""
    log.seek(HEADER_BYTES)
    return (page for head, page in _frames(log) if Frame.parse(head).page == number)


def _goes_on(log: BinaryIO, first: int, salts: bytes, order: str) -> bool:
    """Whether, from this frame on, one transaction begins where another has ended.

    What was under way when power was lost lies there in parts, but it is one transaction: the one before had to be
    synced before it. So a second one shows that the bad frame was good once. What an earlier transaction that
    was rolled back has left there carries the salts too, but its checksums go on from another frame.
    """
    log.seek(offset_of(first))
    end: Checksum | None = None  # of the transaction whose last frame was the one before
    for head, page in _frames(log):
        frame = Frame.parse(head)
        ours = frame.salts == salts
        if ours and end is not None and frame.checksum == _packed(_sum(order, page, _sum(order, head[:8], end))):
            return True
        first_word, second_word = struct.unpack(">II", frame.checksum)
        end = (first_word, second_word) if ours and frame.pages else None
    return False


def _frames(log: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    while len(frame := log.read(FRAME_BYTES)) == FRAME_BYTES:
        yield frame[:FRAME_HEAD_BYTES], frame[FRAME_HEAD_BYTES:]


def _order(header: bytes) -> str | None:
    """The byte order of the checksums; None: it is no good header of a log with our pages."""
    if len(header) < HEADER_BYTES:
        return None
    magic, _, page_bytes = struct.unpack_from(">III", header)
    if magic & ~1 != _MAGIC or page_bytes != PAGE_BYTES:
        return None
    order = ">" if magic & 1 else "<"
    return order if header[24:] == _packed(_sum(order, header[:24], (0, 0))) else None


def _sum(order: str, data: bytes, before: Checksum) -> Checksum:
    one, two = before
    whole = len(data) - len(data) % _EIGHT_BYTES
    # Eight words a turn, and cut to 32 bits once a turn: a log of 4 MiB takes half the time.
    for a, b, c, d, e, f, g, h in _EIGHT[order](data[:whole]):
        one += a + two
        two += b + one
        one += c + two
        two += d + one
        one += e + two
        two += f + one
        one = one + g + two & _WORD_MASK
        two = two + h + one & _WORD_MASK
    for even, odd in struct.iter_unpack(f"{order}2I", data[whole:]):
        one = one + even + two & _WORD_MASK
        two = two + odd + one & _WORD_MASK
    return one, two


def _packed(checksum: Checksum) -> bytes:
    return struct.pack(">II", *checksum)
