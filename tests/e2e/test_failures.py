"""What a person is told of jobs that did not succeed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from support.harness import FAILED, OK, QUARANTINED, Program, Stage, kill, program

SCRIPT = "echo first >&2; echo cannot open $1 >&2; case $1 in ok) exit 0;; bad) exit 3;; *) kill -SEGV $$;; esac"


def fails(stage: Stage, *options: object) -> Program:
    """Three jobs: one succeeds, one exits, one is killed."""
    words = ["--", "sh", "-c", SCRIPT, "job", ":::", "ok", "bad", "worse"]
    return stage.generator("command", "--crash-limit", 1, *options, *words).ends(QUARANTINED)


def shown(command: str) -> str:
    """What the command of a summary prints, with the programs under test."""
    name, *words = shlex.split(command)
    done = subprocess.run([program(name), *words] if name.startswith("tp-") else [name, *words], capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def command_of(run: Program) -> str:
    match = re.search(r"Failures: 1 × SIGSEGV, 1 × exit 3\. To see them: (.+)", run.stderr)
    assert match is not None, run.stderr
    return match[1]


def test_a_line_says_which_job_why_what_it_is_and_its_last_words(stage: Stage) -> None:
    run = fails(stage)
    job = shlex.quote(SCRIPT)
    assert f"[TaskGenerator] Job 2 failed (exit 3): sh -c {job} job bad: cannot open bad\n" in run.stderr
    assert f"[TaskGenerator] Job 3 quarantined (SIGSEGV, 1 crash): sh -c {job} job worse: " in run.stderr


def test_the_lines_as_json(stage: Stage) -> None:
    run = fails(stage, "--log-format", "json")
    records = [json.loads(line) for line in run.stderr.splitlines() if line.startswith("{")]  # beside the jobs' own
    (line,) = [record for record in records if record.get("cause") == "exit 3"]
    assert (line["level"], line["state"]) == ("warning", "failed")
    assert line["description"].startswith("sh -c ")


@pytest.mark.parametrize("where", ["the pool's own journal", "a journal of one's own", "a file of results"])
def test_the_summary_of_a_private_batch_names_the_command_that_shows_its_failures(
    stage: Stage, tmp_path: Path, where: str
) -> None:
    results = tmp_path / "the results"
    options = {
        "the pool's own journal": (),
        "a journal of one's own": ("--journal", tmp_path / "my journal.db"),
        "a file of results": ("--journal", "none", "--results", results),
    }[where]
    run = fails(stage, "--batch", stage.pool, *options)
    objects = [json.loads(line) for line in shown(command_of(run)).splitlines()]
    assert sorted(each["seq"] for each in objects) == [2, 3]
    assert all(each["job"].startswith("sh -c ") for each in objects)


def test_without_a_journal_or_a_file_no_command_is_named(stage: Stage) -> None:
    run = fails(stage, "--journal", "none")
    assert "Failures: 1 × SIGSEGV, 1 × exit 3\n" in run.stderr


def test_a_named_pool_shows_failures_also_after_its_dealer_was_killed(stage: Stage, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    dealer = stage.dealer("--workers", 2, "--journal", journal)
    command = command_of(fails(stage, "--pool", stage.pool, "--batch", "b"))
    kill(dealer.pid, SIGKILL)
    dealer.wait()
    dealer = stage.dealer("--workers", 2, "--journal", journal)
    lines = sorted(shown(command).splitlines())
    assert [line.partition(":")[0] for line in lines] == [
        "Job 2 failed (exit 3)",
        "Job 3 quarantined (SIGSEGV, 1 crash)",
    ]
    assert lines[0].endswith("job bad: cannot open bad")
    objects = map(
        json.loads, stage.generator("results", "--json", "--failed", "--pool", stage.pool, "b").ends(OK).lines
    )
    assert sorted((each["seq"], each["job"].partition(" ")[0]) for each in objects) == [(2, "sh"), (3, "sh")]
    waited = stage.generator("wait", "--pool", stage.pool, "b").ends(QUARANTINED)
    assert f"Failures: 1 × SIGSEGV, 1 × exit 3. To see them: {command}\n" in waited.stderr
    (parked,) = stage.ask("quarantine list")["quarantine"]
    assert parked["description"].startswith("sh -c ")
    assert stage.ask("show", "b/3")["description"] == parked["description"]
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_a_flood_of_failures_is_ten_lines_and_a_count(stage: Stage) -> None:
    words = ["--", "sh", "-c", "exit $(($1 % 2 + 1))", "sh", ":::", *map(str, range(25))]
    run = stage.private("command", *words).ends(FAILED)
    assert len(re.findall(r"Job \d+ failed \(exit [12]\)", run.stderr)) == 10
    assert len(re.findall(r"\] 20 failures so far: \d+ × exit [12], \d+ × exit [12]\n", run.stderr)) == 1
    assert "Failures: 13 × exit 1, 12 × exit 2. To see them: " in run.stderr
    run = stage.generator("command", "-v", *words).ends(FAILED)
    assert len(re.findall(r"\[TaskGenerator\] Job \d+ failed \(exit [12]\)", run.stderr)) == 25
