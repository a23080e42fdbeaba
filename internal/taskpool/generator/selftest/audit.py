"""The judgement of a self-test: what was planned against what three records say. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from taskpool.errors import ExitCode, counted
from taskpool.generator.selftest.plan import Deed, Plan, PlannedJob
from taskpool.generator.selftest.records import Recorded, count
from taskpool.generator.selftest.trial import Evidence
from taskpool.messages import State

_NAMED_MAX = 5  # problems of one sort that are told one by one
# The batch ends with jobs in quarantine, which goes before jobs that failed.
_EXIT_STATUS = ExitCode.QUARANTINED


class Check(NamedTuple):
    """One promise, and what speaks against it."""

    name: str
    promise: str  # with the figures that it was judged by
    problems: Sequence[str]

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.problems


def audit(plan: Plan, evidence: Evidence) -> list[Check]:
    """Judge a self-test."""
    judge = _Judge(plan, evidence)
    jobs, outcomes = len(plan.jobs), evidence.journal.outcomes
    starts = sum(line.word == "start" for line in evidence.executions)
    blows = f"{len(evidence.struck)} of {counted(len(plan.blows), 'planned kill')}"
    return [
        judge.check("end", f"the batch came to its end, through {blows}", judge.end()),
        judge.check("outcomes", f"{jobs} jobs accepted, {len(outcomes)} outcomes recorded, one each", judge.outcomes()),
        judge.check("told", f"{len(evidence.told)} outcomes told, each as it is recorded", judge.told()),
        judge.check("results", "each job ended as it had to, with its right result", judge.results()),
        judge.check("retries", f"{starts} executions; each job ran as often as its crashes ask for", judge.retries()),
        judge.check("overlap", "no two executions of a job at once", judge.overlaps()),
        judge.check("journal", "the journal is whole", judge.journal()),
        judge.check("left", "no process and no queue is left behind", judge.left()),
    ]


def with_directory(checks: Sequence[Check], problem: str) -> list[Check]:
    """Add what is wrong with the removal of the pool's state."""
    last = checks[-1]
    promise = "no process, queue or directory is left behind"
    return [*checks[:-1], last._replace(promise=promise, problems=[*last.problems, *filter(None, [problem])])]


class _Judge:
    """Looks through the records for what speaks against each promise."""

    def __init__(self, plan: Plan, evidence: Evidence) -> None:
        self._plan = plan
        self._evidence = evidence
        self._starts = count(evidence.executions, "start")
        self._ends = count(evidence.executions, "end")
        self._recorded: dict[str, list[Recorded]] = {}
        for outcome in evidence.journal.outcomes:
            self._recorded.setdefault(outcome.name, []).append(outcome)

    @staticmethod
    def check(name: str, promise: str, problems: Iterator[str]) -> Check:
        found = list(problems)
        more = len(found) - _NAMED_MAX
        return Check(name, promise, found[:_NAMED_MAX] + ([f"and {more} more like these"] if more > 0 else []))

    def end(self) -> Iterator[str]:
        evidence = self._evidence
        if evidence.given_up:
            yield f"the batch did not come to its end: {evidence.given_up}"
        elif evidence.exit_status != _EXIT_STATUS:
            said = f": {evidence.said}" if evidence.said else ""
            yield f"tp-generator ended with {evidence.exit_status}, not with {_EXIT_STATUS.value}{said}"

    def outcomes(self) -> Iterator[str]:
        """Exactly one for each job."""
        victims = {blow.victim for blow in self._evidence.struck}
        # Those that were struck first: what is wrong began there.
        for job in sorted(self._plan.jobs, key=lambda job: job.name not in victims):
            found = self._recorded.get(job.name, [])
            if not found:
                yield f"job {job.name} was accepted and has no outcome: it is lost{self._history(job)}"
            elif len(found) > 1:
                states = ", ".join(outcome.state for outcome in found)
                yield f"job {job.name} has {len(found)} recorded outcomes ({states}) for one run"
        known = {job.name for job in self._plan.jobs}
        yield from (
            f"there is an outcome of {name}, which was never submitted" for name in self._recorded.keys() - known
        )

    def _history(self, job: PlannedJob) -> str:
        started, ended = self._starts[job.name], self._ends[job.name]
        if not started:
            return ", and was never executed"
        killed = [blow.target for blow in self._evidence.struck if blow.victim == job.name]
        during = f"; the {killed[0]} was killed while it ran" if killed else ""
        return f" (executed {counted(started, 'time')}, to its end {counted(ended, 'time')}{during})"

    def told(self) -> Iterator[str]:
        """What the submitter was told is what is recorded, once."""
        # A dealer that was killed may tell an outcome again: it is the client that must pass it on once.
        told = Counter(outcome.name for outcome in self._evidence.told)
        yield from (f"the outcome of job {name} was told {times} times" for name, times in told.items() if times > 1)
        if self._evidence.given_up:
            return  # what it waits for would be told now
        for outcome in self._evidence.told:
            recorded = self._recorded.get(outcome.name)
            if recorded is None:
                yield f"the outcome of job {outcome.name} was told and is not recorded"
            elif outcome.state not in {each.state for each in recorded}:
                yield f"job {outcome.name} was told as {outcome.state} and is recorded as {recorded[0].state}"
        untold = self._recorded.keys() - told.keys()
        yield from (f"the outcome of job {name} is recorded and was never told" for name in sorted(untold))

    def results(self) -> Iterator[str]:
        """The state that was planned; of a job that succeeds, its value."""
        for job in self._plan.jobs:
            for outcome in self._recorded.get(job.name, []):
                if outcome.state != job.state:
                    yield _wrong_state(job, outcome)
                elif job.state is State.SUCCEEDED and msgspec.json.decode(outcome.value) != job.value:
                    yield f"job {job.name} has the result {bytes(outcome.value).decode()}, not {job.value!r}"

    def retries(self) -> Iterator[str]:
        """A job that succeeds came to its end, and was executed once more than it crashed."""
        for job in self._plan.jobs:
            outcomes = self._recorded.get(job.name, [])
            if not outcomes or job.fields["kind"] == "fib":  # which writes nothing down
                continue
            if job.state is State.SUCCEEDED and outcomes[0].state == State.SUCCEEDED and not self._ends[job.name]:
                yield f"job {job.name} is recorded as succeeded and never came to its end"
            # At least: a job that ran when its dealer was killed runs once more, and that counts for nothing.
            needed = 2 if job.state is State.QUARANTINED else 1 + (job.times if job.crashes_itself else 0)
            if self._starts[job.name] < needed:
                times = counted(self._starts[job.name], "time")
                yield f"job {job.name} crashed and was not run again: it was executed {times}, not {needed}"

    def overlaps(self) -> Iterator[str]:
        for name in count(self._evidence.executions, "overlap"):
            yield f"job {name} was executed while another execution of it was under way"

    def journal(self) -> Iterator[str]:
        if self._evidence.journal.problem:
            yield self._evidence.journal.problem

    def left(self) -> Iterator[str]:
        yield from (f"{what} is left behind" for what in self._evidence.left)


def _wrong_state(job: PlannedJob, outcome: Recorded) -> str:
    crashes = counted(outcome.crashes, "crash", "crashes")
    if outcome.crashes and job.state is State.SUCCEEDED:
        return f"job {job.name} was given up after {crashes}, and may crash without limit: it is {outcome.state}"
    # The crash of another job must not be held against one that did nothing.
    if job.deed is Deed.CALM or not outcome.crashes:
        return f"job {job.name} is {outcome.state}, and had to be {job.state}"
    return f"job {job.name} is {outcome.state} after {crashes}, and had to be {job.state}"
