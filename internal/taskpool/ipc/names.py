"""Name the queues of a pool, and take away the names that a killed dealer left.

Every name starts with `/tp.<pool>.`
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING

from taskpool import limits
from taskpool.errors import QueueError, QueueExists, QueueLimit, QueueMissing, UsageError
from taskpool.identifiers import Epoch, Incarnation
from taskpool.ipc import sizing

if TYPE_CHECKING:
    from pathlib import Path  # a worker starts without it

    from taskpool.ipc.queue import QueueEnd, QueueNamespace

_POOL_NAME = re.compile(limits.POOL_NAME_PATTERN)

_STALE_NAME = "worker-queues"  # in the pool's state directory
_OWNED_NAME = "queues"  # beside it, as long as queues of the pool may be there
_STALE_STEP = 64  # one write for so many incarnations: each start of a worker would otherwise cost one
# How many of the last incarnations noted are looked at. So many cannot be starting at a time; the surplus is for one
# that boots slowly while others die at boot and are replaced.
_STALE_STARTING_MAX = 2048

_ADOPTIONS_MAX = 3  # of the namespace's lock, whose holder may leave between two calls

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


def replies(pool: str) -> list[str]:
    """Return the names that generators' reply queues can have."""
    return [reply(pool, slot) for slot in range(limits.REPLY_SLOTS_MAX)]


def hold_lock(namespace: QueueNamespace, pool: str) -> QueueEnd | None:
    """Return the pool's lock queue, held; None while another process holds it.

    The kernel frees the hold when this process dies. Who is done unlinks the queue first and closes it second: a
    newcomer must not adopt one that is about to lose its holder and its name. Raises QueueForeign, QueueLimit.
    """
    for _ in range(_ADOPTIONS_MAX):
        queue, found = namespace.reopen_or_create(lock(pool), sizing.LOCK)
        try:
            queue.hold_notification_lock()
            return queue
        except QueueMissing:  # its last holder left between the two calls
            queue.close()
        except QueueExists:
            queue.close()
            return None
        except QueueError:
            if not found:
                queue.unlink()
            queue.close()
            raise
    return None


def has_queues(namespace: QueueNamespace, pool: str) -> bool:
    """Say whether one of the queues that all processes of a pool share has its name, whosever it is."""
    for name in (intake(pool), control(pool), events(pool)):
        try:
            namespace.open(name, send=True, receive=False).close()
            return True
        except QueueMissing:
            continue
        except QueueError:
            return True
    return False


def unlink_pool(namespace: QueueNamespace, pool: str, directory: Path) -> bool:
    """Take away every name that a dead dealer of the state directory `directory` may have left.

    The caller holds the directory's lock. False, and nothing is touched: a dealer of a pool of that name, with another
    directory, lives in this namespace, or the queues are another user's.
    """
    held: QueueEnd | None = None
    try:
        if (held := hold_lock(namespace, pool)) is None:
            return False
    except QueueLimit:
        pass  # there is no lock queue and no room for one: no dealer lives, and none can start before we are done
    except QueueError:
        return False
    for name in (intake(pool), control(pool), events(pool), *replies(pool)):
        with suppress(QueueError):
            namespace.unlink(name)
    StaleQueues(directory).sweep(namespace, pool)
    if held is not None:
        held.unlink()
        held.close()
    return True


class StaleQueues:
    """The worker queues that an earlier dealer of the pool may have left with a name.

    A worker's queue loses its name as soon as both ends hold it, so only workers that were just starting leave one.
    Queues cannot be listed everywhere (that takes a mounted /dev/mqueue), so the dealer notes in a file of the pool's
    state directory how far its incarnations have come. The note is written before the queue is created, and not
    synced: after a loss of power there are no queues.

    A second note, there from before the first queue until the last one is gone, says in which IPC namespace they are:
    the directory may be shared with other namespaces, where the same names are another pool's.
    """

    def __init__(self, directory: Path, epoch: Epoch | None = None) -> None:
        """Use the file in `directory`. `epoch` is the dealer's that will note its own; without one only `sweep`."""
        self._path = directory / _STALE_NAME
        self._owned = directory / _OWNED_NAME
        self._epoch = epoch
        self._noted = 0

    def begin(self, ipc_namespace: str) -> None:
        """Note that queues are about to be created in this IPC namespace. Raises OSError."""
        _overwrite(self._owned, ipc_namespace)

    def begun_in(self) -> str | None:
        """Return the IPC namespace where queues may be; None: all were given back."""
        try:
            return self._owned.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None

    def end(self, namespace: QueueNamespace, pool: str) -> None:
        """Remove that note, unless a queue of the pool still has its name."""
        if not has_queues(namespace, pool):
            with suppress(OSError):
                self._owned.unlink()

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
        _overwrite(self._path, f"{self._epoch} {self._noted}")


def _overwrite(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # Padded: a shorter text then overwrites all of a longer one, with nothing to truncate.
        os.pwrite(descriptor, text.ljust(32).encode() + b"\n", 0)
    finally:
        os.close(descriptor)
