"""Output whose reader is slow, or gone."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.harness import until
from support.unread import UNREAD, Make, opened, read_until
from taskpool.clock import MILLISECOND, SECOND
from taskpool.errors import ConfigurationError
from taskpool.generator.output.stream import OutputClosed, OutputStream, write_out
from taskpool.procs.wait import Descriptor, wait_ready


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass


def test_a_reader_that_does_not_read_blocks_nothing(pipe: tuple[int, int], tmp_path: Path) -> None:
    reader, writer = pipe
    data, file_data = os.urandom(300_000), os.urandom(200_000)
    path = tmp_path / "output"
    path.write_bytes(file_data)
    stream = OutputStream(writer)
    stream.put(data)
    stream.put(path)
    stream.put(b"end")
    got = b""
    while not stream.idle:
        stream.pump()
        if reader in select.select([reader, *stream.waits_for], [], [])[0]:
            got += os.read(reader, 65_536)
    while select.select([reader], [], [], 0)[0]:
        got += os.read(reader, 65_536)
    assert got == data + file_data + b"end"
    stream.close()


def test_a_long_backlog_is_congestion(pipe: tuple[int, int]) -> None:
    stream = OutputStream(pipe[1])
    assert not stream.congested
    stream.put(b"x" * 2_000_000)
    stream.pump()
    assert stream.congested and not stream.idle
    stream.close()


@pytest.mark.parametrize("make", UNREAD)
def test_a_write_that_blocks_blocks_no_caller(make: Make) -> None:
    """Also when poll(2) says that there is room: for less than is written, or another program takes it."""
    with opened(make) as (reader, writer):
        stream = OutputStream(writer)
        stream.put(b"%099d\n" % 7 * 20_000)
        write_out(stream, stuck_ns=20 * MILLISECOND)
        assert stream.congested and not stream.idle
        stream.put(b"end\n")
        lines: list[bytes] = []
        while b"end\n" not in lines:
            stream.pump()
            lines += read_until(reader, b"\n")
        write_out(stream)
        assert lines == [b"%099d\n" % 7] * 20_000 + [b"end\n"]
        stream.close()


def test_lines_are_whole_beside_those_of_a_log() -> None:
    with opened(lambda: os.pipe2(os.O_DIRECT)) as (
        reader,
        writer,
    ):  # each read gives what one write has put, see pipe(2)
        stream = OutputStream(writer)
        stream.put(b"".join(b"x" * size + b"\n" for size in (99, 4050, 10, 5000, 7)))
        write_out(stream)
        assert [len(os.read(reader, 65_536)) for _ in range(4)] == [100, 4051 + 11, 4096, 5001 - 4096 + 8]
        stream.close()


def test_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    stream = OutputStream(pipe[1])
    os.close(pipe[0])
    stream.put(b"x")
    with pytest.raises(OutputClosed):
        write_out(stream)
    stream.close()


def test_a_full_disk_is_told() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    try:
        stream = OutputStream(fd)
        stream.put(b"x")
        with pytest.raises(ConfigurationError, match="No space left"):
            stream.pump()
    finally:
        os.close(fd)


def test_output_that_cannot_be_read_is_told(pipe: tuple[int, int], tmp_path: Path) -> None:
    stream = OutputStream(pipe[1])
    stream.put(tmp_path / "missing")
    with pytest.raises(ConfigurationError, match="missing"):
        stream.pump()


def test_without_a_thread_it_is_written_all_the_same(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.generator.output.stream.start_thread", lambda run: False)
    stream = OutputStream(pipe[1])
    stream.put(b"x\n" * 10_000)
    write_out(stream)
    assert os.read(pipe[0], 65_536) == b"x\n" * 10_000
    stream.close()
    stream.close()


class Overtaken(OutputStream):
    """Its thread ends its last write behind each look that still finds it at work."""

    @property
    def idle(self) -> bool:
        was_idle = super().idle
        until(lambda: OutputStream.idle.__get__(self), "the end of the write")
        return was_idle


def test_a_write_that_ends_just_behind_a_look_is_not_waited_for_in_vain(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[set[int]] = []

    def wait(readable: Iterable[Descriptor], *rest: Any) -> set[int]:
        waits.append(wait_ready(readable, (), 5 * SECOND))
        return waits[-1]

    monkeypatch.setattr("taskpool.generator.output.stream.wait_ready", wait)
    stream = Overtaken(pipe[1])
    stream.put(b"line\n")
    write_out(stream)
    assert os.read(pipe[0], 100) == b"line\n"
    assert all(waits), "the descriptor of the thread was ready"
    stream.close()
