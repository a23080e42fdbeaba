"""The JSON Schema of job objects: it says what the parser does, and the dialect's own tools can read it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from taskpool.errors import UsageError
from taskpool.generator.input.jobs_file import job_schema, parse_job
from taskpool.generator.job_limits import KEYS
from taskpool.kinds import TYPED_KINDS
from taskpool.messages import DEFAULT_LIMITS

LONGEST_LABEL = "x" * 256

GOOD: list[dict[str, Any]] = [
    {"kind": "fib", "n": 0},
    {"kind": "fib", "n": 92, "label": None},
    {"kind": "fib", "n": 40, "label": LONGEST_LABEL, "priority": -(2**31) + 1},
    {"kind": "fib", "n": 40, "timeout": 0.5, "retries": 0, "backoff": 0},
    {"kind": "fib", "n": 40, "timeout": " 1h30m ", "retries": 1_000_000, "backoff": "1s..1m"},
    {"kind": "fib", "n": 40, "timeout": "500ms", "backoff": "1.5m..2h250ms"},
    {"kind": "fib", "n": 40, "timeout": "90", "backoff": "5s", "crash_limit": 1},
    {"kind": "fib", "n": 40, "crash_limit": "unlimited", "retry_on": "exit:75,signal:KILL,timeout"},
    {"kind": "fib", "n": 40, "retry_on": ["exit:255", "signal:9", "signal:sigterm"]},
    {"kind": "fib", "n": 40, "mem_limit": 1},
    {"kind": "fib", "n": 40, "term_seq": "KILL"},
    {"kind": "fib", "n": 40, "term_seq": "INT,1.5s,sigterm,2m,9"},
    {"kind": "fib", "n": 40, "term_seq": "USR1,0s"},
    {"kind": "fib", "n": 40, "mem_limit": "1.5gib", "retries": 2, "mem_escalate": "x1.5,max=16G"},
    {"kind": "command", "argv": ["true"]},
    {"kind": "command", "argv": ["sha256sum", "", "a b", "\u00fc\n"], "label": "\u00fc"},
    {"kind": "command", "argv": ["ls"], "cwd": None, "env": None, "stdin": None, "shell": None},
    {"kind": "command", "argv": ["ls | wc"], "cwd": "a/b", "env": {}, "stdin": "", "shell": True},
    {"kind": "command", "argv": ["ls"], "cwd": "/tmp", "env": {"A": "", "TP_OTHER": "x=y"}, "stdin": "\0\n"},
    {"kind": "python", "call": "math:factorial"},
    {"kind": "python", "call": "a.b_1:C.m\u00e9thode", "args": [], "kwargs": {}, "path": []},
    {"kind": "python", "call": "m:f", "args": [10**30, 1.5, None, [{"a": True}]], "kwargs": {"": 1}},
    {"kind": "python", "call": "m:f", "args": None, "kwargs": None, "path": ["lib", "/opt"], "priority": 2**31 - 1},
]

COMPANIONS: dict[str, dict[str, Any]] = {"mem_escalate": {"mem_limit": "1G", "retries": 1}}
"""Without which a field would be refused, because it could not act."""

BAD: list[Any] = [
    [],
    "fib",
    {},
    {"n": 1},
    {"kind": "perl", "n": 1},
    {"kind": None, "n": 1},
    {"kind": ["fib"], "n": 1},
    {"kind": "fib"},
    {"kind": "fib", "n": -1},
    {"kind": "fib", "n": 93},
    {"kind": "fib", "n": "1"},
    {"kind": "fib", "n": True},
    {"kind": "fib", "n": None},
    {"kind": "fib", "n": 1.5},
    {"kind": "fib", "n": 1, "argv": ["ls"]},
    {"kind": "fib", "n": 1, "speed": 1},
    {"kind": "fib", "n": 1, "needs": ["a"]},
    {"kind": "fib", "n": 1, "label": 3},
    {"kind": "fib", "n": 1, "label": LONGEST_LABEL + "x"},
    {"kind": "fib", "n": 1, "timeout": 0},
    {"kind": "fib", "n": 1, "timeout": "0m"},
    {"kind": "fib", "n": 1, "timeout": "soon"},
    {"kind": "fib", "n": 1, "timeout": "ms"},
    {"kind": "fib", "n": 1, "timeout": "1ms1s"},
    {"kind": "fib", "n": 1, "timeout": "0ms"},
    {"kind": "fib", "n": 1, "timeout": "1m1h"},
    {"kind": "fib", "n": 1, "timeout": ""},
    {"kind": "fib", "n": 1, "timeout": 1e9},
    {"kind": "fib", "n": 1, "timeout": None},
    {"kind": "fib", "n": 1, "timeout": True},
    {"kind": "fib", "n": 1, "retries": -1},
    {"kind": "fib", "n": 1, "retries": "3"},
    {"kind": "fib", "n": 1, "retries": 1_000_001},
    {"kind": "fib", "n": 1, "retries": None},
    {"kind": "fib", "n": 1, "backoff": ".."},
    {"kind": "fib", "n": 1, "backoff": "1s..2s..3s"},
    {"kind": "fib", "n": 1, "backoff": -1},
    {"kind": "fib", "n": 1, "retry_on": ""},
    {"kind": "fib", "n": 1, "retry_on": []},
    {"kind": "fib", "n": 1, "retry_on": "exit:0"},
    {"kind": "fib", "n": 1, "retry_on": "exit:256"},
    {"kind": "fib", "n": 1, "retry_on": ["exit:1,exit:2"]},
    {"kind": "fib", "n": 1, "retry_on": ["signal:65"]},
    {"kind": "fib", "n": 1, "retry_on": [1]},
    {"kind": "fib", "n": 1, "crash_limit": 0},
    {"kind": "fib", "n": 1, "crash_limit": "never"},
    {"kind": "fib", "n": 1, "priority": 2**31},
    {"kind": "fib", "n": 1, "mem_limit": 0},
    {"kind": "fib", "n": 1, "term_seq": ""},
    {"kind": "fib", "n": 1, "term_seq": "TERM"},
    {"kind": "fib", "n": 1, "term_seq": "TERM,KILL"},
    {"kind": "fib", "n": 1, "term_seq": "2s,TERM"},
    {"kind": "fib", "n": 1, "term_seq": ["TERM", "2s"]},
    {"kind": "fib", "n": 1, "mem_limit": -1},
    {"kind": "fib", "n": 1, "mem_limit": 1.5},
    {"kind": "fib", "n": 1, "mem_limit": 2**51},
    {"kind": "fib", "n": 1, "mem_limit": "1 G"},
    {"kind": "fib", "n": 1, "mem_limit": "1P"},
    {"kind": "fib", "n": 1, "mem_limit": "1G", "retries": 1, "mem_escalate": "2"},
    {"kind": "fib", "n": 1, "mem_limit": "1G", "retries": 1, "mem_escalate": "x2,max="},
    {"kind": "fib", "n": 1, "mem_limit": "1G", "retries": 1, "mem_escalate": 2},
    {"kind": "command"},
    {"kind": "command", "argv": []},
    {"kind": "command", "argv": "ls"},
    {"kind": "command", "argv": ["", "x"]},
    {"kind": "command", "argv": ["a\0b"]},
    {"kind": "command", "argv": [1]},
    {"kind": "command", "argv": ["ls"], "cwd": ""},
    {"kind": "command", "argv": ["ls"], "cwd": "a\0"},
    {"kind": "command", "argv": ["ls"], "env": ["A=1"]},
    {"kind": "command", "argv": ["ls"], "env": {"": "1"}},
    {"kind": "command", "argv": ["ls"], "env": {"A=B": "1"}},
    {"kind": "command", "argv": ["ls"], "env": {"A": 1}},
    {"kind": "command", "argv": ["ls"], "env": {"A\0": "1"}},
    {"kind": "command", "argv": ["ls"], "env": {"A": "1\0"}},
    {"kind": "command", "argv": ["ls"], "env": {"TP_WORKER": "1"}},
    {"kind": "command", "argv": ["ls"], "stdin": 1},
    {"kind": "command", "argv": ["ls"], "shell": 1},
    {"kind": "command", "argv": ["ls"], "call": "m:f"},
    {"kind": "python"},
    {"kind": "python", "call": 5},
    {"kind": "python", "call": "math"},
    {"kind": "python", "call": "math:"},
    {"kind": "python", "call": "a..b:f"},
    {"kind": "python", "call": "a:b:c"},
    {"kind": "python", "call": "1a:f"},
    {"kind": "python", "call": "os:system('ls')"},
    {"kind": "python", "call": "m:f", "args": {}},
    {"kind": "python", "call": "m:f", "kwargs": []},
    {"kind": "python", "call": "m:f", "path": "lib"},
    {"kind": "python", "call": "m:f", "path": ["a\0"]},
]


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """Of the schema as it is printed."""
    schema = json.loads(msgspec.json.encode(job_schema()))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def parses(job: Any) -> bool:
    try:
        parse_job(json.dumps(job).encode(), "jobs:1", DEFAULT_LIMITS)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("job", GOOD, ids=str)
def test_schema_and_parser_take_what_is_good(validator: Draft202012Validator, job: dict[str, Any]) -> None:
    assert parses(job)
    assert [error.message for error in validator.iter_errors(job)] == []


@pytest.mark.parametrize("job", BAD, ids=str)
def test_schema_and_parser_refuse_what_is_bad(validator: Draft202012Validator, job: Any) -> None:
    assert not parses(job)
    assert not validator.is_valid(job)


def test_every_field_is_described_with_an_example_that_is_good(validator: Draft202012Validator) -> None:
    schemas = {schema["properties"]["kind"]["const"]: schema for schema in job_schema()["oneOf"]}
    assert list(schemas) == list(TYPED_KINDS)
    for name, schema in schemas.items():
        fields = schema["properties"]
        assert {"kind", "label", *KEYS} < fields.keys()
        required = {key: fields[key]["examples"][0] for key in schema["required"] if key != "kind"}
        for key, field in fields.items():
            assert field["description"], key
            for example in field.get("examples", ()):
                job = {"kind": name, **required, **COMPANIONS.get(key, {}), key: example}
                assert validator.is_valid(job), job
                assert parses(job), job
