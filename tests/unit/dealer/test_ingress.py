"""The ingress: what it refuses, and how much it logs about it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from taskpool import limits
from taskpool.clock import SystemClock
from taskpool.codec import PROTOCOL_VERSION, HelloHead, decode, encode
from taskpool.core.counters import Counters
from taskpool.core.events import ReadyUnreadable, ReportLost
from taskpool.dealer.ingress import CONTROL, EVENTS, INTAKE, Ingress
from taskpool.dealer.log import WarningLimit
from taskpool.identifiers import Incarnation
from taskpool.ipc.spool import Spool
from taskpool.messages import End, Hello, JobSpec, Progress, Ready, Refused, Report, Submit

CLIENT = 7


class Stage:
    """An ingress, and what it answers and logs."""

    def __init__(self, directory: Path) -> None:
        self.spool = Spool(directory / "spool")
        self.spool.sweep()
        self.counters = Counters()
        self.refused: list[Refused] = []
        self.turned_away: list[HelloHead] = []
        self.warnings: list[str] = []
        self.ingress = Ingress(
            self.spool, self.counters, self.refused.append, self.turned_away.append, self.warnings.append
        )

    def submit(self, spec: JobSpec) -> Refused:
        data = self.spool.pack(encode(Submit(CLIENT, "b", 3, [spec])), 1024)
        assert self.ingress.parse(data, INTAKE, "intake") is None
        return self.refused.pop()


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.parametrize("kind", ["command", "python"])
def test_a_refusal_is_short_whatever_it_is_about(stage: Stage, kind: str) -> None:
    nonsense = bytes(limits.PAYLOAD_BYTES_MAX - 64)
    fields: list[object] = [[b"true"], nonsense, {}, None, False]
    if kind == "python":
        fields = ["module", "function", b"[]", b"{}", [nonsense]]
    refused = stage.submit(JobSpec(kind, msgspec.msgpack.encode(fields)))
    assert (refused.first_seq, refused.seq, refused.reason) == (3, 3, "malformed")
    assert "must be" in refused.text
    assert decode(encode(refused)) == refused, "its receiver takes it"


def test_every_bad_message_is_counted_and_the_log_stays_short(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.ingress = Ingress(
        stage.spool,
        stage.counters,
        stage.refused.append,
        stage.turned_away.append,
        WarningLimit(stage.warnings.append, SystemClock()),
    )
    for _ in range(1000):
        assert stage.ingress.parse(b"garbage", INTAKE, "intake") is None
    assert stage.counters.refusals["malformed"] == 1000
    assert 0 < len(stage.warnings) < 100


def test_a_report_that_is_gone_from_the_spool_names_its_worker(stage: Stage) -> None:
    worker = Spool(stage.spool.directory, 3)
    progress = encode(Progress(3, 1, [Report(1, End.SUCCEEDED, bytes(2000))]))
    assert stage.ingress.parse(worker.pack(progress, 1024), EVENTS, "events") == decode(progress)
    for sender, event in ((worker, ReportLost(Incarnation(3))), (stage.spool, None)):
        lost = sender.pack(progress, 1024)
        stage.spool.sweep()
        assert stage.ingress.parse(lost, EVENTS, "events") == event
        assert stage.ingress.parse(lost, INTAKE, "intake") is None, "no worker speaks there"
    assert stage.ingress.parse(b"garbage", EVENTS, "events") is None


LATER = PROTOCOL_VERSION + 1


def of_version(version: int, *fields: object) -> bytes:
    """A message of another version: of its fields the first are as they always are, and more follow."""
    return bytes([version]) + msgspec.msgpack.encode([*fields, "a field to come", {"and": 1}])


@pytest.mark.parametrize("version", [PROTOCOL_VERSION - 1, LATER, 255])
def test_a_hello_of_another_version_is_turned_away_and_logged_once(stage: Stage, version: int) -> None:
    for _ in range(3):
        assert stage.ingress.parse(of_version(version, 1, CLIENT, 4, 17), CONTROL, "control") is None
    assert stage.turned_away == [HelloHead(CLIENT, 4, 17)] * 3
    [text] = stage.warnings
    assert f"generator PID 17 speaks protocol version {version}, and this dealer version {PROTOCOL_VERSION}" in text
    assert stage.counters.refusals["malformed"] == 3


def test_senders_of_another_version_are_remembered_up_to_a_number(stage: Stage) -> None:
    for pid in (*range(1, 100), 1):
        stage.ingress.parse(of_version(LATER, 1, CLIENT, 4, pid), CONTROL, "control")
    assert len(stage.warnings) == 100


def test_a_worker_of_another_version_is_told_to_the_core(stage: Stage) -> None:
    data = of_version(LATER, 60, 3, 1, 17, "0.9")
    expected = ReadyUnreadable(Incarnation(3), 1, 17, "0.9", LATER, PROTOCOL_VERSION)
    assert stage.ingress.parse(data, EVENTS, "events") == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((60, 3, 1, 17, "0.9"), CONTROL),  # a generator must not speak as a worker
        ((1, CLIENT, 4, 17), EVENTS),
        ((1, CLIENT, 99, 17), CONTROL),  # no such slot
        ((2, CLIENT, "b"), INTAKE),
    ],
)
def test_anything_else_of_another_version_is_dropped(
    stage: Stage, fields: tuple[object, ...], expected: tuple[type, ...]
) -> None:
    assert stage.ingress.parse(of_version(LATER, *fields), expected, "queue") is None
    assert stage.turned_away == []
    assert stage.warnings == [
        f"message on queue dropped: protocol version {LATER}; this program speaks {PROTOCOL_VERSION}"
    ]


def test_what_is_fixed_for_all_versions_is_how_messages_of_this_one_begin() -> None:
    hello = encode(Hello(CLIENT, 4, 17, "b"))
    ready = encode(Ready(3, 1, 17, "0.9", ["fib"], []))
    for data, begins in ((hello, [1, CLIENT, 4, 17]), (ready, [60, 3, 1, 17, "0.9"])):
        assert msgspec.msgpack.decode(data[1:])[: len(begins)] == begins
