"""The dealer's lines for people. What comes off a queue or out of a journal must not end it."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from taskpool.clock import Instant
from taskpool.core.effects import Level, Note, Topic
from taskpool.dealer.log import WARNINGS_PER_PERIOD_MAX, WARNINGS_PERIOD_NS, DealerLog, LogCounters, WarningLimit
from taskpool.kinds.fib import FIB
from taskpool.log import Format
from taskpool.messages import JobSpec
from taskpool.procs.writer import LineWriter


def written(note: Note, capfd: pytest.CaptureFixture[str], fmt: Format = "text") -> str:
    DealerLog(fmt, logging.DEBUG, LineWriter(2, "Dealer")).write(note)
    return capfd.readouterr().err


def sent(kind: str, payload: bytes) -> Note:
    job = SimpleNamespace(seq=1, spec=JobSpec(kind, payload), batch=SimpleNamespace(name="b"))
    return Note(Level.DEBUG, Topic.JOB_SENT, {"job": job, "pid": 7})


def reported(value: bytes) -> Note:
    fields = {"job": "b/1", "seq": 1, "pid": 7, "end": "succeeded", "value": value, "exit_status": None, "signal": None}
    return Note(Level.DEBUG, Topic.JOB_REPORTED, fields)


def test_a_job_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert written(sent("fib", FIB.parse({"n": 40}, "")), capfd) == "[Dealer] Sent job 1 -> fib(40)\n"


@pytest.mark.parametrize(("kind", "payload"), [("tarot", b""), ("command", b"\xc1"), ("python", b"")])
def test_a_stored_job_that_this_version_cannot_read(
    kind: str, payload: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert written(sent(kind, payload), capfd) == f"[Dealer] Sent job 1 -> {kind}(...)\n"


def test_a_value_that_is_no_text(capfd: pytest.CaptureFixture[str]) -> None:
    assert "job 1: a\N{REPLACEMENT CHARACTER} from" in written(reported(b"a\xff"), capfd)
    record = json.loads(written(reported(b"a\xff"), capfd, "json"))
    assert record["value"] == "a\N{REPLACEMENT CHARACTER}"


def test_a_stall_names_its_length_and_what_follows(capfd: pytest.CaptureFixture[str]) -> None:
    assert written(Note(Level.WARNING, Topic.STALLED, {"seconds": 3.21}), capfd) == (
        "[Dealer] Event loop stalled 3.2 s; deadlines extended\n"
    )


def test_messages_are_counted_by_level() -> None:
    counters = LogCounters(LineWriter(2, "Dealer"))
    logger = logging.Logger("of its own", logging.INFO)
    logger.addFilter(counters.count)
    logger.addHandler(logging.NullHandler())
    logger.debug("not written")
    logger.info("written")
    logger.critical("written")
    assert counters.by_level == {"info": 1, "error": 1}


# --- warnings that other processes can cause -----------------------------------------------------------------


class HandClock:
    def __init__(self) -> None:
        self.mono = 5

    def now(self) -> Instant:
        return Instant(self.mono, 0)


def test_the_first_warnings_are_passed_on_and_the_others_counted() -> None:
    passed: list[str] = []
    clock = HandClock()
    warn = WarningLimit(passed.append, clock)
    for number in range(1000):
        warn(f"bad message {number}")
    assert passed == [f"bad message {number}" for number in range(WARNINGS_PER_PERIOD_MAX)]
    passed.clear()
    clock.mono += WARNINGS_PERIOD_NS
    warn("another")
    assert passed == [f"{1000 - WARNINGS_PER_PERIOD_MAX} similar warnings suppressed", "another"]
    passed.clear()
    clock.mono += WARNINGS_PERIOD_NS
    warn("a third")
    assert passed == ["a third"], "none was suppressed meanwhile"
