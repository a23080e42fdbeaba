"""Lines for a descriptor whose reader is slow, stopped or gone. A `put` that waited would be ended by the time-out."""

from __future__ import annotations

import errno
import json
import os
import select
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.unread import (
    BROKEN,
    PATIENCE_SECONDS,
    UNREAD,
    Make,
    full_pipe,
    opened,
    read_until,
    stream_socket,
    terminal,
)
from taskpool.clock import MILLISECOND, SECOND
from taskpool.procs.writer import LINES_BYTES_MAX, LineWriter

LINES = 20_000  # of 100 bytes: more than any reader's buffer and the writer's together
LINE = b"%099d\n"


class Ends:
    """Opens descriptors and their writers, and closes all of them at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._reader = -1

    def open(self, make: Make) -> tuple[int, LineWriter]:
        self._reader, fd = self._stack.enter_context(opened(make))
        writer = LineWriter(fd, "Dealer")
        self._stack.callback(writer.close)
        return self._reader, writer

    def read_until(self, last: bytes) -> list[bytes]:
        return read_until(self._reader, last)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with ExitStack() as stack:
        yield Ends(stack)


@pytest.mark.parametrize("make", UNREAD)
def test_what_is_not_read_is_dropped_and_counted_and_told_once(ends: Ends, make: Make) -> None:
    _, writer = ends.open(make)
    for number in range(LINES):
        writer.put(LINE % number)
    dropped = writer.dropped
    assert 0 < dropped < LINES
    note = f"[Dealer] {dropped} lines were dropped here: standard error was not read\n".encode()
    lines = ends.read_until(note)
    assert lines == [LINE % number for number in range(LINES - dropped)] + [note]
    writer.put(b"and on it goes\n")
    assert ends.read_until(b"goes\n") == [b"and on it goes\n"]
    assert writer.dropped == dropped


def test_the_note_has_the_format_of_the_log(ends: Ends) -> None:
    _, writer = ends.open(full_pipe)
    writer.use_format("json")
    for number in range(LINES):
        writer.put(LINE % number)
    note = json.loads(ends.read_until(b"}\n")[-1])
    assert (note["level"], note["who"], note["dropped"]) == ("warning", "Dealer", writer.dropped)


@pytest.mark.parametrize("make", BROKEN)
def test_what_cannot_be_written_is_dropped_and_counted(ends: Ends, make: Make) -> None:
    _, writer = ends.open(make)
    for number in range(3):
        writer.put(LINE % number)
        assert writer.flush()
        assert writer.dropped == number + 1


def test_a_disk_with_room_again_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "log"
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = LineWriter(fd, "Dealer")
    for number in range(3):
        writer.put(LINE % number)
    with path.open("wb") as file:
        os.dup2(file.fileno(), fd)
        writer.put(b"room\n")
        writer.put(b"more\n")
    os.close(fd)
    assert path.read_text() == (
        "[Dealer] 3 lines were dropped here: standard error cannot be written: No space left on device\nroom\nmore\n"
    )


def test_a_file_has_each_line_when_put_returns(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LineWriter(file.fileno(), "Dealer")
        writer.put(b"a\n")
        assert path.read_bytes() == b"a\n"
        writer.put(b"b" * LINES_BYTES_MAX + b"\n")
        assert path.stat().st_size == LINES_BYTES_MAX + 3


@pytest.mark.parametrize("make", [os.pipe, terminal, stream_socket])
def test_lines_are_whole_beside_those_of_others(ends: Ends, make: Make) -> None:
    reader, writer = ends.open(make)
    lines = [b"a" * length + b"\n" for length in range(1, 1500)]
    written, got = iter(lines), b""
    while len(got) < sum(map(len, lines)):
        for line in [line for _, line in zip(range(2), written, strict=False)]:
            writer.put(line)
        assert select.select([reader], [], [], PATIENCE_SECONDS)[0]
        got += os.read(reader, 65_536)
    assert got == b"".join(lines)
    assert writer.dropped == 0


# --- the end -----------------------------------------------------------------------------------------------


def test_a_flush_waits_for_a_reader_that_is_slow(ends: Ends) -> None:
    reader, writer = ends.open(full_pipe)
    writer.put(b"last words\n")
    assert not writer.flush(10 * MILLISECOND), "the reader does not read"
    os.read(reader, 65_536)
    assert writer.flush(20 * SECOND)
    assert os.read(reader, 65_536) == b"last words\n"


def test_a_flush_does_not_wait_again_for_a_reader_that_is_stuck(ends: Ends) -> None:
    _, writer = ends.open(full_pipe)
    writer.put(b"x\n")
    assert not writer.flush(50 * MILLISECOND)
    for _ in range(1000):
        writer.put(b"y\n")
        assert not writer.flush(50 * MILLISECOND)  # a thousand waits would be 50 s


def test_without_a_thread_lines_are_written_while_there_is_room(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.procs.writer.start_thread", lambda run: False)
    _, writer = ends.open(os.pipe)
    for number in range(LINES):
        writer.put(LINE % number)
    assert ends.read_until(LINE % 500)[:501] == [LINE % number for number in range(501)]
    lines: list[bytes] = []
    while not any(b"was not read" in line for line in lines):
        writer.put(b"x\n")
        lines += ends.read_until(b"\n")


def test_a_wake_up_that_is_refused_stops_nothing(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    _, writer = ends.open(os.pipe)
    writer.put(b"one\n")
    assert writer.flush()

    def refuse(fd: int, value: int) -> None:
        raise OSError(errno.EIO, "refused")

    with monkeypatch.context() as patch:
        patch.setattr("os.eventfd_write", refuse)
        writer.put(b"two\n")
    writer.put(b"three\n")
    assert writer.flush()
    assert ends.read_until(b"three\n") == [b"one\n", b"two\n", b"three\n"]
    with monkeypatch.context() as patch:
        patch.setattr("os.eventfd_write", refuse)
        writer.close()


# --- lines of other processes ------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [os.pipe, stream_socket])
def test_lines_of_others_come_before_what_is_put_after_them(ends: Ends, make: Make) -> None:
    _, writer = ends.open(make)
    relay = writer.relay()
    for number in range(1000):
        os.write(relay, b"worker %d\n" % number)
        writer.put(b"dealer %d\n" % number)
    lines = [b"%s %d\n" % (who, number) for number in range(1000) for who in (b"worker", b"dealer")]
    assert ends.read_until(b"dealer 999\n") == lines
    os.write(relay, b"without a dealer's line\n")
    assert ends.read_until(b"line\n") == [b"without a dealer's line\n"]
    os.close(relay)


def test_lines_of_others_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writer = LineWriter(file.fileno(), "Dealer")
        relay = writer.relay()
        for number in range(1000):
            os.write(relay, b"worker %d\n" % number)
            writer.put(b"dealer %d\n" % number)
        os.write(relay, b"the last\n")
        writer.close()
        os.close(relay)
    lines = [b"%s %d\n" % (who, number) for number in range(1000) for who in (b"worker", b"dealer")]
    assert path.read_bytes().splitlines(keepends=True) == [*lines, b"the last\n"]


def test_lines_of_others_never_block_them(ends: Ends) -> None:
    _, writer = ends.open(full_pipe)
    relay = writer.relay()
    for number in range(LINES):
        try:
            os.write(relay, LINE % number)
        except BlockingIOError:
            continue
    assert ends.read_until(LINE % 0)[0] == LINE % 0
    os.close(relay)


def test_what_a_job_writes_there_without_an_end_is_cut(ends: Ends) -> None:
    _, writer = ends.open(os.pipe)
    relay = writer.relay()
    for _ in range(20):
        assert os.write(relay, b"z" * 4096) == 4096
        writer.put(b"")  # takes what is there
    os.write(relay, b"\nend\n")
    assert [len(line) for line in ends.read_until(b"end\n")] == [65_537, 20 * 4096 - 65_536 + 1, 4]
    os.close(relay)
