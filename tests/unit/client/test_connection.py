"""The one loop of a client, over the kernel's queues: when it ends, what wakes it, and what it survives."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import pytest
from msgspec import structs

from support.client_sessions import JOB
from support.fake_dealer import DEADLINE_S, FakeDealer, outcome
from taskpool import limits
from taskpool.client.connection import Connection, DealerEnded, DealerProcess, NoNotices, TurnHandler
from taskpool.client.session import ConnectTimeouts, Session, SessionOptions
from taskpool.client.transport import Transport
from taskpool.clock import MILLISECOND, SECOND, AwakeClock, Instant, SystemClock
from taskpool.errors import DealerUnreachable, QueueMissing
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.sizing import Shape
from taskpool.messages import Bye, Command, Hello, Message, Outcome, Outcomes, Ping, Submit, Welcome
from taskpool.procs.wait import Descriptor

TIMEOUTS = ConnectTimeouts(20 * SECOND, 20 * SECOND)


@pytest.fixture
def dealer(tmp_path: Path) -> Iterator[FakeDealer]:
    fake = FakeDealer(f"test-{os.getpid()}-{os.urandom(4).hex()}", tmp_path)
    yield fake
    fake.close()


def connect(
    dealer: FakeDealer, timeouts: ConnectTimeouts = TIMEOUTS, process: DealerProcess | None = None
) -> Connection:
    options = SessionOptions(pool=dealer.pool, client=7, pid=os.getpid(), batch="b", timeouts=timeouts)
    session = Session(options, now())
    return Connection(
        session,
        Transport(KernelNamespace(), dealer.pool, Shape(4, 1024)),
        NoNotices(),
        AwakeClock(SystemClock()),
        process,
    )


def now() -> int:
    return SystemClock().now().mono


def never() -> bool:
    return False


class Turns(TurnHandler):
    """Counts turns and keeps what each of them brought."""

    def __init__(self, *readable: Descriptor, paused: bool = False, next_ns: int | None = None) -> None:
        self.count = 0
        self.outcomes: list[Outcome] = []
        self.ready: set[int] = set()
        self._readable = readable
        self._paused = paused
        self._next_ns = next_ns

    @property
    def paused(self) -> bool:
        return self._paused

    def readable(self) -> Iterable[Descriptor]:
        return self._readable

    def next_deadline(self) -> int | None:
        return self._next_ns

    def before_receive(self, now: int) -> None:
        self.count += 1

    def on_received(self, outcomes: list[Outcome], now: int) -> None:
        self.outcomes += outcomes

    def before_send(self, ready: Set[int], now: int) -> None:
        self.ready |= ready


class Killed:
    """A dealer's process that has ended; `restarts` says how often it is started again."""

    def __init__(self, dealer: FakeDealer, restarts: int) -> None:
        self._dealer = dealer
        self._restarts = restarts
        self.ended = False
        self.pidfd, self._writer = os.pipe()

    def end(self) -> None:
        self.ended = True
        os.write(self._writer, b".")

    def has_ended(self) -> bool:
        return self.ended

    def restart(self) -> bool:
        if not self._restarts:
            return False
        self._restarts -= 1
        os.read(self.pidfd, 1)
        self.ended = False
        self._dealer.epoch += 1
        return True

    def close(self) -> None:
        os.close(self.pidfd)
        os.close(self._writer)


# --- when it ends -------------------------------------------------------------------------------------


def test_it_ends_when_the_condition_is_met(dealer: FakeDealer) -> None:
    dealer.start()
    connection = connect(dealer)
    connection.session.command("status")
    assert connection.run_until(lambda: bool(connection.session.answers), deadline=now() + 20 * SECOND)
    assert connection.session.answers[0].verb == "status"
    connection.close()


def test_it_ends_at_the_deadline_and_sleeps_until_then(dealer: FakeDealer) -> None:
    connection, turns = connect(dealer), Turns()  # its queues are there, and not read
    start = now()
    assert not connection.run_until(never, turns, start + 300 * MILLISECOND)
    assert now() - start >= 300 * MILLISECOND
    assert turns.count <= 4
    connection.close()


def test_what_is_to_be_sent_goes_out_even_when_the_deadline_has_passed(dealer: FakeDealer) -> None:
    dealer.start()
    connection = connect(dealer)
    assert connection.run_until(lambda: connection.session.welcome is not None)
    connection.session.command("pause")
    assert not connection.run_until(never, deadline=0)
    dealer.hears(Command)
    connection.close()


def test_what_the_handler_raises_ends_it(dealer: FakeDealer) -> None:
    class Stop(TurnHandler):
        def before_receive(self, now: int) -> None:
            raise KeyError("stop")

    connection = connect(dealer)
    with pytest.raises(KeyError):
        connection.run_until(never, Stop())
    connection.close()


def test_without_a_dealer_it_gives_up_after_the_time_out(dealer: FakeDealer) -> None:
    connection = connect(dealer, ConnectTimeouts(100 * MILLISECOND, 1))
    with pytest.raises(DealerUnreachable, match="no dealer answers"):
        connection.run_until(never)
    connection.close()
    with pytest.raises(QueueMissing):
        dealer.namespace.open(names.reply(dealer.pool, 0), send=True, receive=False)


# --- what wakes it ------------------------------------------------------------------------------------


class Stopped(TurnHandler):
    """Its process is stopped amid its first wait, for longer than it waits for any dealer."""

    def __init__(self, dealer: FakeDealer) -> None:
        self._dealer = dealer
        self._ahead_ns = 0
        self._never, self._writer = socket.socketpair()

    def close(self) -> None:
        self._never.close()
        self._writer.close()

    def now(self) -> Instant:
        """This makes it the machine's clock."""
        return Instant(now() + self._ahead_ns, 0)

    def readable(self) -> Iterable[Descriptor]:
        return (self,)

    def fileno(self) -> int:
        """Asked for when the wait begins, behind the look at the clock."""
        if not self._ahead_ns:
            self._ahead_ns = 3600 * SECOND
            self._dealer.start()
        return self._never.fileno()


def test_a_standstill_of_its_own_is_no_silence_of_the_dealer(dealer: FakeDealer) -> None:
    stopped = Stopped(dealer)
    clock = AwakeClock(stopped)
    session = Session(SessionOptions(pool=dealer.pool, client=7, pid=1, batch="b", timeouts=TIMEOUTS), clock.now().mono)
    transport = Transport(KernelNamespace(), dealer.pool, Shape(4, 1024))
    connection = Connection(session, transport, NoNotices(), clock)
    assert connection.run_until(lambda: session.welcome is not None, stopped, clock.now().mono + 20 * SECOND)
    connection.close()
    stopped.close()


def test_a_descriptor_that_is_handed_in_wakes_it_in_any_thread(dealer: FakeDealer) -> None:
    dealer.start()
    connection, ended = connect(dealer), threading.Event()
    reader, writer = os.pipe()
    turns = Turns(reader)

    def run() -> None:
        if connection.run_until(lambda: reader in turns.ready, turns, now() + 20 * SECOND):
            ended.set()

    thread = threading.Thread(target=run)
    thread.start()
    dealer.hears(Hello)
    assert not ended.wait(0.05)
    os.write(writer, b".")
    assert ended.wait(DEADLINE_S)
    thread.join()
    connection.close()
    os.close(reader)
    os.close(writer)


def test_the_handlers_own_deadline_wakes_it(dealer: FakeDealer) -> None:
    dealer.start()
    connection = connect(dealer)
    assert connection.run_until(lambda: connection.session.welcome is not None)
    due = now() + 50 * MILLISECOND
    # Nothing else happens for PING_NS; the turn at `due` is the second one.
    turns = Turns(next_ns=due)
    assert connection.run_until(lambda: now() >= due, turns)
    assert now() < due + limits.PING_NS - 100 * MILLISECOND
    assert turns.count <= 3
    connection.close()


def test_a_paused_handler_leaves_messages_where_they_are(dealer: FakeDealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REPLY_OVERDUE_NS", 60 * MILLISECOND)
    monkeypatch.setattr(limits, "PING_NS", 20 * MILLISECOND)
    dealer.start()
    connection = connect(dealer)
    connection.session.submissions.submit([JOB])
    assert connection.run_until(lambda: connection.session.welcome is not None)
    dealer.hears(Submit)
    paused = Turns(paused=True)
    assert not connection.run_until(never, paused, now() + 200 * MILLISECOND)
    assert paused.outcomes == []
    assert connection.session.generation == 1, "a dealer that is not listened to is not silent"
    turns = Turns()
    assert connection.run_until(lambda: bool(turns.outcomes), turns)
    assert [each.seq for each in turns.outcomes] == [1]
    connection.close()


# --- a dealer that dies -------------------------------------------------------------------------------


def test_a_dealer_that_dies_is_found_again(dealer: FakeDealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUE_CHECK_NS", 30 * MILLISECOND)
    dealer.start()
    connection = connect(dealer)
    assert connection.run_until(lambda: connection.session.welcome is not None)
    dealer.replace_queues()
    assert connection.run_until(lambda: connection.session.generation == 2, deadline=now() + 20 * SECOND)
    connection.close()


def test_one_that_does_not_come_back_is_given_up(dealer: FakeDealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUE_CHECK_NS", 30 * MILLISECOND)
    dealer.start()
    connection = connect(dealer, ConnectTimeouts(20 * SECOND, 100 * MILLISECOND))
    assert connection.run_until(lambda: connection.session.welcome is not None)
    dealer.close()
    with pytest.raises(DealerUnreachable, match="was lost and none came back"):
        connection.run_until(never)
    connection.close()


def test_a_private_dealer_that_is_killed_is_started_again_and_told_everything_anew(dealer: FakeDealer) -> None:
    dealer.start()
    process = Killed(dealer, restarts=1)
    connection = connect(dealer, process=process)
    assert connection.run_until(lambda: connection.session.welcome is not None)
    dealer.answer_nothing = True
    connection.session.query("batch", "b")
    assert not connection.run_until(lambda: bool(connection.session.answers), deadline=now() + 50 * MILLISECOND)
    dealer.answer_nothing = False
    process.end()
    start = now()
    assert connection.run_until(lambda: bool(connection.session.answers), deadline=now() + 20 * SECOND)
    assert now() - start < limits.REPLY_OVERDUE_NS, "its end is seen at once"
    assert connection.session.generation == 2
    connection.close()
    process.close()


def test_the_last_messages_of_a_private_dealer_are_read_before_its_end_is_told(dealer: FakeDealer) -> None:
    dealer.start()
    process = Killed(dealer, restarts=0)
    connection = connect(dealer, process=process)
    connection.session.submissions.submit([JOB])
    dealer.finish = lambda seq, job: None  # type: ignore[method-assign]
    accepted = lambda: connection.session.submissions.accepted == 1  # noqa: E731
    assert connection.run_until(accepted, deadline=now() + 20 * SECOND)
    dealer.say(Outcomes(dealer.client, "b", [outcome(1, 1)]))
    process.end()
    turns = Turns()
    with pytest.raises(DealerEnded):
        connection.run_until(never, turns)
    assert [each.seq for each in turns.outcomes] == [1]
    connection.close()
    process.close()


# --- goodbye ------------------------------------------------------------------------------------------


def test_a_goodbye_goes_out_behind_what_waits_for_room(dealer: FakeDealer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskpool.client.connection.BYE_NS_MAX", 10 * SECOND)
    dealer.answer_nothing = True
    dealer.start()
    connection = connect(dealer)
    assert connection.run_until(lambda: connection.session.welcome is not None)
    hear = dealer.hear

    def slowly(message: Message) -> None:
        time.sleep(0.005)
        hear(message)

    dealer.hear = slowly  # type: ignore[method-assign]
    for _ in range(12):  # the queue takes four
        connection.session.command("status")
    connection.leave()
    dealer.hears(Bye)
    assert len([message for message in dealer.seen if isinstance(message, Command)]) == 12
    connection.close()


def test_without_a_dealer_there_is_no_goodbye(dealer: FakeDealer) -> None:
    connection = connect(dealer)
    connection.run_until(never, deadline=0)
    start = now()
    connection.leave()
    assert now() - start < 50 * MILLISECOND
    connection.close()


def test_a_connection_that_only_waits_needs_no_spool(dealer: FakeDealer) -> None:
    say = dealer.say

    def elsewhere(message: Message) -> None:
        say(structs.replace(message, spool="/nowhere") if isinstance(message, Welcome) else message)

    dealer.say = elsewhere  # type: ignore[method-assign]
    dealer.start()
    session = Session(SessionOptions(pool=dealer.pool, client=7, pid=1, timeouts=TIMEOUTS), now())
    transport = Transport(KernelNamespace(), dealer.pool, Shape(2, 512), opens_spool_and_intake=False)
    connection = Connection(session, transport, NoNotices(), AwakeClock(SystemClock()))
    assert connection.run_until(lambda: session.welcome is not None, deadline=now() + 20 * SECOND)
    assert not connection.run_until(never, deadline=now() + limits.PING_NS + 100 * MILLISECOND)
    assert any(isinstance(message, Ping) for message in dealer.seen)
    connection.close()
