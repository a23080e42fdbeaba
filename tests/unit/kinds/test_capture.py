"""What programs print, kept as text or as files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec
import pytest

from support.attempts import context, run, sh
from taskpool import limits
from taskpool.clock import MILLISECOND
from taskpool.kinds.capture import CaptureFile, collect
from taskpool.kinds.command import COMMAND

INLINE_MAX = limits.INLINE_OUTPUT_BYTES_MAX


def test_output_up_to_the_limit_is_text_and_above_it_a_file(tmp_path: Path) -> None:
    within = sh(tmp_path, f"head -c {INLINE_MAX} /dev/zero | tr '\\0' x").output
    assert (within.stdout, within.stdout_file) == ("x" * INLINE_MAX, None)
    beyond = sh(tmp_path, f"head -c {INLINE_MAX + 1} /dev/zero | tr '\\0' x; echo note >&2").output
    assert (beyond.stdout, beyond.stderr, beyond.stderr_file) == (None, "note\n", None)
    assert beyond.stdout_file == f"{tmp_path}/output/nightly/7.3-11.out"
    assert Path(beyond.stdout_file).read_text() == "x" * (INLINE_MAX + 1)


def test_kept_output_is_nobody_elses(tmp_path: Path) -> None:
    output = sh(tmp_path, r"printf '\377' >&2").output
    assert (output.stdout, output.stderr, output.stderr_file) == ("", None, f"{tmp_path}/output/nightly/7.3-11.err")
    file = tmp_path / "output/nightly/7.3-11.err"
    assert file.read_bytes() == b"\xff"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [stat.S_IMODE(place.stat().st_mode) for place in file.parents[:2]] == [0o700, 0o700]
    assert os.listdir(tmp_path / "spool") == []


def test_standard_error_opened_anew_is_appended_to(tmp_path: Path) -> None:
    assert sh(tmp_path, "echo a >&2; echo b >> /dev/stderr; echo c >&2").output.stderr == "a\nb\nc\n"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    run(tmp_path, "true", stdin="x", cwd=str(tmp_path))
    run(tmp_path, "no-such-program")
    run(tmp_path, "sleep", "60", timeout_ns=1 * MILLISECOND)
    sh(tmp_path, r"printf '\377'")
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def no_tmpfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without O_TMPFILE, such as NFS."""
    real = os.open

    def refusing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.usefixtures("no_tmpfile")
def test_without_unnamed_files_output_is_kept_all_the_same(tmp_path: Path) -> None:
    output = sh(tmp_path, f"echo short >&2; head -c {INLINE_MAX + 1} /dev/zero").output
    assert output.stderr == "short\n"
    assert output.stdout_file is not None
    assert Path(output.stdout_file).read_bytes() == bytes(INLINE_MAX + 1)
    assert os.listdir(tmp_path / "spool") == []


def test_large_output_is_not_copied(tmp_path: Path) -> None:
    about = context(tmp_path)
    with CaptureFile(about.spool) as stdout, CaptureFile(about.spool) as stderr:
        os.write(stdout.fd, b"z" * (INLINE_MAX + 1))
        output = collect(about, stdout.fd, stderr.fd)
        assert output.stdout_file is not None
        assert os.path.samestat(os.fstat(stdout.fd), os.stat(output.stdout_file))


def test_of_a_file_that_is_written_again_a_copy_is_kept(tmp_path: Path) -> None:
    text = b"z" * (INLINE_MAX + 1)
    about = context(tmp_path)
    with CaptureFile(about.spool) as stdout, CaptureFile(about.spool) as stderr:
        os.write(stdout.fd, text)
        output = collect(about, stdout.fd, stderr.fd, reused=True)
        os.ftruncate(stdout.fd, 0)
    assert output.stdout_file is not None
    assert Path(output.stdout_file).read_bytes() == text


def test_a_spool_that_is_gone_is_the_machines_fault(tmp_path: Path) -> None:
    about = context(tmp_path)
    os.rmdir(about.spool)
    with pytest.raises(FileNotFoundError):
        COMMAND.run(COMMAND.parse({"argv": ["true"]}, "line 1"), about)


def test_bytes_that_are_not_utf8_arrive_as_they_are(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/d\xff"
    os.mkdir(place)
    words = [b"sh", b"-c", b'printf "%s" "$1" "$V"; pwd', b"sh", b"a\xfe"]
    payload = msgspec.msgpack.encode([words, place, {b"V": b"v\xfd"}])
    COMMAND.check(payload)
    output = COMMAND.run(payload, context(tmp_path)).output
    assert output.stdout is None
    assert output.stdout_file is not None
    assert Path(output.stdout_file).read_bytes() == b"a\xfev\xfd" + place + b"\n"
