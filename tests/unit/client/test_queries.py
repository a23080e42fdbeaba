"""Questions about batches: asked again of a dealer that comes back, pages told from deliveries."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_dealer import FakeDealer, outcome
from taskpool import limits
from taskpool.client.connection import Connection, NoNotices
from taskpool.client.queries import BatchQueries, BatchStatus
from taskpool.client.session import ConnectTimeouts, Session, SessionOptions
from taskpool.client.transport import Transport
from taskpool.clock import MILLISECOND, SECOND, AwakeClock, SystemClock
from taskpool.errors import DealerUnreachable
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.sizing import Shape
from taskpool.messages import Answer, Bye, Command, Message, Outcome, Outcomes, Ping

STATUS = {"accepted": 5, "recorded": 5, "acknowledged": 3, "open": 0, "total": 5}
PAGE = 2


class Store(FakeDealer):
    """A dealer that answers questions about one batch of five outcomes."""

    def hear(self, message: Message) -> None:
        if not isinstance(message, Command):
            super().hear(message)
        elif message.verb == "outcomes":
            self.say(Outcomes(self.client, message.batch or "", self.page(message.seq)))
        elif message.verb in ("status", "cancel"):
            self.say(Answer(self.client, message.verb, True, json.dumps([message.batch, message.seq]).encode()))
        elif message.verb == "pause":
            pass  # it takes it along
        elif message.batch == "b":
            self.say(Answer(self.client, "batch", True, json.dumps(STATUS).encode()))
        else:
            self.say(Answer(self.client, "batch", False, b'{"error": "no such batch"}'))

    def page(self, after: int) -> list[Outcome]:
        return [outcome(no, no) for no in range(after + 1, min(after + PAGE, 5) + 1)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    fake = Store(f"test-{os.getpid()}-{os.urandom(4).hex()}", tmp_path)
    fake.start()
    yield fake
    fake.close()


@pytest.fixture
def queries(store: Store) -> Iterator[BatchQueries]:
    options = SessionOptions(pool=store.pool, client=7, pid=1, timeouts=ConnectTimeouts(), collect_pages=True)
    clock = AwakeClock(SystemClock())
    session = Session(options, clock.now().mono)
    transport = Transport(KernelNamespace(), store.pool, Shape(4, 1024))
    asking = BatchQueries(Connection(session, transport, NoNotices(), clock), clock)
    yield asking
    asking.close()


def numbers(queries: BatchQueries, after: int, upto: int) -> list[int]:
    return [each.no for each in queries.outcomes("b", after, upto)]


def test_where_a_batch_stands(queries: BatchQueries) -> None:
    status = queries.batch("b")
    assert status == BatchStatus(accepted=5, recorded=5, acknowledged=3, open=0, total=5)
    assert status.finished
    assert json.loads(queries.body) == STATUS


def test_the_whole_status_and_a_command(queries: BatchQueries) -> None:
    assert json.loads(queries.status()) == [None, 0]
    answer = queries.command(("cancel", "b", 3), SystemClock().now().mono + 60 * SECOND)
    assert answer is not None
    assert (answer.verb, json.loads(answer.body)) == ("cancel", ["b", 3])


def test_a_command_that_is_not_answered_is_not_asked_again(store: Store, queries: BatchQueries) -> None:
    queries.status()
    assert queries.command(("pause", None, 0), SystemClock().now().mono + 50 * MILLISECOND) is None
    queries.close()
    store.hears(Bye)  # and with it all that was said before
    asked = [message for message in store.seen if isinstance(message, Command) and message.verb == "pause"]
    assert len(asked) == 1


def test_a_batch_that_is_not_known(queries: BatchQueries) -> None:
    assert queries.batch("other") is None


def test_an_answer_that_is_no_batch(queries: BatchQueries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STATUS, "accepted", "many")
    with pytest.raises(DealerUnreachable, match="no batch"):
        queries.batch("b")


@pytest.mark.parametrize(
    ("after", "upto", "expected"),
    [(0, 5, [1, 2, 3, 4, 5]), (0, 3, [1, 2, 3]), (3, 5, [4, 5]), (0, 9, [1, 2, 3, 4, 5]), (2, 2, []), (5, 9, [])],
)
def test_outcomes_page_by_page(queries: BatchQueries, after: int, upto: int, expected: list[int]) -> None:
    assert numbers(queries, after, upto) == expected


def test_outcomes_that_are_delivered_meanwhile_are_no_answer(store: Store, queries: BatchQueries) -> None:
    page = store.page

    def with_a_delivery(after: int) -> list[Outcome]:
        store.say(Outcomes(store.client, "b", [outcome(9, 9)]))
        return page(after)

    store.page = with_a_delivery  # type: ignore[method-assign]
    assert numbers(queries, 0, 5) == [1, 2, 3, 4, 5]


def test_a_dealer_that_comes_back_is_asked_again(
    store: Store, queries: BatchQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUE_CHECK_NS", 30 * MILLISECOND)
    page, asked = store.page, []

    def dies_at_the_second_page(after: int) -> list[Outcome]:
        asked.append(after)
        if asked == [0, 2]:
            store.replace_queues()
            return [outcome(9, 9)]  # of no page that was asked for
        return page(after)

    store.page = dies_at_the_second_page  # type: ignore[method-assign]
    assert numbers(queries, 0, 5) == [1, 2, 3, 4, 5]
    assert asked == [0, 2, 2, 4]


def test_asleep_it_stays_connected_and_then_says_goodbye(
    store: Store, queries: BatchQueries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PING_NS", 20 * MILLISECOND)
    queries.batch("b")
    start = SystemClock().now().mono
    queries.sleep(100 * MILLISECOND)
    assert 100 * MILLISECOND <= SystemClock().now().mono - start < 5 * SECOND
    store.hears(Ping)
    queries.close()
    store.hears(Bye)
