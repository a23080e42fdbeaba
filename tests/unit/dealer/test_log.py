"""The dealer's lines for people. What comes off a queue or out of a journal must not end it."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from taskpool.core.effects import Level, Note, Topic
from taskpool.dealer.log import DealerLog
from taskpool.kinds.fib import FIB
from taskpool.log import Format
from taskpool.messages import JobSpec


def written(note: Note, capsys: pytest.CaptureFixture[str], fmt: Format = "text") -> str:
    DealerLog(fmt, logging.DEBUG).write(note)
    return capsys.readouterr().err


def sent(kind: str, payload: bytes) -> Note:
    job = SimpleNamespace(seq=1, spec=JobSpec(kind, payload), batch=SimpleNamespace(name="b"))
    return Note(Level.DEBUG, Topic.JOB_SENT, {"job": job, "pid": 7})


def reported(value: bytes) -> Note:
    fields = {"job": "b/1", "seq": 1, "pid": 7, "end": "succeeded", "value": value, "exit_status": None, "signal": None}
    return Note(Level.DEBUG, Topic.JOB_REPORTED, fields)


def test_a_job_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert written(sent("fib", FIB.parse({"n": 40}, "")), capsys) == "[Dealer] Sent job 1 -> fib(40)\n"


@pytest.mark.parametrize(("kind", "payload"), [("tarot", b""), ("command", b"\xc1"), ("python", b"")])
def test_a_stored_job_that_this_version_cannot_read(
    kind: str, payload: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert written(sent(kind, payload), capsys) == f"[Dealer] Sent job 1 -> {kind}(...)\n"


def test_a_value_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert "job 1: a\N{REPLACEMENT CHARACTER} from" in written(reported(b"a\xff"), capsys)
    record = json.loads(written(reported(b"a\xff"), capsys, "json"))
    assert record["value"] == "a\N{REPLACEMENT CHARACTER}"
