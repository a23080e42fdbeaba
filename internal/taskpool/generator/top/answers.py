"""A dealer's answers, read strictly: what comes off a queue may be anything. What is not used is passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from taskpool.certificate import as_object
from taskpool.clock import rfc3339
from taskpool.generator.top.model import Death
from taskpool.messages import End, Outcome, State, Try
from taskpool.procs.signals import signal_name

# A try that was cancelled is told elsewhere, and one that was lost is no one's fault.
_TOLD = frozenset({End.CRASHED.value, End.TIMED_OUT.value, End.FAILED.value})
_BAD = frozenset({State.FAILED, State.TIMED_OUT, State.QUARANTINED})
_UNREADABLE = "the dealer's answer cannot be read; is it of another version?"


class Unreadable(Exception):
    """An answer is not what it should be. The text is for a person."""


class RunningJob(msgspec.Struct):
    """A worker with a frame; what runs is its first job."""

    slot: int | None  # from 1; a worker that has just died has none any more
    pid: int
    job: str
    started: bool
    seconds: float
    description: str = ""


class RunningBatch(msgspec.Struct):
    """A batch in memory."""

    batch: str
    accepted: int
    total: int | None
    open: int


class PoolStatus(msgspec.Struct):
    """What is used of the answer to `status`."""

    state: str
    pid: int
    workers_wanted: int
    spares: int
    workers: dict[str, int]
    jobs: dict[str, int]
    finished: dict[str, int]
    attempts: dict[str, int]
    quarantined: int
    batches: list[RunningBatch]
    running: list[RunningJob]
    out_of_service: bool = False


class _Shown(msgspec.Struct):
    """What is used of the answer to `show`."""

    tries: list[dict[str, Any]] = []


def read_status(body: bytes) -> PoolStatus:
    """Read the answer to `status`. Raises Unreadable."""
    # RecursionError: msgspec gives up so on what is nested deep, and it is no error of its own.
    try:
        return msgspec.json.decode(body, type=PoolStatus)
    except (msgspec.MsgspecError, RecursionError):
        raise Unreadable(_UNREADABLE) from None


def deaths_of_job(pool: str, job: str, body: bytes, seen_at: str) -> list[Death]:
    """Read the answer to `show`: the tries of a job that waits, runs or is in quarantine.

    `seen_at`: when it was seen that the last of them has ended, for a worker that dies tells no time.
    """
    # A refusal has no tries: the job has ended meanwhile, and its outcome tells them.
    try:
        tries = msgspec.json.decode(body, type=_Shown).tries
    except (msgspec.MsgspecError, RecursionError):
        return []
    # Of an earlier one it is told at best when it began.
    times = [str(tried.get("started_at") or "") for tried in tries[:-1]] + [seen_at]
    found = (_death(pool, job, tried, at) for tried, at in zip(tries, times, strict=False))
    return [death for death in found if death is not None]


def deaths_of_outcome(pool: str, batch: str, outcome: Outcome) -> list[Death]:
    """Return the tries of a job that has ended."""
    job, found = f"{batch}/{outcome.seq}", []
    for tried in outcome.tries:
        fields = msgspec.structs.asdict(as_object(tried, signal_name))
        found.append(_death(pool, job, fields, _ended_at(tried, outcome.finished_wall_ns)))
    return [death for death in found if death is not None]


def is_failure(outcome: Outcome) -> bool:
    """Whether a job has ended badly by itself."""
    return outcome.state in _BAD


def _ended_at(tried: Try, otherwise_wall_ns: int) -> str:
    usage = tried.usage
    return rfc3339(usage.started_wall_ns + usage.run_ns if usage.started_wall_ns else otherwise_wall_ns)


def _death(pool: str, job: str, tried: Mapping[str, Any], ended_at: str) -> Death | None:
    end, attempt = tried.get("end"), tried.get("attempt")
    if end not in _TOLD or not isinstance(attempt, int):
        return None
    return Death(ended_at, pool, job, attempt, _cause(tried))


def _cause(tried: Mapping[str, Any]) -> str:
    """Say in words how a try ended."""
    # The first that applies: a time-out ends a job by a signal too, and want of memory by SIGKILL.
    seconds = tried.get("wall_seconds")
    if tried.get("out_of_memory"):
        cause = "out of memory"
    elif tried.get("end") == End.TIMED_OUT:
        cause = "timed out" + (f" after {seconds:.1f} s" if isinstance(seconds, float | int) else "")
    elif tried.get("signal_name"):
        cause = f"killed by {tried['signal_name']}" + (", core dumped" if tried.get("core_dumped") else "")
    elif tried.get("exit_status"):
        cause = f"exit status {tried['exit_status']}"
    else:
        cause = str(tried.get("end"))
    # Its last words often say more than how it died; what the pool has to say of a signal is only its name again.
    error = "" if tried.get("signal_name") else tried.get("error")
    last = str(tried.get("stderr_tail") or error or "").strip().rpartition("\n")[2]
    return f"{cause}: {last}" if last else cause
