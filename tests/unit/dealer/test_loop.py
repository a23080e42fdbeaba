"""The dealer's loop, where the simulator has too few workers to show it."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

from taskpool.dealer.loop import Loop
from taskpool.errors import QueueEmpty

WORKERS = 40
QUEUE = 10


class Crowded:
    """A queue whose senders wait for room: each message that is read lets one of them send."""

    maxmsg = QUEUE

    def __init__(self) -> None:
        self.unread = deque(b"%d" % number for number in range(QUEUE + WORKERS))

    def receive(self) -> bytes:
        if not self.unread:
            raise QueueEmpty
        return self.unread.popleft()


def test_workers_that_wait_to_send_are_heard_before_anybody_is_judged() -> None:
    heard: list[bytes] = []
    events = Crowded()
    judged: list[int] = []

    def admit(data: bytes, expected: object, queue: str) -> None:
        heard.append(data)

    def take_exited() -> list[Any]:
        judged.append(len(heard))
        return []

    parts: Any = SimpleNamespace(
        core=SimpleNamespace(supervisor=SimpleNamespace(workers=dict.fromkeys(range(WORKERS)))),
        clock=SimpleNamespace(now=lambda: SimpleNamespace(mono=0, wall=0)),
        queues=SimpleNamespace(events=[events]),
        ingress=SimpleNamespace(admit=admit),
        processes=SimpleNamespace(reap=lambda: None, take_exited=take_exited),
    )
    loop = Loop(
        parts.core,
        parts.clock,
        parts,
        parts.queues,
        parts.ingress,
        parts.processes,
        parts,
        parts,
        parts,
        signals=lambda: (),
    )
    loop._hear_workers()
    assert judged == [QUEUE + WORKERS]
    assert loop.counters.full["events"] == 1
