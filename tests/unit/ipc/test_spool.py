from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskpool import limits
from taskpool.codec import decode, encode
from taskpool.errors import ConfigurationError, MessageError
from taskpool.ipc.spool import Spool
from taskpool.messages import Answer, Message, Ping, Spilled

MSGSIZE = 256
LARGE = Answer(client=1, verb="status", ok=True, body=b"x" * 10_000)
NAME = "0123456789abcdef" * 2


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool")
    spool.sweep()
    yield spool
    spool.close()


def send(spool: Spool, message: Message) -> Spilled:
    """What a receiver decodes when `message` was too large for its queue."""
    spilled = decode(spool.pack(encode(message), MSGSIZE))
    assert isinstance(spilled, Spilled)
    return spilled


def plant(spool: Spool, data: bytes) -> Spilled:
    """A file with any content, and the reference that fits it."""
    (spool.directory / NAME).write_bytes(data)
    return Spilled(name=NAME, size=len(data), digest=hashlib.sha256(data).digest())


def files(spool: Spool) -> list[Path]:
    return list(spool.directory.iterdir())


@pytest.mark.parametrize("size", [0, 1, MSGSIZE])
def test_what_fits_is_sent_as_it_is(spool: Spool, size: int) -> None:
    assert spool.pack(b"x" * size, MSGSIZE) == b"x" * size
    assert files(spool) == []


def test_a_message_that_is_not_spilled_passes(spool: Spool) -> None:
    assert spool.unpack(Ping(client=7)) == Ping(client=7)


def test_a_large_message_arrives_and_its_file_is_gone(spool: Spool) -> None:
    spilled = send(spool, LARGE)
    assert len(files(spool)) == 1
    assert spool.unpack(spilled) == LARGE
    assert files(spool) == []


def test_the_reference_fits_where_the_message_did_not(spool: Spool) -> None:
    assert len(spool.pack(bytes(MSGSIZE + 1), MSGSIZE)) <= MSGSIZE


def test_files_and_directory_are_private(spool: Spool) -> None:
    send(spool, LARGE)
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in files(spool)] == [0o600]


def test_the_largest_message_passes_and_one_byte_more_is_refused(spool: Spool) -> None:
    assert len(spool.pack(bytes(limits.SPILL_BYTES_MAX), MSGSIZE)) <= MSGSIZE
    with pytest.raises(MessageError, match=str(limits.SPILL_BYTES_MAX)):
        spool.pack(bytes(limits.SPILL_BYTES_MAX + 1), MSGSIZE)


def test_a_spool_that_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"deep.*No such file or directory"):
        Spool(tmp_path / "missing/deep").pack(bytes(1000), MSGSIZE)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_removed_is_made_anew(spool: Spool) -> None:
    shutil.rmtree(spool.directory)
    spilled = send(spool, LARGE)
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700
    assert spool.unpack(spilled) == LARGE
    shutil.rmtree(spool.directory)
    assert spool.trouble() == ""
    assert files(spool) == []


def test_what_was_sent_before_the_directory_was_moved_away_arrives(spool: Spool, tmp_path: Path) -> None:
    before = send(spool, LARGE)
    spool.directory.rename(tmp_path / "away")
    sender = Spool(spool.directory)  # another process
    after = send(sender, LARGE)
    assert spool.unpack(before) == LARGE
    assert spool.unpack(after) == LARGE
    late = send(sender, LARGE)
    assert spool.trouble() == ""
    (tmp_path / "away").rename(spool.directory / "away")  # as `mv away spool` does, when there is a spool again
    assert spool.unpack(late) == LARGE
    descriptors = os.listdir("/proc/self/fd")
    for number in range(5):
        spool.directory.rename(tmp_path / str(number))
        assert spool.trouble() == ""
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors) + 1
    spool.sweep()
    assert files(spool) == []
    spool.close()
    assert not spool.directory.exists()


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_a_message_can_be_read_by_its_receiver_alone_whatever_the_umask(spool: Spool, umask: int) -> None:
    before = os.umask(umask)
    try:
        spilled = send(spool, LARGE)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(file.stat().st_mode) for file in files(spool)] == [0o600]
    assert spool.unpack(spilled) == LARGE


def test_why_it_cannot_be_used(spool: Spool) -> None:
    spool.directory.rmdir()
    spool.directory.touch()
    assert f"Not a directory; the pool's spool {spool.directory} must be there, writable" in spool.trouble()
    spool.directory.unlink()
    spool.directory.symlink_to("a-disk-that-is-not-mounted")
    assert "No such file or directory" in spool.trouble()
    spool.directory.unlink()
    assert spool.trouble() == ""


def test_sweeping_takes_a_spool_that_was_moved_into_it(spool: Spool) -> None:
    (spool.directory / "away").mkdir()
    (spool.directory / "away" / NAME).touch()
    spool.sweep()
    assert files(spool) == []


def test_sweeping_empties_and_closes_the_directory(spool: Spool, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    send(spool, LARGE)
    (spool.directory / "link").symlink_to(outside)
    spool.directory.chmod(0o777)
    spool.sweep()
    assert files(spool) == []
    assert outside.exists()
    assert stat.S_IMODE(spool.directory.stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="file/spool"):
        Spool(tmp_path / "file" / "spool").sweep()


def test_another_mount_is_explained(spool: Spool, tmp_path: Path) -> None:
    spilled = send(spool, LARGE)
    elsewhere = Spool(tmp_path / "elsewhere")
    with pytest.raises(MessageError, match=r"elsewhere is not visible here .* share that mount"):
        elsewhere.unpack(spilled)
    assert spool.unpack(spilled) == LARGE


def test_a_message_is_taken_once(spool: Spool) -> None:
    spilled = send(spool, LARGE)
    spool.unpack(spilled)
    with pytest.raises(MessageError, match="No such file"):
        spool.unpack(spilled)


@pytest.mark.parametrize("changed", [b"", b"y" * 10, b"x" * 9, b"x" * 11, b"x" * 1_000_000])
def test_content_that_differs_is_refused_and_removed(spool: Spool, changed: bytes) -> None:
    spilled = plant(spool, b"x" * 10)
    (spool.directory / NAME).write_bytes(changed)
    with pytest.raises(MessageError, match="not what its sender wrote"):
        spool.unpack(spilled)
    assert files(spool) == []


def test_content_that_is_no_message_is_refused(spool: Spool) -> None:
    with pytest.raises(MessageError):
        spool.unpack(plant(spool, b"garbage"))


def test_a_reference_to_a_reference_is_refused(spool: Spool) -> None:
    with pytest.raises(MessageError, match="another spool file"):
        spool.unpack(plant(spool, encode(send(spool, LARGE))))


def test_a_symbolic_link_is_not_followed(spool: Spool, tmp_path: Path) -> None:
    spilled = plant(spool, encode(LARGE))
    (spool.directory / NAME).rename(tmp_path / "target")
    (spool.directory / NAME).symlink_to(tmp_path / "target")
    with pytest.raises(MessageError, match="symbolic link"):
        spool.unpack(spilled)
    assert (tmp_path / "target").exists()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_a_regular_file_is_read(spool: Spool, make: Callable[[Path], None]) -> None:
    spilled = plant(spool, encode(LARGE))
    (spool.directory / NAME).unlink()
    make(spool.directory / NAME)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(MessageError, match="not a regular file"):
        spool.unpack(spilled)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(spool: Spool) -> None:
    spilled = plant(spool, encode(LARGE))
    os.chown(spool.directory / NAME, 65534, 65534)
    with pytest.raises(MessageError, match="not a regular file of this user"):
        spool.unpack(spilled)


def test_what_is_kept_is_read_as_often_as_wanted(spool: Spool) -> None:
    names = [spool.keep(b"x" * size) for size in (0, 1, 100_000)]
    for _ in range(2):
        assert [len(spool.kept(name)) for name in names] == [0, 1, 100_000]
    for name in (*names, NAME):
        spool.forget(name)
    assert files(spool) == []
    with pytest.raises(FileNotFoundError):
        spool.kept(names[0])
