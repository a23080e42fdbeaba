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
from taskpool.ipc.queue import Mailbox, Post
from taskpool.ipc.sizing import LOCK, Shape

SHAPE = Shape(maxmsg=3, msgsize=64)
WAIT_SECONDS = 10


@pytest.fixture
def name(pool: str) -> str:
    return names.intake(pool)


@pytest.fixture
def mailbox(post: Post, name: str) -> Mailbox:
    return post.create(name, SHAPE)


def fill(mailbox: Mailbox) -> None:
    for n in range(mailbox.maxmsg):
        mailbox.send(b"%d" % n)


def drain(mailbox: Mailbox) -> list[bytes]:
    return [mailbox.receive() for _ in range(mailbox.depth())]


# --- messages -------------------------------------------------------------------------------------


def test_messages_come_whole_and_in_order(mailbox: Mailbox) -> None:
    for data in (b"first", b"", b"\0\xff" * 32):
        mailbox.send(data)
    assert drain(mailbox) == [b"first", b"", b"\0\xff" * 32]


def test_empty_does_not_wait(mailbox: Mailbox) -> None:
    with pytest.raises(QueueEmpty, match=mailbox.name):
        mailbox.receive()


def test_full_does_not_wait_and_loses_nothing(mailbox: Mailbox) -> None:
    fill(mailbox)
    with pytest.raises(QueueFull, match=mailbox.name):
        mailbox.send(b"one more")
    assert drain(mailbox) == [b"0", b"1", b"2"]


def test_one_place_is_free_again_after_one_message_is_taken(mailbox: Mailbox) -> None:
    fill(mailbox)
    mailbox.receive()
    mailbox.send(b"3")
    assert drain(mailbox) == [b"1", b"2", b"3"]


def test_a_message_too_long_names_both_sizes(mailbox: Mailbox) -> None:
    mailbox.send(bytes(64))
    with pytest.raises(MessageTooLong, match=r"65 bytes.* 64"):
        mailbox.send(bytes(65))
    assert mailbox.depth() == 1


def test_too_long_is_seen_before_full(mailbox: Mailbox) -> None:
    """A sender that would wait for room and then fail would wait for nothing."""
    fill(mailbox)
    with pytest.raises(MessageTooLong):
        mailbox.send(bytes(65))
    with pytest.raises(MessageTooLong):
        mailbox.send_blocking(bytes(65))


def test_depth_counts_what_waits(mailbox: Mailbox) -> None:
    assert mailbox.depth() == 0
    fill(mailbox)
    assert mailbox.depth() == 3
    mailbox.receive()
    assert mailbox.depth() == 2


# --- waiting --------------------------------------------------------------------------------------


def test_a_waiting_receiver_gets_what_is_sent_later(post: Post, mailbox: Mailbox) -> None:
    receiver = post.open(mailbox.name, send=False, receive=True)
    with ThreadPoolExecutor(1) as threads:
        received = threads.submit(receiver.receive_blocking)
        mailbox.send(b"at last")
        assert received.result(WAIT_SECONDS) == b"at last"


def test_a_waiting_sender_gets_the_place_that_is_freed(post: Post, mailbox: Mailbox) -> None:
    fill(mailbox)
    sender = post.open(mailbox.name, send=True, receive=False)
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(sender.send_blocking, b"3")
        assert mailbox.receive() == b"0"
        sent.result(WAIT_SECONDS)
    assert drain(mailbox) == [b"1", b"2", b"3"]


def test_what_has_waited_once_still_does_not_wait_when_asked_not_to(mailbox: Mailbox) -> None:
    mailbox.send_blocking(b"x")
    assert mailbox.receive_blocking() == b"x"
    with pytest.raises(QueueEmpty):
        mailbox.receive()
    fill(mailbox)
    with pytest.raises(QueueFull):
        mailbox.send(b"one more")


# --- names ----------------------------------------------------------------------------------------


def test_a_created_queue_has_the_shape_asked_for(mailbox: Mailbox, name: str) -> None:
    assert (mailbox.name, mailbox.maxmsg, mailbox.msgsize) == (name, *SHAPE)


def test_an_opened_queue_is_the_one_created(post: Post, mailbox: Mailbox) -> None:
    other = post.open(mailbox.name, send=True, receive=True)
    assert (other.maxmsg, other.msgsize) == SHAPE
    other.send(b"x")
    assert mailbox.receive() == b"x"


def test_creating_what_is_there_is_refused(post: Post, mailbox: Mailbox) -> None:
    with pytest.raises(QueueExists, match=mailbox.name):
        post.create(mailbox.name, SHAPE)


def test_opening_never_creates(post: Post, name: str) -> None:
    for _ in range(2):
        with pytest.raises(QueueMissing, match=name):
            post.open(name, send=True, receive=True)


def test_each_end_does_only_what_it_was_opened_for(post: Post, mailbox: Mailbox) -> None:
    receiver = post.open(mailbox.name, send=False, receive=True)
    sender = post.open(mailbox.name, send=True, receive=False)
    with pytest.raises(QueueGone):
        receiver.send(b"x")
    with pytest.raises(QueueGone):
        sender.receive()
    sender.send(b"x")
    assert receiver.receive() == b"x"


def test_a_queue_outlives_its_name(post: Post, mailbox: Mailbox) -> None:
    mailbox.send(b"before")
    assert mailbox.linked()
    post.unlink(mailbox.name)
    assert not mailbox.linked()
    mailbox.send(b"after")
    assert drain(mailbox) == [b"before", b"after"]


def test_the_same_name_again_is_another_queue(post: Post, mailbox: Mailbox) -> None:
    mailbox.unlink()
    again = post.create(mailbox.name, SHAPE)
    mailbox.send(b"to the old one")
    assert again.depth() == 0
    assert again.linked()


def test_a_mailbox_does_not_unlink_the_successor_of_its_queue(post: Post, mailbox: Mailbox) -> None:
    post.unlink(mailbox.name)
    successor = post.create(mailbox.name, SHAPE)
    mailbox.unlink()
    assert successor.linked()


def test_unlinking_what_is_not_there_is_fine(post: Post, name: str) -> None:
    post.unlink(name)


# --- adopting -------------------------------------------------------------------------------------


def test_adopting_what_is_not_there_creates_it(post: Post, name: str) -> None:
    mailbox, recovered = post.adopt(name, SHAPE)
    assert not recovered
    assert (mailbox.maxmsg, mailbox.msgsize) == SHAPE


def test_adopting_a_queue_of_the_same_shape_keeps_its_messages(post: Post, mailbox: Mailbox) -> None:
    mailbox.send(b"from an earlier life")
    mailbox.close()
    adopted, recovered = post.adopt(mailbox.name, SHAPE)
    assert recovered
    assert drain(adopted) == [b"from an earlier life"]
    adopted.send(b"and on")


@pytest.mark.parametrize("shape", [Shape(2, 64), Shape(3, 65)])
def test_adopting_a_queue_of_another_shape_replaces_it(post: Post, mailbox: Mailbox, shape: Shape) -> None:
    mailbox.send(b"lost")
    adopted, recovered = post.adopt(mailbox.name, shape)
    assert not recovered
    assert (adopted.maxmsg, adopted.msgsize, adopted.depth()) == (*shape, 0)
    assert not mailbox.linked()


# --- the lock -------------------------------------------------------------------------------------


def test_closing_gives_the_lock_back(post: Post, pool: str) -> None:
    first, _ = post.adopt(names.lock(pool), LOCK)
    first.hold_notification_lock()
    first.close()
    second, recovered = post.adopt(names.lock(pool), LOCK)
    assert recovered
    second.hold_notification_lock()


def test_the_lock_of_a_queue_without_a_name_is_no_lock(post: Post, pool: str) -> None:
    lock, _ = post.adopt(names.lock(pool), LOCK)
    lock.unlink()
    with pytest.raises(QueueMissing):
        lock.hold_notification_lock()


# --- closing --------------------------------------------------------------------------------------


def test_descriptors_are_distinct_and_gone_after_closing(post: Post, mailbox: Mailbox) -> None:
    other = post.open(mailbox.name, send=True, receive=True)
    assert len({mailbox.fileno(), other.fileno(), -1}) == 3
    mailbox.close()
    assert mailbox.fileno() == -1


USES: dict[str, Callable[[Mailbox], object]] = {
    "send": lambda mailbox: mailbox.send(b"x"),
    "send_blocking": lambda mailbox: mailbox.send_blocking(b"x"),
    "receive": lambda mailbox: mailbox.receive(),
    "receive_blocking": lambda mailbox: mailbox.receive_blocking(),
    "depth": lambda mailbox: mailbox.depth(),
    "linked": lambda mailbox: mailbox.linked(),
    "unlink": lambda mailbox: mailbox.unlink(),
    "hold_notification_lock": lambda mailbox: mailbox.hold_notification_lock(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_closed_mailbox_refuses_everything(mailbox: Mailbox, use: Callable[[Mailbox], object]) -> None:
    mailbox.close()
    with pytest.raises(QueueGone, match=mailbox.name):
        use(mailbox)


def test_closing_twice_is_fine_and_others_keep_the_queue(post: Post, mailbox: Mailbox) -> None:
    other = post.open(mailbox.name, send=True, receive=True)
    mailbox.send(b"x")
    mailbox.close()
    mailbox.close()
    assert other.receive() == b"x"
