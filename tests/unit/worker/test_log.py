"""A worker's lines. A descriptor that takes none must neither stop nor fail a job."""

from __future__ import annotations

import fcntl
import json
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.worker_stage import Start, call, fib
from taskpool.log import Format
from taskpool.messages import End
from taskpool.worker.log import Log


@pytest.fixture(params=["a pipe of the dealer's", "a pipe that blocks"])
def pipe(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(writer, request.param == "a pipe that blocks")
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def start(pool: str, tmp_path: Path) -> Iterator[Start]:
    with Start(pool, tmp_path) as start:
        yield start


def fill(fd: int) -> int:
    size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    return os.write(fd, b"\n" * size)


def test_lines_that_have_no_room_are_dropped_and_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    log = Log(writer)
    filled = fill(writer)
    for number in range(1000):
        log.warning(f"lost {number}")
    os.read(reader, filled)
    log.warning("there is room")
    me = f"[Worker {os.getpid()}]"
    assert os.read(reader, 65_536).decode() == (
        f"{me} 1000 lines were dropped here: the log was not read\n{me} there is room\n"
    )
    log.warning("once")
    assert os.read(reader, 65_536).decode() == f"{me} once\n"


@pytest.mark.parametrize("fmt", ["text", "json"])
@pytest.mark.parametrize("char", ["x", "\x00", "\N{GRINNING FACE}", "\U000e0001", "\udcff"])
def test_a_long_line_is_cut_to_what_a_pipe_takes_as_a_whole(fmt: Format, char: str) -> None:
    reader, writer = os.pipe()
    Log(writer, fmt).warning(char * 100_000)
    line = os.read(reader, 65_536)
    assert 300 < len(line) <= select.PIPE_BUF
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert b"... (100000 characters)" in line
    assert fmt == "text" or json.loads(line)["level"] == "warning"
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("broken", ["full disk", "gone reader"])
def test_what_cannot_be_written_is_no_error(broken: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    log = Log(full if broken == "full disk" else writer)
    for _ in range(3):
        log.warning("x")
    os.close(writer)
    os.close(full)


def test_a_worker_goes_on_beside_a_log_that_is_not_read(start: Start, pipe: tuple[int, int]) -> None:
    fill(pipe[1])
    dealer = start("--verbose", log=pipe[1])
    for seq in range(1, 4):
        dealer.send(fib(1), epoch=99)  # a message to warn of
        report = dealer.result(fib(10, seq))
        assert (report.end, report.value) == (End.SUCCEEDED, b"55")
    assert dealer.result(call(dealer, "grandchild", seq=4)).end is End.SUCCEEDED
