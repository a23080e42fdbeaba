"""What the loop decides by itself, without a pool."""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from taskpool.executor.call import Function, Setup, make
from taskpool.executor.errors import JobFailed, PoolError
from taskpool.executor.future import CallFuture
from taskpool.executor.loop import Ending, Loop
from taskpool.executor.result import complete
from taskpool.messages import JobError, Outcome, Output, State


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop of a durable batch whose thread does not run."""
    link: Any = SimpleNamespace(durable=True, private=None, batch="b", known=None, close=lambda: None)
    loop = Loop(link)
    yield loop
    loop._finish(None)


def future_of(loop: Loop, seq: int = 0) -> CallFuture[Any]:
    future: CallFuture[Any] = CallFuture(make(Function.of(len), ("abc",), {}, Setup(), None), loop.on_cancel)
    future.seq, future.batch = seq, "b"
    if seq:
        loop._pending[seq] = future
    return future


def outcome(state: State, value: bytes | None = None, **fields: Any) -> Outcome:
    told: dict[str, Any] = {"no": 1, "seq": 1, "run": 1, "kind": "call", "label": None, "attempts": 1, "crashes": 0}
    return Outcome(**told, state=state, value=value, **fields)


def test_what_an_earlier_run_has_cancelled_is_submitted_again(loop: Loop) -> None:
    future = future_of(loop, 1)
    loop._settle(outcome(State.CANCELLED))
    assert not future.done()
    assert (future.seq, future.job, loop.pending) == (0, None, 1)
    assert not future.running()


def test_what_another_program_cancels_is_cancelled(loop: Loop) -> None:
    future = future_of(loop, 1)
    future.call = None  # this run has submitted it
    loop._settle(outcome(State.CANCELLED))
    assert future.cancelled()
    assert loop.states[State.CANCELLED] == 1


def test_a_cancel_that_came_too_late_stays_a_cancel(loop: Loop) -> None:
    future = future_of(loop, 1)
    assert future.running()
    assert future.cancel()
    loop._settle(outcome(State.SUCCEEDED, b'"gARLBS4="'))
    assert future.cancelled()
    assert future.cancel()


@pytest.mark.parametrize(
    ("told", "error", "text"),
    [
        (outcome(State.SUCCEEDED, b'{"file": "/nowhere", "sizes": [1]}'), FileNotFoundError, "No such file"),
        (outcome(State.SUCCEEDED, b'"eA=="'), pickle.UnpicklingError, "invalid load key"),
        (outcome(State.FAILED, error=JobError("Odd", "said")), JobFailed, "failed: Odd: said"),
        (outcome(State.FAILED, b'"gARLBS4="', error=JobError("Odd", "said")), JobFailed, "failed: Odd: said"),
    ],
)
def test_what_cannot_be_read_fails_its_own_future(loop: Loop, told: Outcome, error: type[Exception], text: str) -> None:
    future = future_of(loop, 1)
    loop._settle(told)
    with pytest.raises(error, match=text):
        future.result(0)


def test_it_takes_no_call_after_the_end_or_without_a_pool(loop: Loop) -> None:
    loop.submit(future_of(loop))
    loop.end(Ending.DRAIN)
    with pytest.raises(RuntimeError, match="after shutdown"):
        loop.submit(future_of(loop))
    loop._broken = PoolError("gone")
    with pytest.raises(PoolError, match="gone"):
        loop.submit(future_of(loop))


def test_calls_in_a_row_wake_it_once(loop: Loop) -> None:
    for _ in range(3):
        loop.submit(future_of(loop))
    assert os.eventfd_read(loop._wakeup) == 1
    os.eventfd_write(loop._wakeup, 1)
    loop.before_receive(0)
    loop.submit(future_of(loop))
    assert os.eventfd_read(loop._wakeup) == 1


class Leaving:
    """A result whose class ends the program that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (3,)


def test_a_result_that_ends_its_program_fails_its_own_future(loop: Loop) -> None:
    future = future_of(loop, 1)
    loop._settle(outcome(State.SUCCEEDED, json.dumps(base64.b64encode(pickle.dumps(Leaving())).decode()).encode()))
    error = future.exception(0)
    assert isinstance(error, SystemExit)
    assert error.code == 3


def test_a_callback_ends_no_thread_but_the_main_one() -> None:
    def leave(future: Any) -> None:
        sys.exit(3)

    called: list[object] = []
    future: CallFuture[int] = CallFuture(make(Function.of(len), ("abc",), {}, Setup(), None), print)
    future.add_done_callback(leave)
    future.add_done_callback(called.append)
    thread = threading.Thread(target=lambda: complete(future, 1))
    thread.start()
    thread.join()
    assert called == [future]
    with pytest.raises(SystemExit):
        future.add_done_callback(leave)


def test_a_stream_of_the_programs_own_may_lack_what_is_asked_of_it(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=len))
    loop._take(outcome(State.SUCCEEDED, output=Output(stdout="hello")))
    assert "cannot be written to sys.stdout" in caplog.text


def test_each_refusal_of_a_pool_that_is_gone_is_an_exception_of_its_own(loop: Loop) -> None:
    loop._broken = PoolError("gone")
    raised = []
    for _ in range(2):
        with pytest.raises(PoolError, match="gone") as refused:
            loop.submit(future_of(loop))
        raised.append(refused.value)
    assert raised[0] is not raised[1]


def test_what_is_cancelled_before_it_is_sent_is_counted(loop: Loop) -> None:
    future = future_of(loop)
    loop.submit(future)
    future.cancel()
    assert loop._take_frame(1 << 20) == []
    assert loop.cancelled_early == 1
