"""The performer: what becomes of a frame that cannot be sent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from taskpool.codec import encode_tasks
from taskpool.core.effects import SendFrame
from taskpool.core.events import TakenBack
from taskpool.core.storage import DiskFull
from taskpool.dealer.performer import Performer
from taskpool.dealer.reply_queues import ReplyQueues
from taskpool.identifiers import Incarnation
from taskpool.ipc.memory import MemoryNamespace, MemoryQueueEnd
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.messages import Frame, Task

WORKER = Incarnation(1)


class Bench:
    """A performer with one worker's queue and a spool, and nothing else."""

    def __init__(self, directory: Path) -> None:
        namespace = MemoryNamespace()
        self.spool = Spool(directory / "spool")
        self.spool.sweep()
        self.queue = namespace.create("/w1", Shape(2, 1024))
        self.killed: list[int] = []
        reply_queues = ReplyQueues(namespace, "p", self.spool, lambda fd, wanted: None, lambda text: None)
        self.performer = Performer(cast(Any, Mock()), cast(Any, self), reply_queues, self.spool, cast(Any, None))

    def request_queue(self, incarnation: Incarnation) -> MemoryQueueEnd:
        return self.queue

    def kill(self, incarnation: Incarnation, name: str) -> None:
        self.killed.append(incarnation)

    def send(self, first_n: int, payload_bytes: int = 2000) -> None:
        tasks = encode_tasks([Task(1, 1, "command", bytes(payload_bytes))])
        self.performer.perform([SendFrame(WORKER, Frame(1, first_n, 1, 0, "b", tasks))])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def make_unusable(bench: Bench) -> None:
    """For root too, whom no mode keeps out."""
    shutil.rmtree(bench.spool.directory)
    bench.spool.directory.touch()


def told(bench: Bench) -> DiskFull:
    """The one event there is."""
    (event,) = bench.performer.take_events()
    assert isinstance(event, DiskFull) and event.where == "spool"
    return event


def test_a_frame_without_room_in_the_spool_goes_back_and_stops_dispatch(bench: Bench) -> None:
    make_unusable(bench)
    bench.send(1)
    bench.send(2, 3000)
    full, *back = bench.performer.take_events()
    assert isinstance(full, DiskFull) and full.full and full.where == "spool"
    assert str(bench.spool.directory) in full.text
    assert back == [TakenBack(WORKER, (1,)), TakenBack(WORKER, (2,))], "said once, each given back"
    assert (bench.queue.depth(), bench.killed) == (0, [])


def test_dispatch_goes_on_when_the_spool_has_room_again(bench: Bench) -> None:
    assert not bench.performer.look_for_room(), "it had room all along"
    make_unusable(bench)
    bench.send(1)
    bench.performer.take_events()
    assert bench.performer.look_for_room()
    assert told(bench).full, "again each time"
    bench.spool.directory.unlink()
    assert bench.performer.look_for_room()
    assert not told(bench).full
    assert list(bench.spool.directory.iterdir()) == [], "trying leaves nothing"
    assert not bench.performer.look_for_room(), "told once"


def test_a_spool_that_no_frame_needs_is_looked_at_too(bench: Bench) -> None:
    make_unusable(bench)
    assert bench.performer.look_for_room()
    event = told(bench)
    assert event.full
    assert f"the pool's spool {bench.spool.directory} must be there, writable" in event.text
    bench.spool.directory.unlink()
    assert bench.performer.look_for_room()
    assert not told(bench).full


def test_a_spool_that_is_writable_and_has_too_little_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 1000
    monkeypatch.setattr(bench.spool, "has_room", lambda size: size <= room)
    make_unusable(bench)
    bench.send(1)
    text = bench.performer.take_events()[0].text  # type: ignore[union-attr]
    bench.spool.directory.unlink()
    assert bench.performer.look_for_room()
    assert told(bench) == DiskFull(True, text, "spool")
    room = 10_000
    assert bench.performer.look_for_room()
    assert not told(bench).full


def test_a_frame_for_a_queue_that_somebody_filled_leaves_no_file(bench: Bench) -> None:
    bench.queue.send(b"")
    bench.queue.send(b"")
    bench.send(1)
    assert bench.killed == [WORKER]
    assert list(bench.spool.directory.iterdir()) == []
