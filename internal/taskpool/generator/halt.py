"""`--halt`: when a batch gives up, or has enough."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from taskpool.errors import UsageError
from taskpool.messages import State

# What GNU parallel takes for backwards compatibility, and its own users still type.
_SHORT = {"1": "soon,fail=1", "2": "now,fail=1", "-1": "soon,success=1", "-2": "now,success=1"}
_NEVER = ("never", "0")
# Digits are bounded, because int() refuses more than 4300 with an error of its own.
_RULE = re.compile(r"(now|soon),(fail|success|done|quarantined)=([0-9]{1,9})(%?)", re.ASCII)
_SHARE = re.compile(r"[0-9]{1,3}%", re.ASCII)

HaltReason = Literal["fail", "success", "done", "quarantined"]
# All three are one to GNU parallel: what is ended for its time, or ends by a signal, has failed like any other.
_FAILED = frozenset({State.FAILED, State.TIMED_OUT, State.QUARANTINED})
_COUNTED: dict[str, frozenset[State]] = {
    "fail": _FAILED,
    "success": frozenset({State.SUCCEEDED}),
    "done": _FAILED | {State.SUCCEEDED},  # a cancelled job was not done
    "quarantined": frozenset({State.QUARANTINED}),
}
_VERBS = {"fail": "failed", "success": "succeeded", "done": "ended", "quarantined": "went into quarantine"}


class HaltRule(NamedTuple):
    """`--halt now|soon,fail|success|done|quarantined=N|N%`. `soon` lets running jobs finish, `now` stops them."""

    now: bool
    reason: HaltReason
    number: int  # of jobs, or percent of all jobs
    percent: bool

    @property
    def states(self) -> frozenset[State]:
        """The states of the jobs that it counts."""
        return _COUNTED[self.reason]

    @property
    def verb(self) -> str:
        """What the jobs that it counts have done."""
        return _VERBS[self.reason]

    @property
    def is_failure(self) -> bool:
        """Whether a run that it has stopped has failed, whatever its jobs came to."""
        return self.reason in ("fail", "quarantined")

    def reached(self, counted: int, jobs: int | None) -> bool:
        """Say whether so many jobs are enough. `jobs`: how many there are; None: not known yet.

        A share is of all jobs, as in GNU parallel: 25% of ten jobs are three. It is not judged before they are counted.
        """
        if not self.percent:
            return counted >= self.number
        # In whole numbers: 100 * 0.07 is more than 7. `counted > 0`, or a batch without jobs would have reached it.
        return jobs is not None and counted > 0 and counted * 100 >= jobs * self.number


def parse_halt(spec: str) -> HaltRule | None:
    """Read the text of --halt; None: never. Raises UsageError."""
    if spec in _NEVER:
        return None
    long = f"soon,fail={spec}" if _SHARE.fullmatch(spec) else _SHORT.get(spec, spec)
    match = _RULE.fullmatch(long)
    if match is None or int(match[3]) == 0 or (match[4] and int(match[3]) > 100):
        raise UsageError(
            "--halt: expected never, or now|soon,fail|success|done|quarantined=N or =N% (N from 1, a share up to "
            f"100%), got {spec!r}"
        )
    reason: HaltReason = match[2]  # type: ignore[assignment]  # the expression lets no other word pass
    return HaltRule(now=match[1] == "now", reason=reason, number=int(match[3]), percent=bool(match[4]))
