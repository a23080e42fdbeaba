"""`--output-dir`, `--results -`, and a job log in order."""

from __future__ import annotations

import json
import os
from pathlib import Path
from signal import SIGKILL

import pytest

from support.harness import FAILED, OK, USAGE, Stage, kill, state_of, until
from support.ledger import Ledger

LONG = "head -c 200000 /dev/zero | tr '\\0' {}; echo {} >&2; test {} != b"


def check_long(folder: Path) -> None:
    for seq, name in ((1, "a"), (2, "b")):
        assert (folder / str(seq) / "stdout").read_text() == name * 200_000
        assert (folder / str(seq) / "stderr").read_text() == f"{name}\n"
        state = json.loads((folder / str(seq) / "outcome.json").read_text())["state"]
        assert state == ("failed" if name == "b" else "succeeded")


@pytest.mark.parametrize("form", [[], ["--output", "json"], ["--journal", "none"]])
def test_of_a_private_pool(stage: Stage, tmp_path: Path, form: list[str]) -> None:
    """Also of outputs whose files are emptied once they are printed, as they are without outcome objects."""
    run = stage.private("command", "--output-dir", "out", *form, "--shell", LONG, ":::", "a", "b", cwd=tmp_path)
    run.ends(FAILED)
    check_long(tmp_path / "out")
    if "json" not in form:
        assert run.stdout.count("a") == run.stdout.count("b") == 200_000


def test_of_a_named_pool(stage: Stage, tmp_path: Path) -> None:
    stage.dealer("--workers", 1)
    words = ["--pool", stage.pool, "--batch", "x", "--output-dir", tmp_path / "now", "--shell", LONG, ":::", "a", "b"]
    stage.generator("command", *words).ends(FAILED)
    check_long(tmp_path / "now")


def test_results_later(stage: Stage, tmp_path: Path) -> None:
    stage.dealer("--workers", 1, "--journal", tmp_path / "journal")
    words = ["--pool", stage.pool, "--batch", "x"]
    stage.generator("command", *words, "--shell", LONG, ":::", "a", "b").ends(FAILED)
    stage.generator("results", "x", "--pool", stage.pool, "--output-dir", tmp_path / "later").ends(OK)
    check_long(tmp_path / "later")
    run = stage.generator("results", "x", "--pool", stage.pool, "--results", "-").ends(OK)
    assert [job["seq"] for job in run.objects()] == [1, 2]
    again = stage.generator("results", "x", "--pool", stage.pool, "--output-dir", tmp_path / "later").ends(USAGE)
    assert "has the outputs of a batch of this name already: name another directory, or remove it" in again.stderr


def test_a_resumed_run_goes_on(stage: Stage, ledger: Ledger, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    words = ["--output-dir", str(folder), "--workers", "1", "--", *ledger.command("gate", "echo=x"), ":::", "1", "2"]
    with ledger.gate():
        run = stage.private("command", *words)
        ledger.wait("start", 1)
    until(lambda: (folder / "1").exists() or run.popen.poll() is not None, "the first folder")
    kill(run.pid, SIGKILL)
    run.wait()
    written = os.stat(folder / "1").st_ino
    stage.private("command", "--resume", *words).ends(OK)
    assert {path.name for path in folder.iterdir()} == {"1", "2", "batch.json"}
    assert os.stat(folder / "1").st_ino == written


def test_another_batchs_directory_is_refused_before_anything_runs(stage: Stage, ledger: Ledger, tmp_path: Path) -> None:
    stage.private("command", "--output-dir", tmp_path / "out", "--", "echo", ":::", "a").ends(OK)
    words = ["--batch", "other", "--output-dir", tmp_path / "out", "--", *ledger.command(), ":::", "1"]
    run = stage.generator("command", *words).ends(USAGE)
    assert "has the outputs of batch" in run.stderr
    assert not ledger.lines()


def test_results_to_standard_output(stage: Stage) -> None:
    run = stage.private("command", "--results", "-", "--keep-order", "--", "echo", ":::", "a", "b").ends(OK)
    assert [job["stdout"] for job in run.objects()] == ["a\n", "b\n"]
    refused = stage.private("command", "--results", "-", "--output", "value", "--", "echo", ":::", "a").ends(USAGE)
    assert "leave out --output value" in refused.stderr


def test_keep_order_orders_the_job_log(stage: Stage, tmp_path: Path) -> None:
    log = tmp_path / "log"
    flag = tmp_path / "flag"
    line = f"test {{}} = 1 || {{ touch {flag}; exit; }}; until test -e {flag}; do sleep 0.01; done"
    words = ["--workers", 2, "--keep-order", "--joblog", log, "--shell", line, ":::", 1, 2, 3, 4]
    stage.private("command", *words).ends(OK)
    assert [row.split("\t")[0] for row in log.read_text().splitlines()] == ["Seq", "1", "2", "3", "4"]


def test_a_place_that_cannot_be_used_is_refused_before_anything_runs(stage: Stage, ledger: Ledger) -> None:
    words = ["--output-dir", "/proc/here", "--", *ledger.command(), ":::", "1"]
    run = stage.private("command", *words).ends(USAGE)
    assert "--output-dir /proc/here cannot be made: " in run.stderr
    assert "name a directory in a place that you can write to" in run.stderr
    assert not ledger.lines()
    assert not state_of(stage.pool).exists()


def test_results_say_whose_outputs_are_there(stage: Stage, tmp_path: Path) -> None:
    """Of a batch whose own run has written them: it is no earlier one."""
    stage.dealer("--workers", 1, "--journal", tmp_path / "journal")
    words = ["--pool", stage.pool, "--batch", "x", "--output-dir", tmp_path / "out"]
    stage.generator("command", *words, "--", "echo", ":::", "a").ends(OK)
    run = stage.generator("results", "x", "--pool", stage.pool, "--output-dir", tmp_path / "out").ends(USAGE)
    assert f"--output-dir {tmp_path}/out has the outputs of a batch of this name already: " in run.stderr
    assert "earlier" not in run.stderr
