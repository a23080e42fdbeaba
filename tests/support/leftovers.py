"""What a pool leaves behind, looked for by name: /dev/mqueue need not be mounted.

It imports nothing of the package: what is looked for must not move with a mistake that makes it.
"""

from __future__ import annotations

from contextlib import suppress

import posix_ipc

REPLY_SLOTS = 32  # docs/protocol.md


def unlink_queues(pool: str, epochs: int, incarnations: int) -> list[str]:
    """Remove the queues of the pool that still have a name; return their names."""
    names = [f"/tp.{pool}.{role}" for role in ("intake", "control", "events", "lock")]
    names += [f"/tp.{pool}.reply.{slot}" for slot in range(REPLY_SLOTS)]
    names += [f"/tp.{pool}.{epoch}.w{n}" for epoch in range(1, epochs + 1) for n in range(1, incarnations + 1)]
    left = []
    for name in names:
        with suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_message_queue(name)
            left.append(name)
    return left
