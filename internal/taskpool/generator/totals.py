"""What a batch's outcomes add up to, and the one line that says so at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from taskpool.clock import seconds
from taskpool.durations import human
from taskpool.errors import ExitCode, counted
from taskpool.generator.failures import Causes
from taskpool.log import Fact
from taskpool.messages import Outcome, State

_STATES = (State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED, State.QUARANTINED)
_CODES = {state: code for code, state in enumerate(_STATES, 1)}  # 0: no outcome yet
_EARLIER = 0x80  # beside the code: its outcome is one of an earlier run of this program


class PoolFacts(NamedTuple):
    """What the dealer's status says of its pool; None: it did not say."""

    respawns: int | None = None
    cpus: int | None = None


class Totals:
    """Counts jobs by the state of their last run, and what they took in this life of the program.

    A batch that is resumed ends as a whole, so its states are all counted. What it cost, how fast it is and how often
    it failed is this life's alone: an earlier one has told its own.
    """

    def __init__(self) -> None:
        self.by_state: Counter[State] = Counter()
        self._by_state_now: Counter[State] = Counter()
        self.finished = 0  # jobs with an outcome
        self.attempts = 0
        self.crashes = 0
        self.cpu_ns = 0
        self.causes = Causes()  # of all that count as failed
        # One byte for each job, by its number: a batch of millions must not cost an object for each.
        self._codes = bytearray(1)

    @property
    def failed(self) -> int:
        """How many jobs did not do what they should."""
        return _failed(self.by_state)

    def count_now(self, states: Iterable[State]) -> int:
        """How many jobs have ended in one of these states in this life: --halt counts them."""
        return sum(self._by_state_now[state] for state in states)

    @property
    def finished_now(self) -> int:
        """How many jobs got their outcome in this life."""
        return self._by_state_now.total()

    @property
    def exit_codes(self) -> set[ExitCode]:
        """The exit codes that the jobs' states call for."""
        return _exit_codes(self.by_state)

    @property
    def exit_codes_now(self) -> set[ExitCode]:
        """Those that the outcomes of this life call for."""
        return _exit_codes(self._by_state_now)

    def exit_codes_of(self, states: Iterable[State]) -> set[ExitCode]:
        """Those that the jobs in these states call for."""
        return _exit_codes(Counter({state: self.by_state[state] for state in states}))

    def has(self, seq: int) -> bool:
        """Whether the job has an outcome."""
        return seq < len(self._codes) and self._codes[seq] > 0

    def add(self, outcome: Outcome, *, earlier: bool = False) -> None:
        """Count an outcome. A later run of a job takes the place of the earlier one; what it cost is added.

        `earlier`: the outcome was there before this life of the program began.
        """
        missing = outcome.seq + 1 - len(self._codes)  # outcomes come in any order of their jobs
        if missing > 0:
            self._codes.extend(bytes(missing))
        before = self._codes[outcome.seq]
        if before:
            self.counted(before, -1)
        else:
            self.finished += 1
        self._codes[outcome.seq] = _CODES[outcome.state] | (_EARLIER if earlier else 0)
        self.counted(self._codes[outcome.seq], 1)
        self.causes.add(outcome)
        if not earlier:
            self.attempts += outcome.attempts
            self.crashes += outcome.crashes
            self.cpu_ns += outcome.usage.cpu_ns

    def counted(self, code: int, by: int) -> None:
        state = _STATES[(code & ~_EARLIER) - 1]
        self.by_state[state] += by
        if not code & _EARLIER:
            self._by_state_now[state] += by

    def summary(self, total: int, wall_ns: int, pool: PoolFacts) -> tuple[str, dict[str, Fact]]:
        """Return the line for a person, and the same facts for programs. `total`: jobs of the batch."""
        by_state = {str(state): self.by_state[state] for state in State if self.by_state[state]}
        if missing := total - self.finished:
            by_state["not run"] = missing
        states = ", ".join(f"{count} {state}" for state, count in by_state.items()) or "nothing to do"
        sums = [counted(self.attempts, "attempt"), counted(self.crashes, "crash", "crashes")]
        if pool.respawns is not None:
            sums.append(counted(pool.respawns, "respawn"))
        if earlier := self.finished - self.finished_now:
            states += f" ({earlier} in earlier runs)"
        text = f"{counted(total, 'job')}: {states}; {', '.join(sums)}; {human(wall_ns)} wall"
        fields: dict[str, Fact] = {
            "jobs": total,
            **{words.replace("-", "_").replace(" ", "_"): count for words, count in by_state.items()},
            "earlier": earlier,
            "attempts": self.attempts,
            "crashes": self.crashes,
            "respawns": pool.respawns,
            "wall_seconds": seconds(wall_ns),
            "cpu_seconds": seconds(self.cpu_ns),
        }
        # How well the processors were used: what a person asks first of a CPU-bound batch.
        if pool.cpus and wall_ns:
            available_ns = wall_ns * pool.cpus
            share = round(100 * self.cpu_ns / available_ns)
            text += f"; CPU {human(self.cpu_ns)} of {human(available_ns)} available ({share}%)"
            fields["cpu_available_seconds"] = seconds(available_ns)
        return text, fields


def _exit_codes(by_state: Counter[State]) -> set[ExitCode]:
    codes: set[ExitCode] = set()
    # A cancelled job counts as failed for a script: its result is not there.
    if _failed(by_state) > by_state[State.QUARANTINED] or by_state[State.CANCELLED]:
        codes.add(ExitCode.JOBS_FAILED)
    if by_state[State.QUARANTINED]:
        codes.add(ExitCode.QUARANTINED)
    return codes


def _failed(by_state: Counter[State]) -> int:
    return by_state[State.FAILED] + by_state[State.TIMED_OUT] + by_state[State.QUARANTINED]
