"""Reply queues: what cannot be sent, what is not read, and what a closed queue leaves."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from taskpool import limits
from taskpool.clock import SECOND, Instant
from taskpool.codec import decode
from taskpool.dealer.reply_queues import GeneratorProcesses, ReplyQueues
from taskpool.errors import QueueEmpty, QueueMissing, SpoolFull
from taskpool.ipc import names
from taskpool.ipc.memory import MemoryNamespace
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.messages import Answer, Hello, Message, Outcome, Outcomes, Pong, State

POOL = "p"
SHAPE = Shape(4, 512)  # the smallest reply queue of all layouts
CLIENT = 7


def outcome(no: int, value_bytes: int = 0) -> Outcome:
    value = b'"' + b"a" * value_bytes + b'"'
    return Outcome(no, no, 1, "python", None, State.SUCCEEDED, 1, 0, value)


class Stage:
    """The dealer's reply queues, and the generators at their other ends."""

    def __init__(self, directory: Path, namespace: QueueNamespace | None = None, pool: str = POOL) -> None:
        self.namespace = namespace or MemoryNamespace()
        self.pool = pool
        self.spool = Spool(directory / "spool")
        self.spool.sweep()
        self.warnings: list[str] = []
        self.reply_queues = ReplyQueues(self.namespace, pool, self.spool, lambda fd, wanted: None, self.warnings.append)

    def made(self, slot: int) -> QueueEnd:
        return self.namespace.create(names.reply(self.pool, slot), SHAPE)

    def left_after(self, second: int) -> list[int]:
        """Sweep at this time; return the slots whose names are left."""
        self.reply_queues.sweep(Instant(second * SECOND, 0))
        left = []
        for slot in range(limits.REPLY_SLOTS_MAX):
            with suppress(QueueMissing):
                self.namespace.open(names.reply(self.pool, slot), send=True, receive=False).close()
                left.append(slot)
        return left

    def open(self, client: int = CLIENT, slot: int = 0) -> QueueEnd:
        end = self.made(slot)
        end.hold()
        assert self.reply_queues.open(Hello(client, slot, 1))
        return end

    def read(self, end: QueueEnd) -> list[Message]:
        """Whatever lies in the queue, as a generator reads it."""
        messages = []
        while True:
            try:
                messages.append(self.spool.unpack(decode(end.receive())))
            except QueueEmpty:
                return messages


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_page_carries_what_one_message_takes(stage: Stage) -> None:
    end = stage.open()
    items = [outcome(no, limits.VALUE_BYTES_MAX - 2) for no in range(1, 9)]
    stage.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", items), whole=True)
    (page,) = stage.read(end)
    assert isinstance(page, Outcomes)
    assert page.items == items[: len(page.items)] != []
    assert not stage.warnings


def test_an_empty_page_is_sent(stage: Stage) -> None:
    end = stage.open()
    stage.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", []), whole=True)
    assert stage.read(end) == [Outcomes(CLIENT, "b", [])]


def test_an_answer_too_long_to_send_becomes_an_error(stage: Stage) -> None:
    end = stage.open()
    stage.reply_queues.send(CLIENT, Answer(CLIENT, "status", True, b'"' + bytes(limits.SPILL_BYTES_MAX) + b'"'))
    (answer,) = stage.read(end)
    assert isinstance(answer, Answer)
    assert (answer.verb, answer.ok) == ("status", False)
    assert b"the most is 16777216" in answer.body
    assert len(stage.warnings) == 1


def test_a_client_that_misses_a_message_is_disconnected(stage: Stage) -> None:
    stage.open()
    shutil.rmtree(stage.spool.directory)
    stage.spool.directory.touch()  # in the way of another
    stage.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600)]))
    assert stage.reply_queues.take_lost() == [CLIENT]
    stage.reply_queues.send(CLIENT, Pong(CLIENT))
    assert stage.reply_queues.take_lost() == [], "told once"
    end = stage.open()
    stage.reply_queues.send(CLIENT, Pong(CLIENT))
    assert stage.read(end) == [Pong(CLIENT)], "it said hello again"


def test_a_client_that_has_said_hello_again_is_not_lost(stage: Stage) -> None:
    stage.open()
    shutil.rmtree(stage.spool.directory)
    stage.spool.directory.touch()  # in the way of another
    stage.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600)]))
    stage.open()
    assert stage.reply_queues.take_lost() == []


def test_an_answer_without_room_in_the_spool_becomes_an_error(stage: Stage) -> None:
    end = stage.open()
    shutil.rmtree(stage.spool.directory)
    stage.spool.directory.touch()  # in the way of another
    stage.reply_queues.send(CLIENT, Answer(CLIENT, "status", True, b'"' + bytes(1000) + b'"'))
    (answer,) = stage.read(end)
    assert isinstance(answer, Answer)
    assert not answer.ok
    assert stage.reply_queues.take_lost() == []


def test_a_closed_queue_leaves_no_spool_files(stage: Stage) -> None:
    end = stage.open()
    for no in range(1, 11):
        stage.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(no, 600)]))
    first = stage.spool.unpack(decode(end.receive()))
    stage.reply_queues.flush(stage.reply_queues._queues[CLIENT].end.fileno())
    assert isinstance(first, Outcomes)
    assert len(list(stage.spool.directory.iterdir())) == 9, "four in the queue, the others wait"
    stage.reply_queues.close(CLIENT)
    assert list(stage.spool.directory.iterdir()) == []


def test_a_dealer_that_leaves_keeps_what_is_still_to_be_read(stage: Stage) -> None:
    end = stage.open()
    stage.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600)]))
    stage.reply_queues.close_all()
    assert stage.read(end) == [Outcomes(CLIENT, "b", [outcome(1, 600)])]


def test_what_was_packed_before_the_spool_was_full_leaves_no_file(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.open()
    written: list[bytes] = []

    def pack(data: bytes, msgsize: int) -> bytes:
        if written:
            raise SpoolFull("no room")
        written.append(Spool.pack(stage.spool, data, msgsize))
        return written[0]

    monkeypatch.setattr(stage.spool, "pack", pack)
    stage.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600), outcome(2, 600)]))
    assert written and list(stage.spool.directory.iterdir()) == []


def test_a_generator_that_asks_without_reading_is_disconnected(stage: Stage) -> None:
    stage.open()
    for _ in range(SHAPE.maxmsg + limits.REPLIES_WAITING_MAX):
        stage.reply_queues.send(CLIENT, Pong(CLIENT))
    assert stage.reply_queues.take_lost() == []
    stage.reply_queues.send(CLIENT, Pong(CLIENT))
    assert stage.reply_queues.take_lost() == [CLIENT]
    assert stage.warnings == [
        f"generator PID 1 not reading replies ({limits.REPLIES_WAITING_MAX + 1} pending); disconnecting"
    ]


def test_a_page_counts_among_what_was_asked_for(stage: Stage) -> None:
    stage.open()
    for _ in range(SHAPE.maxmsg + limits.REPLIES_WAITING_MAX + 1):
        stage.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [outcome(1, 600)]), whole=True)
    assert stage.reply_queues.take_lost() == [CLIENT]
    assert list(stage.spool.directory.iterdir()) == []


def test_outcomes_wait_as_long_as_the_core_lets_them(stage: Stage) -> None:
    end = stage.open()
    items = [outcome(no) for no in range(1, limits.OUTCOMES_IN_FLIGHT_MAX + 1)]
    for item in items:
        stage.reply_queues.send(CLIENT, Outcomes(CLIENT, "b", [item]))
    for _ in range(limits.REPLIES_WAITING_MAX):
        stage.reply_queues.send(CLIENT, Pong(CLIENT))
    read: list[Message] = []
    while got := stage.read(end):
        read += got
        stage.reply_queues.flush(stage.reply_queues._queues[CLIENT].end.fileno())
    assert [item for each in read if isinstance(each, Outcomes) for item in each.items] == items
    assert not stage.reply_queues._queues[CLIENT].replies


# --- generators that died as they connected, over the kernel's queues ------------------------------------


@pytest.fixture
def real(tmp_path: Path, pool: str) -> Stage:
    return Stage(tmp_path, KernelNamespace(), pool)


def test_a_queue_that_is_held_no_more_is_abandoned_at_the_second_look(real: Stage) -> None:
    first = real.open()
    assert real.reply_queues.take_abandoned(()) == []
    first.close()
    assert real.reply_queues.take_abandoned(()) == []
    second = real.open()  # it was about to say hello again
    assert real.reply_queues.take_abandoned(()) == []
    second.close()
    assert [real.reply_queues.take_abandoned(()) for _ in range(2)] == [[], [CLIENT]]
    assert real.reply_queues.take_abandoned({CLIENT}) == [], "its death would have been seen"
    real.reply_queues.close(CLIENT)


def test_a_name_that_no_process_holds_goes_at_the_second_look(real: Stage) -> None:
    held, dead = real.made(3), real.made(5)
    held.hold()
    dead.hold()
    dead.close()
    assert real.left_after(1) == [3, 5]
    assert real.left_after(2) == [3]
    assert real.left_after(30) == [3]
    assert real.left_after(31) == [], "its generator stands still"
    held.close()


def test_a_generator_that_is_about_to_hold_its_queue_keeps_it(real: Stage) -> None:
    first = real.made(3)
    assert real.left_after(1) == [3]
    first.hold()
    assert real.left_after(2) == [3]
    assert real.left_after(3) == [3]
    first.unlink()
    second = real.made(3)  # the next one's, under the same name
    assert real.left_after(4) == [3]
    for end in (first, second):
        end.unlink()
        end.close()


# --- the processes at the other ends -------------------------------------------------------------------


class Processes:
    """Pidfds that can be told apart, and what a poller would watch."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.watched: set[int] = set()
        self.refused = False
        self.generators = GeneratorProcesses(self, self.find)  # type: ignore[arg-type]

    def find(self, pid: int, queue_fd: int) -> int:
        if pid == 0:
            return -1
        self.opened.append(os.open(os.devnull, os.O_RDONLY))
        return self.opened[-1]

    def read(self, fd: int) -> None:
        if self.refused:
            raise OSError(errno.ENOSPC, "no room (epoll_ctl)")
        self.watched.add(fd)

    def forget(self, fd: int) -> None:
        self.watched.remove(fd)


def test_a_refusal_to_watch_hides_behind_no_other_error() -> None:
    processes = Processes()
    processes.generators.watch(1, 5, 9, {1, 2})
    processes.refused = True
    with pytest.raises(OSError, match="no room"):
        processes.generators.watch(2, 5, 9, {1, 2})
    processes.generators.close()
    assert processes.watched == set()


def test_the_dead_are_told_once_and_their_descriptors_closed() -> None:
    processes = Processes()
    for client in (1, 2, 3):
        processes.generators.watch(client, client, 9, {1, 2, 3})
    first, second, _ = processes.opened
    assert processes.generators.take_dead({first, second, 10_000}) == [1, 2]
    assert processes.generators.take_dead({first, second}) == []
    processes.generators.close()
    assert processes.watched == set()
    for fd in processes.opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_process_that_cannot_be_told_is_not_watched_and_a_hello_said_again_is_once() -> None:
    processes = Processes()
    assert not processes.generators.watch(1, 0, 9, {1})
    assert processes.watched == set()
    assert processes.generators.watch(2, 5, 9, {1, 2})
    assert processes.generators.watch(2, 5, 9, {1, 2})
    assert processes.watched == {processes.opened[-1]}
    processes.generators.watch(3, 5, 9, {1, 2, 3})
    processes.generators.keep({3})
    assert processes.watched == {processes.opened[-1]}
    processes.generators.close()


def test_those_that_come_and_go_within_a_second_take_no_descriptors_without_end() -> None:
    processes = Processes()
    for client in range(1000):
        processes.generators.watch(client, 1, 9, {client - 1, client})
        assert len(processes.watched) <= 2
    processes.generators.close()
