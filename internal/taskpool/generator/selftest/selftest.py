"""Run a self-test, and tell how it came out: lines for people, one object for programs."""

from __future__ import annotations

import os
import shutil
import tempfile
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from taskpool import __version__
from taskpool.clock import SECOND, SystemClock, seconds
from taskpool.durations import parse_duration
from taskpool.errors import ExitCode, UsageError, counted
from taskpool.generator.output.console import Console
from taskpool.generator.output.stream import Piece, write_pieces
from taskpool.generator.selftest.audit import Check, audit, with_directory
from taskpool.generator.selftest.plan import ROUNDS_DEFAULT, ROUNDS_MAX, ROUNDS_MIN, SEED_MAX, Plan, make_plan
from taskpool.generator.selftest.trial import Evidence, Patience, Trial, no_core_files
from taskpool.generator.signals import handled_signals
from taskpool.log import printable
from taskpool.procs.signals import Wakeup

_STDOUT = 1
# Far more than any step takes: on a machine that is busy or swaps, the self-test waits rather than calls a job lost.
_PATIENCE_NS = 60 * SECOND
_SHELL = "/bin/sh"


def selftest(args: Namespace, console: Console) -> ExitCode:
    """Print the verdict; JOBS_FAILED, which is 1, when it is bad.

    Raises UsageError, ConfigurationError when no pool starts here, Interrupted.
    """
    seed = _number(args.seed, "--seed", 0, SEED_MAX, int.from_bytes(os.urandom(4), "big"))
    rounds = _number(args.rounds, "--rounds", ROUNDS_MIN, ROUNDS_MAX, ROUNDS_DEFAULT)
    quiet_ns = _PATIENCE_NS if args.patience is None else parse_duration(args.patience, "--patience")
    if args.dealer_timeout is not None:
        parse_duration(args.dealer_timeout, "--dealer-timeout")  # refused here; it is passed on as it is
    # Before it begins: one that is killed half way can be repeated, too.
    console.info(f"Self-test with seed {seed}: real jobs, real crashes, real kills; about 15 s")
    no_core_files()
    directory = Path(tempfile.mkdtemp(prefix="tp-selftest-"))
    try:
        with closing(Wakeup(handled_signals())) as wakeup:
            report = _judged(seed, rounds, Patience(quiet_ns, args.dealer_timeout), directory, wakeup, console)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    if report.kept is None:
        shutil.rmtree(directory, ignore_errors=True)
    write_pieces([Piece(_STDOUT, as_json(report) if args.json else as_text(report))])
    return ExitCode.OK if report.passed else ExitCode.JOBS_FAILED


def _judged(seed: int, rounds: int, patience: Patience, directory: Path, wakeup: Wakeup, console: Console) -> Report:
    began = SystemClock().now().mono
    shell = _SHELL if os.access(_SHELL, os.X_OK) else None
    plan = make_plan(seed, rounds, str(directory), shell)
    trial = Trial(plan, f"selftest-{os.urandom(4).hex()}", directory, patience, wakeup)
    try:
        evidence = trial.run(console)
    except BaseException:
        trial.forget()
        raise
    # The state goes after the judgement: what speaks against it stays, for who looks into it.
    checks = audit(plan, evidence)
    kept = None if all(check.holds for check in checks) else directory
    if kept is None:
        checks = with_directory(checks, trial.forget())
    took = seconds(SystemClock().now().mono - began)
    return Report(plan, evidence, checks, took, kept, trial.batch)


def _number(text: str | None, option: str, least: int, most: int, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and least <= int(text) <= most):
        raise UsageError(f"{option}: expected a number from {least} to {most}, got {text!r}")
    return int(text)


# --- what is told ---------------------------------------------------------------------------------


class Report(NamedTuple):
    """How a self-test came out."""

    plan: Plan
    evidence: Evidence
    checks: Sequence[Check]
    seconds: float
    kept: Path | None  # where the records are; None: nothing is kept
    batch: str

    @property
    def passed(self) -> bool:
        """Whether every promise holds."""
        return all(check.holds for check in self.checks)

    @property
    def kills(self) -> dict[str, int]:
        """How often what was killed by which signal."""
        return dict(Counter(f"{blow.target} {blow.signal.name}" for blow in self.evidence.struck))

    @property
    def own_crashes(self) -> int:
        """How often a job has killed its worker."""
        # By what they wrote down: of a crash that fell together with the dealer's kill no pool can know.
        crashing = {job.name for job in self.plan.jobs if job.crashes_itself}
        steps = {"start": 1, "end": -1}
        return sum(steps.get(line.word, 0) for line in self.evidence.executions if line.job in crashing)


def as_text(report: Report) -> bytes:
    """Return the lines for people."""
    # What holds first: the last lines of a terminal are what is read.
    lines = [f"ok     {check.promise}" for check in report.checks if check.holds]
    for check in report.checks:
        lines += [f"WRONG  {problem}" for problem in check.problems]
    kills = ", ".join(f"{counted(times, 'time')} the {what}" for what, times in report.kills.items())
    lines.append(f"Killed while jobs ran: {kills or 'nothing'}; jobs killed their workers {report.own_crashes} times.")
    seed, seconds = report.plan.seed, f"{report.seconds:.1f} s"
    if report.passed:
        lines.append(f"PASSED in {seconds}, seed {seed}: nothing was lost, doubled or left behind.")
    else:
        broken = ", ".join(check.name for check in report.checks if not check.holds)
        lines.append(f"FAILED in {seconds}, seed {seed}: this installation does not keep its promise ({broken}).")
        lines.append(f"To repeat it: tp-generator selftest --seed {seed} --rounds {len(report.plan.blows)}")
        if report.kept is not None:
            lines.append(f"Records and log: {report.kept}; journal: that of the batch {report.batch}.")
            lines.append(f"To remove them: tp-generator forget {report.batch}; rm -r {report.kept}")
    return "".join(f"{printable(line)}\n" for line in lines).encode(errors="backslashreplace")


def as_json(report: Report) -> bytes:
    """Return one object, a line."""
    record = {
        "verdict": "passed" if report.passed else "failed",
        "version": __version__,
        "seed": report.plan.seed,
        "rounds": len(report.plan.blows),
        "seconds": round(report.seconds, 3),
        "jobs": len(report.plan.jobs),
        "outcomes": len(report.evidence.journal.outcomes),
        "executions": sum(line.word == "start" for line in report.evidence.executions),
        "kills": report.kills,
        "crashes_of_jobs": report.own_crashes,
        "checks": [
            {"check": check.name, "ok": check.holds, "promise": check.promise, "problems": list(check.problems)}
            for check in report.checks
        ],
        "kept": None if report.kept is None else str(report.kept),
    }
    return msgspec.json.encode(record) + b"\n"
