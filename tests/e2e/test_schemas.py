"""The JSON Schemas that are printed: the copies in docs/ are current, and what programs read keeps to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from support.harness import OK, QUARANTINED, USAGE, Stage
from support.source_tree import ROOT

JOBS: list[dict[str, Any]] = [
    {"kind": "fib", "n": 10, "label": "ten"},
    {"kind": "python", "call": "math:factorial", "args": [5]},
    {"kind": "python", "call": "math:sqrt", "args": [-1]},
    {"kind": "python", "call": "os:abort", "crash_limit": 2},
    {"kind": "command", "argv": ["sh", "-c", "echo words >&2; exit 7"], "retries": 1},
    {"kind": "command", "argv": ["sh", "-c", "kill -SEGV $$"], "crash_limit": 1},
    {"kind": "command", "argv": ["sleep", "60"], "timeout": "100ms"},
    {"kind": "command", "argv": ["printf", "\\377"]},
]
STATES = ["succeeded", "succeeded", "failed", "quarantined", "failed", "quarantined", "timed-out", "succeeded"]


def schema_of(stage: Stage, what: str) -> dict[str, Any]:
    return json.loads(stage.generator(what, "--schema").ends(OK).stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("what", "file"), [("jobs", "job.schema.json"), ("results", "outcome.schema.json")])
def test_the_copy_in_docs_is_current(stage: Stage, what: str, file: str) -> None:
    schema = schema_of(stage, what)
    Draft202012Validator.check_schema(schema)
    assert json.loads((ROOT / "docs" / file).read_text()) == schema, f"tp-generator {what} --schema >docs/{file}"


def test_real_jobs_and_their_outcomes_keep_to_the_schemas(stage: Stage, tmp_path: Path) -> None:
    checks = Draft202012Validator(schema_of(stage, "jobs"))
    for job in JOBS:
        checks.validate(job)
    results = tmp_path / "results"
    lines = "".join(json.dumps(job) + "\n" for job in JOBS).encode()
    stage.private("jobs", "-", "--results", results, "--workers", "2", stdin=lines).ends(QUARANTINED)
    outcomes = sorted(map(json.loads, results.read_text().splitlines()), key=lambda outcome: outcome["seq"])
    assert [outcome["state"] for outcome in outcomes] == STATES
    schema = schema_of(stage, "results")
    checks = Draft202012Validator(schema, format_checker=FormatChecker())
    for outcome in outcomes:
        checks.validate(outcome)
        assert list(outcome) == list(schema["properties"]) == schema["required"]
    assert any(outcome["tries"] for outcome in outcomes)


def test_a_cancelled_job_keeps_to_the_schema(stage: Stage) -> None:
    stage.dealer("--workers", "1")
    pool = ["--pool", stage.pool]
    stage.generator("command", *pool, "--batch", "b", "--detach", "--", "sleep", ":::", "60", "61").ends(OK)
    stage.ask("cancel", "b")
    stage.generator("wait", "b", *pool)
    asked = stage.generator("results", "b", "--output", "json", *pool)
    assert asked.wait() != USAGE
    outcomes = asked.objects()
    assert [outcome["state"] for outcome in outcomes] == ["cancelled"] * 2
    checks = Draft202012Validator(schema_of(stage, "results"))
    for outcome in outcomes:
        checks.validate(outcome)


def test_the_schema_refuses_what_is_no_outcome(stage: Stage) -> None:
    checks = Draft202012Validator(schema_of(stage, "results"))
    assert not checks.is_valid({})
    assert not checks.is_valid({"batch": "b", "state": "running"})


def test_results_without_a_batch_is_refused(stage: Stage) -> None:
    assert "results: expected BATCH" in stage.generator("results").ends(USAGE).stderr
