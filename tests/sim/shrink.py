"""A failing schedule with fewer faults: each is left out in turn, as long as the same rule is still broken."""

from __future__ import annotations

import time

from sim.schedule import Result, run


def shrink(seed: int, seconds: float = 30.0) -> Result:
    """The shortest list of faults found in that time, run with a trace."""
    until = time.monotonic() + seconds
    best = run(seed)
    assert best.violation is not None
    rule = best.violation.partition(":")[0]
    deleted: set[int] = set()
    size = max(1, best.drawn // 2)
    while size >= 1 and time.monotonic() < until:
        shrunk = False
        for start in range(1, best.drawn + 1, size):
            attempt = deleted | set(range(start, start + size))
            if attempt == deleted or time.monotonic() > until:
                continue
            result = run(seed, frozenset(attempt))
            same = result.violation is not None and result.violation.partition(":")[0] == rule
            if same and len(result.fired) < len(best.fired):  # another history may have more of them
                best, deleted, shrunk = result, attempt, True
        size = size // 2 if not shrunk or size > 1 else 0
    return run(seed, frozenset(deleted), tracing=True)
