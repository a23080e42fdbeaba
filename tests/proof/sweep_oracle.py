"""Whether a run that was struck has kept its promises, by the jobs' ledger, the pool's answers, and what is left."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from proof.sweep_calls import words_for
from proof.sweep_trace import KILL, Point
from support.harness import ENVIRONMENT, FAILED, OK, QUARANTINED, REFUSED, UNREACHABLE, USAGE
from support.ledger import Ledger
from support.leftovers import unlink_queues

LABELS = ("fib", "small", "large", "quiet", "noisy", "fib2")
WITNESSED = ("small", "large", "quiet", "noisy")  # jobs that write themselves down
EPOCHS = 8
INCARNATIONS = 12
_VALUES = {"fib": 5, "small": "small", "fib2": 8}
_HONEST_CODES = (ENVIRONMENT, UNREACHABLE, REFUSED)


def codes_of_batch(jobs_may_fail: bool) -> tuple[int, ...]:
    """How a generator may end that has all its outcomes."""
    return (OK, FAILED, QUARANTINED) if jobs_may_fail else (OK,)


def ending(name: str, code: int, said: str, point: Point) -> str:
    """What is wrong with the end of the struck program; empty if nothing."""
    if point.fault == KILL:
        return "" if code == -9 else f"{name} ended with {code} instead of being killed: {said[-400:]}"
    if point.fault == "EPIPE" and code == -signal.SIGPIPE:
        return ""  # as any program whose reader has gone
    honest = (*_HONEST_CODES, USAGE) if name == "generator" and point.call == "openat" else _HONEST_CODES
    if code not in honest:
        return f"{name} ended with {code}; {said[-600:]}"
    strerror = os.strerror(getattr(errno, point.fault))
    if not any(word.lower() in said.lower() for word in words_for(point.fault, strerror)):
        return f"{name} ended with {code} and does not name {point.fault}: {said[-400:]}"
    return ""


def outcomes(results: Path, ledger: Ledger, *, may_fail: bool) -> list[str]:
    """One outcome for each accepted job, and the right one."""
    found = _objects(results)
    counts = Counter(str(outcome["label"]) for outcome in found)
    problems = [f"lost: {label}" for label in LABELS if not counts[label]]
    problems += [f"recorded {count} times: {label}" for label, count in counts.items() if count > 1]
    starts, ends = ledger.jobs("start"), ledger.jobs("end")
    for outcome in found:
        label = str(outcome["label"])
        if outcome["state"] != "succeeded":
            if not may_fail or not outcome["error"]:
                problems.append(f"{label} is {outcome['state']}: {outcome['error']}")
        elif label in WITNESSED and not (starts[label] and ends[label]):
            problems.append(f"{label} succeeded and never ran")
        elif label in _VALUES and outcome["value"] != _VALUES[label]:
            problems.append(f"{label} has the value {str(outcome['value'])[:60]}")
        elif label == "noisy" and not _has_output(outcome):
            problems.append(f"{label} has lost its output: {outcome['stdout_file']}")
    problems += [f"overlap: {line}" for line in ledger.lines() if line[0] == "overlap"]
    return problems


def _has_output(outcome: dict[str, Any]) -> bool:
    path = outcome["stdout_file"]
    return isinstance(path, str) and os.path.isfile(path) and os.path.getsize(path) == 70_000


def kept(file: Path, results: Path) -> list[str]:
    """The generator's own file: every outcome once, whatever became of the generator."""
    counts = Counter(str(outcome["label"]) for outcome in _objects(file))
    labels = {str(outcome["label"]) for outcome in _objects(results)}
    problems = [f"not in --results: {label}" for label in sorted(labels) if not counts[label]]
    return problems + [f"{count} times in --results: {label}" for label, count in counts.items() if count > 1]


def tracebacks(logs: Path) -> list[str]:
    """Errors in the programs themselves. What the interpreter says when its own wake-up pipe refuses is not."""
    said = ((path.name, path.read_text(errors="replace")) for path in sorted(logs.glob("*.err")))
    found = [(name, text) for name, text in said if "Traceback" in text and "signal wakeup fd" not in text]
    return [f"{name}: {text[text.index('Traceback') :][-900:]}" for name, text in found]


def queues_of(pool: str) -> list[str]:
    """Queues of the pool that still have a name; they are removed."""
    return unlink_queues(pool, EPOCHS, INCARNATIONS)


def _objects(file: Path) -> list[dict[str, Any]]:
    objects = []
    for line in file.read_bytes().splitlines():
        try:
            objects.append(json.loads(line))
        except ValueError:
            objects.append({"label": f"torn line {line[:40]!r}", "state": "torn", "error": None})
    return objects
