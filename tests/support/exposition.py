"""A page of metrics reduced to what is public about it: names, types, labels and their closed sets of values."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "metrics.txt"
FOR_PEOPLE = "  # for people"  # behind a name that no rule and no panel looks at
FREE = frozenset({"version", "pool", "journal", "implementation", "major", "minor", "patchlevel"})  # any value


def shape(page: str) -> list[str]:
    """One line for each sample name: `name type label=value|value ...`, sorted."""
    lines = set()
    for family in text_string_to_metric_families(page):
        lines.update(_lines(family))
    return sorted(lines)


def _lines(family: Metric) -> list[str]:
    if not family.samples:  # announced, and absent now
        return [f"{family.name} {family.type}"]
    values: dict[str, dict[str, list[str]]] = {}
    for sample in family.samples:
        labels = values.setdefault(sample.name, {})
        for label, value in sample.labels.items():
            seen = labels.setdefault(label, [])
            if value not in seen:
                seen.append(value)
    return [" ".join([name, family.type, *_sets(labels)]) for name, labels in values.items()]


def _sets(labels: dict[str, list[str]]) -> list[str]:
    return [f"{label}={'*' if label in FREE else '|'.join(values)}" for label, values in sorted(labels.items())]


def golden() -> list[str]:
    return [line.removesuffix(FOR_PEOPLE) for line in GOLDEN.read_text().splitlines()]


def for_people() -> frozenset[str]:
    """The names that are marked so."""
    return frozenset(line.split()[0] for line in GOLDEN.read_text().splitlines() if line.endswith(FOR_PEOPLE))


def check_golden(page: str) -> None:
    """TASKPOOL_GOLDEN=write takes the page for the new golden one: names are public, so look at the difference."""
    found = shape(page)
    if os.environ.get("TASKPOOL_GOLDEN") == "write":
        marked = for_people()
        GOLDEN.write_text("".join(f"{line}{FOR_PEOPLE if line.split()[0] in marked else ''}\n" for line in found))
    assert found == golden()


def golden_names() -> frozenset[str]:
    """Every name that a query may ask for."""
    return frozenset(line.split()[0] for line in golden())
