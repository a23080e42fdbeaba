"""The rules, the dashboard and the runbook we ship ask for what the dealer has, and for each other."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import promql_parser
import pytest

from support.exposition import for_people, golden_names
from support.source_tree import ROOT, complain

PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
OTHERS = frozenset({"up"})  # what Prometheus itself adds
GRAFANA_VARIABLES = {"$__rate_interval": "1m", "$__interval": "1m", "$__range": "1h"}


def rules() -> list[dict[str, str]]:
    """Every rule, by a reading of the file's regular shape: one `key: value` a line, `expr: |` over several."""
    found = []
    for block in re.split(r"^      - (?=alert:|record:)", (PROMETHEUS / "taskpool.rules.yml").read_text(), flags=re.M)[
        1:
    ]:
        rule = dict(re.findall(r"^ *(\w+): (.+)$", block, re.M))
        if rule["expr"] == "|":
            rule["expr"] = "\n".join(re.findall(r"^          (\S.*|  \S.*)$", block.partition("expr: |")[2], re.M))
            rule["expr"] = re.split(r"\n(?:for|labels|annotations|severity|summary|runbook_url):", rule["expr"])[0]
        found.append(rule)
    return found


def dashboard() -> dict[str, Any]:
    return json.loads((GRAFANA / "dashboard.json").read_text())  # type: ignore[no-any-return]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def names_in(expression: str) -> set[str]:
    """Every metric that a query asks for. Raises ValueError when it is no PromQL."""
    for variable, value in GRAFANA_VARIABLES.items():
        expression = expression.replace(variable, value)
    return set(_names(promql_parser.parse(expression)))


def _names(node: object) -> Iterator[str]:
    if isinstance(node, promql_parser.VectorSelector):
        yield str(node.name)
    for part in ("lhs", "rhs", "expr", "vector_selector", "args"):
        below = getattr(node, part, None)
        for each in below if isinstance(below, list) else [] if below is None else [below]:
            yield from _names(each)


def test_every_rule_asks_for_what_there_is() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    known = golden_names() | recorded | OTHERS
    assert len(rules()) == 20
    complain([f"{rule}: {name}" for rule in rules() for name in names_in(rule["expr"]) if name not in known])
    complain([f"{rule}: asks for nothing" for rule in rules() if not names_in(rule["expr"])])


def test_every_alert_has_a_severity_a_summary_and_a_page_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    headings = re.findall(r"^## (\w+)$", runbook, re.M)
    alerts = [rule for rule in rules() if "alert" in rule]
    assert headings == [rule["alert"] for rule in alerts]
    for rule in alerts:
        assert rule["severity"] in ("warning", "critical"), rule
        assert rule["summary"]
        assert rule["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    complain(
        [f"no heading {link}" for link in re.findall(r"\(#(\w+)\)", runbook) if link not in map(str.lower, headings)]
    )


def test_every_alert_is_seen_to_fire() -> None:
    tested = (PROMETHEUS / "taskpool.rules.test.yml").read_text()
    missing = [
        rule["alert"]
        for rule in rules()
        if "alert" in rule and f"alertname: {rule['alert']}\n        exp_alerts" not in tested
    ]
    complain([f"{name}: a test in which it fires" for name in missing])


@pytest.mark.needs_tool("promtool")
@pytest.mark.parametrize(
    "command", ["check config prometheus.yml", "check rules taskpool.rules.yml", "test rules taskpool.rules.test.yml"]
)
def test_promtool_finds_nothing_to_complain_about(command: str, tmp_path: Path) -> None:
    place = shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    ran = subprocess.run(["promtool", *command.split()], cwd=place, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# --- the dashboard -----------------------------------------------------------------------------------------


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("taskpool_dashboard", GRAFANA / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def queries() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_the_dashboard_is_what_its_program_writes() -> None:
    assert (GRAFANA / "dashboard.json").read_text() == generator().rendered(), "python3 deploy/grafana/dashboard.py"


def test_every_query_asks_for_what_there_is() -> None:
    asked = [(title, name) for title, query in queries() for name in names_in(query)]
    assert len(asked) >= 40
    complain([f"panel {title}: no metric {name}" for title, name in asked if name not in golden_names()])


def test_every_query_heeds_the_variables() -> None:
    for title, query in queries():
        selectors = re.findall(r"taskpool_\w+(\{[^}]*\})?|process_\w+(\{[^}]*\})?", query)
        assert selectors
        for selector in selectors:
            assert 'job=~"$job",instance=~"$instance"' in "".join(selector), (title, query)
        if re.search(r"\[(?!\$__rate_interval\])", query):
            pytest.fail(f"panel {title}: a range of its own: {query}")


def test_the_dashboard_has_what_grafana_needs() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= 39
    assert board["uid"] == "taskpool-dealer"
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "job", "instance"]
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]


def test_no_panel_lies_on_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
                assert x < 24


def test_every_family_of_ours_is_watched_by_somebody() -> None:
    """A metric that neither a rule nor a panel looks at is marked in the golden file."""
    watched = {name for _, query in queries() for name in names_in(query)}
    watched |= {name for rule in rules() for name in names_in(rule["expr"])}
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in golden_names() if name.startswith("taskpool_")}
    watched_families = {re.sub(r"_bucket$", "", name) for name in watched}
    assert families - watched_families == for_people()
