"""The ingress: what is refused there, and how much is said about it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from taskpool import limits
from taskpool.clock import SystemClock
from taskpool.codec import decode, encode
from taskpool.core.counters import Counters
from taskpool.dealer.ingress import INTAKE, Ingress
from taskpool.dealer.sparing import WarningLimit
from taskpool.ipc.spool import Spool
from taskpool.messages import JobSpec, Refused, Submit

CLIENT = 7


class AtTheDoor:
    """An ingress, and what it says to whom."""

    def __init__(self, directory: Path) -> None:
        self.spool = Spool(directory / "spool")
        self.spool.sweep()
        self.counters = Counters()
        self.refused: list[Refused] = []
        self.warnings: list[str] = []
        self.ingress = Ingress(self.spool, self.counters, self.refused.append, self.warnings.append)

    def submit(self, spec: JobSpec) -> Refused:
        data = self.spool.pack(encode(Submit(CLIENT, "b", 3, [spec])), 1024)
        assert self.ingress.admit(data, INTAKE, "intake") is None
        return self.refused.pop()


@pytest.fixture
def at(tmp_path: Path) -> AtTheDoor:
    return AtTheDoor(tmp_path)


@pytest.mark.parametrize("kind", ["command", "python"])
def test_a_refusal_is_short_whatever_it_is_about(at: AtTheDoor, kind: str) -> None:
    nonsense = bytes(limits.PAYLOAD_BYTES_MAX - 64)
    fields: list[object] = [[b"true"], nonsense, {}, None, False]
    if kind == "python":
        fields = ["module", "function", b"[]", b"{}", [nonsense]]
    refused = at.submit(JobSpec(kind, msgspec.msgpack.encode(fields)))
    assert (refused.first_seq, refused.seq, refused.reason) == (3, 3, "malformed")
    assert "must be" in refused.text
    assert decode(encode(refused)) == refused, "its receiver takes it"


def test_every_bad_message_is_counted_and_the_log_stays_short(tmp_path: Path) -> None:
    at = AtTheDoor(tmp_path)
    at.ingress = Ingress(at.spool, at.counters, at.refused.append, WarningLimit(at.warnings.append, SystemClock()))
    for _ in range(1000):
        assert at.ingress.admit(b"garbage", INTAKE, "intake") is None
    assert at.counters.refusals["malformed"] == 1000
    assert 0 < len(at.warnings) < 100
