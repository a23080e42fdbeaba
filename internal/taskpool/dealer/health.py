"""`tp-dealer --health`: whether the dealer of a pool answers, for health checks."""

from __future__ import annotations

import os
import select
import sys

from taskpool import __version__, limits
from taskpool.clock import MILLISECOND, SECOND, SystemClock
from taskpool.codec import decode, encode
from taskpool.errors import DealerUnreachable, ExitCode, MessageError, QueueEmpty, QueueExists, QueueFull, QueueMissing
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.queue import QueueEnd
from taskpool.ipc.sizing import Shape
from taskpool.messages import Bye, Hello, Welcome

ANSWER_NS_MAX = 3 * SECOND
REPLY = Shape(2, 512)


def ask(pool: str) -> int:
    """Say hello and wait for the welcome. Raises DealerUnreachable when there is none in time."""
    namespace = KernelNamespace()
    try:
        control = namespace.open(names.control(pool), send=True, receive=False)
    except QueueMissing:
        raise DealerUnreachable(f"no dealer for pool {pool} in this IPC namespace") from None
    slot, reply = _reply_queue(namespace, pool)
    client = int.from_bytes(os.urandom(7), "big")
    try:
        control.send(encode(Hello(client, slot, os.getpid(), __version__)))
        welcome = _wait(reply, SystemClock().now().mono + ANSWER_NS_MAX)
        if welcome is not None:
            control.send(encode(Bye(client)))
    except QueueFull:
        welcome = None
    finally:
        reply.unlink()
        reply.close()
        control.close()
    if welcome is None:
        raise DealerUnreachable(f"the dealer of pool {pool} does not answer within {ANSWER_NS_MAX // SECOND} s")
    sys.stderr.write(f"tp-dealer: pool {pool} answers: PID {welcome.pid}, epoch {welcome.epoch}\n")
    return ExitCode.OK


def _reply_queue(namespace: KernelNamespace, pool: str) -> tuple[int, QueueEnd]:
    for slot in range(limits.REPLY_SLOTS_MAX):
        try:
            return slot, namespace.create(names.reply(pool, slot), REPLY)
        except QueueExists:
            continue
    raise DealerUnreachable(f"all {limits.REPLY_SLOTS_MAX} reply queues of pool {pool} are taken")


def _wait(reply: QueueEnd, deadline_ns: int) -> Welcome | None:
    poll = select.poll()
    poll.register(reply.fileno(), select.POLLIN)
    while (rest := deadline_ns - SystemClock().now().mono) > 0:
        poll.poll(rest / MILLISECOND)
        try:
            message = decode(reply.receive())
        except (QueueEmpty, MessageError):
            continue
        if isinstance(message, Welcome):
            return message
    return None
