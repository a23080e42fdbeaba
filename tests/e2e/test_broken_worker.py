"""A worker program that cannot work: said once and clearly, and never started in a loop."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.harness import ENVIRONMENT, OK, Program, Stage, program
from support.source_tree import ROOT
from taskpool.limits import BOOT_KILLS_TOLERATED_MAX

SPAWNS_MAX = 10  # workers and spares once, and a few more tries


def worker_program(directory: Path, code: int) -> tuple[Path, Path]:
    """A program that writes down each start and exits at once; and the file it writes to."""
    ledger, path = directory / "spawns", directory / "broken-worker"
    path.write_text(f'#!/bin/sh\necho "$$" >>{ledger}\necho "no good today" >&2\nexit {code}\n')
    path.chmod(0o755)
    return path, ledger


def start(stage: Stage, kind: str, worker: Path) -> Program:
    if kind == "dealer":
        options = ["--pool", stage.pool, "--metrics", "none", "--workers", "2", "--worker-exec", str(worker)]
        return stage.start([program("tp-dealer"), *options])
    return stage.private("fib", "20", "--workers", 2, "--worker-exec", worker)


@pytest.mark.parametrize("kind", ["dealer", "private pool"])
@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_worker_that_exits_at_once(stage: Stage, tmp_path: Path, kind: str, code: int) -> None:
    worker, ledger = worker_program(tmp_path, code)
    run = start(stage, kind, worker).ends(ENVIRONMENT)
    assert 1 <= len(ledger.read_text().splitlines()) <= SPAWNS_MAX
    assert f"exited with status {code} before it was ready" in run.stderr
    assert "no worker can be started" in run.stderr


@pytest.mark.parametrize("kind", ["dealer", "private pool"])
def test_a_worker_that_is_killed_whenever_it_starts(stage: Stage, tmp_path: Path, kind: str) -> None:
    """As where a memory limit has no room for it. Some kills are meant, but not all of them."""
    worker, ledger = worker_program(tmp_path, 0)
    worker.write_text(worker.read_text().replace("exit 0", "kill -9 $$"))
    run = start(stage, kind, worker).ends(ENVIRONMENT)
    assert len(ledger.read_text().splitlines()) <= BOOT_KILLS_TOLERATED_MAX + SPAWNS_MAX
    assert "was killed by SIGKILL before it was ready. Perhaps out of memory" in run.stderr


@pytest.mark.parametrize("kind", ["dealer", "private pool"])
def test_a_worker_that_is_missing(stage: Stage, tmp_path: Path, kind: str) -> None:
    run = start(stage, kind, tmp_path / "missing").ends(ENVIRONMENT)
    assert f"cannot start the worker {tmp_path / 'missing'} (--worker-exec): there is no such file" in run.stderr


@pytest.mark.parametrize("kind", ["dealer", "private pool"])
def test_a_worker_that_is_not_executable(stage: Stage, tmp_path: Path, kind: str) -> None:
    worker, ledger = worker_program(tmp_path, 0)
    worker.chmod(0o644)
    run = start(stage, kind, worker).ends(ENVIRONMENT)
    assert str(worker) in run.stderr
    assert "may not be executed" in run.stderr
    assert not ledger.exists()


def test_a_worker_whose_interpreter_is_missing(stage: Stage, tmp_path: Path) -> None:
    worker = tmp_path / "worker"
    worker.write_text("#!/nonexistent/python\n")
    worker.chmod(0o755)
    run = start(stage, "dealer", worker).ends(ENVIRONMENT)
    assert "the interpreter in its #! line, or its loader, is missing" in run.stderr


OTHER_VERSION = """#!{python}
import sys
sys.path.insert(0, {internal!r})
import taskpool
taskpool.__version__ = "0.0.9"
from taskpool.kinds import KINDS
KINDS.pop({lacking!r}, None)
from taskpool.worker.main import main
sys.exit(main())
"""


def other_version(directory: Path, lacking: str) -> Path:
    path = directory / "other-worker"
    path.write_text(OTHER_VERSION.format(python=sys.executable, internal=f"{ROOT}/internal", lacking=lacking))
    path.chmod(0o755)
    return path


def test_a_worker_of_another_version(stage: Stage, tmp_path: Path) -> None:
    run = start(stage, "private pool", other_version(tmp_path, lacking="none")).ends(OK)
    assert run.lines == ["6765"]
    assert run.stderr.count("is of version 0.0.9, this dealer of ") == 1


@pytest.mark.parametrize("kind", ["dealer", "private pool"])
def test_a_worker_that_does_not_know_a_kind(stage: Stage, tmp_path: Path, kind: str) -> None:
    run = start(stage, kind, other_version(tmp_path, lacking="command")).ends(ENVIRONMENT)
    assert "does not know the kind command: it is of version 0.0.9, this dealer of version " in run.stderr
    assert "no worker can be started" in run.stderr
