"""`--keep-order`, in memory and beyond."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskpool.generator.output.keep_order import KeepOrder
from taskpool.generator.output.stream import Piece


def put(order: KeepOrder, seq: int, text: bytes) -> list[bytes | Path]:
    return [piece.content for piece in order.put(seq, [Piece(1, text)])]


@pytest.mark.parametrize("memory", [0, 3, 1000])
def test_order_is_kept_in_memory_and_beyond(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.generator.output.keep_order.MEMORY_BYTES_MAX", memory)
    order = KeepOrder()
    assert put(order, 3, b"three") == []
    assert list(order.put(2, [])) == []
    assert list(order.put(5, [Piece(1, b"five"), Piece(2, Path("/x"))])) == []
    assert put(order, 1, b"one") == [b"one", b"three"]
    assert put(order, 4, b"four") == [b"four", b"five", Path("/x")]
    assert put(order, 2, b"again") == [b"again"]
    assert put(order, 9, b"nine") == [] and put(order, 8, b"eight") == []
    assert put(order, 9, b"nine again") == []
    assert order.held == 2
    assert [piece.content for piece in order.remaining()] == [b"eight", b"nine", b"nine again"]
    order.close()


@pytest.mark.parametrize("memory", [0, 1000])
def test_what_an_earlier_run_held_back_is_printed_in_its_turn(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.generator.output.keep_order.MEMORY_BYTES_MAX", memory)
    order = KeepOrder()
    for seq, text in ((2, b"two"), (5, b"five"), (1, b"one"), (7, b"seven"), (1, b"one again"), (4, b"four")):
        order.recall(seq, [Piece(1, text)])
    assert order.held == 3, "and one and two are printed"
    assert put(order, 6, b"six") == []
    assert put(order, 3, b"three") == [b"three", b"four", b"five", b"six", b"seven"]
    assert order.held == 0
    order.close()
