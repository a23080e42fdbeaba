"""Reading a dealer's pages as a scraper does."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

ANSWER_SECONDS = 20.0

Labels = frozenset[tuple[str, str]]


def free_port() -> int:
    """Return a port on which no program listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> tuple[int, str]:
    """The status and the body of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=ANSWER_SECONDS) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(port: int) -> dict[str, dict[Labels, float]]:
    """Every sample: name, labels, value."""
    status, text = get(port, "/metrics")
    assert status == 200, text
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def samples(port: int, name: str) -> Mapping[Labels, float]:
    return scrape(port).get(name, {})


def value(found: dict[str, dict[Labels, float]], name: str, **labels: str) -> float:
    return found[name][frozenset(labels.items())]
