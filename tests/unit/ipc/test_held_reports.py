"""What a worker has not sent when it dies: what its dealer finds of it, and what it does not believe."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from taskpool import codec, limits
from taskpool.ipc import held_reports
from taskpool.ipc.held_reports import HeldReports
from taskpool.messages import End, Report

ONE, TWO = Report(7, End.SUCCEEDED, value=b"1"), Report(8, End.FAILED, exit_status=3)
ROOMY = limits.HELD_REPORTS_BYTES_MAX


@pytest.fixture
def dealers() -> Iterator[int]:
    """The memory of one worker, as its dealer has it."""
    fd = held_reports.allocate()
    yield fd
    os.close(fd)


def workers(dealers: int, bytes_max: int = ROOMY) -> HeldReports:
    """The worker's end of it."""
    return HeldReports(held_reports.attach(os.dup(dealers)), bytes_max)


def hold(held: HeldReports, *reports: Report) -> None:
    for report in reports:
        held.add(codec.encode_report(report))


def test_nothing_is_held_at_first(dealers: int) -> None:
    assert held_reports.read(dealers) == ()


def test_what_is_held_is_found_in_order(dealers: int) -> None:
    hold(workers(dealers), ONE, TWO)
    assert held_reports.read(dealers) == (ONE, TWO)


def test_what_was_sent_is_held_no_more(dealers: int) -> None:
    held = workers(dealers)
    hold(held, ONE, TWO)
    held.clear()
    assert held_reports.read(dealers) == ()
    hold(held, TWO)
    assert held_reports.read(dealers) == (TWO,)


def test_a_report_that_is_only_half_there_is_not_found(dealers: int) -> None:
    """Its worker was killed amid the store, before it counted the report."""
    hold(workers(dealers), ONE)
    end = 8 + len(codec.encode_report(ONE))
    os.pwrite(dealers, codec.encode_report(TWO)[:-1], end)
    assert held_reports.read(dealers) == (ONE,)


def test_no_more_is_held_than_one_message_takes(dealers: int) -> None:
    size = len(codec.encode_report(ONE))
    held = workers(dealers, 2 * size)
    hold(held, ONE, ONE)
    assert not held.fits(codec.encode_report(ONE))
    held.clear()
    assert held.fits(codec.encode_report(ONE))


def test_no_more_is_held_than_there_is_memory(dealers: int) -> None:
    held = workers(dealers, 10 * ROOMY)
    large = Report(9, End.SUCCEEDED, value=bytes(ROOMY // 2))
    hold(held, large)
    assert not held.fits(codec.encode_report(large))
    assert held_reports.read(dealers) == (large,)


@pytest.mark.parametrize(
    "scribble",
    [
        pytest.param(bytes(range(256)) * (ROOMY // 256), id="all"),
        pytest.param(b"\xff" * 8, id="head"),
        pytest.param(struct.pack("@Q", 1 << 32), id="number without bytes"),
        pytest.param(struct.pack("@Q", 1 << 32 | 2**31), id="more bytes than there are"),
        pytest.param(struct.pack("@Q", limits.FRAME_JOBS_MAX + 1 << 32 | 70) + b"\x92\x01\xa1" * 70, id="too many"),
        pytest.param(struct.pack("@Q", 1 << 32 | 12) + b"\x92\x01\xa9succeedex", id="another end"),
    ],
)
def test_what_a_job_has_overwritten_is_not_believed(dealers: int, scribble: bytes) -> None:
    hold(workers(dealers), ONE, TWO)
    os.pwrite(dealers, scribble, 0)
    assert held_reports.read(dealers) == ()


def test_no_job_can_make_it_shorter(dealers: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(dealers, 0)


def test_what_a_job_forks_does_not_have_it(dealers: int) -> None:
    program = f"""
import os
from taskpool.ipc import held_reports
memory = held_reports.attach({dealers})
if os.fork() == 0:
    memory[0] = 1
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", program], env=env, pass_fds=[dealers])
    assert run.returncode == 256 - signal.SIGSEGV


def test_a_worker_keeps_no_descriptor_that_it_was_given() -> None:
    fd = held_reports.allocate()
    held_reports.attach(fd)
    with pytest.raises(OSError):
        os.fstat(fd)


@pytest.mark.parametrize("given", ["a file", "nothing"])
def test_a_worker_that_was_given_no_memory_takes_its_own(given: str, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"mine")
    if given == "nothing":
        os.close(fd)
    held = HeldReports(held_reports.attach(fd), ROOMY)
    hold(held, ONE)
    assert list(map(bytes, held.encoded)) == [codec.encode_report(ONE)]
    assert (tmp_path / "file").read_text() == "mine"
    with suppress(OSError):
        os.close(fd)


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EACCES])
def test_where_there_is_none_what_is_held_is_lost(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(error, "refused")

    monkeypatch.setattr(os, "memfd_create", refuse)
    fd = held_reports.allocate()
    assert isinstance(held_reports.attach(fd), mmap.mmap)
    assert held_reports.read(fd) == ()
    os.close(fd)


@pytest.mark.parametrize("call", ["memfd_create", "ftruncate"])
def test_a_lack_of_anything_else_is_told_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="too many"):
        held_reports.allocate()
    assert os.listdir("/proc/self/fd") == before
