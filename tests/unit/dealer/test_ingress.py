"""The ingress: what it refuses, and how much it logs about it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from taskpool import limits
from taskpool.clock import SystemClock
from taskpool.codec import decode, encode
from taskpool.core.counters import Counters
from taskpool.core.events import ReportLost
from taskpool.dealer.ingress import EVENTS, INTAKE, Ingress
from taskpool.dealer.log import WarningLimit
from taskpool.ipc.spool import Spool
from taskpool.messages import End, Incarnation, JobSpec, Progress, Refused, Report, Submit

CLIENT = 7


class Stage:
    """An ingress, and what it answers and logs."""

    def __init__(self, directory: Path) -> None:
        self.spool = Spool(directory / "spool")
        self.spool.sweep()
        self.counters = Counters()
        self.refused: list[Refused] = []
        self.warnings: list[str] = []
        self.ingress = Ingress(self.spool, self.counters, self.refused.append, self.warnings.append)

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
        stage.spool, stage.counters, stage.refused.append, WarningLimit(stage.warnings.append, SystemClock())
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
