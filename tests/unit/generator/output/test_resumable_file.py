"""Files of lines that a later run goes on with."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from support.unread import Make, full_pipe, gone_pipe, opened, read_until, stopped_terminal, terminal
from taskpool.errors import UsageError
from taskpool.generator.output.resumable_file import ResumableFile


def write(path: Path, *lines: bytes, append: bool, header: bytes = b"") -> bytes:
    file = ResumableFile(str(path), append=append)
    file.begin(header)
    for line in lines:
        file.write(line)
    file.close()
    file.close()
    return path.read_bytes()


def test_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert write(path, b"a\n", b"b\n", append=False, header=b"h\n") == b"h\na\nb\n"
    assert write(path, b"c\n", append=False) == b"c\n"


def test_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert write(path, b"a\n", append=True, header=b"h\n") == b"h\na\n"
    assert write(path, b"b\n", append=True, header=b"h\n") == b"h\na\nb\n"


def test_what_was_written_and_not_acknowledged_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\nb\nc\n")
    assert write(path, b"b\n", b"c\n", b"d\n", b"b\n", append=True) == b"a\nb\nc\nd\nb\n"


@pytest.mark.parametrize(("before", "after"), [(b"a\nhalf", b"a\nb\n"), (b"half", b"b\n"), (b"", b"b\n")])
def test_half_a_line_goes(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(before)
    assert write(path, b"b\n", append=True) == after


@pytest.mark.parametrize("append", [False, True])
def test_nothing_is_lost_before_it_begins(tmp_path: Path, append: bool) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"a\nhalf")
    ResumableFile(str(path), append=append).close()
    assert path.read_bytes() == b"a\nhalf"


@pytest.mark.parametrize("append", [False, True])
def test_what_is_no_file(append: bool) -> None:
    reader, writer = os.pipe()
    file = ResumableFile(f"/dev/fd/{writer}", append=append)
    file.begin(b"h\n")
    file.write(b"a\n")
    file.close()
    assert os.read(reader, 100) == b"h\na\n"
    os.close(reader)
    os.close(writer)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"cannot write {tmp_path}"):
        ResumableFile(str(tmp_path), append=False)


@pytest.mark.parametrize("make", [os.pipe, full_pipe, terminal, stopped_terminal])
def test_a_reader_that_does_not_read_is_not_waited_for(make: Make) -> None:
    line = b"%099d\n" % 1
    with opened(make) as (reader, writer):
        file = ResumableFile(f"/dev/fd/{writer}", append=False)
        file.begin(b"header\n")
        for _ in range(20_000):
            file.write(line)
            file.flush()
        assert file.stream is not None and file.stream.congested
        file.write(b"end\n")
        lines: list[bytes] = []
        while b"end\n" not in lines:
            file.flush()
            lines += read_until(reader, b"\n")
        file.close()
        assert lines == [b"header\n", *[line] * 20_000, b"end\n"]


def test_a_reader_that_is_gone_is_an_error() -> None:
    with opened(gone_pipe) as (_, writer):
        file = ResumableFile(f"/dev/fd/{writer}", append=False)
        file.begin()
        file.write(b"x\n")
        assert file.stream is not None
        with pytest.raises(BrokenPipeError):
            file.flush()
            while select.select(file.stream.waits_for, [], [], 20)[0]:
                file.flush()
        file.close()
