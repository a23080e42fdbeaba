"""What one self-test does, drawn from a seed: the jobs, how each misbehaves, and who is killed while which job runs.

Rules of this file:
1. Pure, and the same for the same seed on every machine: a failure is repeated by its seed.
2. Nothing hangs on time. A blow falls while its victim runs, because the victim waits for it; and a job that is to
   succeed may be tried so often that a slow machine does not make it fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from signal import Signals
from typing import Any, NamedTuple

from taskpool.chaos import draw
from taskpool.generator.selftest.workload import answer
from taskpool.messages import State

ROUNDS_DEFAULT = 6
ROUNDS_MIN = 3  # one blow of each sort
ROUNDS_MAX = 15  # a dealer is started again five times, and each third blow is its
SEED_MAX = 2**64 - 1
WORKERS = 3
WORKLOAD = "taskpool.generator.selftest.workload:run"

_CALM_IN_ROUND = 8
_HANG = "2s"  # the time-out of a job that hangs: each hang costs so much of the self-test's time
_WAIT = "60s"  # of a victim, for which the blow comes at once: it ends one that is not struck
_TRIES = 50  # after time-outs of a machine that is slow
_POISON_CRASHES = 2
_FIB_MAX = 18
_DRAW_ORDER, _DRAW_SIGNAL, _DRAW_FIB, _DRAW_PLACE = range(4)  # what a number is drawn for


class Deed(StrEnum):
    """What a job does in its first executions, instead of its work."""

    CALM = "calm"  # nothing
    SEGV = "segv"  # it kills its worker
    KILL = "kill"
    HANG = "hang"  # past its time-out
    DEAF = "deaf"  # the same, and no signal but KILL ends it
    RAISE = "raise"
    VICTIM = "victim"  # it waits to be struck
    STRAY = "stray"  # it leaves a process behind


class PlannedJob(NamedTuple):
    """One job: what it is submitted as, and what has to become of it."""

    name: str
    deed: Deed
    fields: dict[str, Any]  # of its job object
    times: int = 0  # executions that misbehave
    state: State = State.SUCCEEDED
    value: object = None  # of one that succeeds

    @property
    def crashes_itself(self) -> bool:
        """Whether it ends its worker by a signal."""
        return self.deed in (Deed.SEGV, Deed.KILL)


class Blow(NamedTuple):
    """A kill from outside, while the victim runs."""

    target: str  # "worker": the victim's; or "dealer"
    signal: Signals
    victim: str  # the job


class Round(NamedTuple):
    """Jobs that are submitted together, and the blow that falls before more are."""

    jobs: Sequence[PlannedJob]
    blow: Blow | None


class Plan(NamedTuple):
    """One self-test."""

    seed: int
    rounds: Sequence[Round]

    @property
    def jobs(self) -> list[PlannedJob]:
        """All of them, in the order of their numbers."""
        return [job for each in self.rounds for job in each.jobs]

    @property
    def blows(self) -> list[Blow]:
        """All of them, in their order."""
        return [each.blow for each in self.rounds if each.blow is not None]


def make_plan(seed: int, rounds: int, directory: str, shell: str | None) -> Plan:
    """Draw a plan. Jobs write themselves down in `directory`; `shell` is a program for `command` jobs, if there is one.

    Behind the last blow comes one more round without one: what was struck last has to go on too.
    """
    maker = _Maker(seed, directory, shell)
    blows = [_blow(seed, number) for number in range(rounds)]
    return Plan(seed, [*(maker.round(number, blow) for number, blow in enumerate(blows)), maker.round(rounds, None)])


def _blow(seed: int, number: int) -> Blow:
    """Each third blow is the dealer's, from which on is drawn; of the others each second one has the other signal."""
    victim, place = f"victim-{number}", int(draw(seed, _DRAW_ORDER, 0) * 3)
    if number % 3 == place:
        return Blow("dealer", Signals.SIGKILL, victim)
    workers_before = number - sum(before % 3 == place for before in range(number))
    odd = (workers_before + int(draw(seed, _DRAW_SIGNAL, 0) * 2)) % 2
    return Blow("worker", Signals.SIGSEGV if odd else Signals.SIGKILL, victim)


class _Maker:
    """Makes the jobs of a round."""

    def __init__(self, seed: int, directory: str, shell: str | None) -> None:
        self._seed = seed
        self._directory = directory
        self._shell = shell

    def round(self, number: int, blow: Blow | None) -> Round:
        jobs = [self._fib(number)]
        jobs += [self._python(f"calm-{number}-{each}", Deed.CALM) for each in range(_CALM_IN_ROUND)]
        jobs += [self._python(f"segv-{number}", Deed.SEGV, times=1), self._python(f"kill-{number}", Deed.KILL, times=2)]
        if number == 0:
            jobs += self._unusual()
        if self._shell is not None:
            jobs.append(self._stray(number, self._shell))
        if blow is not None:
            # As often as it takes: each execution waits until it is struck, and the one after that works.
            limits = {"timeout": _WAIT, "retries": _TRIES}
            # Anywhere among them: what stands behind it is queued or runs when the blow falls.
            place = int(draw(self._seed, _DRAW_PLACE, number) * len(jobs))
            jobs.insert(place, self._python(blow.victim, Deed.VICTIM, times=2**31, **limits))
        return Round(jobs, blow)

    def _unusual(self) -> list[PlannedJob]:
        """Jobs of which one is enough: they take long, or do not succeed."""
        hangs = {"timeout": _HANG, "retries": _TRIES}
        return [
            self._python("hang", Deed.HANG, times=1, **hangs),
            self._python("deaf", Deed.DEAF, times=1, **hangs),
            self._python("raise", Deed.RAISE, times=2**31)._replace(state=State.FAILED),
            self._python("hopeless", Deed.HANG, times=2**31, timeout=_HANG)._replace(state=State.TIMED_OUT),
            self._python("poison", Deed.SEGV, times=2**31, crash_limit=_POISON_CRASHES)._replace(
                state=State.QUARANTINED
            ),
        ]

    def _python(self, name: str, deed: Deed, *, times: int = 0, **limits: object) -> PlannedJob:
        arguments = [self._directory, name, deed.value, times]
        # Others crash beside it, and workers are killed: only a job that always crashes may be given up.
        fields = {"kind": "python", "call": WORKLOAD, "args": arguments, "crash_limit": "unlimited", **limits}
        return PlannedJob(name, deed, {**fields, "label": name}, times, value=answer(name))

    def _fib(self, number: int) -> PlannedJob:
        name, n = f"fib-{number}", int(draw(self._seed, _DRAW_FIB, number) * _FIB_MAX)
        fields = {"kind": "fib", "n": n, "label": name, "crash_limit": "unlimited"}
        return PlannedJob(name, Deed.CALM, fields, value=_fib(n))

    def _stray(self, number: int, shell: str) -> PlannedJob:
        """A program that leaves another one behind, which keeps its output open."""
        name = f"stray-{number}"
        script = 'echo "start $1 $$" >>"$2/lines"; sleep 600 & echo "end $1 $$" >>"$2/lines"'
        argv = [shell, "-c", script, "sh", name, self._directory]
        fields = {"kind": "command", "argv": argv, "label": name, "crash_limit": "unlimited"}
        return PlannedJob(name, Deed.STRAY, fields)


def _fib(n: int) -> int:
    # Not by the kind's own kernel, which is judged by it.
    before, found = 1, 0
    for _ in range(n):
        before, found = found, before + found
    return found
