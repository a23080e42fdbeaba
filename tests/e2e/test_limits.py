"""The kernel's limits: what works within the stock ones, what is said when they are too low, what is left."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from signal import SIGTERM

import pytest

from support.harness import ENVIRONMENT, OK, TERMINATED, Stage, dealer_of, program, until, workers_of
from support.ledger import Ledger

STOCK = ["prlimit", "--msgqueue=819200:819200", "--nofile=1024:1024"]
WORKERS = 64
TOO_LOW = 20_000


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.needs_tool("prlimit")
def test_64_workers_work_at_once_within_the_stock_limits(stage: Stage, ledger: Ledger) -> None:
    names = map(str, range(1, WORKERS + 1))
    with ledger.gate():
        options = ["--batch", stage.pool, "--workers", str(WORKERS)]
        command = ["--", *ledger.command("gate"), ":::", *names]
        run = stage.start([*STOCK, program("tp-generator"), "command", *options, *command])
        until(lambda: ledger.count("start") == WORKERS, f"{WORKERS} jobs that run at once", 100)
        assert len(workers_of(dealer_of(run))) >= WORKERS
    run.ends(OK)
    assert len(ledger.jobs("end")) == WORKERS


@pytest.mark.needs_tool("prlimit")
@pytest.mark.parametrize("name", ["tp-generator", "tp-dealer"])
def test_too_few_bytes_for_queues_are_refused_with_the_cure(stage: Stage, name: str) -> None:
    arguments = {
        "tp-generator": ["fib", "--batch", stage.pool, "20"],
        "tp-dealer": ["--pool", stage.pool, "--metrics", "none"],
    }[name]
    run = stage.start(["prlimit", f"--msgqueue={TOO_LOW}:{TOO_LOW}", program(name), *arguments]).ends(ENVIRONMENT)
    said = re.search(r"RLIMIT_MSGQUEUE is 20000 bytes.* needs (\d+).*", run.stderr)
    assert said, run.stderr
    assert int(said[1]) > TOO_LOW
    for cure in ("ulimit -q", "LimitMSGQUEUE=", "--ulimit msgqueue="):
        assert f"{cure}{' ' if cure.endswith('-q') else ''}{said[1]}" in said[0]


# --- a private IPC namespace, where every queue can be seen -------------------------------------------------

LISTED = """
mount -t mqueue none "$1" || exit 99
shift
"$@" >&2
code=$?
for _ in 1 2 3 4 5 6 7 8 9 10; do [ -z "$(ls "$MOUNT")" ] && break; sleep 0.2; done
ls "$MOUNT"
exit $code
"""


def in_namespace(stage: Stage, mount: Path, command: list[str]) -> tuple[int, list[str]]:
    """Run a command in an IPC namespace of its own; returns its exit code, and the queues that are there behind it."""
    mount.mkdir()
    for unshare in (["unshare"], ["unshare", "--user", "--map-root-user"]):
        script = ["sh", "-c", LISTED, "sh", str(mount), *command]
        run = stage.start([*unshare, "--ipc", "--mount", *script], env={"MOUNT": str(mount)})
        code = run.wait()
        if code != 99 and "unshare: " not in run.stderr:
            return code, run.lines
    pytest.skip("no IPC namespace of one's own is permitted here")


@pytest.mark.needs_tool("unshare")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["fib", "20-25", "--workers", "2"], OK, id="a run"),
        pytest.param(["fib", "20-25", "--chaos", "crash=0.3,seed=1", "--crash-limit", "unlimited"], OK, id="crashes"),
        pytest.param(["fib", "20", "--worker-exec", "/nonexistent"], ENVIRONMENT, id="no worker"),
    ],
)
def test_no_queue_is_left_in_the_namespace(stage: Stage, tmp_path: Path, arguments: list[str], code: int) -> None:
    command = [program("tp-generator"), arguments[0], "--batch", stage.pool, *arguments[1:]]
    ended, left = in_namespace(stage, tmp_path / "mqueue", command)
    assert (ended, left) == (code, [])


@pytest.mark.needs_tool("unshare", "timeout")
@pytest.mark.parametrize(("signal", "code"), [("TERM", TERMINATED), ("INT", 130), ("QUIT", TERMINATED)])
def test_no_queue_is_left_by_a_signal(stage: Stage, tmp_path: Path, ledger: Ledger, signal: str, code: int) -> None:
    run = [program("tp-generator"), "command", "--batch", stage.pool, "--drain-timeout", "0.2s", "--"]
    signalled = ["sh", "-c", KILL_WHEN_STARTED, "sh", signal, str(ledger.path), *run, *ledger.command("sleep=1")]
    ended, left = in_namespace(stage, tmp_path / "mqueue", [*signalled, ":::", "1", "2", "3"])
    assert (ended, left) == (code, [])


KILL_WHEN_STARTED = """
signal=$1 lines=$2
shift 2
"$@" &
until grep -q start "$lines"; do sleep 0.05; done
kill -s "$signal" $!
wait $!
"""


@pytest.mark.needs_tool("unshare")
def test_the_namespace_of_a_killed_generator_is_empty_too(stage: Stage, tmp_path: Path, ledger: Ledger) -> None:
    run = [program("tp-generator"), "command", "--batch", stage.pool, "--", *ledger.command("sleep=5"), ":::", "1"]
    killed = ["sh", "-c", KILL_WHEN_STARTED, "sh", "KILL", str(ledger.path), *run]
    ended, left = in_namespace(stage, tmp_path / "mqueue", killed)
    assert (ended, left) == (128 + 9, [])


def test_a_worker_in_which_nothing_can_be_started_is_replaced(stage: Stage, ledger: Ledger) -> None:
    """Its limit of descriptors is lowered from outside: the other worker's is not, nor is that of a new one."""
    dealer = stage.dealer("--workers", 2, "--spares", 0, ready=2)
    lowered, other = workers_of(dealer.pid)
    resource.prlimit(lowered, resource.RLIMIT_NOFILE, (3, 3))
    names = map(str, range(1, 7))
    with ledger.gate():
        jobs = ["--retries", 0, "--output", "json", "--", *ledger.command("gate"), ":::", *names]
        run = stage.generator("command", "--pool", stage.pool, *jobs)
        ledger.wait("start", 2)
        assert lowered not in workers_of(dealer.pid)
        assert other in workers_of(dealer.pid)
    records = run.ends(OK).objects()
    assert {(record["state"], record["attempts"], record["crashes"]) for record in records} == {("succeeded", 1, 0)}
    assert len(records) == 6
    assert "RLIMIT_NOFILE of this worker was lowered to 3: another worker takes over" in dealer.stderr
    ledger.check_no_overlap()
    dealer.send(SIGTERM)
    dealer.ends(OK)
