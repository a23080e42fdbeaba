"""`--halt now|soon,fail=N|N%`: when a batch gives up."""

from __future__ import annotations

import re
from typing import NamedTuple

from taskpool.errors import UsageError

_SPEC = re.compile(r"(now|soon),fail=(\d{1,9})(%?)", re.ASCII)
PERCENT_FAILURES_MIN = 3  # as GNU parallel: a share of two jobs says nothing


class Halt(NamedTuple):
    """The rule. `soon` lets running jobs finish, `now` stops them."""

    now: bool
    failures: int  # or percent
    percent: bool

    def reached(self, failed: int, finished: int) -> bool:
        """Whether that many failures, of so many finished jobs, are enough."""
        if not self.percent:
            return failed >= self.failures
        return failed >= PERCENT_FAILURES_MIN and failed * 100 >= finished * self.failures


def parse_halt(spec: str) -> Halt:
    """Raises UsageError."""
    match = _SPEC.fullmatch(spec)
    if match is None or int(match[2]) == 0 or (match[3] and int(match[2]) > 100):
        raise UsageError(f"--halt: expected now|soon,fail=N or now|soon,fail=N% (N from 1), got {spec!r}")
    return Halt(now=match[1] == "now", failures=int(match[2]), percent=bool(match[3]))
