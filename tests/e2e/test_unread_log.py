"""A log that is not read, or cannot be written, stops neither a dealer nor a generator."""

from __future__ import annotations

import json
import os
from signal import SIGTERM

import pytest

from support.harness import OK, QUARANTINED, Stage, program, until
from support.pages import free_port, scrape, value
from support.unread import BROKEN, UNREAD, Make, opened, read_until

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
        found = scrape(port)
        dropped = value(found, "taskpool_log_lines_dropped_total")
        assert dropped > 0
        read_until(reader, f"{dropped:g} lines were dropped here: standard error was not read".encode())
        dealer.send(SIGTERM)
        read_until(reader, b"every accepted job is finished")
        dealer.ends(OK)


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
