"""What an earlier life of the pool may have left: worker queues that still have a name.

A worker's queue loses its name as soon as both ends hold it, so only workers that were just starting leave
one. Queues can't be listed everywhere, so the dealer notes how far its incarnations have come, in the pool's
state directory; written before the queue is made, and not synced: after a loss of power no queue is left.
"""

from __future__ import annotations

import os
from pathlib import Path

from taskpool.ids import Epoch, Incarnation
from taskpool.ipc import names
from taskpool.ipc.queue import QueueNamespace

NO_EPOCH = Epoch(0)  # for whoever only sweeps
_NAME = "worker-queues"
_STEP = 64  # written once for so many incarnations
_STARTING_MAX = 2048  # of the incarnations noted, how many of the last may have been starting


class StaleQueues:
    """The note of one epoch, and the sweep of the one before."""

    def __init__(self, directory: Path, epoch: Epoch = NO_EPOCH) -> None:
        self._path = directory / _NAME
        self._epoch = epoch
        self._noted = 0

    def sweep(self, namespace: QueueNamespace, pool: str) -> None:
        """Take away the names that the last epoch's workers may have left. Missing ones are fine."""
        try:
            epoch, highest = (int(word) for word in self._path.read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return
        for incarnation in range(max(1, highest - _STARTING_MAX), highest + 1):
            namespace.unlink(names.worker(pool, epoch, incarnation))

    def note(self, incarnation: Incarnation) -> None:
        """A queue for this incarnation is about to be made."""
        if incarnation <= self._noted:
            return
        self._noted = incarnation + _STEP
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(descriptor, f"{self._epoch} {self._noted}".ljust(32).encode() + b"\n", 0)
        finally:
            os.close(descriptor)
