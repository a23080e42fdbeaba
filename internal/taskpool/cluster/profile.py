"""Whether the brokers keep what they accept: judged from what they tell. Pure; `nats_connection` asks them.

The engine's defaults are made for speed: a broker syncs its files every two minutes, so that a loss of power of the
hosts loses what was acknowledged since. A pool promises more than that, so it is begun only with the profile below, or
when the address says `unsafe=1`; then each thing that is missing is said at every start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from taskpool.cluster.subjects import REPLICAS, StreamSettings

# In earlier ones a change of the brokers' membership could lose a stream.
SERVER_VERSION_MIN = (2, 12, 3)
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


class Finding(NamedTuple):
    """One thing that is not as it should be."""

    text: str
    refuses: bool = True  # unless the address allows it; else it is only said


class Kept(NamedTuple):
    """How a stream is kept, as the engine tells it."""

    name: str
    replicas: int
    on_disk: bool
    retention: str
    per_subject: int
    refuses_second: bool


def alone(settings: StreamSettings) -> Kept:
    """Return how one broker alone would keep a stream."""
    return Kept(settings.name, 1, True, settings.retention, settings.per_subject or -1, True)


def judge_version(version: str) -> list[Finding]:
    """Judge the version of a broker."""
    match = _VERSION.search(version)
    least = ".".join(map(str, SERVER_VERSION_MIN))
    if match is None or tuple(map(int, match.groups())) < SERVER_VERSION_MIN:
        shown = version if match is None else match[0]
        return [Finding(f"the broker is nats-server {shown}, and {least} is the first that keeps what it accepts")]
    return []


def judge_stream(kept: Kept, wanted: StreamSettings) -> list[Finding]:
    """Judge how a stream is kept."""
    found = []
    if kept.replicas < REPLICAS:
        text = f"stream {kept.name} has {kept.replicas} of {REPLICAS} copies: a broker that is lost takes it along"
        found.append(Finding(f"{text}; run {REPLICAS} brokers as a cluster"))
    if not kept.on_disk:
        found.append(Finding(f"stream {kept.name} is kept in memory: remove it, and it is made anew on disk"))
    if kept.retention != wanted.retention or kept.per_subject != (wanted.per_subject or -1) or not kept.refuses_second:
        found.append(
            Finding(
                f"stream {kept.name} is not as this program makes it ({kept.retention}, {kept.per_subject} messages a "
                "subject): was it made by hand? Remove it, or choose another pool"
            )
        )
    return found


def judge_sync(config: Mapping[str, Any] | None, host: str, reason: str = "") -> list[Finding]:
    """Judge a broker's `config` of `/jsz?config=1`; None: it could not be read, for `reason`."""
    cure = "set `sync_interval: always` in its `jetstream` block"
    if config is None:
        return [Finding(f"how broker {host} syncs cannot be seen ({reason}): {cure}, and check that", refuses=False)]
    if config.get("sync_always") is True:
        return []
    every = config.get("sync_interval")
    shown = f"every {every // 10**9} s" if isinstance(every, int) else "at times of its own"
    return [Finding(f"broker {host} syncs its files {shown}: a loss of power loses what it has accepted; {cure}")]


def refusal(findings: Iterable[Finding], *, allow_unsafe: bool) -> str | None:
    """Return why the engine is not used; None: it is."""
    texts = [finding.text for finding in findings if finding.refuses]
    if not texts or allow_unsafe:
        return None
    return f"{'; '.join(texts)}. With ?unsafe=1 behind the address it is used all the same"
