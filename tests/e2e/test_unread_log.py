"""A log that is not read, or cannot be written, stops neither a dealer nor a generator."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGQUIT, SIGTERM, Signals

import pytest

from support.harness import FAILED, INTERRUPTED, OK, QUARANTINED, TERMINATED, Program, Stage, program, until
from support.ledger import Ledger
from support.pages import free_port, scrape, value
from support.unread import BROKEN, UNREAD, Make, full_pipe, opened, read_until, stopped_terminal, stream_socket

CRASHING = 500  # jobs; with two crashes each, their lines are more than the pipe and the dealer hold
CRASH_LIMIT = 2


def healthy(stage: Stage) -> bool:
    return stage.start([program("tp-dealer"), "--health", "--pool", stage.pool]).wait() == OK


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_crashes_beside_a_log_that_is_not_read(stage: Stage, fmt: str) -> None:
    port = free_port()
    options = ["--workers", 2, "--metrics", f"127.0.0.1:{port}", "--log-format", fmt]
    with opened(os.pipe) as (reader, writer):
        dealer = stage.dealer(*options, ready=0, stderr=writer)
        until(lambda: healthy(stage), "a dealer that answers")
        jobs: list[dict[str, object]] = [{"kind": "command", "argv": ["sh", "-c", "kill -SEGV $$"]}] * CRASHING
        # These take their workers along:
        jobs += [{"kind": "python", "call": "ctypes:string_at", "args": [0]}] * 5
        jobs += [{"kind": "fib", "n": 20}]
        text = "\n".join(json.dumps(job | {"crash_limit": CRASH_LIMIT}) for job in jobs).encode()
        run = stage.generator("jobs", "--pool", stage.pool, "--output", "json", "-q", "-", stdin=text)
        run.ends(QUARANTINED)
        outcomes = run.objects()
        assert len(outcomes) == len(jobs)
        assert sum(job["crashes"] for job in outcomes) == (len(jobs) - 1) * CRASH_LIMIT
        assert stage.ask("status")["finished"]["succeeded"] == 1
        assert healthy(stage)
        dropped = until(partial(drops, stage, port), "a line that is dropped")
        lines = read_until(reader, b"lines were dropped here: standard error was not read")
        count = re.search(rb"(\d+) lines were dropped", b"".join(lines))
        assert count is not None
        assert int(count[1]) >= dropped
        dealer.send(SIGTERM)
        read_until(reader, b"every accepted job is finished")
        dealer.ends(OK)


def drops(stage: Stage, port: int) -> float:
    """Have some more lines written, which are kept for a moment; return how many were dropped so far."""
    stage.generator("fib", "--repeat", 5, "10", "--pool", stage.pool).ends(OK)
    return value(scrape(port), "taskpool_log_lines_dropped_total")


@pytest.mark.parametrize("make", [*UNREAD, *BROKEN])
def test_a_dealer_is_told_to_leave_beside_such_a_log(stage: Stage, make: Make) -> None:
    with opened(make) as (_, writer):
        # Job lines of the workers, too, more than there is room for.
        dealer = stage.dealer("--workers", 2, "--chaos", "crash=0.2,seed=1", ready=0, stderr=writer)
        until(lambda: healthy(stage), "a dealer that answers")
        run = stage.generator("fib", "--repeat", 60, "10", "--pool", stage.pool, "--crash-limit", "unlimited")
        assert run.ends(OK).lines == ["55"] * 60
        dealer.send(SIGTERM)
        dealer.ends(OK)


# --- a generator, its private dealer and their workers: one standard error for all --------------------------


FORMATS = [(full_pipe, "json"), *((make, "text") for make in (full_pipe, stopped_terminal, stream_socket, *BROKEN))]


@pytest.mark.parametrize(("make", "fmt"), FORMATS)
def test_time_outs_beside_such_a_log(stage: Stage, tmp_path: Path, make: Make, fmt: str) -> None:
    results = tmp_path / "results"
    with opened(make) as (_, writer):
        options = ["--workers", 2, "--timeout", "1s", "--results", results, "-v", "--log-format", fmt]
        run = stage.private("command", *options, "--", "sleep", ":::", *["3600"] * 3, stderr=writer)
        run.ends(FAILED)
    outcomes = [json.loads(line) for line in results.read_text().splitlines()]
    assert [job["state"] for job in outcomes] == ["timed-out"] * 3


def told(run: Program, number: Signals) -> int:
    """How it ends when it is told to: once, but by INT as often as it takes, because the first waits for the jobs."""

    def ended() -> bool:
        if run.popen.poll() is not None:
            return True
        run.send(number)
        return False

    if number is SIGINT:
        until(ended, "the generator's end", 40)
    else:
        run.send(number)
    return run.wait(40)


SIGNALS = [(SIGINT, INTERRUPTED), (SIGTERM, TERMINATED), (SIGQUIT, TERMINATED)]


def pairs(pipe: Make) -> list[tuple[Make, Signals, int]]:
    """Each signal beside a pipe, and the first beside the other kinds."""
    return [(pipe, *each) for each in SIGNALS] + [(make, *SIGNALS[0]) for make in (stopped_terminal, stream_socket)]


@pytest.mark.parametrize(("make", "number", "code"), pairs(full_pipe))
def test_signals_beside_a_log_that_is_not_read(
    stage: Stage, ledger: Ledger, make: Make, number: Signals, code: int
) -> None:
    with opened(make) as (_, writer):
        command = ["--journal", "none", "--drain-timeout", "0.2s", "--", *ledger.command("sleep=3600"), ":::", "a", "b"]
        run = stage.private("command", "--workers", 2, *command, "-v", stderr=writer)
        ledger.wait("start", 2)
        assert told(run, number) in (code, -number)  # the last one may come when it hears no signals any more


@pytest.mark.parametrize(("make", "number", "code"), pairs(os.pipe))
def test_signals_beside_output_that_is_not_read(stage: Stage, make: Make, number: Signals, code: int) -> None:
    """Output waits for its reader; what does not wait is the log, the time-outs, and the end when it is told to."""
    jobs = ["200000"] * 3 + ["3600"]
    script = "if [ $0 = 3600 ]; then sleep $0; else seq $0; fi"
    with opened(make) as (_, writer):
        options = ["--workers", 2, "--timeout", "2s", "--drain-timeout", "0.2s", "-v"]
        run = stage.private("command", *options, "--", "sh", "-c", script, ":::", *jobs, stdout=writer)
        run.says("Job 4 .*timed-out on worker")
        assert told(run, number) in (code, -number)
    # What was not written was not acknowledged.
    again = stage.private("command", *options, "--resume", "--", "sh", "-c", script, ":::", *jobs).ends(FAILED)
    assert len(again.lines) >= 200_000


@pytest.mark.parametrize("option", ["--joblog", "--results"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signals_beside_a_file_of_outcomes_that_is_a_pipe_and_not_read(
    stage: Stage, tmp_path: Path, option: str, number: Signals, code: int
) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    options = ["--timeout", "2s", "--drain-timeout", "0.2s", "--journal", "none", "-v", option, path]
    script = 'if [ "$0" = 3600 ]; then sleep "$0"; fi; echo "$0"'
    run = stage.private("command", *options, "--", "sh", "-c", script, ":::", *["x" * 20_000] * 20, "3600")
    run.says("Job 21 .*timed-out on worker")
    assert told(run, number) in (code, -number)
    os.close(reader)
