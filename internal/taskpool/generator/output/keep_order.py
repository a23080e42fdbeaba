"""`--keep-order`: what jobs print, in the order of their numbers, however late the first one ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from taskpool.generator.output.stream import Piece

# Held in memory; what comes on top waits in a temporary file. One slow first job holds back all that come behind it.
MEMORY_BYTES_MAX = 8 * 1024 * 1024


class _Parked(NamedTuple):
    """Bytes of a piece that wait in the temporary file."""

    stream: int
    offset: int
    length: int


class KeepOrder:
    """Holds back what comes before its turn."""

    def __init__(self) -> None:
        self._due = 1
        self._held: dict[int, list[Piece | _Parked]] = {}
        self._in_memory = 0
        self._file: IO[bytes] | None = None
        self._file_end = 0

    def put(self, seq: int, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Take a job's pieces; yield those whose turn has come."""
        if seq < self._due:
            yield from pieces  # a later run of a job whose turn is over: there is no order to keep for it
            return
        if seq > self._due:
            # Behind those of an earlier run of the job, if it has had one.
            self._held.setdefault(seq, []).extend(map(self._hold, pieces))
            return
        yield from pieces
        self._due += 1
        # Jobs behind it that have ended are due with it.
        while (held := self._held.pop(self._due, None)) is not None:
            self._due += 1
            yield from map(self._release, held)

    @property
    def held(self) -> int:
        """How many jobs wait for one before them."""
        return len(self._held)

    def recall(self, seq: int, pieces: Iterable[Piece]) -> None:
        """Take what an earlier run of the generator was told and has acknowledged.

        It has printed what was due, and only that: an acknowledgement waits until all that is due is written.
        """
        for _ in self.put(seq, pieces):
            pass

    def remaining(self) -> Iterator[Piece]:
        """Yield everything still held, in order, for when a job before it never ends."""
        for seq in sorted(self._held):
            yield from map(self._release, self._held.pop(seq))

    def close(self) -> None:
        """Close, and so remove, the temporary file. May be called twice."""
        if self._file is not None:
            self._file.close()

    def _hold(self, piece: Piece) -> Piece | _Parked:
        if isinstance(piece.content, Path):
            return piece  # its content is on disk already
        if self._in_memory + len(piece.content) <= MEMORY_BYTES_MAX:
            self._in_memory += len(piece.content)
            return piece
        file = self._parking()
        file.seek(self._file_end)
        file.write(piece.content)
        # Appended and never reused: a hole that is freed would have to be found again, and disk is cheap here.
        parked = _Parked(piece.stream, self._file_end, len(piece.content))
        self._file_end += parked.length
        return parked

    def _release(self, held: Piece | _Parked) -> Piece:
        if isinstance(held, _Parked):
            file = self._parking()
            file.seek(held.offset)
            return Piece(held.stream, file.read(held.length))
        if isinstance(held.content, bytes):
            self._in_memory -= len(held.content)
        return held

    def _parking(self) -> IO[bytes]:
        if self._file is None:
            from tempfile import TemporaryFile  # rarely needed, and slow to import

            self._file = TemporaryFile()  # noqa: SIM115 - closed by `close`
        return self._file
