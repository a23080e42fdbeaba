"""What a queue promises (ipc/queue.py), asked of the model and of the kernel in the same words."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskpool.errors import (
    MessageTooLong,
    QueueEmpty,
    QueueExists,
    QueueFull,
    QueueGone,
    QueueMissing,
)
from taskpool.ipc import names
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import LOCK, Shape

SHAPE = Shape(maxmsg=3, msgsize=64)
WAIT_SECONDS = 10


@pytest.fixture
def name(pool: str) -> str:
    return names.intake(pool)


@pytest.fixture
def queue(namespace: QueueNamespace, name: str) -> QueueEnd:
    return namespace.create(name, SHAPE)


def fill(queue: QueueEnd) -> None:
    for n in range(queue.maxmsg):
        queue.send(b"%d" % n)


def drain(queue: QueueEnd) -> list[bytes]:
    return [queue.receive() for _ in range(queue.depth())]


# --- messages -------------------------------------------------------------------------------------


def test_messages_come_whole_and_in_order(queue: QueueEnd) -> None:
    for data in (b"first", b"", b"\0\xff" * 32):
        queue.send(data)
    assert drain(queue) == [b"first", b"", b"\0\xff" * 32]


def test_empty_does_not_wait(queue: QueueEnd) -> None:
    with pytest.raises(QueueEmpty, match=queue.name):
        queue.receive()


def test_full_does_not_wait_and_loses_nothing(queue: QueueEnd) -> None:
    fill(queue)
    with pytest.raises(QueueFull, match=queue.name):
        queue.send(b"one more")
    assert drain(queue) == [b"0", b"1", b"2"]


def test_one_place_is_free_again_after_one_message_is_taken(queue: QueueEnd) -> None:
    fill(queue)
    queue.receive()
    queue.send(b"3")
    assert drain(queue) == [b"1", b"2", b"3"]


def test_a_message_too_long_names_both_sizes(queue: QueueEnd) -> None:
    queue.send(bytes(64))
    with pytest.raises(MessageTooLong, match=r"65 bytes.* 64"):
        queue.send(bytes(65))
    assert queue.depth() == 1


def test_too_long_is_seen_before_full(queue: QueueEnd) -> None:
    """A sender that would wait for room and then fail would wait for nothing."""
    fill(queue)
    with pytest.raises(MessageTooLong):
        queue.send(bytes(65))
    with pytest.raises(MessageTooLong):
        queue.send_blocking(bytes(65))


def test_depth_counts_what_waits(queue: QueueEnd) -> None:
    assert queue.depth() == 0
    fill(queue)
    assert queue.depth() == 3
    queue.receive()
    assert queue.depth() == 2


# --- waiting --------------------------------------------------------------------------------------


def test_a_waiting_receiver_gets_what_is_sent_later(namespace: QueueNamespace, queue: QueueEnd) -> None:
    receiver = namespace.open(queue.name, send=False, receive=True)
    with ThreadPoolExecutor(1) as threads:
        received = threads.submit(receiver.receive_blocking)
        queue.send(b"at last")
        assert received.result(WAIT_SECONDS) == b"at last"


def test_a_waiting_sender_gets_the_place_that_is_freed(namespace: QueueNamespace, queue: QueueEnd) -> None:
    fill(queue)
    sender = namespace.open(queue.name, send=True, receive=False)
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(sender.send_blocking, b"3")
        assert queue.receive() == b"0"
        sent.result(WAIT_SECONDS)
    assert drain(queue) == [b"1", b"2", b"3"]


def test_what_has_waited_once_still_does_not_wait_when_asked_not_to(queue: QueueEnd) -> None:
    queue.send_blocking(b"x")
    assert queue.receive_blocking() == b"x"
    with pytest.raises(QueueEmpty):
        queue.receive()
    fill(queue)
    with pytest.raises(QueueFull):
        queue.send(b"one more")


# --- names ----------------------------------------------------------------------------------------


def test_a_created_queue_has_the_shape_asked_for(queue: QueueEnd, name: str) -> None:
    assert (queue.name, queue.maxmsg, queue.msgsize) == (name, *SHAPE)


def test_an_opened_queue_is_the_one_created(namespace: QueueNamespace, queue: QueueEnd) -> None:
    other = namespace.open(queue.name, send=True, receive=True)
    assert (other.maxmsg, other.msgsize) == SHAPE
    other.send(b"x")
    assert queue.receive() == b"x"


def test_creating_what_is_there_is_refused(namespace: QueueNamespace, queue: QueueEnd) -> None:
    with pytest.raises(QueueExists, match=queue.name):
        namespace.create(queue.name, SHAPE)


def test_opening_never_creates(namespace: QueueNamespace, name: str) -> None:
    for _ in range(2):
        with pytest.raises(QueueMissing, match=name):
            namespace.open(name, send=True, receive=True)


def test_each_end_does_only_what_it_was_opened_for(namespace: QueueNamespace, queue: QueueEnd) -> None:
    receiver = namespace.open(queue.name, send=False, receive=True)
    sender = namespace.open(queue.name, send=True, receive=False)
    with pytest.raises(QueueGone):
        receiver.send(b"x")
    with pytest.raises(QueueGone):
        sender.receive()
    sender.send(b"x")
    assert receiver.receive() == b"x"


def test_a_queue_outlives_its_name(namespace: QueueNamespace, queue: QueueEnd) -> None:
    queue.send(b"before")
    assert queue.linked()
    namespace.unlink(queue.name)
    assert not queue.linked()
    queue.send(b"after")
    assert drain(queue) == [b"before", b"after"]


def test_the_same_name_again_is_another_queue(namespace: QueueNamespace, queue: QueueEnd) -> None:
    queue.unlink()
    again = namespace.create(queue.name, SHAPE)
    queue.send(b"to the old one")
    assert again.depth() == 0
    assert again.linked()


def test_an_end_does_not_unlink_the_successor_of_its_queue(namespace: QueueNamespace, queue: QueueEnd) -> None:
    namespace.unlink(queue.name)
    successor = namespace.create(queue.name, SHAPE)
    queue.unlink()
    assert successor.linked()


def test_unlinking_what_is_not_there_is_fine(namespace: QueueNamespace, name: str) -> None:
    namespace.unlink(name)


# --- reopening ------------------------------------------------------------------------------------


def test_what_is_not_there_is_created(namespace: QueueNamespace, name: str) -> None:
    queue, recovered = namespace.reopen_or_create(name, SHAPE)
    assert not recovered
    assert (queue.maxmsg, queue.msgsize) == SHAPE


def test_a_queue_of_the_same_shape_is_reopened_with_its_messages(namespace: QueueNamespace, queue: QueueEnd) -> None:
    queue.send(b"from an earlier life")
    queue.close()
    reopened, recovered = namespace.reopen_or_create(queue.name, SHAPE)
    assert recovered
    assert drain(reopened) == [b"from an earlier life"]
    reopened.send(b"and on")


@pytest.mark.parametrize("shape", [Shape(2, 64), Shape(3, 65)])
def test_a_queue_of_another_shape_is_replaced(namespace: QueueNamespace, queue: QueueEnd, shape: Shape) -> None:
    queue.send(b"lost")
    reopened, recovered = namespace.reopen_or_create(queue.name, shape)
    assert not recovered
    assert (reopened.maxmsg, reopened.msgsize, reopened.depth()) == (*shape, 0)
    assert not queue.linked()


# --- the lock -------------------------------------------------------------------------------------


def test_closing_gives_the_lock_back(namespace: QueueNamespace, pool: str) -> None:
    first, _ = namespace.reopen_or_create(names.lock(pool), LOCK)
    first.hold_notification_lock()
    first.close()
    second, recovered = namespace.reopen_or_create(names.lock(pool), LOCK)
    assert recovered
    second.hold_notification_lock()


def test_the_lock_of_a_queue_without_a_name_is_no_lock(namespace: QueueNamespace, pool: str) -> None:
    lock, _ = namespace.reopen_or_create(names.lock(pool), LOCK)
    lock.unlink()
    with pytest.raises(QueueMissing):
        lock.hold_notification_lock()


# --- holding --------------------------------------------------------------------------------------


def test_a_queue_is_held_for_the_others_until_its_holder_closes_it(namespace: QueueNamespace, queue: QueueEnd) -> None:
    other = namespace.open(queue.name, send=True, receive=False)
    assert not other.held()
    queue.hold()
    queue.unlink()
    assert other.held()
    assert not queue.held(), "it asks for others"
    third = namespace.create(queue.name, SHAPE)
    assert not third.held(), "another queue of that name"
    queue.close()
    assert not other.held()


# --- closing --------------------------------------------------------------------------------------


def test_descriptors_are_distinct_and_gone_after_closing(namespace: QueueNamespace, queue: QueueEnd) -> None:
    other = namespace.open(queue.name, send=True, receive=True)
    assert len({queue.fileno(), other.fileno(), -1}) == 3
    queue.close()
    assert queue.fileno() == -1


USES: dict[str, Callable[[QueueEnd], object]] = {
    "send": lambda queue: queue.send(b"x"),
    "send_blocking": lambda queue: queue.send_blocking(b"x"),
    "receive": lambda queue: queue.receive(),
    "receive_blocking": lambda queue: queue.receive_blocking(),
    "depth": lambda queue: queue.depth(),
    "linked": lambda queue: queue.linked(),
    "unlink": lambda queue: queue.unlink(),
    "hold": lambda queue: queue.hold(),
    "held": lambda queue: queue.held(),
    "hold_notification_lock": lambda queue: queue.hold_notification_lock(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_closed_end_refuses_everything(queue: QueueEnd, use: Callable[[QueueEnd], object]) -> None:
    queue.close()
    with pytest.raises(QueueGone, match=queue.name):
        use(queue)


def test_closing_twice_is_fine_and_others_keep_the_queue(namespace: QueueNamespace, queue: QueueEnd) -> None:
    other = namespace.open(queue.name, send=True, receive=True)
    queue.send(b"x")
    queue.close()
    queue.close()
    assert other.receive() == b"x"
