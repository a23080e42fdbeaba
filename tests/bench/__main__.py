"""`make bench`: our figures and the peers', side by side in one run.

Every comparison takes turns, A B A B, and a ratio is taken within a round. What each figure includes is in the
footnotes of the table. Nothing is refused on a busy machine, but the result is marked. Exits with 1 when a side gave
no result, or a wrong one; a target that is not met is told and is no failure.

    make bench ROUNDS=5 ROWS="noop cpu" SCALE=0.1
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from bench import machine, report, table
from bench.peer import find_peers
from bench.pool import Programs
from bench.report import RESULT, Report
from bench.setting import Setting
from bench.trial import Trial, narrowed, run
from bench.trials import commands, cpu, deaths, programs, throughput, waiting
from support.harness import programs_directory
from support.source_tree import ROOT
from taskpool import __version__

BUNDLE = ROOT / "dist" / "taskpool"
PEERS_PYTHON = ROOT / "build" / "bench-venv" / "bin" / "python"


def all_trials(setting: Setting) -> list[Trial]:
    """Return every trial, in the order of the table."""
    parts = (throughput, programs, commands, cpu, waiting, deaths)
    return [trial for part in parts for trial in part.trials(setting)]


def measure(options: argparse.Namespace, work: Path) -> Report:
    """Run the trials with everything they write below `work`."""
    here = machine.this_machine()  # first, as the bench makes a load of its own
    say(here.text())
    peers = find_peers(PEERS_PYTHON, work)
    frozen = Programs(BUNDLE, work) if (BUNDLE / "tp-generator").exists() else None
    setting = Setting(Programs(programs_directory(), work), frozen, peers, work, options.scale)
    rows = [row for trial in narrowed(all_trials(setting), options.rows) for row in run(trial, options.rounds, say)]
    return Report(
        taskpool=__version__,
        machine=here,
        versions=dict(peers.versions),
        rounds=options.rounds,
        scale=options.scale,
        rows=rows,
    )


def say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default: 5)")
    parser.add_argument("--scale", type=float, default=1.0, help="shrink the sizes, for a trial: 0.1")
    parser.add_argument(
        "--rows", nargs="*", default=(), metavar="WORD", help="only rows with one of these in their name"
    )
    options = parser.parse_args()
    if options.rounds < 1 or not 0 < options.scale <= 1:
        parser.error("expected 1 round or more, and a scale above 0 and not above 1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended by TERM too, it ends what it started
    RESULT.parent.mkdir(exist_ok=True)
    # Not in /tmp, which may be in memory: what both sides sync has to reach a disk.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=RESULT.parent) as directory:
        result = measure(options, Path(directory))
    if not result.rows:
        parser.error(f"no row has any of these in its name: {' '.join(options.rows)}")
    report.write(result, RESULT)
    sys.stdout.writelines(f"{line}\n" for line in table.render(result))
    if result.failed:
        say(f"no result, or a wrong one: {', '.join(result.failed)}")
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())
