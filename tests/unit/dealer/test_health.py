"""`tp-dealer --health` against a dealer of a few lines, over the kernel's queues."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.fake_dealer import FakeDealer
from taskpool import limits
from taskpool.clock import MILLISECOND
from taskpool.codec import encode
from taskpool.dealer import health
from taskpool.errors import DealerUnreachable, ExitCode, QueueMissing
from taskpool.ipc import names
from taskpool.ipc.sizing import Shape
from taskpool.messages import Bye, Hello, Refused


@pytest.fixture
def dealer(tmp_path: Path) -> Iterator[FakeDealer]:
    fake = FakeDealer(f"test-{os.getpid()}-{os.urandom(4).hex()}", tmp_path)
    yield fake
    fake.close()


def leaves_no_queue(dealer: FakeDealer, slot: int = 0) -> bool:
    try:
        dealer.namespace.open(names.reply(dealer.pool, slot), send=True, receive=False).close()
    except QueueMissing:
        return True
    return False


def test_a_dealer_that_answers(dealer: FakeDealer, capfd: pytest.CaptureFixture[str]) -> None:
    dealer.start()
    assert health.ask(dealer.pool) == ExitCode.OK
    assert capfd.readouterr() == ("", f"tp-dealer: pool {dealer.pool} answers: PID {os.getpid()}, epoch 1\n")
    assert leaves_no_queue(dealer)
    dealer.hears(Bye)
    assert [hello.batch for hello in dealer.seen if isinstance(hello, Hello)] == [None]


def test_the_spool_need_not_be_visible(dealer: FakeDealer) -> None:
    dealer.start()
    dealer.spool.directory.rename(dealer.spool.directory.with_name("moved"))
    assert health.ask(dealer.pool) == ExitCode.OK


def test_no_dealer_is_said_at_once(dealer: FakeDealer) -> None:
    dealer.close()
    start = time.monotonic_ns()
    with pytest.raises(DealerUnreachable, match=f"no dealer for pool {dealer.pool} in this IPC namespace"):
        health.ask(dealer.pool)
    assert time.monotonic_ns() - start < health.ANSWER_NS_MAX // 3
    assert leaves_no_queue(dealer)


@pytest.mark.parametrize("full", [False, True])
def test_a_dealer_that_does_not_answer(dealer: FakeDealer, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    while full and dealer.control.depth() < dealer.control.maxmsg:
        dealer.control.send(b"x")
    monkeypatch.setattr(health, "ANSWER_NS_MAX", 200 * MILLISECOND)
    start = time.monotonic_ns()
    with pytest.raises(DealerUnreachable, match=f"the dealer of pool {dealer.pool} does not answer within"):
        health.ask(dealer.pool)
    assert 200 * MILLISECOND <= time.monotonic_ns() - start < 10_000 * MILLISECOND
    assert leaves_no_queue(dealer)


def test_a_dealer_with_all_its_connections_taken_is_well(
    dealer: FakeDealer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(hello: Hello) -> None:
        reply = dealer.namespace.open(names.reply(dealer.pool, hello.slot), send=True, receive=False)
        with closing(reply):
            reply.send(encode(Refused(hello.client, None, 0, 0, "full", "all 128 connections are taken")))

    monkeypatch.setattr(dealer, "hello", refuse)
    dealer.start()
    assert health.ask(dealer.pool) == ExitCode.OK
    assert "all 128 connections are taken" in capfd.readouterr().err
    assert leaves_no_queue(dealer)


def test_the_last_free_reply_slot_is_enough(dealer: FakeDealer) -> None:
    taken = [
        dealer.namespace.create(names.reply(dealer.pool, slot), Shape(1, 64)) for slot in range(limits.REPLY_SLOTS_MAX)
    ]
    dealer.start()
    try:
        with pytest.raises(DealerUnreachable, match=f"all 32 reply queues of pool {dealer.pool} are taken"):
            health.ask(dealer.pool)
        taken[31].unlink()
        assert health.ask(dealer.pool) == ExitCode.OK
        assert leaves_no_queue(dealer, 31)
    finally:
        for queue in taken:
            queue.unlink()
            queue.close()
