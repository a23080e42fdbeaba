"""The command kind, with real programs."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from attempts import context
from taskpool import limits
from taskpool.clock import MILLISECOND
from taskpool.errors import MessageError, UsageError
from taskpool.kinds import command
from taskpool.kinds.base import Result
from taskpool.kinds.capture import CaptureFile, collect
from taskpool.messages import End, Output

GLIBC_OWN_SIGNALS = 1 << 31 | 1 << 32  # 32 and 33: glibc's posix_spawn has them ignored until a thread needs them
INLINE_MAX = limits.INLINE_OUTPUT_BYTES_MAX


def run(state: Path, *argv: str, timeout_ns: int = 0, slot: int = 0, **fields: object) -> Result:
    payload = command.parse({"argv": list(argv), **fields}, "line 1")
    command.check(payload)
    return command.run(payload, context(state, timeout_ns=timeout_ns, slot=slot))


def sh(state: Path, line: str, *, timeout_ns: int = 0) -> Result:
    return run(state, line, shell=True, timeout_ns=timeout_ns)


def program(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TERM_GRACE_NS", 50 * MILLISECOND)


# --- ends -----------------------------------------------------------------------------------------


def test_success_has_both_outputs(tmp_path: Path) -> None:
    result = run(tmp_path, "sh", "-c", 'echo "$0 $1"; echo oops >&2', "a b", "*")
    assert (result.end, result.exit_status, result.signal, result.error) == (End.SUCCEEDED, 0, None, None)
    assert (result.output.stdout, result.output.stderr) == ("a b *\n", "oops\n")
    assert result.value is None


def test_no_output_is_empty_text(tmp_path: Path) -> None:
    assert run(tmp_path, "true").output == Output("", "")


@pytest.mark.parametrize("status", [1, 75, 255])
def test_an_exit_status_is_a_failure(tmp_path: Path, status: int) -> None:
    result = sh(tmp_path, f"echo so far; exit {status}")
    assert (result.end, result.exit_status, result.signal) == (End.FAILED, status, None)
    assert result.output.stdout == "so far\n"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGTERM])
def test_death_by_a_signal_is_a_crash(tmp_path: Path, number: signal.Signals) -> None:
    result = sh(tmp_path, f"ulimit -c 0; kill -{int(number)} $$")
    assert (result.end, result.exit_status, result.signal) == (End.CRASHED, None, number)


def test_what_it_used_is_measured(tmp_path: Path) -> None:
    result = run(tmp_path, sys.executable, "-c", "x = bytearray(150_000_000)\nfor _ in range(3_000_000): pass")
    assert result.cpu_ns > 10 * MILLISECOND
    assert result.max_rss_bytes > 150_000_000


# --- programs that cannot be started --------------------------------------------------------------


def not_started(result: Result) -> tuple[int | None, str]:
    assert result.end is End.FAILED
    assert result.error is not None
    assert result.error.type == "CannotStart"
    return result.exit_status, result.error.message


def test_a_program_that_is_nowhere(tmp_path: Path) -> None:
    assert not_started(run(tmp_path, "no-such-program", env={"PATH": "/bin:/usr/bin"})) == (
        127,
        "program no-such-program not found in PATH=/bin:/usr/bin",
    )
    assert not_started(run(tmp_path, "/no/such/program")) == (127, "program /no/such/program not found")
    assert not_started(run(tmp_path, "/bin/sh/x")) == (127, "program /bin/sh/x not found")


def test_a_file_that_is_not_executable(tmp_path: Path) -> None:
    path = program(tmp_path / "data", "#!/bin/sh\n", mode=0o644)
    assert not_started(run(tmp_path, path)) == (126, f"cannot run {path}: it is not an executable file")
    assert not_started(run(tmp_path, "data", env={"PATH": str(tmp_path)})) == (126, f"{path} is not executable")
    assert not_started(run(tmp_path, str(tmp_path)))[0] == 126


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    status, text = not_started(run(tmp_path, program(tmp_path / "bare", "echo without a first line\n")))
    assert status == 126
    assert "nor a script with an interpreter in its first line" in text


def test_a_script_whose_interpreter_is_missing(tmp_path: Path) -> None:
    status, text = not_started(run(tmp_path, program(tmp_path / "old", "#!/no/such/perl\n")))
    assert status == 126
    assert text.endswith("old: the interpreter in its first line is missing")


def test_arguments_too_long_for_the_kernel(tmp_path: Path) -> None:
    status, text = not_started(run(tmp_path, "true", "x" * 200_000))
    assert status == 126
    assert "128 KiB" in text


def test_a_directory_that_is_missing(tmp_path: Path) -> None:
    status, text = not_started(run(tmp_path, "true", cwd=f"{tmp_path}/gone"))
    assert status is None
    assert text == f"cannot enter the directory {tmp_path}/gone: No such file or directory"


# --- what a program finds -------------------------------------------------------------------------


def test_it_runs_where_its_submitter_stood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    here, below = (command.parse({"argv": ["pwd"], **cwd}, "line 1") for cwd in ({}, {"cwd": "below"}))
    monkeypatch.chdir("/")
    assert command.run(here, context(tmp_path)).output.stdout == f"{tmp_path}\n"
    assert command.run(below, context(tmp_path)).output.stdout == f"{tmp_path}/below\n"


@pytest.mark.parametrize("argv", [["true"], ["no-such-program"]])
def test_the_worker_stays_where_it_was(tmp_path: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    run(tmp_path, *argv, cwd=str(tmp_path))
    assert os.getcwd() == "/usr"


def test_a_relative_program_is_looked_up_from_its_directory(tmp_path: Path) -> None:
    program(tmp_path / "tool", "#!/bin/sh\necho here\n")
    assert run(tmp_path, "./tool", cwd=str(tmp_path)).output.stdout == "here\n"
    assert run(tmp_path, "tool", cwd=str(tmp_path), env={"PATH": "."}).output.stdout == "here\n"


def test_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("COLOUR", "red")
    monkeypatch.setenv("TP_WORKER", "demo/1/2")
    monkeypatch.setenv("TP_SLOT", "of another job")
    lines = run(tmp_path, "env", env={"COLOUR": "blue"}, slot=4).output.stdout
    assert lines is not None
    found = dict(line.split("=", 1) for line in lines.splitlines())
    assert (found["INHERITED"], found["COLOUR"], found["TP_WORKER"]) == ("yes", "blue", "demo/1/2")
    own = {name: value for name, value in found.items() if name.startswith("TP_") and name != "TP_WORKER"}
    assert own == {
        "TP_JOB_ID": "nightly/7",
        "TP_BATCH": "nightly",
        "TP_SEQ": "7",
        "TP_ATTEMPT": "2",
        "TP_SLOT": "5",
    }


def test_a_frozen_worker_does_not_hand_its_libraries_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PYI_ARCHIVE_FILE", "/opt/taskpool/tp-worker")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/taskpool/_internal")
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/home/me/lib")
    assert sh(tmp_path, "echo $LD_LIBRARY_PATH-$LD_LIBRARY_PATH_ORIG-$_PYI_ARCHIVE_FILE").output.stdout == (
        "/home/me/lib--\n"
    )


def test_bytes_that_are_not_utf8_arrive_as_they_are(tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/d\xff"
    os.mkdir(place)
    words = [b"sh", b"-c", b'printf "%s" "$1" "$V"; pwd', b"sh", b"a\xfe"]
    payload = msgspec.msgpack.encode([words, place, {b"V": b"v\xfd"}])
    command.check(payload)
    output = command.run(payload, context(tmp_path)).output
    assert output.stdout is None
    assert output.stdout_file is not None
    assert Path(output.stdout_file).read_bytes() == b"a\xfev\xfd" + place + b"\n"


def test_standard_input_is_the_text_or_empty(tmp_path: Path) -> None:
    assert run(tmp_path, "cat", stdin="two\nlines").output.stdout == "two\nlines"
    assert run(tmp_path, "cat", stdin="").output.stdout == ""
    assert run(tmp_path, "cat").output.stdout == ""
    assert run(tmp_path, "wc", "-c", stdin="x" * 3_000_000).output.stdout == "3000000\n"
    assert run(tmp_path, "true", stdin="x" * 3_000_000).end is End.SUCCEEDED  # nobody reads it


def test_it_inherits_no_descriptor_but_the_three(tmp_path: Path) -> None:
    ours = {
        fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and inheritable(fd)
    }  # of whoever runs the tests
    text = run(tmp_path, "ls", "/proc/self/fd", stdin="x").output.stdout
    assert text is not None
    assert len(set(map(int, text.split())) - ours - {0, 1, 2}) == 1  # the directory that ls reads


def inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # the directory that was listed
        return False


def test_its_signals_are_as_in_a_new_login(tmp_path: Path) -> None:
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        text = run(tmp_path, "grep", "^Sig[BI][lg][kn]", "/proc/self/status").output.stdout
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        signal.signal(signal.SIGUSR1, old)
    assert text is not None
    blocked, ignored = (int(line.split()[1], 16) for line in text.splitlines())
    assert blocked == 0
    assert ignored & ~GLIBC_OWN_SIGNALS == 0


def test_it_leads_a_session_of_its_own(tmp_path: Path) -> None:
    text = sh(tmp_path, "read -r pid name state parent group session rest < /proc/$$/stat; echo $pid $group $session")
    assert text.output.stdout is not None
    pid, group, session = text.output.stdout.split()
    assert pid == group == session


# --- time-outs ------------------------------------------------------------------------------------


def timed_out(result: Result) -> tuple[int | None, int | None]:
    assert result.end is End.TIMED_OUT
    assert result.error is not None
    assert result.error.type == "TimedOut"
    assert "still running after its time-out of 0.05 s" in result.error.message
    return result.exit_status, result.signal


def test_past_its_deadline_it_is_told_to_end(tmp_path: Path) -> None:
    result = sh(tmp_path, "echo begun; exec sleep 60", timeout_ns=50 * MILLISECOND)
    assert timed_out(result) == (None, signal.SIGTERM)
    assert result.output.stdout == "begun\n"
    assert result.error is not None
    assert result.error.message.endswith("; was ended by SIGTERM")


def test_it_may_clean_up_and_exit(tmp_path: Path) -> None:
    result = sh(tmp_path, "trap 'echo cleaned; exit 4' TERM; sleep 60 & wait", timeout_ns=50 * MILLISECOND)
    assert timed_out(result) == (4, None)
    assert result.output.stdout == "cleaned\n"


@pytest.mark.usefixtures("short_grace")
def test_deaf_to_that_it_is_killed(tmp_path: Path) -> None:
    result = sh(tmp_path, "trap '' TERM; while :; do sleep 60; done", timeout_ns=50 * MILLISECOND)
    assert timed_out(result) == (None, signal.SIGKILL)


def test_a_stopped_program_is_told_too(tmp_path: Path) -> None:
    assert timed_out(sh(tmp_path, "kill -STOP $$", timeout_ns=50 * MILLISECOND)) == (None, signal.SIGTERM)


def test_the_deadline_counts_from_the_beginning_of_the_attempt(tmp_path: Path) -> None:
    late = context(tmp_path, timeout_ns=50 * MILLISECOND)
    late = late._replace(started_ns=late.started_ns - 51 * MILLISECOND)
    payload = command.parse({"argv": ["sleep", "60"]}, "line 1")
    assert command.run(payload, late).end is End.TIMED_OUT


def test_the_longest_time_out_there_is(tmp_path: Path) -> None:
    assert run(tmp_path, "true", timeout_ns=limits.TIMEOUT_NS_MAX).end is End.SUCCEEDED


# --- what it leaves behind ------------------------------------------------------------------------

SUBREAPER = """
import sys, time
from pathlib import Path
from attempts import context
from taskpool.kinds import command
from taskpool.procs.lifeline import become_subreaper
become_subreaper()
result = command.run(command.parse({"argv": [sys.argv[1]], "shell": True}, ""), context(Path(sys.argv[2])))
print(result.end, result.output.stdout, end="")
"""


@pytest.mark.parametrize(
    "line",
    [
        "sleep 60 & echo $!",
        "(sleep 60 & echo $!)",
        "setsid sh -c 'echo $$; exec sleep 60' & sleep 0.1",
        "(trap '' TERM HUP; setsid sh -c 'echo $$; exec sleep 60' &) ; sleep 0.1",
    ],
)
def test_no_descendant_outlives_the_program_nor_is_waited_for(tmp_path: Path, line: str) -> None:
    begun = time.monotonic()
    script = [sys.executable, "-c", SUBREAPER, line, str(tmp_path)]
    done = subprocess.run(script, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True)
    assert time.monotonic() - begun < 30, "it waited for the sleeper"
    end, pid = done.stdout.split()
    assert end == "succeeded"
    assert not Path(f"/proc/{pid}").exists()


# --- output ---------------------------------------------------------------------------------------


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
        command.run(command.parse({"argv": ["true"]}, "line 1"), about)


# --- at the door ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "text"),
    [
        ({}, "field 'argv' is missing: expected a list of one or more texts without NUL"),
        ({"argv": []}, "field 'argv': expected a list of one or more texts without NUL, got []"),
        ({"argv": "ls -l"}, "field 'argv': expected a list of one or more texts without NUL, got 'ls -l'"),
        ({"argv": ["a\0b"]}, "field 'argv'"),
        ({"argv": ["\ud800"]}, "field 'argv'"),
        ({"argv": [""]}, "field 'argv': expected the name of a program first, got ''"),
        ({"argv": ["ls"], "cwd": ""}, "field 'cwd': expected the path of a directory, got ''"),
        ({"argv": ["ls"], "stdin": 1}, "field 'stdin': expected text, got 1"),
        ({"argv": ["ls"], "shell": 1}, "field 'shell': expected true or false, got 1"),
        ({"argv": ["ls"], "env": {"A": 1}}, "field 'env': expected an object of names and texts without NUL"),
        ({"argv": ["ls"], "env": {"A=B": "1"}}, "field 'env': expected names that are not empty and hold neither ="),
        ({"argv": ["ls"], "env": {"TP_WORKER": ""}}, "field 'env': expected only names that the pool does not set"),
    ],
)
def test_parse_names_what_is_wrong(job: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        command.parse(job, "line 1")
    assert str(refused.value).startswith(f"line 1: {text}")


@pytest.mark.parametrize(
    "payload",
    [
        [[]],
        [[b""]],
        [["text"]],
        [[b"ls"], b"relative"],
        [[b"ls"], b"/a\0b"],
        [[b"ls"], None, {b"": b""}],
        [[b"ls"], None, {b"A=": b""}],
        [[b"ls"], None, {b"A": b"\0"}],
        [[b"ls"], None, {b"TP_WORKER": b"other/1/1"}],
        [[b"ls", b"-l"], None, {}, None, True],
        [[b"ls"], None, {}, None, False, 0],
    ],
)
def test_check_refuses_what_parse_would_not_make(payload: list[object]) -> None:
    with pytest.raises(MessageError, match="command: "):
        command.check(msgspec.msgpack.encode(payload))


def test_words_for_people() -> None:
    payload = command.parse({"argv": ["sha256sum", "a b"]}, "line 1")
    assert command.describe(payload) == "command(sha256sum 'a b')"
    assert command.command_line(payload) == "sha256sum 'a b'"
    line = command.parse({"argv": ["echo", "$HOME;ls"], "shell": True}, "line 1")
    assert command.command_line(line) == "echo $HOME;ls"
    hostile = command.parse({"argv": ["x\x1b[2J\n" + "y" * 100]}, "line 1")
    assert command.describe(hostile).startswith("command('x\\x1b[2J\\nyyy")
    assert len(command.describe(hostile)) < 100
    raw = msgspec.msgpack.encode([[b"cat", b"\xff"]])
    assert os.fsencode(command.command_line(raw)) == b"cat '\xff'"


# --- the command line -----------------------------------------------------------------------------


def payloads(*words: str, lines: list[bytes] | None = None) -> Iterator[bytes]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser.add_subparsers().add_parser("command"))
    args = parser.parse_args(["command", *words])
    return (job.payload for job in command.jobs(args, None if lines is None else iter(lines)))


def commands(*words: str, lines: list[bytes] | None = None) -> list[str]:
    return [command.command_line(payload) for payload in payloads(*words, lines=lines)]


def test_arguments_behind_the_colons_or_one_a_line() -> None:
    assert commands("--", "cat", "-n", ":::", "a", "", "b c") == ["cat -n a", "cat -n ''", "cat -n 'b c'"]
    assert commands("cat", "--", "-n", lines=[b"a", b""]) == ["cat -- -n a", "cat -- -n ''"]
    assert commands("--", "cat", ":::", lines=[b"not read"]) == []
    assert commands("--", "echo", "{#}", "{%}", ":::", "a", "b") == ["echo 1 '{%}'", "echo 2 '{%}'"]


def test_a_slot_is_put_in_by_the_worker_and_only_where_it_was_asked_for(tmp_path: Path) -> None:
    (payload,) = payloads("--", "echo", "{%}", "{}", "x{%}", ":::", "{%}")
    command.check(payload)
    assert command.run(payload, context(tmp_path, slot=2)).output.stdout == "3 {%} x3\n"


def test_the_shell(tmp_path: Path) -> None:
    (payload,) = payloads("--shell", "--", "echo", "{}", "|", "tr a-z A-Z", ":::", "it's; ls")
    assert command.run(payload, context(tmp_path)).output.stdout == "IT'S; LS\n"
    assert commands("--shell", lines=[b"echo a | wc"]) == ["echo a | wc"]


def test_directory_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (payload,) = payloads(
        "--cwd", "d", "--env", "A=1", "--env", "B=x=y", "--shell", "--", "pwd; echo $A $B #{}", ":::", ""
    )
    assert command.run(payload, context(tmp_path)).output.stdout == f"{tmp_path}/d\n1 x=y\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--", "echo", ":::+", "a"], "command: :::+ is not supported"),
        (["--", "echo", "::::", "file"], "command: :::: is not supported"),
        (["--", "echo", ":::", "a", ":::", "b"], "command: a second ::: is not supported"),
        (["--", ":::", "a"], "command: expected a program behind --, got nothing"),
        (["--", "echo"], "command: expected arguments behind ::: or one on each line of standard input"),
        (["--env", "A", "--", "echo", ":::", "a"], "--env: expected NAME=VALUE, got 'A'"),
        (["--env", "TP_SLOT=1", "--", "echo", ":::", "a"], "--env: expected only names that the pool does not set"),
        (["--", "{}", ":::", "ls", ""], "command: argument 2 makes the name of the program empty"),
    ],
)
def test_usage_errors_name_the_cure(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as refused:
        commands(*words)
    assert str(refused.value).startswith(text)


def test_a_line_with_a_nul_byte_is_refused_by_its_number() -> None:
    with pytest.raises(UsageError, match="command: argument 2 holds a NUL byte"):
        commands("--", "echo", lines=[b"a", b"b\0c"])
