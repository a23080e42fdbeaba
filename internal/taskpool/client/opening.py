"""A connection of this process with a dealer of this machine."""

from __future__ import annotations

import os

from taskpool import limits
from taskpool.client.connection import Connection, DealerProcess, Notices
from taskpool.client.session import Session, SessionOptions
from taskpool.client.transport import Transport
from taskpool.clock import AwakeClock
from taskpool.ipc.mqueue import KernelNamespace, kernel_limits
from taskpool.ipc.sizing import choose


def open_connection(
    options: SessionOptions, notices: Notices, clock: AwakeClock, process: DealerProcess | None = None
) -> Connection:
    """Return a connection over a reply queue as large as this machine's limits leave for it."""
    # As the dealer sizes its queues, so that all replies together stay within the byte limit it has counted on.
    shape = choose(limits.WORKER_QUEUES_MIN, kernel_limits()).reply
    session = Session(options, clock.now().mono)
    return Connection(session, Transport(KernelNamespace(), options.pool, shape), notices, clock, process)


def new_client_id() -> int:
    """Return 63 random bits: the dealer tells its clients apart by them, those of earlier runs included."""
    return int.from_bytes(os.urandom(8), "big") >> 1
