"""Waiting for descriptors: what makes them ready, and for how long."""

from __future__ import annotations

import os
import socket
import time

import pytest

from taskpool.clock import MILLISECOND, SECOND, STANDSTILL_NS_MIN, AwakeClock, Instant, SystemClock
from taskpool.procs.wait import STEP_NS, wait_ready, wait_until


def test_only_what_is_ready_is_returned() -> None:
    reader, writer = os.pipe()
    other, silent = os.pipe()
    try:
        os.write(writer, b"x")
        assert wait_ready([reader, other]) == {reader}
        assert wait_ready([other], [silent]) == {silent}
    finally:
        for fd in (reader, writer, other, silent):
            os.close(fd)


def test_an_end_that_is_gone_is_ready() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    try:
        assert wait_ready([reader], timeout_ns=None) == {reader}
    finally:
        os.close(reader)


def test_it_does_not_wake_before_the_time_is_over() -> None:
    reader, writer = os.pipe()
    try:
        for timeout_ns in (1, MILLISECOND + 1, 3 * MILLISECOND):
            began = time.monotonic_ns()
            assert wait_ready([reader], timeout_ns=timeout_ns) == set()
            assert time.monotonic_ns() - began >= timeout_ns
        assert wait_ready([reader], timeout_ns=-1) == set()
        assert wait_ready([], timeout_ns=MILLISECOND) == set()
    finally:
        os.close(reader)
        os.close(writer)


def test_a_time_out_longer_than_poll_can_count() -> None:
    """30 days of milliseconds overflow the int that poll(2) takes."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        assert wait_ready([reader], timeout_ns=30 * 24 * 3600 * SECOND) == {reader}
    finally:
        os.close(reader)
        os.close(writer)


def test_a_long_wait_is_made_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.procs.wait._POLL_NS_MAX", MILLISECOND)
    reader, writer = os.pipe()
    try:
        began = time.monotonic_ns()
        assert wait_ready([reader], timeout_ns=5 * MILLISECOND) == set()
        assert time.monotonic_ns() - began >= 5 * MILLISECOND
    finally:
        os.close(reader)
        os.close(writer)


def test_a_descriptor_that_is_watched_for_both_is_ready_for_either() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert wait_ready([ours], [ours.fileno()]) == {ours.fileno()}
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(4096))
        assert wait_ready([ours], [ours], timeout_ns=0) == set()
        theirs.send(b"x")
        assert wait_ready([ours], [ours], timeout_ns=0) == {ours.fileno()}


class StoppedMachine:
    """A machine's clock on which this process is found to have been stopped now and then."""

    def __init__(self, stops_ns: list[int]) -> None:
        self._stops_ns = stops_ns
        self._ahead_ns = 0
        self._reads = 0

    def now(self) -> Instant:
        self._reads += 1
        if self._stops_ns and self._reads > 1 and self._reads % 2:  # those that are behind a wait
            self._ahead_ns += self._stops_ns.pop(0)
        return Instant(time.monotonic_ns() + self._ahead_ns, time.time_ns())


@pytest.mark.parametrize(
    "stops_ns", [[60 * SECOND], [SECOND, 2 * SECOND, 3600 * SECOND], [STANDSTILL_NS_MIN + STEP_NS]]
)
def test_a_standstill_of_this_process_is_not_waited_for(stops_ns: list[int]) -> None:
    clock = AwakeClock(StoppedMachine(stops_ns))
    began = time.monotonic_ns()
    assert wait_until(clock.now().mono + 5 * STEP_NS, clock, []) == set()
    assert time.monotonic_ns() - began >= 5 * STEP_NS - MILLISECOND
    assert not stops_ns


def test_a_wait_for_a_moment_ends_with_what_is_ready_or_at_once_when_it_is_over() -> None:
    clock = AwakeClock(SystemClock())
    reader, writer = os.pipe()
    try:
        assert wait_until(clock.now().mono - SECOND, clock, [reader]) == set()
        assert wait_until(clock.now().mono + MILLISECOND, clock, [reader]) == set()
        os.write(writer, b"x")
        assert wait_until(clock.now().mono - SECOND, clock, [reader]) == {reader}
        assert wait_until(None, clock, [reader], [writer]) == {reader, writer}
    finally:
        os.close(reader)
        os.close(writer)


def test_a_wait_that_is_a_little_late_counts_in_full() -> None:
    machine = StoppedMachine([])
    clock = AwakeClock(machine)
    clock.woke(clock.now().mono - STANDSTILL_NS_MIN // 2)
    assert clock.now().mono >= machine.now().mono - MILLISECOND
