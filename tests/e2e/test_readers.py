"""What can be asked of a batch and of a journal: the questions' own failures, and their end by a signal."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGPIPE, SIGTERM, Signals

import pytest

from support.harness import ENVIRONMENT, INTERRUPTED, OK, TERMINATED, USAGE, Program, Stage, kill, program, until

JOBS = 5


def journal(stage: Stage, action: str, *args: object, pool: str = "") -> Program:
    words = [program("tp-dealer"), "journal", action, "--pool", pool or stage.pool, *map(str, args)]
    return stage.start(words)


def state(pool: str) -> Path:
    return Path(os.environ["XDG_STATE_HOME"], "taskpool", pool)


def kept(stage: Stage) -> Program:
    """A dealer whose journal has a finished batch, `b`."""
    dealer = stage.dealer("--workers", 1, "--journal", state(stage.pool) / "journal.db")
    stage.generator("fib", f"1-{JOBS}", "--pool", stage.pool, "--batch", "b").ends(OK)
    return dealer


@contextmanager
def full_pipe() -> Iterator[int]:
    """A pipe that takes not one byte more, and is not read."""
    reader, writer = os.pipe()
    os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


def waits_for_ever(asked: Program) -> bool:
    """In poll(2) without a time-out: only for room. Its waits for the pool have one."""
    call = Path(f"/proc/{asked.pid}/syscall").read_text().split()
    return len(call) > 3 and call[0] == "7" and call[3].endswith("ffffffff")


@pytest.mark.parametrize(("number", "code"), [(SIGINT, INTERRUPTED), (SIGTERM, TERMINATED)])
@pytest.mark.parametrize("question", [["wait", "b"], ["logs", "b/1"], ["results", "b"]])
def test_a_question_whose_answer_nobody_reads_can_be_ended(
    stage: Stage, question: list[str], number: Signals, code: int
) -> None:
    kept(stage)
    with full_pipe() as unread:
        asked = stage.generator(*question, "--json", "--pool", stage.pool, stdout=unread)
        until(lambda: waits_for_ever(asked), "an answer that is stuck")
        asked.send(number)
        asked.ends(code)


def test_the_journal_of_a_pool_that_is_down(stage: Stage, tmp_path: Path) -> None:
    dealer = kept(stage)
    assert "is in use by the dealer that holds" in journal(stage, "check").ends(ENVIRONMENT).stderr
    dealer.send(SIGTERM)
    dealer.ends(OK)
    checked = journal(stage, "check").ends(OK)
    assert checked.stdout.startswith(f"1 batch, jobs: {JOBS} finished, {JOBS} outcomes, ")
    journal(stage, "backup", tmp_path / "copy.db").ends(OK)
    lines = [json.loads(line) for line in journal(stage, "export").ends(OK).lines]
    assert len(lines) == 1 + JOBS
    assert journal(stage, "prune", "--retain", "0").ends(OK).stdout == "1 batch is gone\n"
    assert journal(stage, "check").ends(OK).stdout.startswith("0 batches, jobs: none, 0 outcomes, ")
    copy = journal(stage, "check", "--journal", tmp_path / "copy.db").ends(OK)
    assert copy.stdout == checked.stdout, "what has gone since is in the copy"


def is_free(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("part", ["journal.db", "journal.db-wal"])
def test_the_journal_of_a_pool_that_was_killed_and_then_damaged(stage: Stage, part: str) -> None:
    """One bit: of the schema's text, or of the newest commits."""
    dealer = kept(stage)
    kill(dealer.pid)
    dealer.wait()
    # A worker that it was just starting holds the lock until its exec.
    until(partial(is_free, state(stage.pool) / "pool.lock"), "the pool's lock")
    place = state(stage.pool) / part
    data = bytearray(whole := place.read_bytes())
    at = data.find(b"DEFAULT") if part == "journal.db" else len(data) - 1000
    data[at] ^= 0x80
    place.write_bytes(data)
    named = "pages are not what was written" if part == "journal.db" else "journal.db-wal is broken"
    checked = journal(stage, "check").ends(ENVIRONMENT)
    assert named in checked.stdout + checked.stderr
    for words in (["journal", "export", "--pool", stage.pool], ["--pool", stage.pool]):
        asked = stage.start([program("tp-dealer"), *words]).ends(ENVIRONMENT)
        assert named in asked.stderr
        assert "Traceback" not in asked.stderr
    assert place.read_bytes() == data, "what is damaged is left as it is"
    place.write_bytes(whole)
    dealer = stage.start([program("tp-dealer"), "--pool", stage.pool, "--metrics", "none"])
    dealer.says(r"epoch \d+")
    stage.generator("results", "b", "--pool", stage.pool).ends(OK)
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_the_journal_of_a_pool_that_never_was(stage: Stage) -> None:
    pool = f"{stage.pool}-misspelt"
    asked = journal(stage, "check", pool=pool).ends(ENVIRONMENT)
    assert f"pool {pool} has no state in {state(pool)}: is --pool right?" in asked.stderr
    assert not state(pool).exists(), "a question leaves nothing behind"


@pytest.mark.parametrize("action", ["check", "export"])
def test_the_journal_tools_when_nobody_takes_what_they_say(stage: Stage, action: str) -> None:
    dealer = kept(stage)
    dealer.send(SIGTERM)
    dealer.ends(OK)
    words = [program("tp-dealer"), "journal", action, "--pool", stage.pool]
    with open("/dev/full", "wb") as full:
        failed = stage.start(words, stdout=full.fileno()).ends(ENVIRONMENT)
    assert failed.stderr == "tp-dealer: cannot write the output: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    silent = stage.start(words, stdout=writer).ends(-SIGPIPE)
    os.close(writer)
    assert silent.stderr == ""


def test_the_journal_tools_refuse_words_that_they_do_not_know(stage: Stage) -> None:
    kept(stage).send(SIGTERM)
    assert "--retain-batches -1" in journal(stage, "prune", "--retain-batches", -1).ends(USAGE).stderr
    assert "--retain" in journal(stage, "prune", "--retain", "soon").ends(USAGE).stderr
