"""What a shell offers of pools, batches and jobs that are there."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from frozen import scripts
from support.harness import OK, Stage, programs_directory

SHELLS = {
    "bash": (
        ["bash", "-c"],
        """source "$1"; COMP_WORDS=({words} ""); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _tp_generator 2>/dev/null
        printf "%s\\n" "${{COMPREPLY[@]}}" """,
        "bash/tp-generator",
    ),
    "fish": (
        ["fish", "--no-config", "-c"],
        "source $argv[1]; complete -C '{words} '",
        "fish/tp-generator.fish",
    ),
}


def offers(stage: Stage, *words: object) -> list[str]:
    return stage.generator("--complete", *words).ends(OK).lines


@pytest.fixture
def batch(stage: Stage) -> str:
    """A batch of 12 jobs in the pool of the test."""
    stage.dealer("--workers", "1")
    stage.generator("fib", "1-12", "--pool", stage.pool, "--batch", "night", "--detach").ends(OK)
    return "night"


def test_pools_batches_and_jobs_are_offered(stage: Stage, batch: str) -> None:
    assert stage.pool in offers(stage, "pools", "", "")
    assert offers(stage, "pools", "", stage.pool[:-1]).count(stage.pool) == 1
    assert offers(stage, "batches", stage.pool, "") == [batch]
    assert offers(stage, "batches", stage.pool, "x") == []
    assert offers(stage, "jobs", stage.pool, "") == [f"{batch}/"]
    assert offers(stage, "jobs", stage.pool, "night/1") == [f"night/{number}" for number in (1, 10, 11, 12)]
    assert offers(stage, "jobs", stage.pool, "other/") == []


def test_a_kept_batch_is_offered(stage: Stage) -> None:
    stage.private("fib", "5").ends(OK)
    assert stage.pool in offers(stage, "kept", "", "")
    assert stage.pool not in offers(stage, "pools", "", "")


def test_without_a_pool_there_is_nothing_to_offer(stage: Stage) -> None:
    for words in (["batches", stage.pool], ["jobs", stage.pool, "b/"], ["batches", "NO POOL"], ["other"], []):
        asked = stage.generator("--complete", *words).ends(OK)
        assert (asked.stdout, asked.stderr) == ("", "")


def test_a_pool_that_does_not_answer_offers_nothing_soon(stage: Stage) -> None:
    dealer = stage.dealer("--workers", "1")
    dealer.send(SIGSTOP)
    try:
        begin = time.monotonic()
        assert offers(stage, "batches", stage.pool, "") == []
        assert time.monotonic() - begin < 10  # it waits for 0.3 s; an ordinary command for 5 s, and 60 s to come back
    finally:
        dealer.send(SIGCONT)


@pytest.mark.parametrize("shell", [pytest.param(each, marks=pytest.mark.needs_tool(each)) for each in SHELLS])
def test_shells_ask(stage: Stage, batch: str, shell: str, tmp_path: Path) -> None:
    scripts.load("completions/generate.py").write_all(tmp_path)
    start, code, file = SHELLS[shell]
    env = os.environ | {"PATH": f"{programs_directory()}{os.pathsep}{os.environ['PATH']}"}

    def offered(words: str) -> set[str]:
        command = [*start, code.format(words=words), *(["bash"] if shell == "bash" else []), str(tmp_path / file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        assert done.stderr == ""
        return {line.partition("\t")[0] for line in done.stdout.splitlines()}  # behind the tab is what it means

    assert batch in offered(f"tp-generator wait --pool {stage.pool}")
    assert f"{batch}/" in offered(f"tp-generator show --pool {stage.pool}")
    assert stage.pool in offered("tp-generator status --pool")
