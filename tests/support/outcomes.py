"""Outcomes as a dealer sends them, for tests of what becomes of them."""

from __future__ import annotations

from typing import Any

from taskpool.clock import SECOND
from taskpool.messages import Outcome, State, Usage

MOMENT = 1_700_000_000 * SECOND


def outcome(seq: int = 1, state: State = State.SUCCEEDED, **changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "no": seq,
        "seq": seq,
        "run": 1,
        "kind": "fib",
        "label": None,
        "state": state,
        "attempts": 1,
        "crashes": 0,
        "queued_wall_ns": MOMENT,
        "finished_wall_ns": MOMENT + 3 * SECOND,
        "wait_ns": SECOND,
        "usage": Usage(started_wall_ns=MOMENT + SECOND, run_ns=2 * SECOND, cpu_ns=SECOND, max_rss_bytes=4096),
    }
    return Outcome(**{**fields, **changes})
