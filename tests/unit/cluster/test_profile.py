"""Whether the brokers keep what they accept."""

from __future__ import annotations

import re
from typing import Any

import pytest

from taskpool.cluster.profile import Kept, judge_stream, judge_sync, judge_version, refusal
from taskpool.cluster.subjects import Names

JOBS, OUT, DEAD = Names("render").streams()


@pytest.mark.parametrize(
    ("version", "is_good"),
    [
        ("2.12.3", True),
        ("<nats server v2.15.1>", True),
        ("3.0.0", True),
        ("2.12.2", False),
        ("2.9.10", False),
        ("2.2.30", False),
        ("unknown", False),
    ],
)
def test_the_version_of_a_broker(version: str, is_good: bool) -> None:
    found = judge_version(version)
    assert (not found) is is_good
    assert all("2.12.3" in finding.text for finding in found)


def kept(**changes: Any) -> Kept:
    told = {"name": JOBS.name, "replicas": 3, "on_disk": True, "retention": "workqueue", "per_subject": 1}
    return Kept(**{**told, "refuses_second": True, **changes})


def test_a_stream_as_it_is_made() -> None:
    assert judge_stream(kept(), JOBS) == []
    assert judge_stream(kept(name=OUT.name, retention="limits", replicas=5), OUT) == []
    assert DEAD.per_subject == 1


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"replicas": 1}, r"has 1 of 3 copies.*run 3 brokers"),
        ({"on_disk": False}, "kept in memory"),
        ({"retention": "interest"}, "not as this program makes it"),
        ({"per_subject": -1}, "-1 messages a subject"),
        ({"refuses_second": False}, "not as this program makes it"),
    ],
)
def test_another_stream_is_told(changes: dict[str, Any], text: str) -> None:
    (finding,) = judge_stream(kept(**changes), JOBS)
    assert finding.refuses
    assert re.search(text, finding.text)


@pytest.mark.parametrize(
    ("config", "text", "refuses"),
    [
        ({"sync_interval": 120 * 10**9}, "every 120 s", True),
        ({"sync_always": None}, "sync_interval: always", True),
        (None, "cannot be seen", False),
    ],
)
def test_how_a_broker_syncs(config: dict[str, Any] | None, text: str, refuses: bool) -> None:
    (finding,) = judge_sync(config, "a", "because")
    assert text in finding.text
    assert finding.refuses is refuses


def test_one_that_syncs_always_is_good() -> None:
    assert judge_sync({"sync_always": True, "sync_interval": 120 * 10**9}, "a") == []


def test_an_unsafe_engine_is_refused_unless_the_address_allows_it() -> None:
    findings = [*judge_version("2.9.10"), *judge_sync(None, "a")]
    told = refusal(findings, allow_unsafe=False)
    assert told is not None
    assert "2.9.10" in told
    assert "unsafe=1" in told
    assert "cannot be seen" not in told, "what is not known refuses nothing"
    assert refusal(findings, allow_unsafe=True) is None
    assert refusal(judge_sync(None, "a"), allow_unsafe=False) is None
