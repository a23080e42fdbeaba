"""What is told of attempts that did not succeed: in outcomes, by `show`, and after kill -9 of the dealer."""

from __future__ import annotations

import json
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from support.harness import FAILED, OK, Stage, kill, until
from support.ledger import Ledger

# Says thirty lines and exits, is killed, and waits at the gate for its end.
SCRIPT = """
case $TP_ATTEMPT in
1) seq 30 >&2; exit 3;;
2) echo about to crash >&2; kill -SEGV $$;;
esac
echo "start $1 $$" >>"$2/lines"
flock -s "$2/gate" true
"""
LIMITS = ("--retries", 1, "--crash-limit", 3)


def of(tries: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(tried[name] for name in names) for tried in tries]


def check(tries: list[dict[str, Any]]) -> None:
    """The two tries of SCRIPT."""
    names = ("attempt", "end", "exit_status", "signal_name", "out_of_memory", "stderr_tail")
    assert of(tries, *names) == [
        (1, "failed", 3, None, False, "\n".join(map(str, range(11, 31)))),
        (2, "crashed", None, "SIGSEGV", False, "about to crash"),
    ]
    for tried in tries:
        assert tried["pid"] > 0 and tried["slot"] >= 1 and tried["started_at"].endswith("Z")
        assert min(tried["wall_seconds"], tried["cpu_seconds"]) >= 0 and tried["max_rss_bytes"] > 0
    assert tries[0]["core_dumped"] is None and tries[1]["core_dumped"] in (True, False)


def test_an_outcome_has_the_tries_that_were_in_vain(stage: Stage, ledger: Ledger, tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = ["--", "sh", "-c", SCRIPT, "sh", "{}", str(ledger.directory), ":::", "1"]
    stage.private("command", *LIMITS, "--results", results, *words).ends(OK)
    (record,) = map(json.loads, results.read_text().splitlines())
    assert (record["state"], record["attempts"]) == ("succeeded", 3)
    check(record["tries"])


@pytest.mark.parametrize("times", [1, 2])
def test_tries_survive_the_dealer(stage: Stage, ledger: Ledger, tmp_path: Path, times: int) -> None:
    options = ("--workers", 1, "--journal", tmp_path / "journal.db")
    dealer = stage.dealer(*options)
    words = ["--", "sh", "-c", SCRIPT, "sh", "{}", str(ledger.directory), ":::", "1"]
    with ledger.gate():
        stage.generator("command", "--pool", stage.pool, "--batch", "b", "--detach", *LIMITS, *words).ends(OK)
        ledger.wait("start", 1)
        check(stage.ask("show", "b/1")["tries"])
        for life in range(times):
            kill(dealer.pid)
            dealer.wait()
            dealer = stage.dealer(*options)
            ledger.wait("start", 2 + life)
            check(stage.ask("show", "b/1")["tries"])
    stage.generator("wait", "b", "--pool", stage.pool).ends(OK)
    (record,) = stage.generator("results", "b", "--json", "--pool", stage.pool).ends(OK).objects()
    check(record["tries"])
    ended = stage.ask("show", "b/1")
    assert (ended["job"], ended["state"], ended["attempts"], ended["description"]) == (
        "b/1",
        "succeeded",
        3,
        record["job"],
    )
    assert ended["tries"] == record["tries"]
    shown = stage.generator("show", "b/1", "--pool", stage.pool).ends(OK).stdout
    assert "attempt 2:\n" in shown and "  signal name    SIGSEGV\n" in shown and "    about to crash\n" in shown
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_a_job_in_quarantine_keeps_its_tries_over_a_restart(stage: Stage, tmp_path: Path) -> None:
    options = ("--workers", 1, "--journal", tmp_path / "journal.db")
    dealer = stage.dealer(*options)
    words = ["--crash-limit", 2, "--", "sh", "-c", "echo $TP_ATTEMPT >&2; kill -SEGV $$", "sh", ":::", "1"]
    stage.generator("command", "--pool", stage.pool, "--batch", "b", "--detach", *words).ends(OK)
    until(lambda: stage.ask("quarantine list")["total"] == 1, "a job in quarantine")
    kill(dealer.pid)
    dealer.wait()
    dealer = stage.dealer(*options)
    tries = stage.ask("show", "b/1")["tries"]
    assert of(tries, "attempt", "end", "stderr_tail") == [(1, "crashed", "1"), (2, "crashed", "2")]
    assert "tries" not in stage.ask("quarantine list")["quarantine"][0]
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_of_long_output_the_end_is_told(stage: Stage) -> None:
    script = "head -c 100000 /dev/zero | tr '\\0' x >&2; echo >&2; echo the end >&2; exit 1"
    (record,) = stage.private("command", "--output", "json", "--", "sh", "-c", script, ":::", "").ends(FAILED).objects()
    assert record["stderr"] is None
    (tail,) = of(record["tries"], "stderr_tail")[0]
    assert tail.endswith("x\nthe end") and len(tail) <= 2048


def test_python_jobs_tell_of_their_exceptions_and_deaths(stage: Stage, ledger: Ledger) -> None:
    jobs = [
        {"kind": "python", "call": "builtins:bytes", "args": [1 << 62]},
        {"kind": "python", "call": "os:abort", "crash_limit": 1},
    ]
    text = "\n".join(map(json.dumps, jobs)).encode()
    run = stage.private("jobs", "--output", "json", "-", stdin=text)
    run.wait()
    exhausted, aborted = sorted(run.objects(), key=lambda record: record["seq"])
    assert of(exhausted["tries"], "end", "out_of_memory", "error") == [("failed", True, exhausted["tries"][0]["error"])]
    assert exhausted["tries"][0]["error"].startswith("MemoryError")
    assert of(aborted["tries"], "end", "signal_name")[-1] == ("crashed", "SIGABRT")
