"""How a command is ended: past its time-out, and when a person cancels it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.harness import FAILED, OK, USAGE, Stage, until
from support.ledger import Ledger

# Says which signals it gets, in their order, and ends at the one it is told to end by.
SCRIPT = """
import os, signal, sys, time
log, last = open(sys.argv[1], "a", buffering=1), sys.argv[2]
def heard(number, frame):
    print(signal.Signals(number).name, file=log)
    if signal.Signals(number).name == last:
        print("goodbye", flush=True)
        os._exit(0)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, heard)
print("ready", file=log)
print("hello", flush=True)
while True:
    time.sleep(600)
"""


def outcome(results: Path) -> dict[str, Any]:
    (line,) = results.read_text().splitlines()
    return json.loads(line)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("sequence", "last", "heard", "how"),
    [
        ("INT,0.2s,USR1,0.2s,TERM,60s", "SIGTERM", ["SIGINT", "SIGUSR1", "SIGTERM"], "exited with 0"),
        ("INT,0.1s,TERM,0.1s,KILL", "none", ["SIGINT", "SIGTERM"], "was ended by SIGKILL"),
        ("KILL", "SIGTERM", [], "was ended by SIGKILL"),
    ],
)
def test_signals_come_in_their_order(
    stage: Stage, tmp_path: Path, sequence: str, last: str, heard: list[str], how: str
) -> None:
    results, log = tmp_path / "results", tmp_path / "log"
    options = ("--timeout", "1.5s", "--term-seq", sequence, "--results", results)
    stage.private("command", *options, "--", "python3", "-c", SCRIPT, log, last, ":::", "x").ends(FAILED)
    assert log.read_text().split() == ["ready", *heard]
    ended = outcome(results)
    assert ended["state"] == "timed-out" and how in ended["error"]["message"]


def test_a_cancelled_command_is_told_to_end_and_what_it_has_printed_is_kept(stage: Stage, tmp_path: Path) -> None:
    stage.dealer("--workers", 1, "--spares", 0)
    log = tmp_path / "log"
    call = ("--", "python3", "-c", SCRIPT, log, "SIGTERM", ":::", "x")
    stage.generator("command", "--pool", stage.pool, "--batch", "b", "--detach", "--term-seq", "TERM,60s", *call).ends(
        OK
    )
    until(lambda: log.exists() and log.read_text() == "ready\n", "the start of the job")
    assert stage.ask("cancel", "b/1")["stopping"] == 1
    stage.generator("wait", "b", "--pool", stage.pool).ends(FAILED)
    (ended,) = stage.generator("results", "b", "--json", "--pool", stage.pool).ends(OK).objects()
    assert (ended["state"], ended["attempts"], ended["tries"]) == ("cancelled", 0, [])
    assert ended["stdout"] == "hello\ngoodbye\n"
    assert log.read_text().split() == ["ready", "SIGTERM"]


def test_one_that_does_not_obey_is_killed_and_its_slot_works_on(stage: Stage, ledger: Ledger, tmp_path: Path) -> None:
    stage.dealer("--workers", 1, "--spares", 0)
    log = tmp_path / "log"
    call = ("--", "python3", "-c", SCRIPT, log, "none", ":::", "x")
    submit = ("command", "--pool", stage.pool, "--term-seq", "INT,0.1s,TERM,0.1s")
    stage.generator(*submit, "--batch", "b", "--detach", *call).ends(OK)
    until(lambda: log.exists() and log.read_text() == "ready\n", "the start of the job")
    stage.generator("cancel", "b", "--pool", stage.pool).ends(OK)
    assert stage.generator(*submit, "--", "echo", ":::", "next").ends(OK).lines == ["next"]
    assert log.read_text().split() == ["ready", "SIGINT", "SIGTERM"]


def test_cancelling_one_of_several_short_commands_costs_the_others_nothing(stage: Stage, tmp_path: Path) -> None:
    """They go to a worker together, and one of them turns out to be long."""
    stage.dealer("--workers", 1, "--spares", 0)
    log = tmp_path / "log"
    jobs: list[dict[str, Any]] = [{"kind": "command", "argv": ["true"]} for _ in range(60)]
    jobs[40]["argv"] = ["python3", "-c", SCRIPT, str(log), "SIGTERM"]
    lines = "\n".join(map(json.dumps, jobs)).encode()
    results = tmp_path / "results"
    generator = stage.generator("jobs", "--pool", stage.pool, "--batch", "b", "--results", results, "-", stdin=lines)
    until(lambda: log.exists() and log.read_text() == "ready\n", "the start of the long job")
    stage.generator("cancel", "b/41", "--pool", stage.pool).ends(OK)
    generator.ends(FAILED)
    states = {
        each["seq"]: (each["state"], each["attempts"]) for each in map(json.loads, results.read_text().splitlines())
    }
    assert states.pop(41) == ("cancelled", 0)
    assert set(states.values()) == {("succeeded", 1)}


@pytest.mark.parametrize(
    ("sequence", "complaint"),
    [
        ("TERM", "expected SIGNAL,TIME,SIGNAL,TIME"),
        ("TERM,2s,STOPP,1s", "expected SIGNAL,TIME,SIGNAL,TIME"),
        ("TERM,200,KILL", "'200' has no unit: give 200s, or 200ms as GNU parallel takes it"),
        ("TERM,2h,KILL", "takes longer than 1h00m altogether"),
    ],
)
def test_a_sequence_that_makes_no_sense_is_refused(stage: Stage, sequence: str, complaint: str) -> None:
    words = ("command", "--term-seq", sequence, "--", "true", ":::", "1")
    assert complaint in stage.private(*words).ends(USAGE).stderr
