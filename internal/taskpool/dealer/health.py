"""`tp-dealer --health`: whether the dealer of a pool answers, for health checks."""

from __future__ import annotations

import os
import sys
from contextlib import closing

from taskpool import limits
from taskpool.client.connection import Connection, NoNotices
from taskpool.client.session import ConnectTimeouts, Session, SessionOptions
from taskpool.client.transport import ReplySlotsTaken, Transport
from taskpool.client.unreachable import PoolRefuses
from taskpool.clock import SECOND, AwakeClock, SystemClock
from taskpool.errors import DealerUnreachable, ExitCode
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.queue import QueueNamespace
from taskpool.ipc.sizing import Shape

ANSWER_NS_MAX = 3 * SECOND
# One welcome and nothing else. Small, since a pool sized to its limit must have bytes left for its own health check.
REPLY = Shape(2, 512)


def ask(pool: str, namespace: QueueNamespace | None = None) -> ExitCode:
    """Say hello and wait for the welcome. Raises DealerUnreachable when there is none in time."""
    clock = AwakeClock(SystemClock())
    start = clock.now().mono
    # The loop below gives up at ANSWER_NS_MAX; the session must not give up before it with a text of its own.
    patience = ConnectTimeouts(2 * ANSWER_NS_MAX, 2 * ANSWER_NS_MAX)
    client = int.from_bytes(os.urandom(7), "big")
    options = SessionOptions(pool=pool, client=client, pid=os.getpid(), timeouts=patience, wait_for_room=False)
    session = Session(options, start)
    # Without the spool: a check may run where the pool's directories are not mounted.
    transport = Transport(namespace or KernelNamespace(), pool, REPLY, opens_spool_and_intake=False)
    with closing(Connection(session, transport, NoNotices(), clock)) as connection:
        # A missing queue is an answer too. A generator would wait for a dealer to come up; a check asks about now.
        try:
            if not transport.connect():
                raise DealerUnreachable(f"no dealer for pool {pool} in this IPC namespace")
        except ReplySlotsTaken:
            raise DealerUnreachable(f"all {limits.REPLY_SLOTS_MAX} reply queues of pool {pool} are taken") from None
        try:
            connection.run_until(lambda: session.welcome is not None, deadline=start + ANSWER_NS_MAX)
        except PoolRefuses as answer:  # a dealer with all its connections taken is at work, not ill
            sys.stderr.write(f"tp-dealer: {answer}\n")
            return ExitCode.OK
        connection.leave()
    if session.welcome is None:
        raise DealerUnreachable(f"the dealer of pool {pool} does not answer within {ANSWER_NS_MAX // SECOND} s")
    sys.stderr.write(f"tp-dealer: pool {pool} answers: PID {session.welcome.pid}, epoch {session.welcome.epoch}\n")
    return ExitCode.OK
