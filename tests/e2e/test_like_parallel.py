"""The same command lines through GNU parallel and through ours: the same lines in the same order, and the same end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.harness import DEADLINE_SECONDS, FAILED, HALTED, OK, Stage, until
from support.parallel_cases import Case, cases, lay_out

CASES = list(cases())
SHARES = 24  # a test each, with a pool of its own
OWN_POOL = ("-j", "-P", "--jobs")  # these are for a private one


def parallel(case: Case, folder: Path) -> tuple[bytes, bool]:
    """What GNU parallel prints, and whether all went well."""
    done = subprocess.run(
        ["parallel", "--will-cite", "--keep-order", *case.words],
        input=case.stdin or b"",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={**os.environ, "PARALLEL_SHELL": "/bin/sh", "HOME": str(folder)},
        timeout=DEADLINE_SECONDS,
    )
    return done.stdout, done.returncode == 0


def ours(case: Case, stage: Stage, folder: Path) -> tuple[bytes, bool]:
    where = [] if any(word.startswith(OWN_POOL) for word in case.words) else ["--pool", stage.pool]
    options = [*where, "--keep-order", "-q", *(["--shell"] if case.shell else [])]
    run = stage.generator("command", *options, *case.words, stdin=case.stdin, cwd=folder)
    code = run.wait()
    assert code in (OK, FAILED, HALTED), run.stderr
    return run.stdout_bytes, code == OK


def offences(stage: Stage, share: list[Case], tmp_path: Path) -> Iterator[str]:
    folders = [tmp_path / "theirs", tmp_path / "ours"]
    for folder in folders:
        folder.mkdir()
        lay_out(folder)
    with ThreadPoolExecutor(1) as beside:
        for case in share:
            expected = beside.submit(parallel, case, folders[0])
            found = ours(case, stage, folders[1])
            if found != expected.result():
                yield f"{case}: GNU parallel gave {expected.result()}, ours {found}"


@pytest.mark.slow
@pytest.mark.needs_tool("parallel")
@pytest.mark.parametrize("number", range(SHARES))
def test_the_same_lines_and_the_same_end(stage: Stage, tmp_path: Path, number: int) -> None:
    dealer = stage.dealer("--workers", 2)
    found = list(offences(stage, CASES[number::SHARES], tmp_path))
    assert not found, "\n".join(found)
    stage.generator("drain", "--pool", stage.pool).ends(OK)
    until(lambda: dealer.popen.poll() is not None, "the dealer's end")


def test_there_are_enough_of_them() -> None:
    assert len(set(map(str, CASES))) == len(CASES) > 150
