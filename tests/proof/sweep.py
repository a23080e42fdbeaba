"""The sweep: every program killed at every state-changing system call, and every call refused with every error.

A reference run of a small journaled pool is traced once for each program: the dealer, its journal thread, a worker,
the generator. Then the run is repeated for each point: the program is struck there by strace, what ended is
started again as a service manager or a person would, and the ledger, the outcomes, the journal and what is left say
whether a promise was broken. sweep_calls.py says which calls and errors, and why.

    make sweep                          everything; goes on where it was interrupted
    cd tests && python -m proof.sweep --only 'worker mq_timedsend@3 KILL'
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proof.sweep_run import run_point, run_reference
from proof.sweep_stage import preload
from proof.sweep_trace import KILL, PROGRAMS, Point, points_of, read_calls, sample

REFERENCE_SECONDS = 180.0
PROBLEM_CHARS = 4000  # a program that hangs has two stacks to tell


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def survey(base: Path, name: str, programs: list[str]) -> list[Point]:
    """The reference runs, and the points they show."""
    points: list[Point] = []
    for who in programs:
        pool = f"{name}-{who[0]}{who[1]}ref"
        trace, directory, result = run_reference(base, pool, who, REFERENCE_SECONDS)
        if result.problems:
            raise SystemExit(f"the reference run of the {who} went wrong: {result.problems}, see {directory}")
        calls = read_calls(trace, who, directory, pool)
        found = points_of(who, calls)
        kills = sum(point.fault == KILL for point in found)
        sites = len({call.site for call in calls})
        say(f"{who}: {len(calls)} calls at {sites} sites: {kills} kills, {len(found) - kills} errors")
        points += found
    return points


class Sweep:
    """All points, shared out to processes that each run one after the other."""

    def __init__(self, base: Path, name: str, args: argparse.Namespace) -> None:
        self.base = base
        self.name = name
        self.args = args
        self.journal: Path = args.journal or base / "points.jsonl"
        self._old_bytes = self.journal.stat().st_size if args.again and self.journal.exists() else 0

    def run(self) -> int:
        done = self._read()
        points = self._chosen(survey(self.base, self.name, self.args.programs))
        todo = [point for point in points if point.key not in done]
        say(f"{len(points)} points, {len(points) - len(todo)} of them done before; {self.args.parallel} at a time")
        began = time.monotonic()
        self._share_out(todo)
        self._read_on(todo, began)
        return self._audit(points)

    def _chosen(self, points: list[Point]) -> list[Point]:
        if self.args.only:
            points = _matching(points, self.args.only)
        if self.args.sample:
            always = _matching(points, self.args.always)
            points = list(dict.fromkeys(always + sample(points, self.args.sample, self.args.seed)))
        return points

    def _share_out(self, todo: list[Point]) -> None:
        """A process for each share, forked while this one has no threads: everything is imported in them already."""
        self._shares: list[int] = []
        for share in range(self.args.parallel):
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    self._run_share(todo[share :: self.args.parallel], share)
                    status = 0
                finally:
                    os._exit(status)
            self._shares.append(pid)

    def _run_share(self, todo: list[Point], share: int) -> None:
        until = time.monotonic() + self.args.minutes * 60
        for number, point in enumerate(todo):
            if time.monotonic() > until:
                return
            pool = f"{self.name}-{share}-{number}"
            result = run_point(self.base, pool, point, self.args.deadline)
            line = json.dumps(asdict(result) | {"sort": point.sort, "site": point.site, "pool": pool})
            with self.journal.open("ab", buffering=0) as file:
                file.write(f"{line}\n".encode())

    def _read_on(self, todo: list[Point], began: float) -> None:
        """Progress, until the shares have ended."""
        wanted = {point.key for point in todo}
        said = time.monotonic()
        told: set[str] = set()
        left = set(self._shares)
        while left:
            for pid in list(left):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    left.discard(pid)
            now = {key: each for key, each in self._read().items() if key in wanted}
            for key, each in now.items():
                if each["problems"] and key not in told:
                    told.add(key)
                    say(f"VIOLATION {key} ({each['pool']}): {each['problems']}")
            if time.monotonic() - said > self.args.progress:
                said = time.monotonic()
                say(f"{len(now)}/{len(todo)} points, {len(told)} violations, {said - began:.0f} s")
            time.sleep(0.1)

    def _read(self) -> dict[str, dict[str, Any]]:
        """What the journal of this sweep says; of a point that was run again, the last."""
        found: dict[str, dict[str, Any]] = {}
        with suppress(FileNotFoundError):
            for line in self.journal.read_bytes()[self._old_bytes :].splitlines():
                with suppress(ValueError):  # the last line of one that was killed
                    each = json.loads(line)
                    found[each["key"]] = each
        return found

    def _audit(self, points: list[Point]) -> int:
        results = self._read()
        mine = [results[point.key] for point in points if point.key in results]
        kills = Counter(each["key"].rpartition(" ")[2] == KILL for each in mine)
        reached = sum(each["reached"] for each in mine)
        bad = [each for each in mine if each["problems"]]
        ended = Counter(
            each["ended"] for each in mine if each["ended"] is not None and each["ended"] != -signal.SIGKILL
        )
        say(
            f"points run: {len(mine)} of {len(points)} ({kills[True]} kills, {kills[False]} errors), reached: {reached}"
        )
        say(f"errors that ended their program, by exit code: {dict(sorted(ended.items()))}; the others were survived")
        say(f"violations: {len(bad)}")
        for each in bad:
            say(f"  {each['key']}: {each['problems'][0][:PROBLEM_CHARS]}")
        return 1 if bad or len(mine) < len(points) else 0


def _matching(points: list[Point], patterns: list[str]) -> list[Point]:
    return [point for point in points if any(fnmatch.fnmatchcase(point.key, pattern) for pattern in patterns)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="points of these names: 'dealer pwrite64@* KILL'")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="N points, spread over all sorts")
    parser.add_argument("--always", nargs="+", default=[], metavar="PATTERN", help="points in every sample")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="points at a time: most only wait")
    parser.add_argument("--deadline", type=float, default=120.0, metavar="SECONDS", help="for a point to converge")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no point after this long")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="points done; a sweep with it goes on")
    parser.add_argument("--again", action="store_true", help="run points that are in the journal again")
    parser.add_argument("--progress", type=float, default=15.0, metavar="SECONDS")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended by TERM too, it ends what it started
    preload()
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    base = Path(tempfile.mkdtemp(prefix="tp-sweep-", dir=shm))
    say(f"in {base}")
    code = Sweep(base, f"sw{os.getpid()}", args).run()
    if code == 0:
        subprocess.run(["rm", "-rf", str(base)], check=True)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
