"""Input that is wrong: the error names file, line, field and what was expected; the exit code is 2; and a file
that can be read twice is checked whole before anything runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from support.harness import OK, USAGE, Stage
from support.ledger import Ledger

# name: (the third line, what the error must hold)
BAD_LINES: dict[str, tuple[str, tuple[str, ...]]] = {
    "no JSON": ('{"kind": "fib", n: 3}', ("not JSON",)),
    "half a line": ('{"kind": "fib", "n"', ("not JSON",)),
    "no object": ("[1, 2]", ("expected a JSON object", "list")),
    "no kind": ('{"n": 3}', ("'kind'", "missing", "expected one of fib, command, python")),
    "unknown kind": ('{"kind": "perl", "n": 3}', ("'kind'", "'perl'", "fib", "command", "python")),
    "wrong type": ('{"kind": "fib", "n": "three"}', ("'n'", "expected", "'three'")),
    "out of range": ('{"kind": "fib", "n": 93}', ("'n'", "0..92", "93")),
    "negative": ('{"kind": "fib", "n": -1}', ("'n'", "0..92", "-1")),
    "missing field": ('{"kind": "fib"}', ("'n'", "missing", "0..92")),
    "unknown field": ('{"kind": "fib", "n": 3, "speed": 1}', ("field 'speed' is unknown", "expected n")),
    "argv no list": ('{"kind": "command", "argv": "ls"}', ("'argv'", "expected", "'ls'")),
    "empty argv": ('{"kind": "command", "argv": []}', ("'argv'", "expected")),
    "no call": ('{"kind": "python", "call": "math"}', ("'call'", "MODULE:FUNCTION", "'math'")),
    "bad time-out": ('{"kind": "fib", "n": 3, "timeout": "soon"}', ("'timeout'", "'soon'")),
    "bad retries": ('{"kind": "fib", "n": 3, "retries": -1}', ("'retries'", "-1")),
    "bad crash limit": ('{"kind": "fib", "n": 3, "crash_limit": 0}', ("'crash_limit'", "0")),
    "not UTF-8": ('{"kind": "fib", "label": "\udcff", "n": 3}', ("not JSON",)),
}


def good_lines(ledger: Ledger) -> list[str]:
    return [json.dumps({"kind": "command", "argv": [*ledger.command()[:3], str(seq)]}) for seq in (1, 2)]


def whole(ledger: Ledger, bad: str) -> bytes:
    return "\n".join([*good_lines(ledger), bad, '{"kind": "fib", "n": 5}', ""]).encode(errors="surrogateescape")


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_in_a_file(stage: Stage, ledger: Ledger, tmp_path: Path, name: str) -> None:
    bad, expected = BAD_LINES[name]
    file = tmp_path / "jobs.jsonl"
    file.write_bytes(whole(ledger, bad))
    run = stage.private("jobs", file).ends(USAGE)
    assert f"{file}:3: " in run.stderr
    assert all(part in run.stderr for part in expected), run.stderr
    assert run.stdout == ""
    assert ledger.lines() == []
    assert len(run.stderr.splitlines()) == 1  # nothing was started that would have had to say something


@pytest.mark.parametrize("name", ["no JSON", "out of range"])
def test_a_bad_line_in_a_pipe_lets_finish_what_came_before(stage: Stage, ledger: Ledger, name: str) -> None:
    bad, expected = BAD_LINES[name]
    run = stage.private("jobs", "--output", "json", "-", stdin=whole(ledger, bad)).ends(USAGE)
    assert "standard input:3: " in run.stderr
    assert all(part in run.stderr for part in expected), run.stderr
    assert sorted(job["seq"] for job in run.objects()) == [1, 2]
    assert ledger.jobs("end") == {"1": 1, "2": 1}


@pytest.mark.parametrize("what", ["missing", "a directory", "unreadable"])
def test_a_file_that_cannot_be_read(stage: Stage, tmp_path: Path, what: str) -> None:
    file = tmp_path / "jobs"
    if what == "a directory":
        file.mkdir()
    elif what == "unreadable":
        file.write_text('{"kind": "fib", "n": 5}\n')
        file.chmod(0)
        if os.access(file, os.R_OK):
            file.unlink()
            file.symlink_to(file)  # root may read everything, but no loop of links
    run = stage.private("jobs", file).ends(USAGE)
    assert f"cannot read {file}: " in run.stderr
    assert run.stdout == ""


# name: (the arguments, what the error must hold)
BAD_ARGUMENTS: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "template without program": (["command", "--", ":::", "a"], ("expected a program behind --",)),
    "no template": (["command"], ("expected a program behind --",)),
    ":::: without file": (["command", "--", "ls", "::::", "gone"], ("cannot read gone",)),
    "not there": (["command", "--sshlogin", "host", "ls"], ("--sshlogin is GNU parallel's", "this host")),
    "a line": (["command", "--", "ls | wc", ":::", "a"], ("did you mean --shell?",)),
    "n out of range": (["fib", "93"], ("0..92", "93")),
    "n backwards": (["fib", "30-20"], ("30-20",)),
    "n no number": (["fib", "many"], ("many",)),
    "no call": (["python", "math"], ("MODULE:FUNCTION", "math")),
    "bad crash limit": (["fib", "20", "--crash-limit", "0"], ("--crash-limit", "unlimited", "0")),
    "bad time-out": (["fib", "20", "--timeout", "soon"], ("--timeout", "soon")),
    "bad halt": (["fib", "20", "--halt", "ever"], ("--halt", "now|soon,fail|success", "ever")),
    "bad chaos": (["fib", "20", "--chaos", "crash=2"], ("--chaos", "from 0 to 1", "2")),
    "hang without time-out": (["fib", "20", "--chaos", "hang=0.1"], ("--chaos", "needs --timeout")),
    "bad retry-on": (["fib", "20", "--retry-on", "rain"], ("--retry-on", "exit:1..255", "rain")),
    "bad batch": (["fib", "20", "--batch", "a/b"], ("--batch", "a/b")),
    "bad pool": (["fib", "20", "--pool", "A"], ("pool name", "'A'")),
    "dealer option with pool": (["fib", "20", "--pool", "a", "--workers", "3"], ("--workers", "private pool")),
    "detach without pool": (["fib", "20", "--detach"], ("--detach needs --pool",)),
    "no file": (["jobs"], ("jobs: expected a FILE", "- for standard input")),
    "bad target": (["cancel", "a/0"], ("BATCH/NUMBER", "a/0")),
    "bad scale": (["scale", "2"], ("scale", "+N or -N", "2")),
    "unknown option": (["fib", "20", "--wurkers", "3"], ("--wurkers",)),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments(stage: Stage, name: str) -> None:
    arguments, expected = BAD_ARGUMENTS[name]
    run = stage.generator(*arguments).ends(USAGE)
    assert all(part in run.stderr for part in expected), run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize(
    ("option", "expected"),
    [("--workers=0", "1 to 256"), ("--workers=x", "N%"), ("--spares=x", "0 to 64"), ("--metrics=x", "HOST:PORT")],
)
def test_bad_dealer_options_of_a_private_pool(stage: Stage, option: str, expected: str) -> None:
    run = stage.private("fib", "20", option).ends(USAGE)
    assert expected in run.stderr


def test_the_schema_of_a_job_is_printed_and_nothing_runs(stage: Stage) -> None:
    schema = json.loads(stage.generator("jobs", "--schema").ends(OK).stdout)
    assert [kind["properties"]["kind"]["const"] for kind in schema["oneOf"]] == ["fib", "command", "python"]


def test_no_input_is_nothing_to_do(stage: Stage) -> None:
    run = stage.private("jobs", "-", stdin=b"").ends(OK)
    assert run.stdout == ""
    assert "0 jobs" in run.stderr


def test_an_argument_is_bytes_from_end_to_end(stage: Stage, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe \t'\"$(x)"
    Path(os.fsdecode(name)).write_bytes(b"content")
    run = stage.private("command", "--", "cat", stdin=name + b"\n").ends(OK)
    assert run.stdout == "content"


def test_an_empty_line_is_an_empty_argument(stage: Stage) -> None:
    run = stage.private("command", "--keep-order", "--", "printf", "<%s>\\n", stdin=b"a\n\nb\n").ends(OK)
    assert run.stdout == "<a>\n<>\n<b>\n"
