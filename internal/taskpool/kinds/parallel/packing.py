"""How many records make a job: one, a number of them (`-n`), or as many as one command line holds (`-X`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from math import ceil

from taskpool.errors import UsageError
from taskpool.kinds.parallel.records import Record

Cost = Callable[[Record], int]  # how many bytes of a command line a record takes


def by_number(records: Iterator[Record | None], count: int) -> Iterator[Record | None]:
    """Join so many records to one; the last may have fewer. 0: one record makes a job, which is told none of it."""
    return records if count == 1 else _joined_by(records, count)


def _joined_by(records: Iterable[Record | None], count: int) -> Iterator[Record | None]:
    pack: list[Record] = []
    for record in records:
        if record is None:
            yield None
            continue
        pack.append(record)
        if len(pack) >= count:
            yield _joined(pack) if count else ()
            pack.clear()
    if pack:
        yield _joined(pack)


class Filling:
    """As many records as fit: at most `bytes_max`, and at most `count` of them.

    `slots`: the last of them are dealt out evenly to so many jobs, that no slot is idle at the end. None: they are not.
    """

    def __init__(self, cost: Cost, bytes_max: int, count: int | None, slots: int | None) -> None:
        self._cost = cost
        self._bytes_max = bytes_max
        self._count = count
        self._slots = slots

    def jobs(self, records: Iterable[Record | None]) -> Iterator[Record | None]:
        """Give the arguments of each job. Raises UsageError for a record that fits no command line."""
        pack: list[Record] = []
        room = self._bytes_max
        for record in records:
            if record is None:
                yield None
                continue
            cost = self._cost(record)
            self._check(record, cost)
            # Only now: of a full pack it is known only with the next record that it is not the last one.
            if cost > room or len(pack) == self._count:
                yield _joined(pack)
                pack, room = [], self._bytes_max
            pack.append(record)
            room -= cost
        size = max(1, len(pack) if self._slots is None else ceil(len(pack) / self._slots))
        for start in range(0, len(pack), size):
            yield _joined(pack[start : start + size])

    def _check(self, record: Record, cost: int) -> None:
        if cost > self._bytes_max:
            raise UsageError(
                f"command: an argument takes {cost} bytes of a command line, which has room for {self._bytes_max}: "
                f"{b' '.join(record)[:40]!r}..."
            )


def _joined(pack: list[Record]) -> Record:
    return tuple(chain.from_iterable(pack))
