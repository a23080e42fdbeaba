"""The dealer of a private pool: shell scripts stand in for it, all else is real processes and signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from taskpool.clock import MILLISECOND, NEVER, SECOND
from taskpool.errors import ConfigurationError, ExitCode, QueueMissing
from taskpool.generator import main as program
from taskpool.generator.output.console import Console
from taskpool.identifiers import Epoch, Incarnation
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.names import StaleQueues
from taskpool.ipc.sizing import Shape
from taskpool.private import process as private
from taskpool.private.process import DealerExit, LaunchOptions, PrivateDealer
from taskpool.private.state import PrivateState
from taskpool.procs.pool_lock import PoolLock
from taskpool.procs.process_tree import worker_mark
from taskpool.procs.state_dir import identity
from taskpool.procs.writer import LineWriter

DEADLINE_S = 20.0

Script = Callable[[str], None]


@pytest.fixture
def pool() -> str:
    return f"test-{os.getpid()}-{os.urandom(4).hex()}"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Makes a shell script the dealer; state goes to a directory of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    path = tmp_path / "tp-dealer"
    monkeypatch.setattr(private, "find_program", lambda name: str(path) if path.exists() else None)

    def write(text: str) -> None:
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    return write


def start(pool: str, options: list[str] | None = None, journal: str | None = None, drain_ns: int = 0) -> PrivateDealer:
    private_state = PrivateState(pool, journal, resume=False)
    console = Console(LineWriter(2, "test"), verbosity=-1)
    launch = LaunchOptions(tuple(options or ()), drain_ns)
    return PrivateDealer(private_state, launch, KernelNamespace(), console, "To resume: the command that resumes")


def state_of(pool: str, tmp_path: Path) -> Path:
    return tmp_path / "state" / "taskpool" / pool


def test_it_leaves_when_the_lifeline_ends(script: Script, pool: str, tmp_path: Path) -> None:
    script(f'ps -o sid= -p $$ > {tmp_path}/sid; echo "$@" > {tmp_path}/argv; cat <&3')
    with start(pool, ["--workers=2"]) as dealer:
        assert dealer.poll() is None
        pid = dealer.pid
    assert dealer.exit == DealerExit(0, None)
    journal = state_of(pool, tmp_path) / "journal.db"
    words = f"--pool {pool} --private --lifeline-fd 3 --journal={journal} --workers=2\n"
    assert (tmp_path / "argv").read_text() == words
    assert int((tmp_path / "sid").read_text()) == pid
    assert not (tmp_path / "state" / "taskpool" / pool).exists()


def test_one_that_stays_is_killed(script: Script, pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "LEAVE_NS_MAX", 200 * MILLISECOND)
    script("exec sleep 1000")
    dealer = start(pool)
    dealer.close()
    dealer.close()
    assert dealer.exit == DealerExit(None, signal.SIGKILL)


@pytest.mark.parametrize(
    ("told", "within_ns"),
    [
        ([signal.SIGINT, signal.SIGINT], NEVER),  # running jobs may take as long as they like, and so may their end
        ([signal.SIGINT] * 3, private.QUICK_EXIT_NS),
        ([signal.SIGTERM], 3 * SECOND + private.LEAVE_NS_MAX),
        ([signal.SIGTERM, *[signal.SIGINT] * 3], private.QUICK_EXIT_NS),
        ([signal.SIGINT] * 3 + [signal.SIGTERM], private.QUICK_EXIT_NS),
        ([signal.SIGUSR1], NEVER),
    ],
)
def test_how_long_one_that_is_told_to_leave_may_take(
    script: Script, pool: str, told: list[signal.Signals], within_ns: int
) -> None:
    script("kill -STOP $$")
    with start(pool, drain_ns=3 * SECOND) as dealer:
        os.waitid(os.P_PID, dealer.pid, os.WSTOPPED | os.WNOWAIT)  # from now on it hears nothing but SIGKILL
        for number in told:
            dealer.pass_on(number, 7)
        assert dealer.kill_at == min(NEVER, 7 + within_ns)
        dealer.kill_if_overdue(dealer.kill_at - 1)
        assert not dealer.killed_overdue
        dealer.kill_if_overdue(dealer.kill_at)
        assert dealer.killed_overdue
        assert dealer.wait(20 * SECOND) == DealerExit(None, signal.SIGKILL)


def test_a_missing_or_broken_program_is_named(script: Script, pool: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no tp-dealer beside"):
        start(pool)
    script("")
    (tmp_path / "tp-dealer").write_text("no program")
    with pytest.raises(ConfigurationError, match=r"cannot start .*/tp-dealer: Exec format error"):
        start(pool)
    assert not (tmp_path / "state" / "taskpool" / pool).exists()


def test_output_that_was_told_is_kept(script: Script, pool: str, tmp_path: Path) -> None:
    script("exit 0")
    output = tmp_path / "state" / "taskpool" / pool / "output" / "b"
    with start(pool) as dealer:
        output.mkdir(parents=True)
        (output / "1.out").write_text("told")
        (output / "2.out").write_text("not told")
        dealer.keep_files({output / "1.out"})
    assert [path.name for path in (tmp_path / "state").rglob("*") if path.is_file()] == ["1.out"]


@pytest.mark.parametrize("code", [ExitCode.USAGE, ExitCode.ENVIRONMENT, ExitCode.UNREACHABLE])
def test_what_keeps_the_dealer_from_starting_is_the_generators_end_too(
    script: Script, code: ExitCode, capfd: pytest.CaptureFixture[str]
) -> None:
    script(f"echo why >&2; exit {int(code)}")
    assert program.main(["fib", "1"]) == code
    assert capfd.readouterr() == ("", "why\n")


def test_a_killed_dealer_is_told_and_cleared_away(
    script: Script, pool: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    namespace = KernelNamespace()
    for name in (names.intake(pool), names.events(pool), names.lock(pool)):
        namespace.create(name, Shape(1, 64)).close()
    script(
        f"home=$(printf %x-%x $(stat -c '%d %i' {state_of(pool, tmp_path)}))\n"
        f"TP_WORKER={pool}/$home/1/1 setsid sleep 1000 & echo $! > {tmp_path}/orphan\n"
        "until grep -q TP_WORKER /proc/$!/environ; do :; done\n"  # before its exec it carries no mark
        "kill -KILL $$"
    )
    assert program.main(["fib", "1", "--batch", pool, "--journal", "none"]) == ExitCode.UNREACHABLE
    assert "was killed by SIGKILL before its batch was done: 1 job without an outcome, gone without a journal" in (
        capfd.readouterr().err
    )
    for name in (names.intake(pool), names.events(pool), names.lock(pool)):
        with pytest.raises(QueueMissing):
            namespace.open(name, send=True, receive=False)
    assert not is_alive(int((tmp_path / "orphan").read_text()))


@pytest.mark.parametrize(
    ("number", "heard", "code"),
    [
        (signal.SIGINT, "INT", ExitCode.INTERRUPTED),
        (signal.SIGTERM, "TERM", ExitCode.TERMINATED),
        (signal.SIGHUP, "TERM", ExitCode.TERMINATED),
        (signal.SIGQUIT, "QUIT", ExitCode.TERMINATED),
    ],
)
def test_signals_are_handed_on(
    script: Script, tmp_path: Path, number: int, heard: str, code: ExitCode, capfd: pytest.CaptureFixture[str]
) -> None:
    script(f"trap 'exit 9' {heard}; touch {tmp_path}/ready; while :; do sleep 0.02; done")

    def send_when_ready() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)  # under nohup HUP is ignored, and would be by the program
    try:
        threading.Thread(target=send_when_ready, daemon=True).start()
        assert program.main(["fib", "1-5"]) == code
    finally:
        signal.signal(number, before)
    assert capfd.readouterr().err.splitlines()[-1] == "[TaskGenerator] Interrupted: 5 of 5 jobs did not run"


# --- killed, and started again ------------------------------------------------------------------------


def test_a_killed_dealer_is_started_again_but_not_for_ever(
    script: Script, pool: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    namespace = KernelNamespace()
    script(f"echo life >> {tmp_path}/lives; kill -SEGV $$")
    namespace.create(names.control(pool), Shape(1, 64)).close()
    assert program.main(["fib", "1", "--batch", pool]) == ExitCode.UNREACHABLE
    assert (tmp_path / "lives").read_text() == "life\n" * 6
    err = capfd.readouterr().err
    assert "was killed by SIGSEGV; starting it again (1 of 5 times)" in err
    assert "starting it again (5 of 5 times)" in err
    assert "1 job without an outcome" in err
    with pytest.raises(QueueMissing):
        namespace.open(names.control(pool), send=True, receive=False)
    assert not state_of(pool, tmp_path).exists(), "no dealer ever knew the batch"


def test_one_that_ends_by_itself_is_not_started_again(script: Script, pool: str) -> None:
    script("exit 3")
    with start(pool) as dealer:
        assert dealer.wait(20_000 * MILLISECOND) == DealerExit(3, None)
        assert not dealer.restart()


def test_worker_queues_of_a_killed_dealer_lose_their_names(script: Script, pool: str, tmp_path: Path) -> None:
    namespace = KernelNamespace()
    script("kill -KILL $$")
    with start(pool, journal="none") as dealer:
        StaleQueues(dealer.state.directory, Epoch(1)).note(Incarnation(1))
        namespace.create(names.worker(pool, 1, 2), Shape(1, 64)).close()
        dealer.wait(20_000 * MILLISECOND)
    with pytest.raises(QueueMissing):
        namespace.open(names.worker(pool, 1, 2), send=True, receive=False)


@pytest.mark.parametrize("ends", ["exit 3", "exit 4", "kill -KILL $$"])
def test_what_another_dealer_owns_is_left_alone(script: Script, pool: str, tmp_path: Path, ends: str) -> None:
    namespace = KernelNamespace()
    script(ends)
    dealer = start(pool)
    with closing(PoolLock(state_of(pool, tmp_path), pool)) as owner:
        owner.acquire(0)
        mark = worker_mark(pool, identity(state_of(pool, tmp_path)), 1, 1)
        worker = os.posix_spawn("/bin/sleep", ["sleep", "60"], {"TP_WORKER": mark})
        namespace.create(names.intake(pool), Shape(1, 64)).close()
        dealer.wait(20_000 * MILLISECOND)
        dealer.close()
        namespace.open(names.intake(pool), send=True, receive=False).close()
        namespace.unlink(names.intake(pool))
        assert is_alive(worker)
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_where_another_dealer_works_is_left_without_asking_for_its_lock(
    script: Script, pool: str, tmp_path: Path
) -> None:
    """Its generator may be about to start it again, and must find the lock free."""
    script("exit 4")
    with start(pool) as dealer:
        dealer.wait(20_000 * MILLISECOND)
    assert not (state_of(pool, tmp_path) / "pool.lock").exists()
    assert state_of(pool, tmp_path).exists()


# --- the state that stays -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("journal", "began", "succeeded", "stays"),
    [(None, True, False, True), (None, True, True, False), (None, False, False, False), ("none", True, False, False)],
)
def test_the_state_stays_until_all_have_succeeded(
    script: Script, pool: str, tmp_path: Path, journal: str | None, began: bool, succeeded: bool, stays: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    script("exit 0")
    with start(pool, journal=journal) as dealer:
        if began:
            dealer.note_batch_known()
        if succeeded:
            dealer.note_all_succeeded()
    assert state_of(pool, tmp_path).exists() == stays
    assert ("To resume: the command that resumes" in capfd.readouterr().err) == stays


def test_a_journal_that_the_user_named_stays(script: Script, pool: str, tmp_path: Path) -> None:
    journal = tmp_path / "own"
    script(f"touch {journal}")
    with start(pool, journal=str(journal)) as dealer:
        dealer.note_batch_known()
        dealer.note_all_succeeded()
    assert not state_of(pool, tmp_path).exists()
    assert journal.exists()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_forked_child_does_not_keep_the_lifeline(script: Script, pool: str) -> None:
    script("cat <&3")
    reader, writer = os.pipe()
    with start(pool) as dealer:
        child = os.fork()
        if not child:
            dealer.let_go()
            dealer.close()  # and nothing of the parent's ends with the child's part
            os.read(reader, 1)
            os._exit(0)
        assert dealer.poll() is None
    # Although the child still lives.
    assert dealer.exit == DealerExit(0, None)
    os.write(writer, b"x")
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)
