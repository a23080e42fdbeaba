"""What programs print, kept as text or as files. All of it by real programs."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.attempts import context, run, sh
from taskpool import limits
from taskpool.clock import MILLISECOND
from taskpool.kinds.capture import Stream, collect, epoch_of
from taskpool.kinds.command import COMMAND
from taskpool.messages import End
from taskpool.procs.files import open_unnamed
from taskpool.procs.procfs import take_own_peak_bytes

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


# --- opened again by name -------------------------------------------------------------------------

PYTHON = f"{sys.executable} -c 'import os, sys; sys.excepthook = lambda *error: None; "
REOPENED = [
    ("echo 1; echo 2 > {name}; echo 3", "123"),
    ("echo 1; echo 2 >> {name}; echo 3", "123"),
    ("echo 1; : > {name}; echo 3", "13"),
    ("echo 1; echo 2 > /dev/fd/{fd}; echo 3", "123"),
    ("echo 1; echo 2 > /proc/self/fd/{fd}; echo 3", "123"),
    ("echo 1; echo 2 | tee {name}; echo 3", "1223"),
    ("echo 1; echo 2 | tee -a {name}; echo 3", "1223"),
    ("echo 1; exec > {name}; echo 2; exec > {name}; echo 3", "123"),
    ("echo 1; exec 7> {name}; echo 2; exec 8> {name}; echo 3 >&8; echo 4 >&7; echo 5", "12345"),
    ("echo 1; echo 2 | dd of={name} status=none; echo 3", "123"),
    ("echo 1; echo 2 | dd of={name} oflag=append conv=notrunc status=none; echo 3", "123"),
    ("echo 1; (echo 2 > {name}; (echo 3 > {name})); echo 4", "1234"),
    ("echo 1; sh -c 'echo 2 > {name}' & wait; echo 3", "123"),
    ("echo 1; bash -c 'echo 2; exec &> {name}; echo 3; echo 4 | tee /dev/stderr >&2'; echo 5", "123445"),
    (f'echo 1; {PYTHON} print(2, file=open("{{name}}", "w"))\'; echo 3', "123"),
    (f'echo 1; {PYTHON} os.write(os.open("{{name}}", os.O_RDWR | os.O_TRUNC), b"2")\'; echo 3', "123"),
    (f'echo 1; {PYTHON} os.truncate("{{name}}", 0)\' || echo 2; echo 3', "123"),
    (f"echo 1; {PYTHON} os.ftruncate({{fd}}, 0)' || echo 2; echo 3", "123"),
    (f"echo 1; {PYTHON} os.lseek({{fd}}, 0, 0)' || echo 2; echo 3", "123"),
]


@pytest.mark.parametrize(("line", "printed"), REOPENED)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_opened_again_by_name_loses_nothing(tmp_path: Path, stream: str, line: str, printed: str) -> None:
    filled = line.format(name=f"/dev/{stream}", fd=1 if stream == "stdout" else 2)
    output = sh(tmp_path, filled if stream == "stdout" else f"exec >&2; {filled}").output
    text = output.stdout if stream == "stdout" else output.stderr
    assert (text or "").replace("\n", "") == printed


def test_both_streams_in_one_keep_their_order(tmp_path: Path) -> None:
    four = "echo o$i; echo e$i >&2; echo s$i > /dev/stdout; echo t$i > /dev/stderr"
    line = f"exec 2>&1; for i in 1 2 3 4 5; do {four}; done"
    expected = "".join(f"o{i}\ne{i}\ns{i}\nt{i}\n" for i in range(1, 6))
    assert (sh(tmp_path, line).output.stdout, sh(tmp_path, line).output.stderr) == (expected, "")


# --- much, and what is left behind ----------------------------------------------------------------


def kept(name: str | None) -> bytes:
    assert name is not None
    return Path(name).read_bytes()


def test_much_on_both_streams_at_once(tmp_path: Path) -> None:
    """Neither waits for the other: each is more than a pipe holds, and `wait` is for both."""
    lines = "seq 700000 & seq 700000 1400000 >&2; wait; echo end > /dev/stdout"
    output = sh(tmp_path, lines).output
    assert kept(output.stdout_file) == b"".join(b"%d\n" % n for n in range(1, 700_001)) + b"end\n"
    assert kept(output.stderr_file) == b"".join(b"%d\n" % n for n in range(700_000, 1_400_001))


def test_bytes_of_every_kind(tmp_path: Path) -> None:
    script = "import sys\nfor _ in range(3000): sys.stdout.buffer.write(bytes(range(256)))"
    assert kept(run(tmp_path, sys.executable, "-c", script).output.stdout_file) == bytes(range(256)) * 3000


def test_much_output_takes_no_memory(tmp_path: Path) -> None:
    take_own_peak_bytes()
    before = take_own_peak_bytes()
    output = sh(tmp_path, "head -c 100000000 /dev/zero; head -c 100000000 /dev/zero >&2").output
    assert take_own_peak_bytes() - before < 10_000_000
    assert [os.stat(name or "").st_size for name in (output.stdout_file, output.stderr_file)] == [100_000_000] * 2


@pytest.mark.parametrize("left", ["sleep 1000 &", "setsid sleep 1000 &", "yes & ", "(trap '' PIPE; yes >&2) &"])
def test_what_keeps_the_streams_open_delays_nothing(tmp_path: Path, left: str) -> None:
    result = sh(tmp_path, f"{left} echo main; exit 3")
    assert result.exit_status == 3
    text, name = result.output.stdout, result.output.stdout_file
    assert b"main\n" in (kept(name) if text is None else text.encode())


def test_what_is_printed_behind_the_main_program_is_kept_until_it_is_ended(tmp_path: Path) -> None:
    """The main program ends when the other one has printed, and leaves it running."""
    line = "mkfifo go; (head -c 50000 /dev/zero | tr '\\0' y; echo > go; exec sleep 1000) & echo main; read x < go"
    text = run(tmp_path, line, shell=True, cwd=str(tmp_path)).output.stdout
    assert sorted(text or "") == sorted("main\n" + "y" * 50_000)


def test_a_writer_that_cannot_be_killed_delays_nothing(tmp_path: Path) -> None:
    with Stream(str(tmp_path)) as stream, subprocess.Popen(["yes"], stdout=stream.writer) as writer:
        while not stream.take():
            pass
        text, name = stream.result(context(tmp_path), "out")
        writer.kill()
    assert (text.encode() if text else kept(name)).startswith(b"y\ny\n")


def test_it_is_read_while_the_program_is_told_to_end(tmp_path: Path) -> None:
    line = "trap 'seq 100000; exit 5' TERM; echo begun; while :; do sleep 0.01; done"
    result = sh(tmp_path, line, timeout_ns=300 * MILLISECOND)
    assert (result.end, result.exit_status) == (End.TIMED_OUT, 5)
    assert kept(result.output.stdout_file) == b"begun\n" + b"".join(b"%d\n" % n for n in range(1, 100_001))


def test_it_is_read_without_a_descriptor_to_wait_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert len(kept(sh(tmp_path, "seq 100000; seq 1000 > /dev/stdout").output.stdout_file)) == 588_895 + 3_893


def test_time_is_up_however_much_is_printed(tmp_path: Path) -> None:
    result = run(tmp_path, "yes", timeout_ns=100 * MILLISECOND)
    assert (result.end, result.signal) == (End.TIMED_OUT, signal.SIGTERM)


def test_a_full_disk_does_not_stop_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the limit on the size of a file, which is met in the middle of the output as the end of a disk is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        result = sh(tmp_path, "seq 1000000 && echo whole >&2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (result.end, result.exit_status, result.error) == (End.SUCCEEDED, 0, None)
    assert result.output.stderr == "[taskpool] what the job printed is lost: [Errno 27] File too large\n"


# --- descriptors and files ------------------------------------------------------------------------


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


def test_large_output_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> int:
        raise AssertionError("copied")

    monkeypatch.setattr(os, "sendfile", refuse)
    output = sh(tmp_path, f"head -c {INLINE_MAX + 1} /dev/zero").output
    assert kept(output.stdout_file) == bytes(INLINE_MAX + 1)


def test_of_a_file_that_is_written_again_a_copy_is_kept(tmp_path: Path) -> None:
    text = b"z" * (INLINE_MAX + 1)
    about = context(tmp_path)
    stdout_fd, stderr_fd = open_unnamed(about.spool), open_unnamed(about.spool)
    os.write(stdout_fd, text)
    output = collect(about, stdout_fd, stderr_fd)
    os.ftruncate(stdout_fd, 0)
    os.close(stdout_fd)
    os.close(stderr_fd)
    assert kept(output.stdout_file) == text


def test_two_outputs_of_one_name_are_both_kept(tmp_path: Path) -> None:
    """The lock file that counts epochs was removed, say, so the first attempts of two lives have the same token."""
    kept = [sh(tmp_path, rf"printf '\377{run}'").output.stdout_file for run in "123"]
    assert [Path(name or "").read_bytes() for name in kept] == [b"\xff1", b"\xff2", b"\xff3"]
    assert all(epoch_of(Path(name or "").name) == 3 for name in kept)
    assert epoch_of("mail") == 0


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_kept_output_is_private_and_readable_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    (tmp_path / "spool").mkdir()
    before = os.umask(umask)
    try:
        kept = sh(tmp_path, r"printf '\377'").output.stdout_file
    finally:
        os.umask(before)
    assert kept is not None
    file = Path(kept)
    assert [stat.S_IMODE(place.stat().st_mode) for place in (file, *file.parents[:2])] == [0o600, 0o700, 0o700]


@pytest.mark.parametrize("place", ["output", "output/nightly"])
def test_output_goes_through_a_link_of_this_user_only(tmp_path: Path, place: str) -> None:
    (tmp_path / "large").mkdir()
    link = tmp_path / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "large")
    kept = sh(tmp_path, r"printf '\377'").output.stdout_file
    assert kept is not None
    assert Path(kept).resolve().is_relative_to(tmp_path / "large")
    if os.geteuid() == 0:
        os.chown(link, 12345, -1, follow_symlinks=False)
        output = sh(tmp_path, r"printf '\377'").output
        assert output.stdout_file is None
        assert f"{link} is a symbolic link that uid 12345 has made" in (output.stderr or "")


def test_a_spool_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    about = context(tmp_path)
    os.rmdir(about.spool)
    payload = COMMAND.parse({"argv": ["head", "-c", str(INLINE_MAX + 1), "/dev/zero"]}, "line 1")
    output = COMMAND.run(payload, about).output
    assert output.stdout_file is not None
    assert Path(output.stdout_file).read_bytes() == bytes(INLINE_MAX + 1)


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


def test_output_is_kept_when_its_directory_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link
    removed: list[Path] = []

    def removing(source: str, name: str, *, dst_dir_fd: int) -> None:
        if not removed:
            removed.append(tmp_path / "output")
            shutil.rmtree(removed[0])
        real(source, name, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "link", removing)
    kept = sh(tmp_path, r"printf '\377'").output.stdout_file
    assert kept is not None
    assert removed
    assert Path(kept).read_bytes() == b"\xff"
