"""Parts of a file: written one behind the other, mapped where they are read."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from taskpool.errors import MessageError
from taskpool.kinds import parts


def written(path: Path, *held: bytes) -> Path:
    path.write_bytes(b"".join(parts.padded(held)))
    return path


def test_each_part_begins_where_arrays_like_it(tmp_path: Path) -> None:
    held = [b"a" * 63, b"", b"b" * 64, b"c" * 65, b"d"]
    file = written(tmp_path / "parts", *held)
    data = file.read_bytes()
    assert [data.find(letter) for letter in (b"a", b"b", b"c", b"d")] == [0, 64, 128, 256]
    assert list(map(bytes, parts.read(file, [*map(len, held)]))) == held
    assert list(map(bytes, parts.read(written(tmp_path / "empty", b"", b""), [0, 0]))) == [b"", b""]


def test_what_is_written_there_is_seen_by_the_reader_alone(tmp_path: Path) -> None:
    file = written(tmp_path / "parts", b"abc")
    (part,) = parts.read(file, [3])
    file.unlink()
    part[:1] = b"x"
    assert bytes(part) == b"xbc"


def test_a_shorter_file_is_told(tmp_path: Path) -> None:
    file = written(tmp_path / "parts", b"abc")
    with pytest.raises(MessageError, match="has 64 bytes, and its parts take 128: was it changed"):
        parts.read(file, [3, 1])
    with pytest.raises(FileNotFoundError):
        parts.read(tmp_path / "none", [3])


def test_a_file_larger_than_memory_may_be_is_a_memory_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    file = written(tmp_path / "parts", b"abc")
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(MemoryError, match="cannot be mapped"):
        parts.read(file, [3])
