"""Waiting for descriptors: what makes them ready, and for how long."""

from __future__ import annotations

import os
import socket
import time

import pytest

from taskpool.clock import MILLISECOND, SECOND
from taskpool.procs.wait import wait_ready


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
