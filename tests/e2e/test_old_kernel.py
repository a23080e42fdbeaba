"""A kernel that lacks a call, a sandbox that forbids one, a directory that is gone: what the programs say of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.harness import ENVIRONMENT, FAILED, OK, USAGE, Program, Stage, program


def under_strace(stage: Stage, call: str, error: str, *argv: str) -> Program:
    injected = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error={error}"]
    run = stage.start([*injected, *argv])
    if "strace: " in run.stderr:
        pytest.skip("strace may not trace here")
    return run


@pytest.mark.needs_tool("strace")
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize("call", ["pidfd_open", "pidfd_send_signal", "prctl", "mq_open", "mq_notify"])
@pytest.mark.parametrize("name", ["tp-generator", "tp-dealer"])
def test_the_call_the_need_and_the_cure_are_named(stage: Stage, name: str, call: str, error: str) -> None:
    arguments = {
        "tp-generator": ["fib", "--batch", stage.pool, "1"],
        "tp-dealer": ["--pool", stage.pool, "--metrics", "none", "--journal", "none"],
    }[name]
    run = under_strace(stage, call, error, program(name), *arguments).ends(ENVIRONMENT)
    said = "queue /tp" if call == "mq_notify" else call
    assert re.search(rf"{said}.* is refused here: .*Linux 5\.4.*seccomp", run.stderr), run.stderr


@pytest.mark.needs_tool("strace")
def test_a_job_that_needs_a_call_that_is_missing_says_so(stage: Stage, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.write_text('{"kind": "command", "argv": ["cat"], "stdin": "x"}\n')
    run = under_strace(
        stage, "memfd_create", "ENOSYS", program("tp-generator"), "jobs", "--batch", stage.pool, str(jobs)
    ).ends(FAILED)
    assert re.search(r"memfd_create\(2\).*Linux 5\.4", run.stderr), run.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fib", "5"], OK, ""),
        (["fib", "5", "--journal", "rel"], USAGE, "--journal rel: the current directory is gone"),
        (["fib", "5", "--results", "rel"], USAGE, "cannot write rel"),
        (["command", "--cwd", "/", "--", "pwd", ":::", ""], OK, ""),
        (["command", "--", "pwd", ":::", ""], USAGE, "the current directory is gone: cd elsewhere"),
        (["python", "--path", "/usr", "operator:neg"], OK, ""),
        (["python", "--path", "rel", "operator:neg"], USAGE, "the current directory is gone, and the path 'rel'"),
        (["jobs", "rel"], USAGE, "cannot read rel"),
        (["fib", "5", "--dry-run"], OK, ""),
    ],
)
def test_from_a_directory_that_is_gone(stage: Stage, tmp_path: Path, words: list[str], code: int, said: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(gone), program("tp-generator"), words[0]]
    run = stage.start([*command, "--batch", stage.pool, *words[1:]], stdin=b"[1]\n").ends(code)
    assert said in run.stderr
    assert "Errno" not in run.stderr
