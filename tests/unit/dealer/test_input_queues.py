"""A start that fails gives back the queues that it has made, and no other."""

from __future__ import annotations

import errno

import pytest

from support.memory_platform import LAYOUT
from taskpool.dealer.input_queues import InputQueues
from taskpool.errors import QueueLimit, QueueMissing
from taskpool.ipc import names
from taskpool.ipc.memory import MemoryNamespace, MemoryQueueEnd
from taskpool.ipc.sizing import Shape

POOL = "p"
SHAPES = {names.intake(POOL): LAYOUT.intake, names.control(POOL): LAYOUT.control, names.events(POOL): LAYOUT.events}


class Poller:
    """Keeps what it is to watch."""

    def __init__(self) -> None:
        self.watched: list[int] = []
        self.room = 100  # of further calls

    def read(self, fd: int) -> None:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "no room (epoll_ctl)")
        self.watched.append(fd)

    def forget(self, fd: int) -> None:
        self.watched.remove(fd)

    def write(self, fd: int, wanted: bool) -> None: ...

    def wait(self, timeout_ns: int) -> set[int]:
        return set()

    def close(self) -> None: ...


class Namespace(MemoryNamespace):
    """Has room for so many queues."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def create(self, name: str, shape: Shape) -> MemoryQueueEnd:
        if len(self._queues) == self.room:
            raise QueueLimit(f"queue {name}: no room")
        return super().create(name, shape)


def left(namespace: MemoryNamespace) -> list[str]:
    found = []
    for name in SHAPES:
        try:
            namespace.open(name, send=True, receive=False).close()
        except QueueMissing:
            continue
        found.append(name)
    return found


def make(namespace: MemoryNamespace, poller: Poller) -> InputQueues:
    return InputQueues(namespace, POOL, LAYOUT, poller, lambda text: None)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_queue_that_cannot_be_made_costs_none(room: int) -> None:
    namespace, poller = Namespace(room), Poller()
    with pytest.raises(QueueLimit):
        make(namespace, poller)
    assert left(namespace) == []
    assert poller.watched == []


@pytest.mark.parametrize("found", list(SHAPES))
def test_what_was_found_is_left_to_those_that_have_it(found: str) -> None:
    namespace, poller = Namespace(3), Poller()
    namespace.create("/tp.other.intake", Shape(1, 1))
    end = namespace.create(found, SHAPES[found])
    with pytest.raises(QueueLimit):
        make(namespace, poller)
    assert left(namespace) == [found]
    assert end.linked()


def test_a_start_that_fails_later_gives_back_the_same() -> None:
    namespace, poller = MemoryNamespace(), Poller()
    end = namespace.create(names.events(POOL), LAYOUT.events)
    make(namespace, poller).give_back()
    assert left(namespace) == [names.events(POOL)]
    assert end.linked()
    make(namespace, poller).close()
    assert left(namespace) == []
    assert poller.watched == []


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_refusal_to_watch_hides_behind_no_other_error(room: int) -> None:
    """All are closed behind it; to forget one that is not watched would be an error of its own."""
    poller = Poller()
    queues = make(MemoryNamespace(), poller)
    poller.room = room
    with pytest.raises(OSError, match="no room"):
        queues.watch(intake=True, events=True)
    queues.close()
    assert poller.watched == []


def test_a_refusal_behind_what_was_forgotten_hides_behind_no_other_error() -> None:
    poller = Poller()
    queues = make(MemoryNamespace(), poller)
    queues.watch(intake=True, events=False)
    poller.room = 0
    with pytest.raises(OSError, match="no room"):
        queues.watch(intake=False, events=True)
    queues.close()
    assert poller.watched == []
