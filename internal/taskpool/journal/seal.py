"""What the journal's files must hold, kept beside them, so that damage to them is noticed: SQLite has no checksums in
its database and ignores a broken write-ahead log (docs/adr/0018).

One sector tells how far the log was committed, then come the checksums of the database's pages. Rules of this file:
1. What the sector tells of the log is true whatever part of later writes a loss of power takes: it is written behind
   the commit, and synced only where the log may become shorter.
2. A page that has an image in the log is not looked at: SQLite takes the image. Its checksum is on the disk before the
   log is used anew, and tells of what SQLite has copied: a commit that failed may be in the log all the same.
3. Nothing here opens the database's file while SQLite has it open: closing it would drop SQLite's locks (fcntl(2)).
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from taskpool.journal import wal
from taskpool.journal.schema import PAGE_BYTES

_MAGIC = b"tpseal1\0"
_SECTOR_BYTES = 512  # written in one piece: a loss of power leaves the old one or the new one
_FIELDS = struct.Struct(">8s??Q8s8s16sqq")  # the magic, and a Record
_SUM_BYTES = 4
_META_PAGE = 2  # the table `meta`, which is made first
_INTEGER_SIZES = (1, 2, 3, 4, 6, 8)  # by their type, from 1: https://www.sqlite.org/fileformat2.html#record_format
_FRAMES_AT_ONCE = 12
_NAMED_MAX = 5  # pages that are named one by one


class Record(NamedTuple):
    """The sector."""

    synced: bool = True  # what is told of the log was on the disk; else only written
    emptied: bool = True  # the log may have been copied into the database and be empty, or gone
    frames: int = 0  # up to the end of the last commit
    salts: bytes = bytes(8)
    checksum: bytes = bytes(8)  # of the last of them
    boot: bytes = bytes(16)
    epoch: int = -1  # the database that belongs to this tells one of the two
    next_epoch: int = -1


def seal_of(path: Path) -> Path:
    """The file beside a journal."""
    return Path(f"{path}.seal")


def page_sum(page: bytes | memoryview) -> int:
    """Never 0, which stands for a page that is not known."""
    return zlib.crc32(page) or 1


class Examination(NamedTuple):
    """What was found before SQLite opens a journal."""

    problems: list[str]  # damage, each a line for a person
    ours: bool  # whether the seal is that of this database
    log_there: bool
    log_needed: bool | None  # None: only the database can tell

    def lacks_log(self, *, told: bool) -> bool:
        """Whether commits are missing with the log. `told`: the database says that there is one."""
        return not self.log_there and (told if self.log_needed is None else self.log_needed)


def examine(path: Path, log_path: Path) -> Examination:
    """Look at every page and frame of a journal that no process has open. Raises OSError."""
    try:
        data = seal_of(path).read_bytes()
    except FileNotFoundError:
        data = b""
    record = _unpack(data[:_SECTOR_BYTES]) if data else Record()
    if record is None:
        problem = f"{seal_of(path).name} is not what was written; if the journal was just restored, remove that file"
        return Examination([problem], ours=False, log_there=True, log_needed=None)
    there = log_path.exists()
    with path.open("rb") as database, _open_log(log_path) as log:
        # A log that was not synced may have gaps after a loss of power; a kill leaves none.
        certain = record.synced or record.boot == _boot()
        contents = wal.read(log, synced=certain)
        # A journal that was put in the place of another is not the one that this tells of.
        ours = bool(data) and _belongs(record, database, log)
        problems = _log_problems(record if ours and certain else None, log, contents, log_path.name) if there else []
        if ours:
            problems += _page_problems(database, _sums(data), contents)
    needed = not record.emptied if ours and (record.emptied or record.frames) else None
    return Examination(problems, ours, there, needed)


def make(path: Path) -> None:
    """Make the seal of a journal that no process has open and that has none: it holds what it holds. Raises OSError."""
    sums = array("I")
    with path.open("rb") as database:
        while page := database.read(PAGE_BYTES):
            sums.append(page_sum(page))
    making = Path(f"{seal_of(path)}.new")
    making.unlink(missing_ok=True)
    fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(_pack(Record()).ljust(_SECTOR_BYTES, b"\0") + sums.tobytes())
            file.flush()
            os.fsync(fd)
        making.rename(seal_of(path))
    except OSError:
        with suppress(OSError):
            making.unlink(missing_ok=True)
        raise


class Seal:
    """The seal of a journal that is open, for its one user. `synced`: a commit that has come back is on the disk."""

    def __init__(self, path: Path, log_path: Path, *, synced: bool | None = None) -> None:
        """`synced` None: as it was. Raises OSError: there is no seal, or it cannot be written."""
        self._log_path = log_path
        self._log_fd = -1
        self._fd = os.open(seal_of(path), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        record = _unpack(os.pread(self._fd, _SECTOR_BYTES, 0)) or Record()
        boot = _boot()
        if not record.synced and record.boot != boot:
            record = record._replace(frames=0)  # a loss of power may have taken some of them
        self._record = record._replace(synced=record.synced if synced is None else synced, boot=boot)
        self._folded = 0  # frames of the log that begins with the record's salts
        # Behind the last commit of an earlier life may lie what looks like one: parts that a loss of power has left.
        self._doubted = self._salts()

    def close(self) -> None:
        """Give the files back."""
        for fd in (self._fd, self._log_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._log_fd = -1

    @property
    def frames(self) -> int:
        """How many frames have not been folded, as of the last `note`; how many it may be, as long as this life has not
        begun the log anew."""
        if self._doubted:
            return os.fstat(self._log_fd).st_size // wal.FRAME_BYTES
        return self._record.frames - self._folded

    def note(self) -> None:
        """Everything in the log is committed: say so. Raises OSError."""
        record = self._record
        if record.frames and not (record.emptied or self._doubted):
            record = self._walked(record)
        if record is self._record:  # no more frames; has the log been begun anew?
            salts = self._salts()
            if not salts or salts == self._doubted or (salts == record.salts and not record.emptied):
                return
            self._doubted = b""
            self._folded = 0
            record = self._walked(record._replace(salts=salts, frames=0, emptied=False))
        if record.frames:
            self._write(record)

    def _walked(self, record: Record) -> Record:
        """The record, up to the last commit behind it; what follows that was rolled back."""
        last, salts = b"", record.salts
        frames = record.frames
        for number, head in self._heads(record.frames):
            if head[8:16] != salts:
                break
            if head[4:8] != wal.GOES_ON:
                frames, last = number, head
        return record._replace(frames=frames, checksum=last[16:]) if last else record

    def expect(self, epoch: int) -> None:
        """The database is about to tell this one. Raises OSError."""
        if self._log_fd >= 0:
            os.fdatasync(self._log_fd)  # from here on it may be said to have been
        self._write(self._record._replace(next_epoch=epoch))
        os.fdatasync(self._fd)

    def took(self) -> None:
        """The database tells what was expected. Raises OSError."""
        self._write(self._record._replace(epoch=self._record.next_epoch))

    def fold(self, frames: int, *, emptied: bool) -> None:
        """As many frames of the log as SQLite knows of were copied into the database; with `emptied`, the log is about
        to be emptied or removed. Raises OSError."""
        salts = self._salts()
        if frames <= 0 or not salts:
            return
        images, last = self._images(frames)
        self._keep(images, last.pages)
        self._write(self._record._replace(frames=frames, salts=salts, checksum=last.checksum, emptied=emptied))
        self._folded = frames
        # A page and its checksum must not differ once the log no longer has the page.
        os.fdatasync(self._fd)

    def _images(self, frames: int) -> tuple[dict[int, int], wal.Frame]:
        """Each page's newest frame among so many, and the last one."""
        images: dict[bytes, int] = {}
        for number, head in self._heads(0):
            images[head[:4]] = number
            if number == frames:
                return {int.from_bytes(page, "big"): image for page, image in images.items()}, wal.Frame.parse(head)
        raise OSError(errno.EIO, "frames are missing", str(self._log_path))

    def _keep(self, images: dict[int, int], pages: int) -> None:
        for page, number in images.items():
            if page > pages:
                continue
            image = os.pread(self._log_fd, PAGE_BYTES, wal.offset_of(number) + wal.FRAME_HEAD_BYTES)
            try:
                os.pwrite(self._fd, page_sum(image).to_bytes(4, sys.byteorder), _offset_of(page))
            except OSError:
                # On a full disk: what has no checksum is not looked at.
                if _offset_of(page) < os.fstat(self._fd).st_size:
                    raise
        if os.fstat(self._fd).st_size > _offset_of(pages + 1):
            os.ftruncate(self._fd, _offset_of(pages + 1))

    def _salts(self) -> bytes:
        """Of the log as it is now; empty if it has not begun."""
        if self._log_fd < 0:
            try:
                self._log_fd = os.open(self._log_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return b""
        return wal.salts_of(os.pread(self._log_fd, wal.HEADER_BYTES, 0))

    def _heads(self, after: int) -> Iterator[tuple[int, bytes]]:
        """In front of each frame (wal.Frame): bytes, because this is done at every commit."""
        whole = _FRAMES_AT_ONCE
        while whole == _FRAMES_AT_ONCE:  # with their pages: one call costs less than one for each
            data = os.pread(self._log_fd, _FRAMES_AT_ONCE * wal.FRAME_BYTES, wal.offset_of(after + 1))
            whole = len(data) // wal.FRAME_BYTES
            for start in range(0, whole * wal.FRAME_BYTES, wal.FRAME_BYTES):
                after += 1
                yield after, data[start : start + wal.FRAME_HEAD_BYTES]

    def _write(self, record: Record) -> None:
        os.pwrite(self._fd, _pack(record), 0)
        self._record = record


# --- what is damaged ---


def _log_problems(record: Record | None, log: BinaryIO, contents: wal.Contents, name: str) -> list[str]:
    """`record`: what must be in the log, if that is known."""
    size = log.seek(0, os.SEEK_END)
    if not contents.salts:
        claimed = record is not None and record.frames and not record.emptied
        # SQLite syncs a log's header before it writes a frame: alone, it may be what a loss of power has left.
        if size > wal.HEADER_BYTES or claimed:
            return [f"{name} has no header as it was written, in {size} bytes"]
    elif contents.bad is not None:
        return [f"{name} is broken at frame {contents.bad}, and commits follow"]
    elif record is not None and record.salts == contents.salts:
        if record.frames and contents.commits.get(record.frames) != record.checksum:
            return [f"{name} is broken behind frame {contents.frames}, and was committed up to {record.frames}"]
    elif record is not None and record.frames and not record.emptied and _is_older(contents.salts, record.salts):
        return [f"{name} is an older one than the one that was in use"]
    return []


def _is_older(salts: bytes, than: bytes) -> bool:
    """SQLite adds one to the first salt each time it begins a log anew."""
    steps = int.from_bytes(salts[:4], "big") - int.from_bytes(than[:4], "big")
    return steps % 2**32 >= 2**31


def _page_problems(database: BinaryIO, sums: array[int], contents: wal.Contents) -> list[str]:
    """A page that has an image in the log is SQLite's to write again."""
    bad: list[int] = []
    database.seek(0)
    for index, expected in enumerate(sums):
        page = database.read(PAGE_BYTES)
        number = index + 1
        if expected and page_sum(page) != expected and number not in contents.images:
            bad.append(number)
    if contents.pages:  # the database is about to be made as short
        bad = [number for number in bad if number <= contents.pages]
    if not bad:
        return []
    named = ", ".join(map(str, bad[:_NAMED_MAX])) + (", ..." if len(bad) > _NAMED_MAX else "")
    return [f"{len(bad)} of {len(sums)} pages are not what was written: {named}"]


def _belongs(record: Record, database: BinaryIO, log: BinaryIO) -> bool:
    """Whether the database, or the log, tells the epoch of the life that wrote the record: a backup, or a journal that
    a version without seals has written, does not."""
    database.seek((_META_PAGE - 1) * PAGE_BYTES)
    pages = [database.read(PAGE_BYTES), *wal.images_of(log, _META_PAGE)]
    cells = [_epoch_cell(epoch) for epoch in (record.epoch, record.next_epoch) if epoch >= 0]
    return any(cell in page for cell in cells for page in pages)


def _epoch_cell(epoch: int) -> bytes:
    """The bytes of the row ("epoch", N) in the table `meta`, which can be found in a page that SQLite cannot read."""
    if epoch < 2:  # 0 and 1 are types of their own, without a byte
        kind, number = 8 + epoch, b""
    else:
        size = next(size for size in _INTEGER_SIZES if epoch < 1 << (8 * size - 1))
        kind, number = _INTEGER_SIZES.index(size) + 1, epoch.to_bytes(size, "big")
    return bytes((3, 13 + 2 * len("epoch"), kind)) + b"epoch" + number


def _open_log(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return BytesIO()


# --- bytes ---


def _offset_of(page: int) -> int:
    return _SECTOR_BYTES + (page - 1) * _SUM_BYTES


def _sums(data: bytes) -> array[int]:
    end = len(data) - (len(data) - _SECTOR_BYTES) % _SUM_BYTES
    return array("I", data[_SECTOR_BYTES:end])


def _pack(record: Record) -> bytes:
    packed = _FIELDS.pack(_MAGIC, *record)
    return packed + zlib.crc32(packed).to_bytes(4, "big")


def _unpack(data: bytes) -> Record | None:
    """None: damaged."""
    packed, checksum = data[: _FIELDS.size], data[_FIELDS.size : _FIELDS.size + 4]
    if zlib.crc32(packed).to_bytes(4, "big") != checksum or not packed.startswith(_MAGIC):
        return None
    return Record(*_FIELDS.unpack(packed)[1:])


def _boot() -> bytes:
    """Which start of the machine this is: what was written and not synced is there as long as it lasts."""
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").replace("-", ""))
