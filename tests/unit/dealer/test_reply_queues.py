"""The dealer's lines to generators: what cannot be sent, what nobody reads, and what a closed line leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from taskpool import limits
from taskpool.codec import decode
from taskpool.dealer.reply_queues import ReplyQueues
from taskpool.errors import QueueEmpty, SpoolFull
from taskpool.ipc import names
from taskpool.ipc.memory import MemoryNamespace, MemoryQueueEnd
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.messages import Answer, Hello, Message, Outcome, Outcomes, Pong, State

POOL = "p"
SHAPE = Shape(4, 512)  # the smallest reply queue of all layouts
CLIENT = 7


def outcome(no: int, value_bytes: int = 0) -> Outcome:
    value = b'"' + b"a" * value_bytes + b'"'
    return Outcome(no, no, 1, "python", None, State.SUCCEEDED, 1, 0, value)


class Lines:
    """The dealer's reply_queues, and the generators at their other ends."""

    def __init__(self, directory: Path) -> None:
        self.namespace = MemoryNamespace()
        self.spool = Spool(directory / "spool")
        self.spool.sweep()
        self.warnings: list[str] = []
        self.reply_queues = ReplyQueues(self.namespace, POOL, self.spool, lambda fd, wanted: None, self.warnings.append)

    def open(self, client: int = CLIENT, slot: int = 0) -> MemoryQueueEnd:
        end = self.namespace.create(names.reply(POOL, slot), SHAPE)
        assert self.reply_queues.open(Hello(client, slot, 1))
        return end

    def read(self, end: MemoryQueueEnd) -> list[Message]:
        """Whatever lies in the queue, as a generator reads it."""
        messages = []
        while True:
            try:
                messages.append(self.spool.unpack(decode(end.receive())))
            except QueueEmpty:
                return messages


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    return Lines(tmp_path)


def test_a_page_carries_what_one_message_takes(lines: Lines) -> None:
    end = lines.open()
    items = [outcome(no, limits.VALUE_BYTES_MAX - 2) for no in range(1, 9)]
    lines.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", items), whole=True)
    (page,) = lines.read(end)
    assert isinstance(page, Outcomes)
    assert page.items == items[: len(page.items)] != []
    assert not lines.warnings


def test_an_empty_page_is_sent(lines: Lines) -> None:
    end = lines.open()
    lines.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", []), whole=True)
    assert lines.read(end) == [Outcomes(CLIENT, "b", [])]


def test_an_answer_too_long_to_send_is_an_error_to_whoever_asked(lines: Lines) -> None:
    end = lines.open()
    lines.reply_queues.send(CLIENT, Answer(CLIENT, "status", True, b'"' + bytes(limits.SPILL_BYTES_MAX) + b'"'))
    (answer,) = lines.read(end)
    assert isinstance(answer, Answer)
    assert (answer.verb, answer.ok) == ("status", False)
    assert b"the most is 16777216" in answer.body
    assert len(lines.warnings) == 1


def test_a_line_on_which_something_is_missing_falls_silent(lines: Lines) -> None:
    lines.open()
    shutil.rmtree(lines.spool.directory)
    lines.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600)]))
    assert lines.reply_queues.take_lost() == [CLIENT]
    lines.reply_queues.send(CLIENT, Pong(CLIENT))
    assert lines.reply_queues.take_lost() == [], "told once"
    end = lines.open()
    lines.reply_queues.send(CLIENT, Pong(CLIENT))
    assert lines.read(end) == [Pong(CLIENT)], "it said hello again"


def test_who_has_said_hello_again_is_not_lost(lines: Lines) -> None:
    lines.open()
    shutil.rmtree(lines.spool.directory)
    lines.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600)]))
    lines.open()
    assert lines.reply_queues.take_lost() == []


def test_an_answer_without_room_in_the_spool_is_an_error_to_whoever_asked(lines: Lines) -> None:
    end = lines.open()
    shutil.rmtree(lines.spool.directory)
    lines.reply_queues.send(CLIENT, Answer(CLIENT, "status", True, b'"' + bytes(1000) + b'"'))
    (answer,) = lines.read(end)
    assert isinstance(answer, Answer)
    assert not answer.ok
    assert lines.reply_queues.take_lost() == []


def test_a_closed_line_leaves_no_spool_files(lines: Lines) -> None:
    end = lines.open()
    for no in range(1, 11):
        lines.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(no, 600)]))
    first = lines.spool.unpack(decode(end.receive()))
    lines.reply_queues.flush(lines.reply_queues._queues[CLIENT].end.fileno())
    assert isinstance(first, Outcomes)
    assert len(list(lines.spool.directory.iterdir())) == 9, "four in the queue, the others wait"
    lines.reply_queues.close(CLIENT)
    assert list(lines.spool.directory.iterdir()) == []


def test_a_dealer_that_leaves_takes_nothing_from_who_reads_on(lines: Lines) -> None:
    end = lines.open()
    lines.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600)]))
    lines.reply_queues.close_all()
    assert lines.read(end) == [Outcomes(CLIENT, "b", [outcome(1, 600)])]


def test_what_was_packed_before_the_spool_was_full_leaves_no_file(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines.open()
    written: list[bytes] = []

    def pack(data: bytes, msgsize: int) -> bytes:
        if written:
            raise SpoolFull("no room")
        written.append(Spool.pack(lines.spool, data, msgsize))
        return written[0]

    monkeypatch.setattr(lines.spool, "pack", pack)
    lines.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600), outcome(2, 600)]))
    assert written and list(lines.spool.directory.iterdir()) == []


def test_who_asks_and_does_not_read_is_let_go(lines: Lines) -> None:
    lines.open()
    for _ in range(SHAPE.maxmsg + limits.REPLIES_WAITING_MAX):
        lines.reply_queues.send(CLIENT, Pong(CLIENT))
    assert lines.reply_queues.take_lost() == []
    lines.reply_queues.send(CLIENT, Pong(CLIENT))
    assert lines.reply_queues.take_lost() == [CLIENT]
    assert len(lines.warnings) == 1


def test_a_page_counts_among_what_was_asked_for(lines: Lines) -> None:
    lines.open()
    for _ in range(SHAPE.maxmsg + limits.REPLIES_WAITING_MAX + 1):
        lines.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600)]), whole=True)
    assert lines.reply_queues.take_lost() == [CLIENT]
    assert list(lines.spool.directory.iterdir()) == []


def test_outcomes_wait_as_long_as_the_core_lets_them(lines: Lines) -> None:
    end = lines.open()
    items = [outcome(no) for no in range(1, limits.OUTCOMES_IN_FLIGHT_MAX + 1)]
    for item in items:
        lines.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [item]))
    for _ in range(limits.REPLIES_WAITING_MAX):
        lines.reply_queues.send(CLIENT, Pong(CLIENT))
    read: list[Message] = []
    while got := lines.read(end):
        read += got
        lines.reply_queues.flush(lines.reply_queues._queues[CLIENT].end.fileno())
    assert [item for each in read if isinstance(each, Outcomes) for item in each.items] == items
    assert not lines.reply_queues._queues[CLIENT].replies
