"""The command line of the simulator."""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence

from sim.campaign import JUDGED_FROM, Campaign, campaign
from sim.faults import NAMES
from sim.schedule import Result, run
from sim.shrink import shrink

TRACE_LINES = 120


def main(arguments: Sequence[str]) -> int:
    """Exit code 0: every schedule kept every promise."""
    parser = ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many schedules (SEEDS=)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (FIRST=)")
    parser.add_argument("--seed", type=int, help="one schedule only, with its trace (SEED=)")
    parser.add_argument("--lines", type=int, default=TRACE_LINES, help="how much of the trace is shown")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--failures", type=int, default=1, help="stop after so many")
    parser.add_argument("--whole", action="store_true", help="with --seed: do not shrink")
    parser.add_argument("--hashes", action="store_true", help="print one hash for each schedule, for comparison")
    parser.add_argument("--hunt", action="store_true", help="say after how many schedules the first one fails")
    options = parser.parse_args(arguments)
    if options.hunt:
        return _hunt(options.first, options.seeds, options.seconds)
    if options.hashes:
        return _print_hashes(options.first, options.seeds)
    if options.seed is not None:
        return _one(options.seed, options.lines, whole=options.whole)
    result = campaign(
        options.first, options.seeds, cores=options.cores, seconds=options.seconds, failures_max=options.failures
    )
    _report(result)
    for seed, text in result.failures:
        _say(f"seed {seed}: {text}\n  repeat it with: make sim SEED={seed}")
    if result.failures:
        _one(result.failures[0][0], options.lines, whole=False)
    return 1 if result.failures or result.missing else 0


def _one(seed: int, lines: int, *, whole: bool) -> int:
    result = run(seed, tracing=True)
    if result.violation is not None and not whole:
        result = shrink(seed)
    _show(result, lines)
    return 1 if result.violation else 0


def _show(result: Result, lines: int) -> None:
    trace = result.trace or []
    if len(trace) > lines:
        _say(f"... ({len(trace) - lines} lines before; --lines shows more)")
    for line in trace[-lines:]:
        _say(line[:240])
    _say(f"faults: {', '.join(result.fired) or 'none'}")
    _say(f"seed {result.seed}: {result.violation or 'every promise was kept'}")


def _report(result: Campaign) -> None:
    width = max(map(len, NAMES))
    for name in NAMES:
        _say(f"  {name:{width}} {result.seen[name]:>10}{'' if result.seen[name] else '   NEVER'}")
    _say(result.summary())
    if result.never_seen:
        few = "" if result.missing else f" (of fewer than {JUDGED_FROM} schedules, so it is no failure)"
        _say(f"never seen: {', '.join(result.never_seen)}{few}")


def _print_hashes(first: int, count: int) -> int:
    for seed in range(first, first + count):
        result = run(seed)
        _say(f"{seed} {result.hash & (2**64 - 1):016x} {result.violation or ''}")
    return 0


def _hunt(first: int, count: int, seconds: float) -> int:
    until = time.monotonic() + seconds
    for number, seed in enumerate(range(first, first + count), 1):
        result = run(seed)
        if result.violation is not None:
            lines = result.violation.strip().splitlines()
            _say(f"FOUND after {number}: {lines[0] if len(lines) == 1 else lines[0][:20] + ' ' + lines[-1]}")
            return 1
        if time.monotonic() > until:
            break
    _say("not found")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
