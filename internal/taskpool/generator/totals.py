"""What a batch's outcomes add up to."""

from __future__ import annotations

from collections import Counter

from taskpool.errors import ExitCode
from taskpool.messages import Outcome, State

_STATES = (State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED, State.QUARANTINED)
_CODES = {state: code for code, state in enumerate(_STATES, 1)}  # 0: no outcome yet


class Totals:
    """Counts jobs by the state of their last run, in one byte a job."""

    def __init__(self) -> None:
        self.by_state: Counter[State] = Counter()
        self.finished = 0  # jobs with an outcome
        self.attempts = 0
        self.crashes = 0
        self.cpu_ns = 0
        self._codes = bytearray(1)

    @property
    def failed(self) -> int:
        """Jobs that did not do what they should: --halt counts them."""
        by_state = self.by_state
        return by_state[State.FAILED] + by_state[State.TIMED_OUT] + by_state[State.QUARANTINED]

    @property
    def codes(self) -> set[ExitCode]:
        """The exit codes that the jobs' states call for."""
        by_state = self.by_state
        codes: set[ExitCode] = set()
        if self.failed > by_state[State.QUARANTINED] or by_state[State.CANCELLED]:
            codes.add(ExitCode.JOBS_FAILED)
        if by_state[State.QUARANTINED]:
            codes.add(ExitCode.QUARANTINED)
        return codes

    def add(self, outcome: Outcome) -> None:
        """A later run of a job takes the place of the earlier one; what it cost is added."""
        missing = outcome.seq + 1 - len(self._codes)
        if missing > 0:
            self._codes.extend(bytes(missing))
        before = self._codes[outcome.seq]
        if before:
            self.by_state[_STATES[before - 1]] -= 1
        else:
            self.finished += 1
        self._codes[outcome.seq] = _CODES[outcome.state]
        self.by_state[outcome.state] += 1
        self.attempts += outcome.attempts
        self.crashes += outcome.crashes
        self.cpu_ns += outcome.usage.cpu_ns
