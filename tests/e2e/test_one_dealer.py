"""One dealer for a pool, whatever is started; and what a generator hears when there is none."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path
from signal import SIGTERM

import pytest

from support.harness import ENVIRONMENT, OK, UNREACHABLE, Stage, program, state_of
from support.ledger import Ledger
from taskpool.procs.pool_lock import PoolLock


def test_a_second_dealer_is_told_who_holds_the_pool(stage: Stage) -> None:
    first = stage.dealer("--workers", 1)
    second = stage.dealer(ready=0).ends(UNREACHABLE)
    assert f"pool {stage.pool} is in use by pid {first.pid} since " in second.stderr
    first.send(SIGTERM)
    first.ends(OK)


def test_a_second_dealer_with_another_state_directory_is_refused_too(
    stage: Stage, ledger: Ledger, tmp_path: Path
) -> None:
    first = stage.dealer("--workers", 1)
    with ledger.gate():
        run = stage.generator("command", "--pool", stage.pool, "--", *ledger.command("gate"), ":::", "j")
        ledger.wait("start", 1)
        for _ in range(2):  # the second life there has another epoch than the first dealer
            second = stage.dealer(ready=0, env={"XDG_STATE_HOME": str(tmp_path / "other")}).ends(UNREACHABLE)
            assert f"pool {stage.pool} is in use by a dealer of this IPC namespace" in second.stderr
    run.ends(OK)  # and nothing was taken from the first
    assert ledger.count("start") == 1
    assert stage.ask("status")["worker_respawns"] == 0
    first.send(SIGTERM)
    first.ends(OK)


@pytest.mark.needs_tool("unshare")
def test_a_pool_of_the_same_name_in_another_ipc_namespace_is_another_pool(
    stage: Stage, ledger: Ledger, tmp_path: Path
) -> None:
    """Two containers may share their processes and nothing else."""
    if subprocess.run(["unshare", "--ipc", "true"], capture_output=True).returncode:
        pytest.skip("an IPC namespace of one's own needs root")
    first = stage.dealer("--workers", 1)
    with ledger.gate():
        run = stage.generator("command", "--pool", stage.pool, "--", *ledger.command("gate"), ":::", "j")
        ledger.wait("start", 1)
        for _ in range(2):
            elsewhere = {"XDG_STATE_HOME": str(tmp_path / "other")}
            second = stage.dealer("--workers", 1, under=("unshare", "--ipc"), env=elsewhere)
            second.send(SIGTERM)
            second.ends(OK)
    run.ends(OK)
    assert ledger.count("start") == 1
    first.send(SIGTERM)
    first.ends(OK)


@pytest.mark.parametrize("held", [False, True])
def test_a_private_dealer_whose_generator_has_gone_takes_no_pool(stage: Stage, held: bool) -> None:
    words = ["sh", "-c", ': | exec "$@" 3<&0', "sh", program("tp-dealer"), "--pool", stage.pool, "--journal", "none"]
    state_of(stage.pool).mkdir(parents=True)
    with closing(PoolLock(state_of(stage.pool), stage.pool)) as lock:
        if held:
            assert lock.hold()
        orphan = stage.start([*words, "--private", "--lifeline-fd", "3"]).ends(OK)
    assert orphan.stderr == ""
    assert not (state_of(stage.pool) / "spool").exists()


def test_a_private_dealer_waits_for_one_that_is_about_to_leave(stage: Stage) -> None:
    reader, lifeline = os.pipe()
    state_of(stage.pool).mkdir(parents=True)
    try:
        with closing(PoolLock(state_of(stage.pool), stage.pool)) as lock:
            assert lock.hold()
            options = ["--pool", stage.pool, "--journal", "none", "--private", "--lifeline-fd", "0", "-v"]
            dealer = stage.start([program("tp-dealer"), *options], stdin=reader)
            dealer.says(f"pool {stage.pool} is in use")
        dealer.says(f"Pool {stage.pool}, epoch 1, PID {dealer.pid}")
    finally:
        os.close(lifeline)
        os.close(reader)
    dealer.ends(OK)


def test_a_generator_without_a_dealer(stage: Stage) -> None:
    run = stage.generator("fib", "20", "--pool", stage.pool, "--dealer-timeout", "0.5s").ends(UNREACHABLE)
    assert repr(stage.pool) in run.stderr
    assert f"tp-dealer --pool {stage.pool}" in run.stderr
    assert "Queues belong to an IPC namespace" in run.stderr


def test_a_question_without_a_dealer(stage: Stage) -> None:
    run = stage.generator("status", "--pool", stage.pool, "--dealer-timeout", "0.5s").ends(UNREACHABLE)
    assert repr(stage.pool) in run.stderr
    assert run.stdout == ""


def test_health(stage: Stage) -> None:
    ask = [program("tp-dealer"), "--pool", stage.pool, "--health"]
    assert "no dealer for pool" in stage.start(ask).ends(UNREACHABLE).stderr
    dealer = stage.dealer("--workers", 1)
    assert f"PID {dealer.pid}" in stage.start(ask).ends(OK).stderr
    dealer.send(SIGTERM)
    dealer.ends(OK)
    stage.start(ask).ends(UNREACHABLE)


@pytest.mark.parametrize("kind", ["named", "private"])
def test_a_link_that_others_could_have_made_leads_a_pool_nowhere(stage: Stage, tmp_path: Path, kind: str) -> None:
    """Whose link it is does not matter here: all users may write where it lies."""
    shared, home = tmp_path / "shared", tmp_path / "home"
    (home / "spool").mkdir(parents=True)
    home.chmod(0o755)
    (home / "spool" / "mail").write_text("precious")
    (shared / "taskpool").mkdir(parents=True)
    (shared / "taskpool").chmod(0o1777)
    (shared / "taskpool" / stage.pool).symlink_to(home)
    env = {"XDG_STATE_HOME": str(shared)}
    started = stage.dealer(ready=0, env=env) if kind == "named" else stage.private("fib", 1, env=env)
    said = started.ends(ENVIRONMENT).stderr
    assert f"{shared}/taskpool/{stage.pool} is a symbolic link in a directory to which others may write" in said
    assert (home / "spool" / "mail").read_text() == "precious"
    assert [path.name for path in home.iterdir()] == ["spool"]
    assert home.stat().st_mode & 0o777 == 0o755
