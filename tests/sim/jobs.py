"""The jobs of a schedule: what each does when it is executed, and what was seen to happen to it."""

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from random import Random
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import MILLISECOND, SECOND
from taskpool.kinds import KINDS, TYPED_KINDS
from taskpool.messages import JobSpec, Limits, State

SEGV = 11
MIB = 1024 * 1024


class Act(NamedTuple):
    """What one execution does."""

    what: str  # ok, fail, crash, exit, hang, die_at_once, end_host, big, need_memory
    run_ns: int = MILLISECOND
    number: int = 0  # exit status, signal, or bytes of memory
    forks: bool = False  # starts a process that does not end by itself for a long time
    deaf: bool = False  # hears no SIGTERM


class Script(NamedTuple):
    """One act after the other; the last is repeated."""

    acts: tuple[Act, ...]
    limits: Limits | None
    kind: str

    def act(self, execution: int) -> Act:
        return self.acts[min(execution, len(self.acts)) - 1]


class Facts:
    """What became of a job's executions, for the oracle."""

    __slots__ = (
        "doubtful",
        "ends_alone",
        "failed",
        "fresh",
        "guilty",
        "head_deaths",
        "head_signalled",
        "signalled",
        "succeeded",
        "timed_out",
        "unclean_ends",
    )

    def __init__(self) -> None:
        self.succeeded = 0  # reported so
        self.failed = 0
        self.timed_out = 0  # reported so, or killed past the time-out
        self.guilty = 0  # its worker died while it was started and alone in its frame, not by our will
        self.head_deaths = 0  # its worker died with its frame sent and not started, or gave it back
        self.doubtful = 0  # of them: with its worker, which another job may have harmed
        self.fresh = False  # whether the last such death was in a process that had run nothing else
        self.head_signalled = 0  # of them: by a signal that its owner expects
        self.signalled = 0  # of the guilty: by a signal that its owner expects
        self.unclean_ends = 0  # of dealers, while it was under way
        self.ends_alone = False  # whether the last of them found nothing else under way

    @property
    def head_crashes(self) -> int:
        """As many deaths in a row count as one crash, wherever they are counted from."""
        return self.head_deaths // limits.LOST_HEAD_MAX


class Planned:
    """One job of a batch, as its generator means it, and its history."""

    def __init__(self, batch: str, seq: int, number: int, script: Script) -> None:
        self.batch = batch
        self.seq = seq
        self.number = number  # over all batches
        self.script = script
        self.spec = JobSpec(script.kind, payload(script.kind, number), script.limits)
        self.sent = False  # ever, in whatever run
        self.executions = 0
        self.live: list[object] = []  # processes that execute it now
        self.facts = Facts()
        self.affinity = KINDS[script.kind].affinity(self.spec.payload)
        self.head_epoch = 0  # of the last worker that died with it unstarted at the head, or gave it back
        self.unstarted = 0  # such losses in this epoch, since a worker last ran it
        self.given_up = 0  # the epoch of the dealer that said it had cancelled it
        self.memory_ends = 0  # executions that ran out of memory, in whatever run
        self.requeue_asked = False
        self.cancel_asked = False

    @property
    def digest(self) -> bytes:
        """As the dealer's ingress computes it."""
        return blake2b(self.spec.payload, digest_size=16, person=self.spec.kind.encode()[:16]).digest()

    def changed(self) -> JobSpec:
        """The same number with another payload: what no dealer may take for the same."""
        return JobSpec("fib", payload("fib", (self.number + 46) % 92), self.script.limits)


@cache
def payload(kind: str, number: int) -> bytes:
    if kind == "fib":
        return TYPED_KINDS["fib"].parse({"n": number % 92}, "job")
    if kind == "command":
        return TYPED_KINDS["command"].parse({"argv": ["true", str(number), "x" * (400 * (number % 4))]}, "job")
    path = f"/srv/code{number % 2}"
    return TYPED_KINDS["python"].parse({"call": "math:factorial", "args": [number], "path": [path]}, "job")


def draw_batch_limits(rng: Random) -> Limits:
    return Limits(retries=rng.choice((0, 0, 1)), crash_limit=rng.choice((3, 3, 2, 1)))


class Style:
    """What jobs of one schedule are like. Drawn once, for variety between schedules."""

    def __init__(self, rng: Random) -> None:
        self.crowded = rng.random() < 0.2  # more jobs than the dealer keeps in memory, and they come back
        self.tiny = rng.random() < 0.35
        self.kinds = rng.choice((("fib",), ("fib",), ("fib", "command"), ("fib", "command", "python"), ("python",)))
        self.trouble = rng.choice((0.0, 0.2, 0.5)) if not self.crowded else 0.5
        self.timeouts = rng.random() < 0.3
        self.priorities = self.crowded or rng.random() < 0.3
        self.end_host = rng.random() < 0.1
        self.bulky = rng.random() < 0.2
        self.hungry = rng.random() < 0.25


def draw_script(rng: Random, style: Style) -> Script:
    kind = rng.choice(style.kinds)
    run_ns = int(20_000 * 10 ** (rng.random() * (1.5 if style.tiny else 4.7)))
    ok = Act("ok", run_ns, forks=not style.tiny and rng.random() < 0.1)
    timeout_ns = 2 * SECOND if style.timeouts and rng.random() < 0.4 else 0
    if rng.random() < (0.9 if style.bulky else 0.5 if timeout_ns else 0.1):
        ok = ok._replace(what="big")
        if timeout_ns and rng.random() < 0.5:  # told as its deadline passes
            ok = ok._replace(run_ns=timeout_ns - rng.randint(1, 150) * MILLISECOND)
    acts = [ok]
    if rng.random() < style.trouble:
        acts = _trouble(rng, ok, timeout_ns)
    hungry = style.hungry and rng.random() < 0.6
    if hungry and not timeout_ns:  # beside what else may happen to it
        acts = [*acts[:-1], *_need_memory(rng, ok)]
    own = None
    if timeout_ns or hungry or style.priorities or rng.random() < 0.3:
        own = Limits(
            timeout_ns=timeout_ns,
            retries=rng.choice((0, 1, 2)),
            backoff_min_ns=rng.choice((0, 0, 20 * MILLISECOND, SECOND)),
            backoff_max_ns=SECOND,
            retry_signal=rng.choice(((), (), (SEGV,))),
            retry_timeout=rng.random() < 0.7,
            crash_limit=rng.choice((0, 1, 2, 3) if acts[-1].what in ("ok", "big", "need_memory") else (1, 2, 3)),
            priority=rng.choice((-1, 0, 1)) if style.priorities else 0,
            memory_bytes=MIB if hungry else 0,
            memory_growth_percent=rng.choice((0, 150, 200, 200)) if hungry else 0,
            memory_bytes_max=rng.choice((0, 3 * MIB)) if hungry else 0,
        )
    return Script(tuple(acts), own, kind)


def _need_memory(rng: Random, ok: Act) -> list[Act]:
    """Fails until it has enough, or always; what another failure would do to its memory is seen between two of them."""
    hungry = ok._replace(what="need_memory", number=rng.choice((MIB, 2 * MIB, 4 * MIB, 100 * MIB)))
    return [hungry, ok._replace(what="fail", number=1), hungry] if rng.random() < 0.3 else [hungry]


def _trouble(rng: Random, ok: Act, timeout_ns: int) -> list[Act]:
    kinds = ["fail", "crash", "crash", "exit", "die_at_once"]
    if timeout_ns:
        kinds += ["hang", "hang", "hang", "late", "late", "late"]
    what = rng.choice(kinds)
    bad = Act(what, ok.run_ns, rng.choice((SEGV, 6)) if what == "crash" else 1, ok.forks, deaf=rng.random() < 0.5)
    if what == "late":  # dies just before its time-out, and what it has started may take its time to die
        late_ns = timeout_ns - rng.randint(0, 150) * MILLISECOND
        bad = bad._replace(what="crash", run_ns=late_ns, number=SEGV, forks=True)
    if what == "die_at_once" and rng.random() < 0.5:  # not in a row
        return [*[bad] * rng.randint(1, 4), bad._replace(what=rng.choice(("fail", "crash"))), *[bad] * 4, ok]
    return [bad] * rng.choice((1, 1, 2, 3)) + ([ok] if rng.random() < 0.6 else [])


def allowed(job: Planned, wanted: Limits) -> set[State]:
    """The states in which this job's run may end, after what was seen of it."""
    facts = job.facts
    crashes = facts.guilty + facts.head_crashes
    signalled = facts.signalled + min(facts.head_signalled, facts.head_crashes)
    failures = facts.failed + facts.timed_out + signalled
    states = {State.SUCCEEDED} if facts.succeeded else set()
    if job.cancel_asked:
        states.add(State.CANCELLED)
    if facts.failed + signalled and (failures > wanted.retries or job.cancel_asked):
        states.add(State.FAILED)
    if facts.timed_out and (failures > wanted.retries or not wanted.retry_timeout or job.cancel_asked):
        states.add(State.TIMED_OUT)
    if wanted.crash_limit and crashes >= wanted.crash_limit and facts.fresh:
        states.add(State.QUARANTINED)
    if wanted.crash_limit and facts.unclean_ends > 3 and facts.ends_alone:
        states.add(State.QUARANTINED)
    return states
