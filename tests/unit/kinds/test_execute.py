"""Programs as jobs: their ends, what they find, their time-outs and what they leave behind. All of it real."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from support.attempts import context, run, sh
from taskpool import limits
from taskpool.clock import MILLISECOND
from taskpool.kinds.base import Result, WorkerUnfit
from taskpool.kinds.command import COMMAND
from taskpool.messages import End, Output

GLIBC_OWN_SIGNALS = 1 << 31 | 1 << 32  # 32 and 33: glibc's posix_spawn has them ignored until a thread needs them


def program(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


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


# --- a machine that lacks something at the moment -----------------------------------------------------

LACKING = [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC]


def fail(monkeypatch: pytest.MonkeyPatch, name: str, number: int, times: int) -> None:
    """Lets the next calls of the function in `os` fail."""
    real, left = getattr(os, name), iter(range(times))

    def failing(*args: Any, **options: Any) -> Any:
        if next(left, None) is not None:
            raise OSError(number, os.strerror(number))
        return real(*args, **options)

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize("number", LACKING)
@pytest.mark.parametrize("call", ["posix_spawn", "open", "memfd_create", "pipe2"])
def test_a_program_waits_for_what_the_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    monkeypatch.setattr(limits, "SHORTAGE_PAUSE_NS_MIN", MILLISECOND)
    (tmp_path / "spool").mkdir()
    fail(monkeypatch, call, number, times=3)
    result = run(tmp_path, "cat", stdin="text")
    assert (result.end, result.error, result.output.stdout) == (End.SUCCEEDED, None, "text")


def test_it_waits_for_real_limits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, which gives up root: the limit does not hold for that."""
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, where others may not look
        os.chmod(name, 0o777)
        if (pid := os.fork()) == 0:
            try:
                os._exit(0 if runs_after_a_refusal(Path(name), monkeypatch) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def runs_after_a_refusal(state: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a program ran once the limit was lifted, which the first refusal does."""
    if os.geteuid() == 0:
        os.setuid(65534)
    before, real = resource.getrlimit(resource.RLIMIT_NPROC), os.posix_spawn
    refusals = []

    def spawn(*args: Any, **options: Any) -> int:
        try:
            return real(*args, **options)
        except OSError as error:
            refusals.append(error.errno)
            resource.setrlimit(resource.RLIMIT_NPROC, before)
            raise

    monkeypatch.setattr(os, "posix_spawn", spawn)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, before[1]))
    return run(state, "/bin/true", cwd="/").end is End.SUCCEEDED and refusals == [errno.EAGAIN]


@pytest.mark.parametrize("number", LACKING)
def test_it_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(limits, "SHORTAGE_NS_MAX", 2 * MILLISECOND)
    fail(monkeypatch, "posix_spawn", number, times=1_000_000)
    status, text = not_started(run(tmp_path, "true"))
    assert status == 126
    assert re.fullmatch("waited in vain to start it: .*: raise .*", text)


@pytest.mark.parametrize("call", ["posix_spawn", "pipe2"])
@pytest.mark.parametrize("number", LACKING)
def test_nor_for_what_this_worker_alone_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    monkeypatch.setattr(limits, "SHORTAGE_NS_MAX", 2 * MILLISECOND)
    fail(monkeypatch, call, number, times=1_000_000)
    own = {errno.EMFILE: "RLIMIT_NOFILE", errno.EAGAIN: "RLIMIT_NPROC", errno.ENOMEM: "RLIMIT_AS"}.get(number)

    def lowered(*limits: int) -> str | None:
        return f"{own} is 3" if own is not None and getattr(resource, own) in limits else None

    there = context(tmp_path)._replace(lowered=lowered)
    payload = COMMAND.parse({"argv": ["/bin/true"]}, "line 1")
    if own is None:  # no limit of a process brings it about
        assert COMMAND.run(payload, there).end is End.FAILED
    else:
        with pytest.raises(WorkerUnfit, match=f"{os.strerror(number)}: {own} is 3"):
            COMMAND.run(payload, there)


def test_nor_past_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "posix_spawn", errno.EAGAIN, times=1_000_000)
    began = time.monotonic_ns()
    assert "pids.max" in not_started(run(tmp_path, "true", timeout_ns=60 * MILLISECOND))[1]
    assert 60 * MILLISECOND <= time.monotonic_ns() - began < limits.SHORTAGE_NS_MAX


def test_what_the_job_itself_does_wrong_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SHORTAGE_PAUSE_NS_MIN", None)
    assert not_started(run(tmp_path, "/no/such/program"))[0] == 127


@pytest.mark.parametrize("line", ["exit 3", "echo begun; exec sleep 1000"])
def test_a_program_that_runs_does_not_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    fail(monkeypatch, "pidfd_open", errno.EMFILE, times=1_000_000)
    result = sh(tmp_path, line, timeout_ns=500 * MILLISECOND if "1000" in line else 0)
    assert (result.end, result.exit_status) in [(End.FAILED, 3), (End.TIMED_OUT, None)]


def test_a_result_stands_without_its_output(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("no directory")
    result = sh(tmp_path, r"printf '\377'")
    assert (result.end, result.exit_status, result.error) == (End.SUCCEEDED, 0, None)
    assert (result.output.stderr or "").startswith("[taskpool] what the job printed is lost: [Errno 20]")


# --- what a program finds -------------------------------------------------------------------------


def test_it_runs_where_its_submitter_stood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path)
    here, below = (COMMAND.parse({"argv": ["pwd"], **cwd}, "line 1") for cwd in ({}, {"cwd": "below"}))
    monkeypatch.chdir("/")
    assert COMMAND.run(here, context(tmp_path)).output.stdout == f"{tmp_path}\n"
    assert COMMAND.run(below, context(tmp_path)).output.stdout == f"{tmp_path}/below\n"


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
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/opt/mine/lib")
    assert sh(tmp_path, "echo $LD_LIBRARY_PATH-$LD_LIBRARY_PATH_ORIG-$_PYI_ARCHIVE_FILE").output.stdout == (
        "/opt/mine/lib--\n"
    )


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


def test_it_leads_a_group_of_its_own_in_its_workers_session(tmp_path: Path) -> None:
    text = sh(tmp_path, "read -r pid name state parent group session rest < /proc/$$/stat; echo $pid $group $session")
    assert text.output.stdout is not None
    pid, group, session = text.output.stdout.split()
    assert pid == group
    assert int(session) == os.getsid(0)


# --- time-outs ------------------------------------------------------------------------------------


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TERM_GRACE_NS", 50 * MILLISECOND)


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
    payload = COMMAND.parse({"argv": ["sleep", "60"]}, "line 1")
    assert COMMAND.run(payload, late).end is End.TIMED_OUT


def test_the_longest_time_out_there_is(tmp_path: Path) -> None:
    assert run(tmp_path, "true", timeout_ns=limits.TIMEOUT_NS_MAX).end is End.SUCCEEDED


# --- what it leaves behind ------------------------------------------------------------------------

SUBREAPER = """
import sys
from pathlib import Path
from support.attempts import context
from taskpool.kinds.command import COMMAND
from taskpool.procs.prctl import become_subreaper
become_subreaper()
payload = COMMAND.parse({"argv": [sys.argv[1]], "shell": True}, "")
result = COMMAND.run(payload, context(Path(sys.argv[2]), timeout_ns=int(sys.argv[3])))
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
    end, pid = as_a_worker_would(line, tmp_path)
    assert time.monotonic() - begun < 30, "it waited for the sleeper"
    assert end == "succeeded"
    assert not Path(f"/proc/{pid}").exists()


def as_a_worker_would(line: str, state: Path, timeout_ns: int = 0) -> list[str]:
    """The words of end and output of a line of shell, run by a process of its own that is a subreaper."""
    script = [sys.executable, "-c", SUBREAPER, line, str(state), str(timeout_ns)]
    done = subprocess.run(script, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_shell_that_is_told_to_end_does_not_take_the_grace_from_its_program(tmp_path: Path) -> None:
    child = "(trap 'sleep 0.1; echo cleaned; exit' TERM; echo begun; while :; do sleep 0.05; done); true"
    assert as_a_worker_would(child, tmp_path, 300 * MILLISECOND) == ["timed-out", "begun", "cleaned"]
