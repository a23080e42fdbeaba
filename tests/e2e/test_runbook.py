"""The commands of docs/runbook.md, run against a pool in the trouble that they are for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.harness import ENVIRONMENT, OK, QUARANTINED, UNREACHABLE, Program, Stage, program, until
from support.source_tree import ROOT

PAGE = (ROOT / "docs" / "runbook.md").read_text()
# The commands of ours that the page names, with what stands for a value in them. Each is run below.
COMMANDS = {
    "tp-generator status --pool NAME",
    "tp-generator status",
    "tp-dealer --health --pool NAME",
    "tp-dealer --health",
    "tp-generator doctor",
    "tp-generator scale +2",
    "tp-generator scale -2",
    "tp-generator cancel BATCH",
    "tp-generator quarantine list",
    "tp-generator results --failed BATCH",
    "tp-generator quarantine requeue BATCH|JOB|all",
    "tp-generator quarantine drop",
    "tp-generator fib 5 --worker-exec PATH",
    "tp-generator drain",
    "tp-dealer journal check",
    "tp-dealer journal backup FILE",
}


def test_these_are_the_commands_of_the_page() -> None:
    named = {" ".join(words.split()) for words in re.findall(r"`(tp-[^`]*)`", PAGE)}
    assert named - {"tp-dealer"} == COMMANDS


def of_dealer(stage: Stage, *words: object) -> Program:
    return stage.start([program("tp-dealer"), *map(str, words)])


def test_crashes_quarantine_and_the_number_of_workers(stage: Stage, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    dealer = stage.dealer("--workers", 3, "--journal", journal, ready=3)
    pool = ["--pool", stage.pool]
    words = [*pool, "--batch", "b", "--crash-limit", "1", "--shell", "echo last words >&2; kill -SEGV $$ {}"]
    stage.generator("command", *words, ":::", "x", "y").ends(QUARANTINED)
    listed = stage.generator("quarantine", "list", *pool).ends(OK).stdout
    assert "b/1" in listed and "kill -SEGV" in listed
    assert "last words" in stage.generator("results", "--failed", "b", *pool).ends(OK).stdout
    assert stage.ask("quarantine requeue", "b/1") == {"requeued": 1}
    stage.generator("wait", "b", *pool).ends(QUARANTINED)
    assert stage.ask("quarantine requeue", "all") == {"requeued": 2}
    stage.generator("wait", "b", *pool).ends(QUARANTINED)
    assert stage.ask("quarantine drop", "b") == {"dropped": 2}
    assert stage.ask("scale", "-2") == {"workers_wanted": 1}
    assert stage.ask("scale", "+2") == {"workers_wanted": 3}
    assert "answers" in of_dealer(stage, "--health", *pool).ends(OK).stderr
    drain_and_look_at_the_journal(stage, dealer, journal, tmp_path / "copy")


def drain_and_look_at_the_journal(stage: Stage, dealer: Program, journal: Path, copy: Path) -> None:
    options = ["--pool", stage.pool, "--journal", journal]
    assert "stop it first" in of_dealer(stage, "journal", "check", *options).ends(ENVIRONMENT).stderr
    stage.generator("drain", "--pool", stage.pool).ends(OK)
    until(lambda: of_dealer(stage, "--health", "--pool", stage.pool).wait() == UNREACHABLE, "that it is gone")
    dealer.ends(OK)
    of_dealer(stage, "journal", "check", *options).ends(OK)
    of_dealer(stage, "journal", "backup", *options, copy).ends(OK)
    of_dealer(stage, "journal", "check", "--pool", stage.pool, "--journal", copy).ends(OK)


def test_a_batch_that_crashes_is_cancelled(stage: Stage) -> None:
    stage.dealer("--workers", 1)
    words = ["--pool", stage.pool, "--batch", "b", "--detach", "--crash-limit", "unlimited"]
    stage.generator("command", *words, "--shell", "kill -SEGV $$ {}", ":::", "x").ends(OK)
    assert sum(stage.ask("cancel", "b").values()) == 1
    until(lambda: not stage.ask("status")["batches"] or not stage.ask("status")["batches"][0]["open"], "its end")


@pytest.mark.parametrize("repaired", [False, True])
def test_a_worker_program_is_tried_beside_the_pool(stage: Stage, tmp_path: Path, repaired: bool) -> None:
    worker = tmp_path / "tp-worker"
    last = f'exec {program("tp-worker")} "$@"' if repaired else "echo no such library >&2; exit 3"
    worker.write_text(f"#!/bin/sh\n{last}\n")
    worker.chmod(0o755)
    run = stage.private("fib", "5", "--worker-exec", worker)
    if repaired:
        assert run.ends(OK).stdout == "5\n"
    else:
        run.ends(ENVIRONMENT)
        assert "no such library" in run.stderr
