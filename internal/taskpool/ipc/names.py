"""Name the queues of a pool, and take away the names that a killed dealer left.

Every name starts with `/tp.<pool>.`
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from taskpool import limits
from taskpool.errors import UsageError
from taskpool.messages import Epoch, Incarnation

if TYPE_CHECKING:
    from pathlib import Path  # a worker starts without it

    from taskpool.ipc.queue import QueueNamespace

_POOL_NAME = re.compile(limits.POOL_NAME_PATTERN)

_STALE_NAME = "worker-queues"  # in the pool's state directory
_STALE_STEP = 64  # one write for so many incarnations: each start of a worker would otherwise cost one
# How many of the last incarnations noted are looked at. So many cannot be starting at a time; the surplus is for one
# that boots slowly while others die at boot and are replaced.
_STALE_STARTING_MAX = 2048

assert limits.WORKERS_MAX + limits.SPARES_MAX + _STALE_STEP < _STALE_STARTING_MAX


def check_pool_name(pool: str) -> str:
    """Return the name itself when it is a legal pool name; raise UsageError when not."""
    if not _POOL_NAME.match(pool):
        raise UsageError(
            f"pool name {pool!r}: expected 1 to 32 lower-case letters, digits and hyphens, not starting with a hyphen"
        )
    return pool


def intake(pool: str) -> str:
    """Generators to dealer: submissions."""
    return f"/tp.{pool}.intake"


def control(pool: str) -> str:
    """Generators to dealer: everything small and urgent."""
    return f"/tp.{pool}.control"


def events(pool: str) -> str:
    """Workers to dealer: ready, started, reported."""
    return f"/tp.{pool}.events"


def lock(pool: str) -> str:
    """Carries no message: its one notification is the pool's lock in this IPC namespace."""
    return f"/tp.{pool}.lock"


def worker(pool: str, epoch: int, incarnation: int) -> str:
    """Dealer to one worker. The epoch keeps a worker that outlived its dealer away from new jobs."""
    return f"/tp.{pool}.{epoch}.w{incarnation}"


def reply(pool: str, slot: int) -> str:
    """Dealer to one generator.

    The generator sends only a slot number, never a name: otherwise it could have the dealer write into a queue of
    another pool, or into the dealer's own `events`.
    """
    assert 0 <= slot < limits.REPLY_SLOTS_MAX, slot
    return f"/tp.{pool}.reply.{slot}"


class StaleQueues:
    """The worker queues that an earlier dealer of the pool may have left with a name.

    A worker's queue loses its name as soon as both ends hold it, so only workers that were just starting leave one.
    Queues cannot be listed everywhere (that takes a mounted /dev/mqueue), so the dealer notes in a file of the pool's
    state directory how far its incarnations have come. The note is written before the queue is created, and not
    synced: after a loss of power there are no queues.
    """

    def __init__(self, directory: Path, epoch: Epoch | None = None) -> None:
        """Use the file in `directory`. `epoch` is the dealer's that will note its own; without one only `sweep`."""
        self._path = directory / _STALE_NAME
        self._epoch = epoch
        self._noted = 0

    def sweep(self, namespace: QueueNamespace, pool: str) -> None:
        """Take away the names that the last epoch's workers may have left. Missing ones are fine."""
        try:
            epoch, highest = (int(field) for field in self._path.read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return  # no note: this pool is new. A damaged one costs a few queues until the next reboot, not the start
        for incarnation in range(max(1, highest - _STALE_STARTING_MAX), highest + 1):
            namespace.unlink(worker(pool, epoch, incarnation))

    def note(self, incarnation: Incarnation) -> None:
        """Note that a queue for this incarnation is about to be created. Raises OSError."""
        assert self._epoch is not None
        if incarnation <= self._noted:
            return
        self._noted = incarnation + _STALE_STEP
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Padded: a shorter text then overwrites all of a longer one, with nothing to truncate.
            os.pwrite(descriptor, f"{self._epoch} {self._noted}".ljust(32).encode() + b"\n", 0)
        finally:
            os.close(descriptor)
