"""What futures raise, made of outcomes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from taskpool.executor.errors import (
    JobCrashed,
    JobFailed,
    JobLost,
    JobTimedOut,
    OutOfMemory,
    RemoteTraceback,
    from_outcome,
)
from taskpool.executor.future import CallFuture
from taskpool.executor.result import complete
from taskpool.kinds import call
from taskpool.messages import End, JobError, Outcome, State, Try

TAIL = (
    "noise\nFatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n"
    f'  File "/x/script.py", line 3 in boom\n  File "{call.__file__}", line 9 in _call\n  File "worker", line 1\n'
)
FATAL = (
    "Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n"
    '  File "/x/script.py", line 3 in boom\n'
)


def outcome(state: State, **fields: Any) -> Outcome:
    told = {"no": 1, "seq": 7, "run": 1, "kind": "call", "label": None, "attempts": 2, "crashes": 1, "job": "m.f"}
    return Outcome(**{**told, "state": state, **fields})


def test_a_crash_by_a_signal() -> None:
    error = from_outcome("b/7", outcome(State.QUARANTINED, signal=11, error=JobError("SIGSEGV", "killed", TAIL)))
    assert type(error) is JobCrashed
    assert str(error) == "m.f (b/7) crashed: its process was killed by SIGSEGV"
    assert (error.signal, error.exit_status, error.attempts, error.job) == (11, None, 2, "b/7")
    assert (error.stderr_tail, error.traceback) == (TAIL, FATAL)


def test_a_crash_by_an_exit_and_one_that_is_not_known() -> None:
    tries = (Try(1, End.CRASHED, exit_status=3, stderr_tail="said"),)
    error = from_outcome("b/7", outcome(State.QUARANTINED, exit_status=3, tries=tries))
    assert isinstance(error, JobCrashed)
    assert "ended with exit status 3, and it had not returned" in str(error)
    assert (error.exit_status, error.stderr_tail, error.traceback) == (3, "said", None)
    text = "4 times in a row the dealer or its host went down while this job ran, at last alone"
    assert text in str(from_outcome("b/7", outcome(State.QUARANTINED, error=JobError("DealerLost", text))))
    assert str(from_outcome("b/7", outcome(State.QUARANTINED))).endswith("crashed: its process died")


def test_a_kill_for_want_of_memory_is_a_memory_error() -> None:
    tries = (Try(1, End.CRASHED, signal=9, out_of_memory=True),)
    error = from_outcome("b/7", outcome(State.QUARANTINED, signal=9, tries=tries))
    assert isinstance(error, OutOfMemory)
    assert isinstance(error, MemoryError)
    assert isinstance(error, JobCrashed)
    assert error.signal == 9


def test_a_time_out_is_a_timeout_error() -> None:
    error = from_outcome("b/7", outcome(State.TIMED_OUT, error=JobError("TimedOut", "after 1 s")))
    assert isinstance(error, JobTimedOut)
    assert isinstance(error, TimeoutError)
    assert str(error) == "m.f (b/7) timed out: after 1 s"


def test_any_other_failure() -> None:
    error = from_outcome("b/7", outcome(State.FAILED, error=JobError("OtherPython", "3.11 and 3.12", "trace")))
    assert type(error) is JobFailed
    assert (str(error), error.traceback) == ("m.f (b/7) failed: OtherPython: 3.11 and 3.12", "trace")
    assert str(from_outcome("b/7", outcome(State.FAILED, job=""))) == "the call (b/7) failed: "


@pytest.mark.parametrize(
    "error",
    [
        JobCrashed("a", signal=11, stderr_tail="t", job="b/1", attempts=2, traceback="x"),
        OutOfMemory("a", signal=9, job="b/1"),
        JobTimedOut("a", job="b/1"),
        JobLost("a", job="b/1"),
    ],
)
def test_they_can_be_pickled(error: JobFailed) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.args, again.__dict__, str(again)) == (error.args, error.__dict__, "a")


def test_a_remote_traceback_shows_its_text() -> None:
    assert str(RemoteTraceback("Traceback: x\n")) == '\n"""\nTraceback: x\n"""'


def test_a_cancel_between_two_steps_of_its_end_is_told_once() -> None:
    """It comes from another thread, when the outcome is about to be set."""
    queued: list[CallFuture[int]] = []

    class CancelledAmid(CallFuture[int]):
        def set_running_or_notify_cancel(self) -> bool:
            self.cancel()
            return super().set_running_or_notify_cancel()

    future = CancelledAmid(None, queued.append)  # type: ignore[arg-type]  # what it calls does not matter
    complete(future, 1)
    assert queued == [future]
    future.tell_cancelled()
    assert future.cancelled()
