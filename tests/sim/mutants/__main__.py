"""`make mutants`: every planted bug must be found. With words as arguments, only those whose names have one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sim.mutants.catalogue import MUTANTS
from sim.mutants.runner import Hunt, hunt, misplaced

SCHEDULES_MAX = 20_000
SECONDS_MAX = 600.0


def main(words: Sequence[str]) -> int:
    """Exit code 0: all were found."""
    chosen = [each for each in MUTANTS if not words or any(word in each.name for word in words)]
    for text in (line for each in chosen for line in misplaced(each)):
        sys.stdout.write(f"does not fit any more: {text}\n")
        return 2
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        hunts = list(pool.map(_hunt, chosen))
    missed = [each.mutant.name for each in hunts if not each.schedules]
    sys.stdout.write(f"{len(hunts) - len(missed)} of {len(hunts)} planted bugs were found\n")
    return 1 if missed else 0


def _hunt(mutant: object) -> Hunt:
    result = hunt(mutant, SCHEDULES_MAX, SECONDS_MAX)  # type: ignore[arg-type]
    when = f"after {result.schedules} schedules" if result.schedules else "NOT FOUND"
    sys.stdout.write(
        f"{result.mutant.rule:6} {result.mutant.name:58} {when:24} {result.seconds:6.1f} s  {result.what}\n"
    )
    sys.stdout.flush()
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
