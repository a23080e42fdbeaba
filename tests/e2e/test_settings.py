"""Settings below the flags, as people have them: variables, a project's file, their own."""

from __future__ import annotations

import json
from pathlib import Path
from signal import SIGHUP, SIGINT
from typing import Any

import pytest

from support.harness import ENVIRONMENT, FAILED, INTERRUPTED, OK, USAGE, Stage, program
from support.ledger import Ledger


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project" / "sub").mkdir(parents=True)
    return tmp_path / "project"


def settings_of(stage: Stage, cwd: Path, *words: str, **how: Any) -> dict[str, list[str]]:
    found = json.loads(stage.generator("config", "--json", *words, cwd=cwd, **how).ends(OK).stdout)
    return {key: [setting["value"], setting["source"]] for key, setting in found.items()}


def test_the_nearer_setting_wins_and_its_origin_is_told(stage: Stage, project: Path, tmp_path: Path) -> None:
    own = tmp_path / "config" / "taskpool" / "taskpool.toml"
    own.parent.mkdir(parents=True)
    own.write_text('timeout = "1s"\nretries = 1\npriority = 1\n')
    file = project / "taskpool.toml"
    file.write_text('retries = 2\npriority = 2\nworker_exec = "bin/tp-worker"\n')
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "TP_PRIORITY": "3"}
    assert settings_of(stage, project / "sub", env=env) == {
        "timeout": ["1s", str(own)],
        "retries": ["2", str(file)],
        "priority": ["3", "TP_PRIORITY"],
        "worker_exec": [str(project / "bin" / "tp-worker"), str(file)],
    }
    assert list(settings_of(stage, project / "sub", "--config", "none", env=env)) == ["priority"]
    assert settings_of(stage, project, "--config", str(own))["priority"] == ["1", str(own)]


def test_a_setting_is_in_force_and_a_flag_changes_it(stage: Stage, project: Path) -> None:
    (project / "taskpool.toml").write_text('timeout = "0.2s"\noutput = "json"\n')
    run = stage.private("command", "--", "sleep", ":::", "60", cwd=project).ends(FAILED)
    assert run.objects()[0]["state"] == "timed-out"
    stage.generator("command", "--timeout", "1h", "--output", "value", "--", "echo", ":::", "a", cwd=project).ends(OK)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('tiemout = "5s"', "unknown name 'tiemout'; did you mean timeout?"),
        ('batch = "b"', "batch: --batch is about one run"),
        ('progress = "loud"', "progress: expected auto or bar or plain or json or none, got 'loud'"),
        ('keep_order = "perhaps"', "keep_order: expected true or false, got 'perhaps'"),
        ('retries = "x"', "retries: expected an integer, got 'x'"),
        ('timeout = "5x"', "timeout = '5x' is from"),
        ('timeout = "5x"', "taskpool.toml: change it there, or give --timeout)"),
        (
            "workers = -3",
            "--workers -3: expected N, N% of the CPUs or +N beside them, 1 to 256 workers in all (workers =",
        ),
        (
            "workers = 1000",
            "that is 1000 workers; expected N, N% of the CPUs or +N beside them, 1 to 256 workers in all",
        ),
        ("spares = 65", "--spares 65: expected 0 to 64 workers that are kept ready (spares = '65' is from"),
        ('delay = "soon"', "got 'soon' (delay = 'soon' is from"),
        ('metrics = "x"', "--metrics=x is from"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_file(stage: Stage, project: Path, text: str, expected: str) -> None:
    (project / "taskpool.toml").write_text(text)
    run = stage.private("fib", "5", cwd=project).ends(USAGE)
    assert expected in run.stderr
    assert str(project / "taskpool.toml") in run.stderr
    assert run.stdout == ""


def test_a_path_of_a_setting_that_is_wrong_is_told_with_its_file(stage: Stage, project: Path) -> None:
    """Only the dealer can tell, which has read no file."""
    (project / "taskpool.toml").write_text('worker_exec = "/nowhere/tp-worker"\nspares = 2\n')
    run = stage.private("fib", "5", cwd=project).ends(ENVIRONMENT)
    assert "cannot start the worker /nowhere/tp-worker (--worker-exec)" in run.stderr
    assert f"--worker-exec=/nowhere/tp-worker is from {project / 'taskpool.toml'}" in run.stderr
    assert "--spares" not in run.stderr


def test_a_file_that_all_can_write_is_not_used_and_told(stage: Stage, project: Path) -> None:
    (project / "taskpool.toml").write_text('output = "json"')
    (project / "taskpool.toml").chmod(0o646)
    run = stage.private("fib", "5", cwd=project).ends(OK)
    assert run.stdout == "5\n"
    assert "taskpool.toml is not used: every user can write it" in run.stderr


def test_commands_take_the_pool_and_a_private_dealers_settings_do_not_disturb(stage: Stage, project: Path) -> None:
    (project / "taskpool.toml").write_text(f'pool = "{stage.pool}"\nworkers = 1\njournal_sync = "normal"\n')
    stage.dealer("--workers", "1")
    assert stage.generator("fib", "5", cwd=project).ends(OK).stdout == "5\n"
    status = json.loads(stage.generator("status", "--json", cwd=project).ends(OK).stdout)
    assert status["pool"] == stage.pool
    run = stage.generator("fib", "5", "-j", "1", cwd=project).ends(USAGE)
    assert f"pool = '{stage.pool}' is from {project / 'taskpool.toml'}" in run.stderr


@pytest.mark.parametrize("how", ["resume", "typed again"])
def test_a_batch_goes_on_with_the_settings_of_its_beginning(
    stage: Stage, ledger: Ledger, project: Path, tmp_path: Path, how: str
) -> None:
    (project / "taskpool.toml").write_text('workers = 1\noutput = "json"\nretries = 1\n')
    words = ["command", "--batch", stage.pool, "-v", "--", "sh", "-c", 'exec "$@"', "sh", *ledger.command("gate")]
    words += [":::", "a", "b"]
    with ledger.gate():
        run = stage.generator(*words, cwd=project)
        ledger.wait("start", 1)
        run.send(SIGINT)
        run.says(r"\[Dealer\] Draining: ")
    run.ends(INTERRUPTED)
    (project / "taskpool.toml").write_text('output = "value"\ntimeout = "0.01s"\n')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if how == "resume":
        again = stage.generator("resume", stage.pool, cwd=elsewhere).ends(OK)
    else:
        again = stage.generator(words[0], "--resume", *words[1:], cwd=project).ends(OK)
    assert [outcome["state"] for outcome in again.objects()] == ["succeeded"]


def test_hup_names_what_needs_a_restart(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "pool.toml"
    file.write_text("workers = 1\nspares = 1\n")
    options = ["--pool", stage.pool, "--metrics", "none", "--journal", "none", "--config", str(file)]
    dealer = stage.start([program("tp-dealer"), *options])
    dealer.says("Worker PID|ready|Serving|Pool")
    file.write_text('workers = 2\nspares = 0\nretain = "1h"\n')
    dealer.send(SIGHUP)
    dealer.says(r"Configuration reloaded: 2 workers")
    dealer.says(r"not applied until this dealer is restarted: --spares, --retain$")


def test_a_misspelt_variable_is_refused(stage: Stage) -> None:
    run = stage.private("fib", "5", env={"TP_TIMEOUTS": "1s"}).ends(USAGE)
    assert "TP_TIMEOUTS: no such setting; did you mean TP_TIMEOUT?" in run.stderr
