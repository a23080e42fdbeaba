"""Starting a program: what it inherits, and what is said when a worker cannot be started."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from taskpool.errors import WorkerCannotBoot
from taskpool.procs import reap, signals, spawn

Script = Callable[[str], Path]

FROZEN = {
    "PATH": "/usr/bin",
    "_PYI_ARCHIVE_FILE": "/opt/taskpool/tp-dealer",
    "_PYI_PARENT_PROCESS_LEVEL": "1",
    "_PYI_LINUX_PROCESS_NAME": "tp-dealer",
    "LD_LIBRARY_PATH": "/opt/taskpool/_internal:/usr/local/lib",
}


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes an executable file with the given text."""

    def write(text: str) -> Path:
        path = tmp_path / "tp-worker"
        path.write_text(text)
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "capture", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    with suppress(OSError):
        os.close(fd)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    with suppress(OSError):
        os.close(fd)


def text_of(fd: int) -> str:
    return os.pread(fd, 100_000, 0).decode()


def test_standard_descriptors_and_environment(script: Script, capture: int, log: int) -> None:
    path = script('#!/bin/sh\necho out; echo err >&2; echo log >&3; wc -c; echo "$1 $TP_WORKER"; ls /proc/$$/fd\n')
    pid = spawn.spawn_worker([str(path), "--pool"], {"TP_WORKER": "demo/1/1"}, capture_fd=capture, log_fd=log)
    assert reap.reap(pid).status == 0
    out, err, stdin_bytes, words, *fds = text_of(capture).split("\n")
    assert (out, err, stdin_bytes, words) == ("out", "err", "0", "--pool demo/1/1")
    assert {"0", "1", "2", "3"} <= set(fds)
    assert not {str(capture), str(log)} & set(fds)
    assert text_of(log) == "log\n"


@pytest.mark.parametrize(
    ("capture_at", "log_at", "reports_at"), [(3, 2, 4), (2, 3, 1), (1, 2, 3), (0, 1, 2), (3, 0, 5), (4, 2, 3)]
)
def test_low_descriptors_do_not_overwrite_each_other(
    script: Script, tmp_path: Path, capture_at: int, log_at: int, reports_at: int
) -> None:
    """A dealer's log is descriptor 2, and its other files may be any."""
    path = script("#!/bin/sh\necho captured; echo logged >&3; echo held >&4\n")
    program = f"""
import os, sys
from taskpool.procs import reap, spawn
os.dup2(os.open("capture", os.O_RDWR | os.O_CREAT), {capture_at})
os.dup2(os.open("log", os.O_RDWR | os.O_CREAT), {log_at})
os.dup2(os.open("reports", os.O_RDWR | os.O_CREAT), {reports_at})
fds = dict(capture_fd={capture_at}, log_fd={log_at}, reports_fd={reports_at})
pid = spawn.spawn_worker([{str(path)!r}], {{}}, **fds)
sys.exit(reap.reap(pid).status)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pid = os.posix_spawn(
        "/bin/sh", ["sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path), sys.executable, "-c", program], env
    )
    assert reap.reap(pid).status == 0
    written = [(tmp_path / name).read_text() for name in ("capture", "log", "reports")]
    assert written == ["captured\n", "logged\n", "held\n"]


def signals_in(pid: int, name: str) -> set[int]:
    """A set of signals from /proc/PID/status."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name))
    bits = int(line.split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def test_a_session_of_its_own_and_no_inherited_signals(capture: int, log: int) -> None:
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        pid = spawn.spawn_worker(["/bin/sleep", "60"], {}, capture_fd=capture, log_fd=log)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGUSR1, old)
    try:
        blocked, ignored = (signals_in(pid, name) for name in ("SigBlk", "SigIgn"))
        assert blocked == set()
        assert ignored.isdisjoint(signals.catchable())  # glibc keeps two for itself
        assert os.getpgid(pid) == pid
        assert os.getsid(pid) == pid
    finally:
        os.kill(pid, signal.SIGKILL)
        reap.reap(pid)


def test_no_descriptor_is_left_in_the_parent(capture: int, log: int) -> None:
    before = os.listdir("/proc/self/fd")
    reap.reap(spawn.spawn_worker(["/bin/true"], {}, capture_fd=capture, log_fd=log))
    with pytest.raises(WorkerCannotBoot):
        spawn.spawn_worker(["/nowhere/tp-worker"], {}, capture_fd=capture, log_fd=log)
    assert os.listdir("/proc/self/fd") == before


def test_no_descriptor_left_to_start_with(capture: int, log: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(capture, log) + 16, hard))
    held: list[int] = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(log))
        with pytest.raises(WorkerCannotBoot, match="/bin/true: out of file descriptors: raise the limit"):
            spawn.spawn_worker(["/bin/true"], {}, capture_fd=capture, log_fd=log)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)


def test_only_the_main_thread_spawns(capture: int, log: int) -> None:
    """What another thread spawned would be killed when that thread ends."""
    refused: list[AssertionError] = []

    def spawn_here() -> None:
        try:
            spawn.spawn_worker(["/bin/true"], {}, capture_fd=capture, log_fd=log)
        except AssertionError as error:
            refused.append(error)

    thread = threading.Thread(target=spawn_here)
    thread.start()
    thread.join()
    assert len(refused) == 1


def test_a_program_that_is_not_there(tmp_path: Path, capture: int, log: int) -> None:
    path = str(tmp_path / "tp-worker")
    with pytest.raises(WorkerCannotBoot, match=f"{path}: there is no such file") as caught:
        spawn.spawn_worker([path], {}, capture_fd=capture, log_fd=log)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_program_whose_interpreter_is_not_there(script: Script, capture: int, log: int) -> None:
    with pytest.raises(WorkerCannotBoot, match="the interpreter in its #! line, or its loader, is missing"):
        spawn.spawn_worker([str(script("#!/nowhere/python\n"))], {}, capture_fd=capture, log_fd=log)


def test_a_program_that_may_not_be_executed(script: Script, capture: int, log: int) -> None:
    path = script("#!/bin/sh\n")
    path.chmod(0o644)
    with pytest.raises(WorkerCannotBoot, match=r"chmod \+x"):
        spawn.spawn_worker([str(path)], {}, capture_fd=capture, log_fd=log)


def test_a_file_that_is_no_program(script: Script, capture: int, log: int) -> None:
    with pytest.raises(WorkerCannotBoot, match="wrong format"):
        spawn.spawn_worker([str(script("just text"))], {}, capture_fd=capture, log_fd=log)


def test_an_environment_that_is_too_large(capture: int, log: int) -> None:
    with pytest.raises(WorkerCannotBoot, match="environment is too large"):
        spawn.spawn_worker(["/bin/true"], {"A": "x" * 4_000_000}, capture_fd=capture, log_fd=log)


def test_the_worker_named_by_option(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    path = script("#!/bin/sh\n")
    monkeypatch.chdir(path.parent)
    assert spawn.find_worker("./tp-worker") == [str(path)]
    path.chmod(0o644)
    with pytest.raises(WorkerCannotBoot, match=r"\./tp-worker \(--worker-exec\): it may not be executed"):
        spawn.find_worker("./tp-worker")
    with pytest.raises(WorkerCannotBoot, match="it is not a file"):
        spawn.find_worker(str(path.parent))
    with pytest.raises(WorkerCannotBoot, match="there is no such file"):
        spawn.find_worker("elsewhere/tp-worker")


@pytest.mark.parametrize("found_by", ["argv", "executable", "PATH"])
def test_the_worker_found_by_itself(script: Script, monkeypatch: pytest.MonkeyPatch, found_by: str) -> None:
    here = str(script("#!/bin/sh\n").parent)
    monkeypatch.setattr(sys, "argv", [f"{here if found_by == 'argv' else '/nowhere'}/tp-dealer"])
    monkeypatch.setattr(sys, "executable", f"{here if found_by == 'executable' else '/nowhere'}/python")
    monkeypatch.setenv("PATH", here if found_by == "PATH" else "/nowhere")
    assert spawn.find_worker() == [f"{here}/tp-worker"]


def test_the_worker_beside_us_is_preferred(script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beside = script("#!/bin/sh\n")
    other = tmp_path / "other" / "tp-worker"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(stat.S_IRWXU)
    monkeypatch.setattr(sys, "argv", [str(beside.with_name("tp-dealer"))])
    monkeypatch.setenv("PATH", str(other.parent))
    assert spawn.find_worker() == [str(beside)]


def test_a_bare_name_does_not_mean_the_current_directory(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(script("#!/bin/sh\n").parent)
    monkeypatch.setattr(sys, "argv", ["tp-dealer"])
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    assert spawn.find_program("tp-worker") is None
    with pytest.raises(WorkerCannotBoot, match=r"no tp-worker beside tp-dealer nor on PATH.*--worker-exec"):
        spawn.find_worker()


def test_the_users_library_path_comes_back() -> None:
    env = FROZEN | {"LD_LIBRARY_PATH_ORIG": "/usr/local/lib"}
    assert spawn.scrubbed(env) == {"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/usr/local/lib"}


def test_an_empty_library_path_stays_empty() -> None:
    assert spawn.scrubbed(FROZEN | {"LD_LIBRARY_PATH_ORIG": ""}) == {"PATH": "/usr/bin", "LD_LIBRARY_PATH": ""}


def test_the_bundles_library_path_goes_when_the_user_had_none() -> None:
    assert spawn.scrubbed(FROZEN) == {"PATH": "/usr/bin"}


def test_nothing_changes_when_no_bootloader_was_there() -> None:
    env = {"LD_LIBRARY_PATH": "/usr/local/lib", "LD_LIBRARY_PATH_ORIG": "mine", "TP_WORKER": "demo/1/1"}
    assert spawn.scrubbed(env) == env


def test_scrubbing_twice_is_scrubbing_once() -> None:
    once = spawn.scrubbed(FROZEN | {"LD_LIBRARY_PATH_ORIG": "/usr/local/lib"})
    assert spawn.scrubbed(once) == once


def test_bytes_that_are_not_utf8_reach_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TP_TEST", os.fsdecode(b"caf\xe9"))
    printed = subprocess.run(["/usr/bin/printenv", "TP_TEST"], env=spawn.scrubbed(os.environ), capture_output=True)
    assert printed.stdout == b"caf\xe9\n"
