"""A backup of the journal is put back under a generator that waits for its dealer: it is told, and gone on from."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from signal import SIGKILL, SIGTERM

from support.harness import OK, UNREACHABLE, Program, Stage, until
from support.ledger import Ledger


def journaled(stage: Stage) -> Program:
    return stage.dealer("--workers", 2, "--journal", stage.directory / "journal.db")


def stop(dealer: Program) -> None:
    dealer.send(SIGKILL)
    dealer.wait()


def copy(stage: Stage, source: str, target: str) -> None:
    """A journal with its -wal, in the place of what is there; its seal is made anew."""
    for ending in ("", "-wal"):
        path = stage.directory / f"{target}.db{ending}"
        path.unlink(missing_ok=True)
        if (found := stage.directory / f"{source}.db{ending}").exists():
            shutil.copy(found, path)
    (stage.directory / f"{target}.db.seal").unlink(missing_ok=True)


def run(stage: Stage, ledger: Ledger, *options: str) -> Program:
    command = ["command", "--pool", stage.pool, "--batch", "b", "--results", str(stage.directory / "results"), *options]
    return stage.generator(*command, "--", *ledger.command(""), stdin=subprocess.PIPE)


def feed(generator: Program, *names: str) -> None:
    assert generator.popen.stdin is not None
    generator.popen.stdin.write("".join(f"{name}\n" for name in names).encode())
    generator.popen.stdin.flush()


def results(stage: Stage) -> list[int]:
    path = stage.directory / "results"
    return [json.loads(line)["seq"] for line in path.read_text().splitlines()] if path.exists() else []


def test_the_text_says_what_it_has_and_resuming_submits_what_it_lacks(stage: Stage, ledger: Ledger) -> None:
    dealer = journaled(stage)
    generator = run(stage, ledger)
    feed(generator, "1", "2")
    until(lambda: sorted(results(stage)) == [1, 2], "two outcomes")
    stop(dealer)
    copy(stage, "journal", "backup")
    dealer = journaled(stage)
    feed(generator, "3", "4", "5")
    until(lambda: sorted(results(stage)) == [1, 2, 3, 4, 5], "five outcomes")
    stop(dealer)
    copy(stage, "backup", "journal")
    dealer = journaled(stage)
    said = generator.ends(UNREACHABLE).stderr
    assert "with an older journal: it has 2 of the 5 jobs that were accepted and 2 of the 5 outcomes" in said
    assert re.search(r"To resume: \S*tp-generator command", said)
    assert "are gone" not in said
    again = run(stage, ledger, "--resume")
    feed(again, "1", "2", "3", "4", "5", "6")
    assert again.popen.stdin is not None
    again.popen.stdin.close()
    assert "6 jobs: 6 succeeded (2 in earlier runs)" in again.ends(OK).stderr
    # What the journal lacked has run again, and nothing else has.
    assert ledger.jobs("end") == {"1": 1, "2": 1, "3": 2, "4": 2, "5": 2, "6": 1}
    assert sorted(results(stage)) == [1, 2, 3, 3, 4, 4, 5, 5, 6]
    dealer.send(SIGTERM)
    dealer.ends(OK)
