"""`tp-generator doctor` on this very host, with real troubles planted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from signal import SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pytest

from support.harness import (
    ENVIRONMENT,
    FAILED,
    OK,
    USAGE,
    Program,
    Stage,
    alive,
    dealer_of,
    kill,
    program,
    queue_exists,
    state_of,
    until,
    workers_of,
)
from support.ledger import Ledger

FEW_BYTES = ["prlimit", "--msgqueue=1000:1000", program("tp-generator")]
DESCRIPTORS = 50  # fewer than any dealer needs, and enough for `doctor`
CHECKS = [
    *("queue limits", "queue bytes", "trial queue", "state directory", "room", "fsync", "descriptors", "processes"),
    *("kernel calls", "stale queues", "kept state", "control group", "out-of-memory count", "core pattern"),
    *("RemoveIPC", "clock", "container"),
]


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools that other tests have killed are no trouble of these."""
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def rows_of(stage: Stage, *words: str, **how: Any) -> dict[str, dict[str, Any]]:
    asked = stage.generator("doctor", "--json", *words, **how)
    code = asked.wait()
    rows = {row["check"]: row for row in map(json.loads, asked.stdout.splitlines())}
    assert code == (FAILED if any(row["status"] == "fault" for row in rows.values()) else OK)
    return rows


def kill_all(*pids: int) -> None:
    for number in (SIGSTOP, SIGKILL):  # stopped first: none then sees the end of another
        for pid in pids:
            kill(pid, number)


def killed_private_pool(stage: Stage, ledger: Ledger) -> None:
    run = stage.private("command", "--workers", "1", "--", *ledger.command("sleep=0.3"), ":::", "a", "b")
    ledger.wait("start", 1)
    dealer = dealer_of(run)
    workers = workers_of(dealer)
    kill_all(run.pid, dealer)
    run.ends(-SIGKILL)
    until(lambda: not any(alive(pid) for pid in (dealer, *workers)), "the end of the killed pool")


def killed_dealer(stage: Stage) -> Program:
    dealer = stage.dealer("--workers", 1)
    workers = workers_of(dealer.pid)
    kill_all(dealer.pid)
    dealer.ends(-SIGKILL)
    until(lambda: not any(map(alive, workers)), "the end of its workers")
    return dealer


def test_a_host_on_which_pools_run_has_no_fault_in_what_they_need(stage: Stage) -> None:
    stage.private("fib", "5").ends(OK)
    rows = rows_of(stage, "--workers", "1")
    assert list(rows) == CHECKS
    for check in CHECKS[:9]:  # without one of them that pool would not have run
        assert rows[check]["status"] != "fault", rows[check]
    assert all(row["why"] and row["cure"] for row in rows.values() if row["status"] != "ok")
    table = stage.generator("doctor", "--workers", "1")
    table.wait()
    assert [line for line in table.stdout.splitlines() if line.startswith("queue limits")]


def test_it_leaves_nothing_behind_and_removes_nothing_by_itself(stage: Stage, ledger: Ledger) -> None:
    killed_private_pool(stage, ledger)
    before = sorted(state_of(stage.pool).parent.rglob("*"))
    rows_of(stage)
    assert sorted(state_of(stage.pool).parent.rglob("*")) == before
    assert queue_exists(f"/tp.{stage.pool}.intake")
    fixed_by(stage)


def test_queues_of_a_killed_private_pool_are_found_and_taken_away(stage: Stage, ledger: Ledger) -> None:
    killed_private_pool(stage, ledger)
    found = rows_of(stage)
    assert stage.pool in found["stale queues"]["value"]
    assert found["stale queues"]["cure"] == "tp-generator doctor --fix"
    assert stage.pool in found["queue bytes"]["value"]
    assert f"Private pool {stage.pool}: its generator and dealer were killed" in fixed_by(stage)
    assert not queue_exists(f"/tp.{stage.pool}.intake")
    assert stage.pool not in rows_of(stage)["stale queues"]["value"]
    words = ["--workers", "1", "--", *ledger.command("sleep=0.3"), ":::", "a", "b"]
    stage.private("command", "--resume", *words).ends(OK)
    assert ledger.jobs("end").keys() == {"a", "b"}


def test_queues_of_a_killed_dealer_are_found_and_taken_away(stage: Stage) -> None:
    killed_dealer(stage)
    assert stage.pool in rows_of(stage)["stale queues"]["value"]
    assert f"Pool {stage.pool}: its dealer was killed" in fixed_by(stage)
    assert not queue_exists(f"/tp.{stage.pool}.events")
    assert stage.pool not in rows_of(stage)["stale queues"]["value"]
    again = stage.dealer("--workers", 1)
    again.send(SIGTERM)
    again.ends(OK)


def test_a_batch_past_its_time_is_found_and_forgotten(stage: Stage) -> None:
    stage.private("fib", "5", "--retain", "1s").ends(OK)
    until(lambda: stage.pool in (rows_of(stage)["kept state"]["why"] or ""), "its time to be over")
    assert f"Batch {stage.pool}: all its jobs have succeeded" in fixed_by(stage)
    assert rows_of(stage)["kept state"]["status"] == "ok"
    assert stage.generator("batches").ends(OK).stdout == ""


def test_a_pool_that_runs_is_told_and_left_alone(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 1)
    rows = rows_of(stage, "--fix")
    assert stage.pool in rows["queue bytes"]["value"]
    assert stage.pool not in rows["stale queues"]["value"]
    stage.generator("fib", "5", "--pool", stage.pool).ends(OK)
    dealer.send(SIGTERM)
    dealer.ends(OK)


@pytest.mark.needs_tool("prlimit")
def test_a_limit_that_is_too_low_is_told_below_the_error_of_a_start(stage: Stage) -> None:
    asked = stage.start([*FEW_BYTES, "doctor", "--json", "--workers", "1"]).ends(FAILED)
    row = next(row for row in asked.objects() if row["check"] == "queue bytes")
    assert row["status"] == "fault"
    assert "--msgqueue=" in row["cure"]
    run = stage.start([*FEW_BYTES, "fib", "5", "--batch", stage.pool, "--workers", "1"]).ends(ENVIRONMENT)
    error, fault = (run.stderr.index(text) for text in ("RLIMIT_MSGQUEUE is 1000 bytes", "fault: queue bytes: "))
    assert error < fault
    assert "fault: room" not in run.stderr


def test_a_state_directory_that_cannot_be_used_is_a_fault(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    row = rows_of(stage, env={"XDG_STATE_HOME": str(tmp_path / "file")})["state directory"]
    assert row["status"] == "fault"
    assert "XDG_STATE_HOME" in row["cure"]


def test_a_number_of_workers_that_is_none_is_refused(stage: Stage) -> None:
    for wrong in ("0", "257", "x", "-1"):
        asked = stage.generator("doctor", f"--workers={wrong}").ends(USAGE)
        assert re.search(rf"--workers {wrong}: .*expected N, N% .*1 to 256 workers in all", asked.stderr)


def fixed_by(stage: Stage) -> str:
    fixed = stage.generator("doctor", "--fix")
    fixed.wait()
    return fixed.stderr


def workers_looked_for(stage: Stage, cwd: Path, *words: str, **how: Any) -> int:
    """Return the number of workers that `doctor` has looked for: under a limit that is low, a row names it."""
    argv = ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", program("tp-generator"), "doctor", "--json", *words]
    asked = stage.start(argv, cwd=cwd, **how).ends(FAILED)
    row = next(row for row in asked.objects() if row["check"] == "descriptors")
    found = re.fullmatch(r"a dealer of (\d+) workers needs \d+", row["why"])
    assert found is not None, row
    return int(found[1])


def test_it_looks_for_the_pool_that_the_settings_would_make(stage: Stage, tmp_path: Path) -> None:
    """From a file, a variable or a flag, in the forms that a pool takes; wrong ones are told with their origin."""
    file = tmp_path / "taskpool.toml"
    file.write_text("workers = 101\n")
    dealers = {"TP_DEALER_WORKERS": "102"}
    variables = {**dealers, "TP_WORKERS": "103"}
    assert workers_looked_for(stage, tmp_path) == 101
    assert workers_looked_for(stage, tmp_path, env=dealers) == 102
    assert workers_looked_for(stage, tmp_path, env=variables) == 103
    assert workers_looked_for(stage, tmp_path, "-j", "104", env=variables) == 104
    cpus = workers_looked_for(stage, tmp_path, "--config", "none", "--workers", "+1") - 1
    assert workers_looked_for(stage, tmp_path, "--workers", "50%") == max(1, cpus // 2)
    file.write_text("workers = -3\n")
    asked = stage.generator("doctor", cwd=tmp_path).ends(USAGE)
    assert "--workers -3: expected N, N% of the CPUs or +N beside them" in asked.stderr
    assert f"(workers = '-3' is from {file}: change it there, or give --workers)" in asked.stderr
    asked = stage.generator("doctor", "--config", "none", env={"TP_DEALER_WORKERS": "x"}).ends(USAGE)
    assert "TP_DEALER_WORKERS: --workers x: expected" in asked.stderr
