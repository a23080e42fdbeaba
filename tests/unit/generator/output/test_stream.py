"""Output whose reader is slow, or gone."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskpool.errors import ConfigurationError
from taskpool.generator.output.stream import OutputClosed, OutputStream


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
    for _ in range(10_000):
        stream.pump()
        if stream.idle:
            break
        got += os.read(reader, 65_536)
    while select.select([reader], [], [], 0)[0]:
        got += os.read(reader, 65_536)
    assert got == data + file_data + b"end"


def test_a_long_backlog_is_congestion(pipe: tuple[int, int]) -> None:
    stream = OutputStream(pipe[1])
    assert not stream.congested
    stream.put(b"x" * 2_000_000)
    stream.pump()
    assert stream.congested and not stream.idle


def test_a_reader_that_is_gone(pipe: tuple[int, int]) -> None:
    stream = OutputStream(pipe[1])
    os.close(pipe[0])
    stream.put(b"x")
    with pytest.raises(OutputClosed):
        stream.pump()


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
