"""A mutation fuzzer: examples damaged as bytes and as structures. It knows MessagePack, not our code.

For a fuzzer that is led by the code it reaches, see guided.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

HOSTILE: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
    *(1.5, float("nan"), float("inf"), None, True, "", b"", [], {}),
    *("\0", "/", "../x", "é" * 40, "a" * 300, "٣", b"\xff" * 70, [[]] * 20, {"a": [1]}, "0" * 32, "F" * 32),
)
_EDGES = bytes([0, 1, 0x7F, 0x80, 0x90, 0x9F, 0xA0, 0xC0, 0xC1, 0xC4, 0xC6, 0xCF, 0xD3, 0xD9, 0xDC, 0xDD, 0xDF, 0xFF])
BYTES_MAX = 4096


class Mutator:
    """Make hostile copies of examples, the same ones for the same seed."""

    def __init__(self, seeds: Sequence[bytes], random: Random, prefix: int = 0) -> None:
        """`prefix`: so many first bytes are not MessagePack (a version)."""
        self._seeds = list(seeds)
        self._random = random
        self._prefix = prefix
        self._trees = [self._tree(seed) for seed in self._seeds]

    def next(self) -> bytes:
        lot = self._random.random()
        at = int(lot * 7919) % len(self._seeds)
        if lot < 0.55 and self._trees[at] is not None:
            return self._restructured(at)
        data = bytearray(self._seeds[at])
        for _ in range(1 + int(self._random.random() * 4)):
            data = self._damaged(data)
        return bytes(data)

    def _tree(self, seed: bytes) -> Any:
        try:
            found = msgspec.msgpack.decode(seed[self._prefix :])
        except (msgspec.MsgspecError, ValueError):
            return None
        return found if isinstance(found, list) and found else None

    def _restructured(self, at: int) -> bytes:
        """One value somewhere in the structure replaced, removed or doubled."""
        tree = self._copied(self._trees[at])
        place = tree
        while True:
            index = int(self._random.random() * len(place))
            inner = place[index]
            if isinstance(inner, list) and inner and self._random.random() < 0.7:
                place = inner
                continue
            break
        lot = self._random.random()
        if lot < 0.75:
            place[index] = HOSTILE[int(self._random.random() * len(HOSTILE))]
        elif lot < 0.88:
            del place[index]
        else:
            place.insert(index, inner)
        return self._seeds[at][: self._prefix] + msgspec.msgpack.encode(tree)

    def _copied(self, value: Any) -> Any:
        return [self._copied(each) for each in value] if isinstance(value, list) else value

    def _damaged(self, data: bytearray) -> bytearray:
        lot, where = self._random.random(), int(self._random.random() * (len(data) or 1))
        if not data or lot < 0.1:
            return bytearray(self._random.randbytes(int(self._random.random() * 64)))
        if lot < 0.4:
            data[where] ^= 1 << int(self._random.random() * 8)
        elif lot < 0.6:
            data[where] = _EDGES[int(self._random.random() * len(_EDGES))]
        elif lot < 0.75:
            del data[where:]
        elif lot < 0.85:
            del data[where : where + 1 + int(self._random.random() * 8)]
        else:
            other = self._seeds[int(self._random.random() * len(self._seeds))]
            data[where:where] = other[int(self._random.random() * len(other)) :]
        return data[:BYTES_MAX]


def run(target: Callable[[bytes], None], mutator: Mutator, count: int) -> None:
    """`count` messages through a target. A finding's notes tell the bytes."""
    for _ in range(count):
        data = mutator.next()
        try:
            target(data)
        except Exception as error:
            error.add_note(f"with {data!r}")
            raise
