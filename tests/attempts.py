"""What a worker tells a kind about an attempt, for tests that run kinds without a worker."""

from __future__ import annotations

import time
from pathlib import Path

from taskpool.ids import Token
from taskpool.kinds.base import Context


def context(state: Path, *, timeout_ns: int = 0, seq: int = 7, slot: int = 0, n: int = 11) -> Context:
    """An attempt that begins now, in a pool whose state directory is `state`."""
    spool = state / "spool"
    spool.mkdir(exist_ok=True)
    return Context("nightly", seq, 2, slot, Token(3, n), str(spool), time.monotonic_ns(), timeout_ns)
