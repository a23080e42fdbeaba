"""Files without a name, on file systems that know them and on others."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from taskpool.procs.files import open_unnamed, open_unnamed_somewhere

WANTED = os.O_RDWR | os.O_APPEND


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has the file system refuse O_TMPFILE with an errno."""
    real = os.open

    def install(number: int) -> None:
        def refusing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(number, os.strerror(number))
            return real(path, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", refusing)

    return install


def check(fd: int) -> None:
    """It can be read, is appended to, is private, has no name, and no program inherits it."""
    try:
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & WANTED == WANTED
        assert not os.get_inheritable(fd)
        os.write(fd, b"one ")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"two")
        assert os.pread(fd, 100, 0) == b"one two"
        assert os.fstat(fd).st_nlink == 0
    finally:
        os.close(fd)


@pytest.mark.parametrize("opener", [open_unnamed, open_unnamed_somewhere])
def test_a_file_without_a_name(tmp_path: Path, opener: Callable[[str], int]) -> None:
    check(opener(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR])
def test_where_the_file_system_knows_none(tmp_path: Path, refuse: Callable[[int], None], number: int) -> None:
    refuse(number)
    fd = open_unnamed(str(tmp_path))
    assert os.fstat(fd).st_dev == tmp_path.stat().st_dev, "on disk, not in memory"
    check(fd)
    assert list(tmp_path.iterdir()) == []


def test_a_lack_of_room_is_told_apart(tmp_path: Path, refuse: Callable[[int], None]) -> None:
    refuse(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        open_unnamed(str(tmp_path))
    check(open_unnamed_somewhere(str(tmp_path)))


def test_a_directory_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    check(open_unnamed(str(tmp_path / "spool")))
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


@pytest.mark.parametrize("place", ["missing/deep", "file", "link"])
def test_where_there_can_be_no_directory(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("a-disk-that-is-not-mounted")
    with pytest.raises((FileNotFoundError, NotADirectoryError)):
        open_unnamed(str(tmp_path / place))
    check(open_unnamed_somewhere(str(tmp_path / place)))
