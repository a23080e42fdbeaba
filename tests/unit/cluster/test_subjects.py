"""Names in the engine, and the address."""

from __future__ import annotations

import pytest

from taskpool.clock import SECOND
from taskpool.cluster.subjects import Address, Lane, Names, parse_address
from taskpool.errors import UsageError

NAMES = Names("render")


@pytest.mark.parametrize("batch", ["b", "a.b", "2026-11-28_x.y.z", "B" * 64])
def test_a_subject_leads_back_to_its_job(batch: str) -> None:
    subject = NAMES.job(Lane.HIGH, batch, 17)
    assert len(subject.split(".")) == 6, "a batch is one token, whatever it is called"
    assert NAMES.parse_job(subject) == (Lane.HIGH, batch, 17)


@pytest.mark.parametrize(
    "subject",
    [
        "tp.other.job.high.b.1",
        "tp.render.out.b.1.1",
        "tp.render.job.middle.b.1",
        "tp.render.job.high.b.0",
        "tp.render.job.high.-b.1",
        "tp.render.job.high.b.c.1",
        f"tp.render.job.high.b.{2**53 + 1}",
        "tp.render.job.high.b.1\n",
    ],
)
def test_a_foreign_subject_is_none(subject: str) -> None:
    assert NAMES.parse_job(subject) is None


def test_names_of_two_batches_differ() -> None:
    assert NAMES.outcomes("a.b") != NAMES.outcomes("a-b")
    assert NAMES.crashes("a.b", 1) != NAMES.crashes("a-b", 1)


@pytest.mark.parametrize(("priority", "lane"), [(7, Lane.HIGH), (0, Lane.NORMAL), (-1, Lane.LOW)])
def test_the_sign_of_a_priority_chooses_the_lane(priority: int, lane: Lane) -> None:
    assert Lane.of(priority) is lane


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("nats://a:4222,b:4222,c", Address(("nats://a:4222", "nats://b:4222", "nats://c"))),
        ("tls://[::1]:4222", Address(("tls://[::1]:4222",))),
        (
            "a?monitor=8222&unsafe=1&ack_wait=2",
            Address(("nats://a",), monitor=8222, allow_unsafe=True, ack_wait_ns=2 * SECOND),
        ),
    ],
)
def test_an_address(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "http://a", "a,,b", "a b", "a?monitor", "a?monitor=x", "a?other=1", "a?ack_wait=0", "a?ack_wait=99999"]
)
def test_a_wrong_address_is_named_with_what_was_expected(text: str) -> None:
    with pytest.raises(UsageError, match=r"--cluster .*expected"):
        parse_address(text)
