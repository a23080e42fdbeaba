"""How many workers a text means, to whoever reads it: the generator refuses what the dealer would."""

from __future__ import annotations

import pytest

from taskpool.dealer.options import parse
from taskpool.errors import UsageError
from taskpool.procs.cpus import worker_count


@pytest.mark.parametrize(
    ("text", "workers"),
    [("3", 3), ("256", 256), ("50%", 4), ("1%", 1), ("200%", 16), ("+2", 10), ("+0", 8), ("0%", 1)],
)
def test_what_is_a_number_of_workers(text: str, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.procs.cpus.usable_cpus", lambda: 8)
    assert worker_count(text, 8) == parse([f"--workers={text}"], {}).workers == workers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("-3", "--workers -3: expected N, N% of the CPUs or \\+N beside them, 1 to 256 workers in all"),
        ("0", "--workers 0: that is 0 workers; expected"),
        ("257", "--workers 257: that is 257 workers; expected"),
        ("+249", "--workers \\+249: that is 257 workers"),
        ("+5%", "expected"),
        ("1.5", "expected"),
        ("", "expected"),
        ("9" * 5000, "expected"),
    ],
)
def test_what_is_none(text: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.procs.cpus.usable_cpus", lambda: 8)
    with pytest.raises(UsageError, match=says):
        worker_count(text, 8)
    with pytest.raises(UsageError, match=says):
        parse([f"--workers={text}"], {})
