"""The model and the kernel do the same random things and must answer the same.

`TASKPOOL_TEST_SEED` repeats a run; a failure prints the command.
"""

from __future__ import annotations

import os
import random
from typing import NamedTuple

import pytest

from taskpool.errors import QueueError
from taskpool.ipc import names
from taskpool.ipc.memory import MemoryNamespace
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import Shape

OPERATIONS = 20_000
OPEN_MAX = 8
SHAPES = (Shape(1, 16), Shape(2, 8), Shape(2, 16))
WAYS = ((True, True), (True, False), (False, True))  # send, receive
VERBS = ("send", "receive", "depth", "linked", "unlink", "close")
WEIGHTS = (40, 35, 10, 10, 2, 3)


class Pair(NamedTuple):
    """The same queue in both worlds."""

    model: QueueEnd
    kernel: QueueEnd


class Worlds:
    """Does one thing in both, compares, and keeps the queues that come of it."""

    def __init__(self, queue_names: list[str], dice: random.Random) -> None:
        self.model: QueueNamespace = MemoryNamespace()
        self.kernel: QueueNamespace = KernelNamespace()
        self.names = queue_names
        self.dice = dice
        self.pairs: list[Pair] = []

    def step(self) -> None:
        if len(self.pairs) < OPEN_MAX and (not self.pairs or self.dice.random() < 0.1):
            self.find()
        else:
            self.use(self.dice.choice(self.pairs))

    def find(self) -> None:
        verb = self.dice.choice(("create", "open", "reopen_or_create", "unlink"))
        name, shape, way = self.dice.choice(self.names), self.dice.choice(SHAPES), self.dice.choice(WAYS)
        model, model_says = found(self.model, verb, name, shape, way)
        kernel, kernel_says = found(self.kernel, verb, name, shape, way)
        assert model_says == kernel_says, f"{verb} {name}: model {model_says}, kernel {kernel_says}"
        if model is not None and kernel is not None:
            self.pairs.append(Pair(model, kernel))

    def use(self, pair: Pair) -> None:
        data = self.dice.randbytes(self.dice.randint(0, pair.model.msgsize + 1))
        verb = self.dice.choices(VERBS, WEIGHTS)[0]
        model_says, kernel_says = used(pair.model, verb, data), used(pair.kernel, verb, data)
        assert model_says == kernel_says, f"{verb} {pair.model.name}: model {model_says!r}, kernel {kernel_says!r}"
        if pair.model.fileno() == -1 and self.dice.random() < 0.5:  # the others go on being used closed
            self.pairs.remove(pair)

    def end(self) -> None:
        for pair in self.pairs:
            pair.kernel.close()
        for name in self.names:
            self.kernel.unlink(name)


def found(
    namespace: QueueNamespace, verb: str, name: str, shape: Shape, way: tuple[bool, bool]
) -> tuple[QueueEnd | None, tuple[object, ...]]:
    """The queue that came of it, if any, and what can be compared: its shape, or the error's name."""
    queue, recovered = None, False
    try:
        match verb:
            case "create":
                queue = namespace.create(name, shape)
            case "open":
                queue = namespace.open(name, send=way[0], receive=way[1])
            case "reopen_or_create":
                queue, recovered = namespace.reopen_or_create(name, shape)
            case _:
                namespace.unlink(name)
    except QueueError as error:
        return None, (type(error).__name__,)
    return queue, (recovered, queue and (queue.maxmsg, queue.msgsize))


def used(queue: QueueEnd, verb: str, data: bytes) -> object:
    """What came back, or the error's name."""
    try:
        return getattr(queue, verb)(*([data] if verb == "send" else []))
    except QueueError as error:
        return type(error).__name__


def test_model_and_kernel_give_the_same_answers(pool: str) -> None:
    seed = int(os.environ.get("TASKPOOL_TEST_SEED", random.SystemRandom().randrange(2**32)))
    worlds = Worlds([names.intake(pool), names.control(pool), names.events(pool)], random.Random(seed))
    try:
        for number in range(OPERATIONS):
            try:
                worlds.step()
            except AssertionError as error:
                repeat = f"TASKPOOL_TEST_SEED={seed} pytest {os.path.relpath(__file__)}"
                pytest.fail(f"operation {number} of seed {seed}: {error}\nrepeat it: {repeat}")
    finally:
        worlds.end()
