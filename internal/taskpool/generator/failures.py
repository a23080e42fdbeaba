"""Jobs that did not succeed: a line for each of the first ones, and a count by cause for all of them."""

from __future__ import annotations

import os
from collections import Counter

from taskpool.errors import counted
from taskpool.limits import JOB_TEXT_BYTES_MAX
from taskpool.log import excerpt
from taskpool.messages import Outcome, Output, State
from taskpool.procs.signals import signal_name

# Ends that need no line of their own: the first is the rule, the second was asked for.
UNREMARKABLE = frozenset({State.SUCCEEDED, State.CANCELLED})
DETAIL_BYTES_MAX = 500  # of what the job itself said of its failure
_CAUSES_MAX = 254  # told apart; a byte has room for one more, which stands for all others
_CAUSES_SHOWN_MAX = 6
_OTHER_CAUSES = "other causes"
_TAIL_BYTES_MAX = 4 * 1024  # of a file of standard error: its last line is looked for there


def cause(outcome: Outcome) -> str:
    """Say in a word or two why a job did not succeed: `exit 1`, `SIGSEGV`, `timed out`, `ValueError`."""
    if outcome.state is State.TIMED_OUT:
        return "timed out"
    if outcome.tries and outcome.tries[-1].out_of_memory:
        return "out of memory"
    if outcome.signal is not None:
        return signal_name(outcome.signal)
    if outcome.exit_status:  # not 0, which would be no reason
        return f"exit {outcome.exit_status}"
    # From a worker, and so any text: it must stay a word in a line of others.
    return str(outcome.state) if outcome.error is None else excerpt(outcome.error.type, JOB_TEXT_BYTES_MAX)


def describe(outcome: Outcome) -> str:
    """Say in one line which job did not succeed, why, what it is, and the last that it said itself."""
    name = f"Job {outcome.seq} ({outcome.label})" if outcome.label else f"Job {outcome.seq}"
    how = [] if outcome.state is State.TIMED_OUT else [cause(outcome)]
    if outcome.state is State.QUARANTINED and outcome.crashes:  # without one, the error says what it was
        how.append(counted(outcome.crashes, "crash", "crashes"))
    elif outcome.attempts > 1:
        how.append(f"{outcome.attempts} attempts")
    reason = f" ({', '.join(how)})" if how else ""
    parts = (f"{name} {outcome.state}{reason}", outcome.job or outcome.kind, _detail(outcome))
    return ": ".join(filter(None, parts))


def _detail(outcome: Outcome) -> str:
    message = outcome.error.message.strip() if outcome.error is not None else ""
    return excerpt(message or last_line(outcome.output), DETAIL_BYTES_MAX)


def last_line(output: Output) -> str:
    """Return the last line of standard error that has something in it; an empty text when there is none."""
    text = output.stderr or ""
    if output.stderr_file is not None:
        text = _tail(output.stderr_file)
    return text.rstrip().rpartition("\n")[2].strip()


def _tail(name: str) -> str:
    try:
        with open(name, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES_MAX))
            return file.read(_TAIL_BYTES_MAX).decode("utf-8", "backslashreplace")
    except OSError:  # it was emptied, or its spool is not mounted here: the line is told without it
        return ""


def command_that_shows_failures(pool: str, batch: str) -> str:
    """Return the command that prints what `describe` says of each failure, from what a running pool has kept."""
    return f"tp-generator results --failed --pool {pool} {batch}"


class Causes:
    """Counts jobs whose last run did not succeed, by cause."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._counts: Counter[int] = Counter()
        # One byte for each job, by its number, from the first failure on: of ten million jobs all may fail.
        self._codes = bytearray()

    def add(self, outcome: Outcome) -> None:
        """Count an outcome. It takes the place of that of the job's earlier run."""
        seq = outcome.seq
        if seq < len(self._codes) and (before := self._codes[seq]):
            self._codes[seq] = 0
            self._counts[before] -= 1
        if outcome.state in UNREMARKABLE:
            return
        if seq >= len(self._codes):
            self._codes.extend(bytes(seq + 1 - len(self._codes)))
        self._codes[seq] = code = self._code(cause(outcome))
        self._counts[code] += 1

    def _code(self, name: str) -> int:
        if name not in self._names:
            if len(self._names) >= _CAUSES_MAX:
                return _CAUSES_MAX + 1
            self._names.append(name)
        return self._names.index(name) + 1

    def text(self) -> str:
        """Return the counts, the most frequent cause first: `12 × exit 1, 3 × SIGSEGV`; empty when there is none."""
        counts = Counter({self._name(code): count for code, count in self._counts.items() if count})
        counted = sorted(counts.items(), key=lambda each: (each[0] == _OTHER_CAUSES, -each[1], each[0]))
        shown, rest = counted[:_CAUSES_SHOWN_MAX], counted[_CAUSES_SHOWN_MAX:]
        if rest:
            shown.append((_OTHER_CAUSES, sum(count for _, count in rest)))
        return ", ".join(f"{count} × {name}" for name, count in shown)

    def _name(self, code: int) -> str:
        return self._names[code - 1] if code <= _CAUSES_MAX else _OTHER_CAUSES


class Flood:
    """Decides which failures get a line: each of the first ones, and then a count at each doubling."""

    TOLD_MAX = 10

    def __init__(self) -> None:
        self.seen = 0
        self._count_at = 2 * self.TOLD_MAX

    def admit(self) -> bool:
        """Take note of a failure; return whether it gets a line of its own."""
        self.seen += 1
        return self.seen <= self.TOLD_MAX

    def counts_now(self) -> bool:
        """Whether it is time for a line that counts."""
        if self.seen < self._count_at:
            return False
        while self._count_at <= self.seen:
            self._count_at *= 2
        return True
