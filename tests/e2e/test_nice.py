"""`--nice`: the niceness of a private pool's jobs, whichever process runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from signal import SIGKILL

import pytest

from support.harness import OK, USAGE, Stage, dealer_of, kill, program
from support.ledger import Ledger

OWN = os.getpriority(os.PRIO_PROCESS, 0)
NICER = min(19, OWN + 2)  # the tests may be run under nice(1)


def test_jobs_of_all_kinds_have_it(stage: Stage) -> None:
    jobs = [
        {"kind": "command", "argv": ["nice"]},
        {"kind": "python", "call": "os:getpriority", "args": [os.PRIO_PROCESS, 0]},
        {"kind": "command", "argv": ["sh", "-c", "nice"]},
    ]
    lines = "".join(f"{json.dumps(job)}\n" for job in jobs).encode()
    run = stage.private("jobs", "--nice", NICER, "--keep-order", "-", stdin=lines).ends(OK)
    assert run.lines == [str(NICER)] * 3
    assert stage.private("command", "--", "sh", "-c", "nice", ":::", "x").ends(OK).lines == [str(OWN)]


def test_so_have_those_of_a_dealer_that_was_started_again_and_of_a_run_that_goes_on(
    stage: Stage, ledger: Ledger
) -> None:
    show = 'nice; exec "$@" >&2'  # the ledger's command prints nothing of ours
    words = ["--workers", "1", "--nice", NICER, "-k", "--", "sh", "-c", show, "sh", *ledger.command("gate")]
    with ledger.gate():
        run = stage.private("command", *words, ":::", "a", "b")
        ledger.wait("start", 1)
        kill(dealer_of(run), SIGKILL)
        run.says("starting it again")
        ledger.wait("start", 2)
        kill(run.pid, SIGKILL)
        run.ends(-SIGKILL)
    assert stage.generator("resume", stage.pool).ends(OK).lines == [str(NICER)] * 2


@pytest.mark.parametrize("wrong", ["20", "-21", "x", "1.5"])
def test_what_is_no_niceness_is_refused(stage: Stage, wrong: str) -> None:
    run = stage.private("fib", "--nice", wrong, "5").ends(USAGE)
    assert f"--nice {wrong}: expected a niceness from -20 (most CPU) to 19 (least)" in run.stderr
    assert run.stdout == ""


def test_a_lower_one_without_the_right_is_refused_by_name(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "taskpool.toml").write_text("nice = -5\n")
    without = ["prlimit", "--nice=0:0", *([] if os.geteuid() else ["setpriv", "--bounding-set=-sys_nice"])]
    run = stage.start([*without, program("tp-generator"), "fib", "5"], cwd=tmp_path).ends(USAGE)
    assert f"--nice -5: below the niceness {OWN} of this process, which takes CAP_SYS_NICE or `ulimit -e 25`" in (
        run.stderr
    )
    assert f"(nice = '-5' is from {tmp_path}/taskpool.toml: change it there, or give --nice)" in run.stderr


def test_a_named_pool_has_its_dealers(stage: Stage) -> None:
    run = stage.generator("fib", "--pool", stage.pool, "--nice", "5", "5").ends(USAGE)
    assert "--nice is for a private pool" in run.stderr
