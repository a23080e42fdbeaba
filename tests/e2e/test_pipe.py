"""`--pipe`: what is cut, and what stays in memory. Where it is cut is compared with GNU parallel in
test_like_parallel."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import pytest

from support.harness import FAILED, HALTED, OK, USAGE, Stage, until

LINES = b"".join(b"line %07d of an input that is cut\n" % number for number in range(100_000))  # 3.8 MB
INPUT_BYTES = 200_000_000
UNJOURNALED_BYTES = 50_000_000  # what a pool without a journal takes at least
MEMORY_BYTES = 130_000_000


@pytest.mark.parametrize("source", ["pipe", "file"])
def test_nothing_is_lost_or_out_of_order(stage: Stage, tmp_path: Path, source: str) -> None:
    path = tmp_path / "input"
    path.write_bytes(LINES)
    options = ["--pipe", "--block", "100k", "--keep-order"]
    if source == "pipe":
        run = stage.private("command", *options, "cat", stdin=LINES).ends(OK)
    else:
        run = stage.private("command", *options, "-a", str(path), "cat").ends(OK)
    assert hashlib.sha256(run.stdout_bytes).digest() == hashlib.sha256(LINES).digest()
    assert "38 jobs: 38 succeeded" in run.stderr


def test_jobs_begin_before_the_input_has_ended(stage: Stage) -> None:
    reader, writer = os.pipe()
    run = stage.private("command", "--pipe", "-N", "1", "--block", "4", "cat", stdin=reader)
    os.close(reader)
    os.write(writer, b"a\nb\n")  # a block
    until(lambda: run.stdout.count("\n") == 2, "the first jobs' output")
    os.write(writer, b"c")
    os.close(writer)
    run.ends(OK)
    assert sorted(run.stdout.split()) == ["a", "b", "c"]


@pytest.mark.parametrize("journal", ["kept", "none"])
def test_an_input_larger_than_its_memory(stage: Stage, tmp_path: Path, journal: str) -> None:
    """With a job log, too, which knows each job until it ends; and no worker takes any. A pool with a journal takes
    it all; one without takes what it has memory for."""
    path = tmp_path / "journal"
    dealer = stage.dealer("--workers", 1, *(["--journal", path] if journal == "kept" else []))
    stage.generator("pause", "--pool", stage.pool).ends(OK)
    reader, writer = os.pipe()
    words = ["--pool", stage.pool, "--pipe", "--recend", "", "--joblog", "/dev/null", "--batch", "big"]
    run = stage.generator("command", *words, "true", stdin=reader)
    os.close(reader)
    os.set_blocking(writer, False)
    left = INPUT_BYTES

    def taken() -> bool:
        nonlocal left
        with suppress(BlockingIOError):
            while left > 0:
                left -= os.write(writer, bytes(65536))
        return left <= 0 or (journal == "none" and INPUT_BYTES - left > UNJOURNALED_BYTES)

    until(taken, "the input to be read")
    assert most_bytes(run.pid) < MEMORY_BYTES
    assert most_bytes(dealer.pid) < 2 * MEMORY_BYTES
    os.close(writer)
    stage.generator("cancel", "big", "--pool", stage.pool).ends(OK)
    run.popen.terminate()
    run.wait()


def most_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)


def test_a_resumed_batch_has_the_same_blocks(stage: Stage) -> None:
    options = ["--pipe", "--block", "100k", "--halt", "now,fail=1", "--workers", "1"]
    line = 'test "$TP_SEQ" = 3 && exit 1; wc -c'
    stage.private("command", *options, "--shell", line, stdin=LINES).ends(HALTED)
    again = stage.private("command", "--resume", *options, "--shell", line, stdin=LINES).ends(FAILED)
    assert "38 jobs: 37 succeeded, 1 failed" in again.stderr
    changed = stage.private("command", "--resume", *options, "--shell", line, stdin=LINES[1:]).ends(USAGE)
    assert "the input has changed" in changed.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--block", "1M", "cat"], "--block needs --pipe"),
        (["--pipe", "--block", "10M", "cat"], "--block: expected 1 to"),
        (["--pipe", "--block", "0", "cat"], "--block: expected 1 to"),
        (["--pipe", "-N0", "cat"], "expected 1 record or more"),
        (["--pipe", "-L2", "cat"], "-N N makes blocks of N records"),
        (["--pipe", "--header", ".*", "cat"], "--header: expected :"),
        (["--pipe", "cat", ":::", "a"], "takes no arguments behind :::"),
        (["--pipe"], "expected a program"),
    ],
)
def test_wrong_options(stage: Stage, words: list[str], says: str) -> None:
    assert says in stage.private("command", *words, stdin=b"a\n").ends(USAGE).stderr


def test_a_record_that_is_too_long(stage: Stage) -> None:
    run = stage.private("command", "--pipe", "wc", "-c", stdin=b"x\n" + b"y" * 9_000_000).ends(USAGE)
    assert "--recend, --recstart" in run.stderr
