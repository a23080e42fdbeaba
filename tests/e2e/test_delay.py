"""`--delay`: starts are apart, whatever makes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from support.harness import FAILED, OK, USAGE, Stage

DELAY_SECONDS = 0.2


def check_apart(objects: list[dict[str, Any]]) -> None:
    """The dealer sends each attempt so long after it has heard of the start before. When a worker that it has told
    looks at its clock is its own matter; but none looks before that, so the sum of the pauses always lies between."""
    moments = {each["started_at"] for job in objects for each in (*job["tries"], job)}  # a failed job's last is in both
    starts = sorted(datetime.fromisoformat(moment) for moment in moments)
    first = min(datetime.fromisoformat(job["queued_at"]) for job in objects)
    for number, start in enumerate(starts):
        assert (start - first).total_seconds() >= number * DELAY_SECONDS, (number, starts)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["command", "--", "true", ":::", *"abcde"], OK),
        (["command", "--retries", "2", "--backoff", "0.01s", "--", "false", ":::", *"ab"], FAILED),
        (["command", "--crash-limit", "unlimited", "--chaos", "crash=0.5,seed=3", "--", "true", ":::", *"abcd"], OK),
        (["fib", "1-6"], OK),  # so short that they would share a frame
    ],
)
def test_starts_are_apart(stage: Stage, words: list[str], code: int) -> None:
    options = ["--workers", "4", "--delay", f"{DELAY_SECONDS}s", "--output", "json"]
    run = stage.private(words[0], *options, *words[1:]).ends(code)
    check_apart(run.objects())


def test_a_named_pool_keeps_its_own_over_all_batches(stage: Stage) -> None:
    stage.dealer("--workers", 4, "--delay", f"{DELAY_SECONDS}s")
    words = ["--pool", stage.pool, "--output", "json", "--", "true", ":::", "a", "b", "c"]
    runs = [stage.generator("command", "--batch", batch, *words) for batch in ("one", "two")]
    check_apart([job for run in runs for job in run.ends(OK).objects()])
    refused = stage.generator("command", "--delay", "1s", *words).ends(USAGE)
    assert "--delay is for a private pool" in refused.stderr
