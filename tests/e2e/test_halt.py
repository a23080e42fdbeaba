"""`--halt`: a batch that gives up, or has enough. What it does exactly at the number is compared with GNU parallel in
test_like_parallel."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from support.harness import FAILED, HALTED, OK, QUARANTINED, Stage
from support.ledger import Ledger

# 1 and 3 fail, 2 succeeds, and those behind the last of `ended` never end.
LINE = "test {} -le %d && exit $(({} %% 2)); exec sleep 600"
TEN = [str(number) for number in range(1, 11)]


@pytest.mark.parametrize("journal", ["none", "kept"])
@pytest.mark.parametrize("when", ["now", "soon"])
def test_failures(stage: Stage, ledger: Ledger, when: str, journal: str) -> None:
    """Without a journal what does not run any more is cancelled; with one it is kept for another run."""
    options = ["--workers", 2, "--halt", f"{when},fail=2", "--output", "json"]
    options += ["--journal", "none"] if journal == "none" else []
    names = map(str, range(1, 61))
    run = stage.private("command", *options, "--", *ledger.command("sleep=0.05", "exit=1"), ":::", *names)
    run.ends(HALTED)
    states = Counter(job["state"] for job in run.objects())
    assert states["failed"] >= 2
    assert ledger.count("start") < 30, "jobs were started behind the halt"
    if journal == "none":
        assert states["failed"] + states["cancelled"] == 60
    else:
        assert set(states) == {"failed"}
        assert "To resume: " in run.stderr


@pytest.mark.parametrize(
    ("rule", "code", "ended"),
    [
        ("now,success=1", OK, 2),  # enough have succeeded, whatever others did
        ("now,success=10%", OK, 2),
        ("now,done=2", FAILED, 2),
        ("now,done=25%", FAILED, 3),
        ("now,fail=20%", HALTED, 3),
    ],
)
@pytest.mark.parametrize("journal", ["none", "kept"])
def test_other_reasons_and_their_exit_codes(stage: Stage, rule: str, code: int, ended: int, journal: str) -> None:
    options = ["--workers", 1, "--spares", 0, "--output", "json", "--halt", rule]
    options += ["--journal", "none"] if journal == "none" else []
    run = stage.private("command", *options, "--shell", LINE % ended, ":::", *TEN).ends(code)
    states = [job["state"] for job in run.objects() if job["state"] != "cancelled"]
    assert len(states) == ended


@pytest.mark.parametrize("journal", [["--journal", "none"], []])
def test_what_is_done_and_went_well_ends_well(stage: Stage, journal: list[str]) -> None:
    line = "case {} in [12]) exit 0;; esac; exec sleep 600"
    options = ["--workers", "1", *journal, "--halt", "now,done=2"]
    stage.private("command", *options, "--shell", line, ":::", *TEN).ends(OK)


def test_poison(stage: Stage) -> None:
    """Failures do not count for it; a job that goes into quarantine does."""
    line = "case {} in 1) exit 3;; 2) kill -SEGV $$;; esac; exec sleep 600"
    options = ["--workers", 1, "--spares", 0, "--crash-limit", 1, "--output", "json", "--halt", "now,quarantined=1"]
    run = stage.private("command", *options, "--shell", line, ":::", *TEN).ends(HALTED)
    assert [job["state"] for job in run.objects()] == ["failed", "quarantined"]
    assert "Halting: 1 of 10 jobs went into quarantine" in run.stderr


def test_a_share_of_a_resumed_batch_is_of_the_jobs_that_are_left(stage: Stage, tmp_path: Path) -> None:
    """Of ten jobs one fails in the first run and nine are left: 20% of those are two."""
    flag = tmp_path / "second"
    line = f"test {{}} = 1 && exit 1; test -e {flag} || exec sleep 600; test {{}} -le 3 && exit 1; exec sleep 600"
    words = ["--workers", "1", "--spares", "0", "--shell", line, ":::", *TEN]
    stage.private("command", "--halt", "now,fail=1", *words).ends(HALTED)
    flag.touch()
    again = stage.private("command", "--resume", "--halt", "now,fail=20%", *words).ends(HALTED)
    assert "Halting: 2 of 9 jobs failed" in again.stderr


def test_a_share_of_a_pipe_is_judged_once_it_has_ended(stage: Stage) -> None:
    options = ["--workers", 1, "--spares", 0, "--halt", "now,fail=30%"]
    lines = "".join(f"{number}\n" for number in TEN).encode()
    run = stage.private("command", *options, "--shell", "test {} -gt 3 && exec sleep 600; false", stdin=lines)
    run.ends(HALTED)
    assert "Halting: 3 of 10 jobs failed" in run.stderr


def test_never(stage: Stage) -> None:
    stage.private("command", "--halt", "never", "--", "false", ":::", "1", "2").ends(FAILED)


def test_a_halt_that_was_not_reached_leaves_the_code_to_the_jobs(stage: Stage) -> None:
    line = "test {} = 1 && kill -SEGV $$; true"
    run = stage.private("command", "--crash-limit", 1, "--halt", "soon,fail=2", "--shell", line, ":::", "1", "2")
    run.ends(QUARANTINED)
