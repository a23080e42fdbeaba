"""Both kinds of namespace, and a promise that a test leaves no queue behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taskpool.ipc.memory import MemoryNamespace
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import Shape


class TidyNamespace:
    """Hands everything on to a namespace, and knows what to close and unlink in the end."""

    def __init__(self, namespace: QueueNamespace) -> None:
        self._namespace = namespace
        self._queues: list[QueueEnd] = []

    def create(self, name: str, shape: Shape) -> QueueEnd:
        return self._kept(self._namespace.create(name, shape))

    def open(self, name: str, *, send: bool, receive: bool) -> QueueEnd:
        return self._kept(self._namespace.open(name, send=send, receive=receive))

    def reopen_or_create(self, name: str, shape: Shape) -> tuple[QueueEnd, bool]:
        queue, recovered = self._namespace.reopen_or_create(name, shape)
        return self._kept(queue), recovered

    def unlink(self, name: str) -> None:
        self._namespace.unlink(name)

    def tidy(self) -> None:
        for queue in self._queues:
            self._namespace.unlink(queue.name)
            queue.close()

    def _kept(self, queue: QueueEnd) -> QueueEnd:
        self._queues.append(queue)
        return queue


@pytest.fixture(params=[MemoryNamespace, KernelNamespace])
def namespace(request: pytest.FixtureRequest, pool: str) -> Iterator[TidyNamespace]:
    """The contract's subject: the model and the kernel in turn. Tidied before `pool` looks for left-overs."""
    namespace = TidyNamespace(request.param())
    yield namespace
    namespace.tidy()


@pytest.fixture
def kernel(pool: str) -> Iterator[TidyNamespace]:
    """For what a model of one process cannot have."""
    namespace = TidyNamespace(KernelNamespace())
    yield namespace
    namespace.tidy()
