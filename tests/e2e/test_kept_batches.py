"""Batches that are kept: listed, gone on with by their id alone, forgotten; and ids that name none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import Any

import pytest

from support.harness import FAILED, INTERRUPTED, OK, UNREACHABLE, USAGE, Program, Stage, dealer_of, kill, state_of
from support.ledger import Ledger

JOBS = ["a", "b", "c", "d"]


def batches(stage: Stage, *options: str) -> dict[str, dict[str, Any]]:
    """What is listed, by the batches' ids."""
    listed = stage.generator("batches", "--json", *options).ends(OK)
    return {row["batch"]: row for row in listed.objects()}


def gated(stage: Stage, ledger: Ledger, *options: object) -> Program:
    return stage.private("command", "--workers", 1, *options, "--", *ledger.command("gate"), ":::", *JOBS)


def test_a_batch_with_a_name_stays_when_it_has_succeeded(stage: Stage, ledger: Ledger) -> None:
    words = ["--workers", 1, "--", *ledger.command("exit=0"), ":::", *JOBS]
    stage.private("command", *words).ends(OK)
    row = batches(stage)[stage.pool]
    assert (row["state"], row["jobs"], row["open"], row["pool"]) == ("succeeded", 4, 0, None)
    assert row["bytes"] > 0 and row["age_seconds"] >= 0
    typed = ["command", "--batch", stage.pool, *words]
    for again in (
        [*typed[:3], "--resume", *typed[3:]],
        ["resume", stage.pool],
        [*typed[:3], "--resume=or-begin", *words],
    ):
        run = stage.generator(*again).ends(OK)
        assert f"Batch {stage.pool} has ended already: nothing of it is left to run" in run.stderr
    assert ledger.jobs("start") == dict.fromkeys(JOBS, 1)
    stage.private("command", *words).ends(OK)  # as tomorrow, when it takes this one's place
    assert ledger.jobs("start") == dict.fromkeys(JOBS, 2)
    stage.generator("forget", "--succeeded", "--older-than", "1h").ends(OK)
    assert state_of(stage.pool).exists()
    stage.generator("forget", "--succeeded").ends(OK)
    assert not state_of(stage.pool).exists()


def test_a_batch_of_no_jobs_can_be_gone_on_with(stage: Stage) -> None:
    words = ["command", "--batch", stage.pool, "--", "echo"]
    stage.generator(*words).ends(OK)
    for again in (
        ["resume", stage.pool],
        [*words[:3], "--resume", *words[3:]],
        [*words[:3], "--resume=or-begin", "echo"],
    ):
        run = stage.generator(*again).ends(OK)
        assert f"Batch {stage.pool} has ended already: nothing of it is left to run" in run.stderr
    assert "nothing is to run again" in stage.generator("rerun", stage.pool).ends(USAGE).stderr
    assert batches(stage)[stage.pool]["state"] == "succeeded"


@pytest.mark.parametrize("line", ["{", '{"kind":"command","argv":["true"],"path":"x"}'])
def test_a_batch_refused_at_its_first_line_is_not_kept(stage: Stage, line: str) -> None:
    """No job was accepted: there is none to run again, and the corrected input begins the batch."""
    run = stage.private("jobs", "-", stdin=f"{line}\n".encode()).ends(USAGE)
    assert "standard input:1: " in run.stderr
    assert "rerun" not in run.stderr and "is kept" not in run.stderr
    assert stage.pool not in batches(stage) and not state_of(stage.pool).exists()
    run = stage.private("jobs", "-", stdin=b'{"kind":"fib","n":5}\n{').ends(USAGE)
    assert "standard input:2: " in run.stderr and "1 job before it run on" in run.stderr
    assert run.stdout == "5\n"
    assert batches(stage)[stage.pool]["jobs"] == 1


def test_a_batch_of_a_named_pool_refused_at_its_first_line_can_be_begun(stage: Stage, tmp_path: Path) -> None:
    """The same command with the input corrected begins it: its name is not used up, with a journal either."""
    stage.dealer("--workers", 1, "--journal", tmp_path / "journal")
    words = ["jobs", "--pool", stage.pool, "--batch", "b", "-"]
    for wrong in (b"{", b'{"kind":"fib","n":-1}'):
        run = stage.generator(*words, stdin=wrong).ends(USAGE)
        assert "standard input:1: " in run.stderr and "jobs: nothing" not in run.stderr
    assert stage.generator(*words, stdin=b'{"kind":"fib","n":5}').ends(OK).stdout == "5\n"
    run = stage.generator(*words[:-1], "--resume", "-", stdin=b"{").ends(USAGE)
    assert "standard input:1: " in run.stderr


def test_an_empty_batch_that_is_kept_survives_wrong_input(stage: Stage) -> None:
    stage.private("jobs", "-", stdin=b"").ends(OK)
    run = stage.private("jobs", "--resume", "-", stdin=b"{").ends(USAGE)
    assert "rerun" not in run.stderr
    assert batches(stage)[stage.pool]["jobs"] == 0


def test_a_batch_without_a_name_goes_when_it_has_succeeded(stage: Stage) -> None:
    before = set(batches(stage))
    stage.generator("fib", "1-3", "--workers", 1).ends(OK)
    assert set(batches(stage)) == before


def test_a_running_batch_is_listed_and_not_forgotten(stage: Stage, ledger: Ledger) -> None:
    with ledger.gate():
        run = gated(stage, ledger)
        ledger.wait("start", 1)
        row = batches(stage)[stage.pool]
        assert (row["state"], row["jobs"], row["open"]) == ("running", 4, 4)
        refused = stage.generator("forget", stage.pool).ends(UNREACHABLE)
        assert f"batch '{stage.pool}' is in use by another tp-generator, whose dealer is PID {dealer_of(run)}" in (
            refused.stderr
        )
        stage.generator("forget", "--older-than", "0s").ends(OK)
        run.send(SIGINT)
    run.ends(INTERRUPTED)
    assert ledger.count("start") >= 1
    row = batches(stage)[stage.pool]
    assert row["state"] == "interrupted" and row["states"] == {"succeeded": row["jobs"] - row["open"]}
    stage.generator("forget", stage.pool).ends(OK)
    assert not state_of(stage.pool).exists()


def test_a_killed_batch_goes_on_by_its_id(stage: Stage, ledger: Ledger) -> None:
    results = stage.directory / "results"
    with ledger.gate():
        run = gated(stage, ledger, "--results", results)
        ledger.wait("start", 1)
        kill(dealer_of(run))
        kill(run.pid)
        run.ends(-SIGKILL)
    assert batches(stage)[stage.pool]["state"] == "interrupted"
    stage.generator("resume", stage.pool, "--output", "json", cwd=stage.directory).ends(OK)
    assert sorted(json.loads(line)["seq"] for line in results.read_text().splitlines()) == [1, 2, 3, 4]
    assert set(ledger.jobs("end")) == set(JOBS)


def test_an_unknown_id_is_named_with_the_nearest(stage: Stage) -> None:
    stage.private("fib", "1", "--workers", 1).ends(OK)
    near = f"{stage.pool}x"
    for words in (["fib", "1", "--batch", near, "--resume"], ["resume", near], ["forget", near]):
        refused = stage.generator(*words).ends(USAGE)
        assert f"there is no batch '{near}'" in refused.stderr and f"did you mean {stage.pool}" in refused.stderr
        assert not state_of(near).exists()
    stage.pools.append(near)
    stage.generator("fib", "1", "--batch", near, "--resume=or-begin", "--workers", 1).ends(OK)
    assert batches(stage)[near]["state"] == "succeeded"


def test_a_batch_of_a_named_pool_goes_on_by_its_id(stage: Stage, ledger: Ledger) -> None:
    stage.dealer("--workers", 1, "--journal", stage.directory / "journal")
    with ledger.gate():
        words = ["--pool", stage.pool, "--batch", "night", "--", *ledger.command("gate"), ":::", *JOBS]
        run = stage.generator("command", *words)
        ledger.wait("start", 1)
        assert batches(stage, "--pool", stage.pool)["night"]["jobs"] == len(JOBS)
        run.send(SIGINT)
        run.ends(INTERRUPTED)
    assert run.says(r"To resume: \S+ resume --pool (\S+) night$")[1] == stage.pool
    for words in (["fib", "1", "--batch", "nihgt", "--resume"], ["resume", "nihgt"]):
        refused = stage.generator(*words, "--pool", stage.pool).ends(USAGE)
        assert f"there is no batch 'nihgt' in pool '{stage.pool}'" in refused.stderr
    again = stage.generator("resume", "--pool", stage.pool, "night").ends(OK)
    assert f"{len(JOBS)} jobs: {len(JOBS)} succeeded" in again.stderr
    assert ledger.jobs("start") == dict.fromkeys(JOBS, 1)


def test_the_old_word_for_unpause_is_explained(stage: Stage) -> None:
    assert "`tp-generator unpause`" in stage.generator("resume", "--pool", stage.pool).ends(USAGE).stderr


def test_a_batch_that_failed_says_how_to_run_it_again(stage: Stage) -> None:
    words = ["--workers", 1, "--", "sh", "-c", "exit {}", ":::", "0", "3"]
    failing = stage.private("command", *words).ends(FAILED)
    assert f"rerun {stage.pool}" in failing.stderr and "To resume" not in failing.stderr
    row = batches(stage)[stage.pool]
    assert (row["state"], row["states"]) == ("failed", {"succeeded": 1, "failed": 1})
    assert os.path.samefile(state_of(stage.pool), failing.says(r"is kept in (\S+), until")[1])
