"""One dealer for a pool, whoever asks; and what a generator hears when there is none."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM

from e2e.harness import OK, UNREACHABLE, Stage, program


def test_a_second_dealer_is_told_who_holds_the_pool(stage: Stage) -> None:
    first = stage.dealer("--workers", 1)
    second = stage.dealer(ready=0).ends(UNREACHABLE)
    assert f"pool {stage.pool} is in use by pid {first.pid} since " in second.stderr
    first.send(SIGTERM)
    first.ends(OK)


def test_a_second_dealer_with_another_state_directory_is_refused_too(stage: Stage, tmp_path: Path) -> None:
    first = stage.dealer("--workers", 1)
    second = stage.dealer(ready=0, env={"XDG_STATE_HOME": str(tmp_path / "other")}).ends(UNREACHABLE)
    assert f"pool {stage.pool} is in use by a dealer of this IPC namespace" in second.stderr
    assert stage.ask("status")["pid"] == first.pid  # and nothing was taken from the first
    first.send(SIGTERM)
    first.ends(OK)


def test_a_generator_without_a_dealer(stage: Stage) -> None:
    run = stage.generator("fib", "20", "--pool", stage.pool, "--dealer-timeout", "0.5s").ends(UNREACHABLE)
    assert repr(stage.pool) in run.stderr
    assert f"tp-dealer --pool {stage.pool}" in run.stderr
    assert "Queues belong to an IPC namespace" in run.stderr


def test_a_question_without_a_dealer(stage: Stage) -> None:
    run = stage.generator("status", "--pool", stage.pool, "--dealer-timeout", "0.5s").ends(UNREACHABLE)
    assert repr(stage.pool) in run.stderr
    assert run.stdout == ""


def test_health(stage: Stage) -> None:
    ask = [program("tp-dealer"), "--pool", stage.pool, "--health"]
    assert "no dealer for pool" in stage.start(ask).ends(UNREACHABLE).stderr
    dealer = stage.dealer("--workers", 1)
    assert f"PID {dealer.pid}" in stage.start(ask).ends(OK).stderr
    dealer.send(SIGTERM)
    dealer.ends(OK)
    stage.start(ask).ends(UNREACHABLE)
