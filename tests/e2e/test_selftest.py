"""`tp-generator selftest`: it passes here, and finds bugs that are planted into a copy of the package."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

import pytest

from support.harness import FAILED, OK, TERMINATED, USAGE, Program, Stage, until
from support.source_tree import PACKAGE

SECONDS = 400.0  # for what takes ten on an idle machine, and a minute when a job is lost
pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 100)]


class Edit(NamedTuple):
    """A few words of the package changed for others."""

    file: str
    old: str
    new: str


class Bug(NamedTuple):
    """What is changed, and what the verdict has to say of it."""

    edits: tuple[Edit, ...]
    check: str
    words: str


_FINISH = "        pool.commits.add(OutcomeRecorded(job.ordinal, batch.name, outcome), OutcomeStored(batch, outcome))\n"

BUGS = {
    "an outcome is recorded twice": Bug(
        (
            Edit(
                "core/completion.py",
                _FINISH,
                _FINISH
                + "        if job.spec.kind == 'fib':\n"
                + "            batch.numbered += 1\n"
                + "            outcome = structs.replace(outcome, no=batch.numbered)\n"
                + _FINISH.replace("        pool", "            pool"),
            ),
            # The journal would refuse it.
            Edit(
                "journal/coalesce.py",
                "        if isinstance(self.last.get(entry.ordinal), OutcomeRecorded):\n            raise",
                "        if isinstance(self.last.get(entry.ordinal), JobAccepted):\n            raise",
            ),
        ),
        "outcomes",
        "has 2 recorded outcomes",
    ),
    "an outcome is to be recorded twice, and the journal refuses it": Bug(
        (Edit("core/completion.py", _FINISH, _FINISH + _FINISH),),
        "end",
        "has a second outcome of one run",
    ),
    "a crash is not retried": Bug(
        (
            Edit(
                "core/completion.py",
                "        elif quarantines(job, blamed_alone=blamed_alone):\n",
                "        elif quarantines(job, blamed_alone=blamed_alone) or job.spec.label.startswith('segv'):\n",
            ),
        ),
        "results",
        "was given up after 1 crash",
    ),
    "a crash has no limit": Bug(
        (
            Edit(
                "core/completion.py",
                "        elif quarantines(job, blamed_alone=blamed_alone):\n",
                "        elif quarantines(job, blamed_alone=blamed_alone) and job.spec.label != 'poison':\n",
            ),
        ),
        "end",
        "job poison is executed again and again",
    ),
    "a job is lost with its dealer": Bug(
        (
            Edit(
                "core/completion.py",
                "        else:\n            self._return(job)\n\n    def cancel_waiting",
                "        else:\n            del self._pool.jobs[job.ordinal]\n\n    def cancel_waiting",
            ),
        ),
        "outcomes",
        "has no outcome: it is lost",  # what it did before depends on when the dealer was killed
    ),
}


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a self-test keeps, and what it leaves, is seen here."""
    for name, variable in (("state", "XDG_STATE_HOME"), ("tmp", "TMPDIR")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    yield
    # A bug may be that something is left: it must not be the next test's.
    for batch in (tmp_path / "state" / "taskpool").glob("selftest-*"):
        shutil.rmtree(batch)


def left_in(tmp_path: Path) -> list[Path]:
    pools = tmp_path / "state" / "taskpool"
    return [*(tmp_path / "tmp").iterdir(), *(pools.iterdir() if pools.exists() else ())]


def verdict(asked: Program) -> dict[str, Any]:
    return json.loads(asked.stdout)  # type: ignore[no-any-return]


def wrong(told: dict[str, Any]) -> dict[str, list[str]]:
    return {check["check"]: check["problems"] for check in told["checks"] if not check["ok"]}


def test_it_passes_here_and_leaves_nothing(stage: Stage, tmp_path: Path) -> None:
    asked = stage.generator("selftest", "--json", "--seed", "7")
    asked.ends(OK, SECONDS)
    told = verdict(asked)
    assert told["verdict"] == "passed"
    assert wrong(told) == {}
    assert told["seed"] == 7
    assert told["kills"] == {"worker SIGKILL": 2, "worker SIGSEGV": 2, "dealer SIGKILL": 2}
    assert told["outcomes"] == told["jobs"] > 50
    assert told["executions"] > told["jobs"]
    assert told["crashes_of_jobs"] >= 3 * 7 + 2, "three times in each round and the one behind; and the poison job"
    assert left_in(tmp_path) == []


def test_people_are_told_in_plain_words(stage: Stage) -> None:
    asked = stage.generator("selftest", "--rounds", "3")
    asked.ends(OK, SECONDS)
    lines = asked.stdout.splitlines()
    assert lines[-1].startswith("PASSED in ")
    assert lines[-1].endswith(": nothing was lost, doubled or left behind.")
    assert all(line.startswith("ok ") for line in lines[:-2])
    assert "Self-test with seed " in asked.stderr


def test_settings_of_the_user_do_not_change_it(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "taskpool.toml").write_text("timeout = '1ms'\n")
    env = {"TP_RETRIES": "0", "TP_POOL": "none-such", "TP_DEALER_CHAOS": "crash=1"}
    stage.generator("selftest", "--rounds", "3", env=env, cwd=tmp_path).ends(OK, SECONDS)


@pytest.mark.parametrize("option", ["--seed=-1", "--seed=x", "--rounds=2", "--rounds=16", "--patience=never"])
def test_wrong_values_are_refused(stage: Stage, option: str) -> None:
    name, _, value = option.partition("=")
    asked = stage.generator("selftest", option).ends(USAGE)
    assert name in asked.stderr
    assert value in asked.stderr


def test_a_signal_ends_it_and_leaves_nothing(stage: Stage, tmp_path: Path) -> None:
    asked = stage.generator("selftest", "-v")
    asked.says("Sent SIG")
    asked.send(SIGTERM)
    asked.ends(TERMINATED, SECONDS)
    until(lambda: left_in(tmp_path) == [], "its state and its records to be gone")
    assert asked.stdout == ""


@pytest.mark.skipif("TASKPOOL_BIN" in os.environ, reason="bugs are planted into sources")
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_and_named(stage: Stage, tmp_path: Path, name: str) -> None:
    bug = BUGS[name]
    shutil.copytree(PACKAGE, tmp_path / "lib" / "taskpool", ignore=shutil.ignore_patterns("__pycache__"))
    for edit in bug.edits:
        path = tmp_path / "lib" / "taskpool" / edit.file
        assert path.read_text().count(edit.old) == 1, f"{name}: {edit.file} is not what it was"
        path.write_text(path.read_text().replace(edit.old, edit.new))
    # Patience decides when a job is given up that never comes: the machine may be slow, and it is not the test's point.
    words = ["selftest", "--json", "--rounds", "3", "--seed", "1", "--patience", "20s"]
    asked = stage.generator(*words, env={"PYTHONPATH": str(tmp_path / "lib"), "PYTHONDONTWRITEBYTECODE": "1"})
    asked.ends(FAILED, SECONDS)
    told = verdict(asked)
    assert told["verdict"] == "failed"
    assert any(bug.words in problem for problem in wrong(told)[bug.check]), wrong(told)
    assert wrong(told).get("left", []) == []
    assert Path(told["kept"], "lines").exists(), "what it was judged by is kept"
