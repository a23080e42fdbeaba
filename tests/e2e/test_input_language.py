"""What the input language of GNU parallel meets here and not there: going on with a batch, pipes, files of output."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from signal import SIGINT

import pytest

from support.harness import INTERRUPTED, OK, USAGE, Stage, until
from support.ledger import Ledger

NAMES = [f"j{number}" for number in range(1, 9)]


@pytest.mark.parametrize("how", [["--shuf"], ["--header", ":", "--shuf"], ["-L1"]], ids=" ".join)
def test_the_printed_command_goes_on_from_anywhere(
    stage: Stage, ledger: Ledger, tmp_path: Path, how: list[str]
) -> None:
    """The order is the same again, and so are the numbers that outcomes are known by."""
    (tmp_path / "names").write_text("\n".join([*(["name"] if "--header" in how else []), *NAMES]))
    words = ["--tag", "--keep-order", "--workers", 2, *how, "-a", "names", "--", *ledger.command("gate")]
    with ledger.gate():
        run = stage.private("command", "--drain-timeout", "40s", "-v", *words, cwd=tmp_path)
        ledger.wait("start", 2)
        run.send(SIGINT)
        run.says("Draining")
    run.ends(INTERRUPTED)
    assert 2 <= len(ledger.jobs("end")) < len(NAMES)
    again = stage.start(shlex.split(run.says(r"To resume: (.*)$")[1]), cwd=Path("/")).ends(OK)
    assert ledger.jobs("start") == dict.fromkeys(NAMES, 1)
    assert again.stdout == ""  # these jobs print nothing, so there is no line that a tag could begin


def test_one_line_of_a_pipe_makes_jobs_at_once(stage: Stage) -> None:
    """Before the next line comes, all combinations of the first have run."""
    reader, writer = os.pipe()
    try:
        run = stage.private(
            "command", "-k", "--tag", "--", "echo", "{1}{2}", "::::", "-", ":::", "a", "b", stdin=reader
        )
        os.write(writer, b"1\n2")
        until(lambda: run.lines == ["1 a\t1a", "1 b\t1b"], "the jobs of the first line")
    finally:
        os.close(reader)
        os.close(writer)
    assert run.ends(OK).lines == ["1 a\t1a", "1 b\t1b", "2 a\t2a", "2 b\t2b"]


def test_each_line_of_a_large_output_has_its_tag(stage: Stage) -> None:
    run = stage.private("command", "-k", "--tag", "--", "seq", "{1}", "{2}", ":::", "1", ":::", "30000", "2").ends(OK)
    assert run.lines == [f"1 {last}\t{number}" for last in (30000, 2) for number in range(1, last + 1)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["echo {} | wc", ":::", "a"], "did you mean --shell?"),
        (["--pipe-part", "cat"], "--pipe-part is GNU parallel's and not supported here"),
        (["--keeporder", "echo"], "--keeporder is spelt --keep-order here"),
        (["echo", "{3}", ":::", "a"], "{3}: a job has 1 argument"),
    ],
)
def test_nothing_runs_of_what_is_refused(stage: Stage, words: list[str], said: str) -> None:
    run = stage.private("command", *words).ends(USAGE)
    assert said in run.stderr
    assert run.stdout == ""
