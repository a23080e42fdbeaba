"""A worker's command line, the ways its start can fail, and its tie to the dealer."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import taskpool
from support.worker_stage import (
    BATCH,
    EPOCH,
    INCARNATION,
    PATIENCE_SECONDS,
    PROGRAM,
    command_line,
    environment,
    fib,
    queues,
)
from taskpool import codec
from taskpool.chaos import Chaos
from taskpool.errors import UsageError
from taskpool.ipc import names
from taskpool.ipc.sizing import Shape
from taskpool.messages import Frame
from taskpool.worker.main import Options, parse

COMMAND = command_line("p", 7, "spool")[len(PROGRAM) :]


def run(arguments: Sequence[str], pool: str = "p") -> subprocess.CompletedProcess[str]:
    """The program by hand; its standard error is a file, as it would be under a dealer."""
    with os.fdopen(os.memfd_create("capture"), "a+") as capture:
        fcntl.fcntl(capture, fcntl.F_SETFL, os.O_APPEND)
        done = subprocess.run(
            arguments,
            env=environment(pool),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=capture,
            text=True,
        )
        capture.seek(0)
        done.stderr = capture.read()
    return done


# --- the command line -----------------------------------------------------------------------------


def test_every_option_is_read() -> None:
    assert parse(COMMAND) == Options("p", EPOCH, INCARNATION, 7, "spool")
    more = parse([*COMMAND, "--chaos", "exit=0.5,seed=9", "--verbose", "--log-format", "json"])
    assert (more.chaos, more.verbose, more.log_format) == (Chaos(exit=0.5, seed=9), True, "json")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--pool", "p"], "--epoch, --incarnation, --dealer-pid, --spool missing"),
        ([*COMMAND, "--spool"], "--spool: its value is missing"),
        ([*COMMAND, "fib"], "unknown argument 'fib'"),
        ([*COMMAND, "--epoch", "one"], "--epoch: expected a positive integer, got 'one'"),
        ([*COMMAND, "--dealer-pid", "-1"], "--dealer-pid: expected a positive integer, got '-1'"),
        ([*COMMAND, "--pool", "../p"], "pool name '../p'"),
        ([*COMMAND, "--chaos", "crash=2"], "'crash=2'"),
        ([*COMMAND, "--log-format", "xml"], "expected text or json, got 'xml'"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(arguments)
    assert named in str(caught.value)


def test_by_hand_it_says_whose_it_is() -> None:
    done = run(PROGRAM)
    assert done.returncode == 2
    assert "started by tp-dealer" in done.stderr
    assert run([*PROGRAM, "--help"]).stdout.startswith(done.stderr)
    assert run([*PROGRAM, "--version"]).stdout == f"tp-worker {taskpool.__version__}\n"
    assert run([*PROGRAM, "--pool"]).returncode == 2


# --- the start ------------------------------------------------------------------------------------


def test_without_its_queue_it_cannot_boot(pool: str, tmp_path: Path) -> None:
    done = run(command_line(pool, os.getpid(), str(tmp_path)), pool)
    assert done.returncode == 3
    assert f"no queue {names.worker(pool, EPOCH, INCARNATION)}" in done.stderr


def test_a_kind_that_cannot_be_loaded_has_a_code_of_its_own(pool: str, tmp_path: Path) -> None:
    script = "import sys; sys.modules['taskpool.kinds'] = None; from taskpool.worker.main import main; sys.exit(main())"
    arguments = command_line(pool, os.getpid(), str(tmp_path))[len(PROGRAM) :]
    done = run([sys.executable, "-c", script, *arguments], pool)
    assert done.returncode == 4
    assert "a job kind cannot be loaded: ModuleNotFoundError" in done.stderr


def test_it_loads_nothing_that_its_start_would_have_to_wait_for() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "import taskpool.worker.main, taskpool.worker.loop\n"
        "print(*sorted({'argparse', 'logging', 'subprocess', 'threading', 'traceback', 'hashlib', 'ctypes'} "
        "& (set(sys.modules) - before)))"
    )
    assert run([sys.executable, "-c", script]).stdout == "\n"


# --- the tie to the dealer ------------------------------------------------------------------------


def test_a_worker_whose_dealer_is_dead_already_never_says_ready(pool: str, tmp_path: Path) -> None:
    with queues(pool) as (events, _):
        another = os.getppid()
        assert run(command_line(pool, another, str(tmp_path)), pool).returncode == -signal.SIGKILL
        assert events.depth() == 0


DEALER = """
import os, sys
from taskpool.procs.spawn import spawn_worker
command = [word.replace("MY PID", str(os.getpid())) for word in sys.argv[2:]]
capture = os.open(sys.argv[1], os.O_TMPFILE | os.O_RDWR | os.O_APPEND)
print(spawn_worker(command, os.environ, capture_fd=capture, log_fd=2), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "sending"])
def test_a_worker_dies_with_its_dealer(pool: str, tmp_path: Path, state: str) -> None:
    """Also when it waits for room in a queue that is never read again."""
    worker = command_line(pool, "MY PID", str(tmp_path))
    dealer = [sys.executable, "-c", DEALER, str(tmp_path), *worker]
    pipe = subprocess.PIPE
    with (
        queues(pool, Shape(1, 1024)) as (events, requests),
        subprocess.Popen(dealer, env=environment(pool), stdin=pipe, stdout=pipe, text=True) as process,
    ):
        assert process.stdout is not None
        pidfd = os.pidfd_open(int(process.stdout.readline()))
        wait_for(events.fileno())
        if state == "sending":
            requests.send(codec.encode(Frame(EPOCH, 1, 1, 0, BATCH, codec.encode_tasks([fib(1)]))))
            events.receive()  # ready; now `started` takes its place, and the report has to wait
            wait_for(events.fileno())
        process.kill()
        wait_for(pidfd)
        os.close(pidfd)


def wait_for(fd: int) -> None:
    """Until it is readable."""
    assert select.select([fd], [], [], PATIENCE_SECONDS)[0], "nothing happened"
