"""Why a client cannot go on with its dealer: the errors, and words for them that name the cure."""

from __future__ import annotations

from typing import NamedTuple

from taskpool import __version__
from taskpool.codec import PROTOCOL_VERSION, VersionRefused
from taskpool.errors import DealerUnreachable, ExitCode, TaskpoolError, counted
from taskpool.messages import Refused


class PoolRefuses(TaskpoolError):
    """The pool takes nothing now: it is full, of jobs or of generators, or about to end."""

    exit_code = ExitCode.REFUSED


class JobsLost(DealerUnreachable):
    """Accepted jobs or their outcomes are gone: the dealer came back without the journal they were in, if there was
    one, or kept them no longer."""


class OlderJournal(JobsLost):
    """The dealer came back with a journal that has the batch as it was before, as a backup has."""


def no_answer(pool: str, waited: str, *, said_hello: bool) -> str:
    """Return the text for a dealer that never answered. `said_hello`: there was a queue to say hello in."""
    text = f"no dealer answers for pool {pool!r} within {waited}"
    if said_hello:
        return (
            f"{text}, and its queues are there: it is stopped, or does not understand protocol version "
            f"{PROTOCOL_VERSION} (taskpool {__version__}), as its log tells. --dealer-timeout waits longer"
        )
    return (
        f"{text}. Start one with `tp-dealer --pool {pool}`, or leave --pool out for a private one. Queues belong to an "
        "IPC namespace: a dealer in another container is only seen when both share one. --dealer-timeout waits longer"
    )


def gone(pool: str, pid: int, patience: str, *, journaled: bool) -> str:
    """Return what a person is told while a dealer that was there does not answer."""
    kept = "what it had accepted is in its journal" if journaled else "it keeps no journal: what it had goes with it"
    return (
        f"The dealer of pool {pool!r}, PID {pid}, does not answer. Waiting up to {patience} (--dealer-timeout) for it "
        f"or the next one; {kept}"
    )


def lost(pool: str, pid: int, waited: str, accepted: int, received: int) -> str:
    """Return the text for a dealer that went away and did not come back; counted are jobs and outcomes."""
    return (
        f"the dealer of pool {pool!r}, PID {pid}, was lost and none came back within {waited}; accepted were "
        f"{counted(accepted, 'job')}, received {counted(received, 'outcome')}"
    )


class Standing(NamedTuple):
    """Where a batch stands, as a client or its dealer knows it."""

    accepted: int  # jobs
    outcomes: int


def replaced(pool: str, epochs: tuple[int, int], ours: Standing, theirs: Standing) -> str:
    """Return the text for a dealer that came back, in the second epoch, and knows less of the batch than before."""
    text = f"the dealer of pool {pool!r} was replaced (epoch {epochs[0]}, then {epochs[1]}) by one"
    if not any(theirs):
        left = max(0, ours.accepted - ours.outcomes)
        gone = counted(left, "accepted job without an outcome is", "accepted jobs without an outcome are")
        return (
            f"{text} without its journal, or with one from before this batch: {gone} gone, {ours.outcomes} had finished"
        )
    return (
        f"{text} with an older journal: it has {min(theirs.accepted, ours.accepted)} of the {ours.accepted} jobs that "
        f"were accepted and {min(theirs.outcomes, ours.outcomes)} of the {ours.outcomes} outcomes that were received. "
        "What it has goes on there; --resume submits again what it lacks. Jobs whose outcomes it lacks run again, and "
        "are told again"
    )


def changed_input(refused: Refused, batch: str | None, total: int | None) -> str:
    """Return the text for a job of a resumed batch that is not the one which was accepted before. `total`: of a batch
    that is closed."""
    if refused.reason == "closed" and total is not None and refused.seq > total:
        return (
            f"--resume: the input has changed: job {refused.seq} is new, and batch {batch} was closed at "
            f"{counted(total, 'job')}; submit what is new as another --batch"
        )
    if refused.reason == "closed":
        return f"--resume: {refused.text}: it was cancelled"
    return (
        f"--resume: the input has changed: {refused.text}. Where it has not, the directory has: relative paths and the "
        "directory of a job count from where the command is typed; go to where the batch was begun"
    )


def other_version(pool: str, version: int, refusal: VersionRefused) -> str:
    """Return the text for a dealer that speaks another version of the protocol."""
    older = version < PROTOCOL_VERSION
    return (
        f"the dealer of pool {pool!r}, PID {refusal.pid}, speaks protocol version {version} (taskpool "
        f"{refusal.version}), and this program version {PROTOCOL_VERSION} (taskpool {__version__}): "
        f"{'upgrade that dealer and start it again' if older else 'upgrade this program'}, or use the programs of one "
        "version"
    )
