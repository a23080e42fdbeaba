"""Take over a pool from an earlier dealer: locks, the end of what it left running, and its workers' last reports.

The order makes a start safe, and each step rests on the one before it.  # R5 (docs/protocol.md, 11)

1. The pool's lock: there is no other dealer of this state directory.
2. A new epoch, made durable: whatever an earlier one still sends can be told by its epoch.
3. The lock of the IPC namespace: there is no other dealer of these queues. Before anything is ended, so that a dealer
   that is refused has done no harm.
4. The end of every process of earlier epochs: no job of theirs runs any more, and each may be sent again.
5. Only then queues: what lies in them was written by the dead, and all they wrote is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from msgspec import structs

from taskpool import codec
from taskpool.clock import MILLISECOND, SECOND
from taskpool.core.effects import Level
from taskpool.core.storage import Restored
from taskpool.dealer.input_queues import InputQueues
from taskpool.dealer.log import DealerLog
from taskpool.dealer.options import DealerOptions
from taskpool.dealer.platform import Platform
from taskpool.errors import GeneratorGone, MessageError, PoolInUse, QueueEmpty
from taskpool.identifiers import Epoch
from taskpool.ipc import names
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.spool import Spool
from taskpool.journal.store import Store
from taskpool.messages import Progress, Report
from taskpool.procs.pool_lock import HELD_LOOK_NS
from taskpool.procs.wait import wait_ready

HELD_BRIEFLY_NS = 500 * MILLISECOND  # longer: by a dealer
ORPHAN_LEAVES_NS_MAX = 5 * SECOND  # by a dealer that comes up without its generator, on a machine under load


def take_over(platform: Platform, options: DealerOptions, log: DealerLog, teardown: ExitStack) -> Epoch:
    """Own the pool and end its earlier life: steps 1 to 4. Returns the new epoch.

    Raises PoolInUse when another dealer has the pool, GeneratorGone when this one is private and no longer wanted.
    """
    pool = options.pool
    teardown.callback(platform.close)  # first, so that it comes last: the lock outlives everything it protects
    # Before the first queue of our own: what the dead hold counts against this user's limit on bytes.
    for dead in platform.sweep_dead_pools(pool):
        log.say(Level.INFO, f"private pool {dead}: its dealer and generator were killed; its queues are taken away")
    epoch = _lock(platform, options, log)
    _lock_namespace(platform.namespace, pool, teardown)
    _end_earlier_life(platform, pool, epoch, log)
    return epoch


def restore(store: Store, queues: InputQueues, spool: Spool) -> Restored | None:
    """Read what the earlier life stored, and add what its workers still reported: step 5.

    A report in the events queue saves its job from being run again. Submissions are dropped: generators send again
    what was not accepted.
    """
    restored = store.restore()
    late: list[tuple[int, Report]] = []
    _drain(queues.intake, spool, lambda message: None)
    for events in queues.events:
        _drain(events, spool, lambda message: late.extend(_reports(message)))
    return structs.replace(restored, late=late) if restored is not None else None


def _end_earlier_life(platform: Platform, pool: str, epoch: Epoch, log: DealerLog) -> None:
    orphans = platform.end_orphans(pool, epoch)
    # Usually there are none: workers die with their dealer. A warning, because jobs may have run on meanwhile.
    if orphans:
        log.say(Level.WARNING, f"ended {orphans} processes of an earlier life of pool {pool}")
    platform.sweep(pool, epoch)
    for name in names.replies(pool):  # a generator that waits creates its queue again with its next hello
        platform.namespace.unlink(name)
    # Generators hold the old control queue and look whether it still has its name: that it has not is how they learn
    # that there is another dealer.
    platform.namespace.unlink(names.control(pool))


def _lock(platform: Platform, options: DealerOptions, log: DealerLog) -> Epoch:
    """Lock the pool, unless the generator of a private one has gone meanwhile.

    Its next run may have started a dealer by then, which has the pool, or waits for this one to give it back.
    """
    deadline = time.monotonic_ns() + ORPHAN_LEAVES_NS_MAX
    lifeline = (options.lifeline_fd,) if options.lifeline_fd >= 0 else ()
    told = False
    while True:
        try:
            epoch = platform.lock(options.pool)
        except PoolInUse as in_use:
            if not lifeline or time.monotonic_ns() > deadline:
                raise
            if not told:
                log.say(Level.INFO, f"{in_use}; waiting for that dealer to leave")
            told = True
            wait_ready(lifeline, (), HELD_LOOK_NS)
        else:
            if not wait_ready(lifeline, (), 0):
                return epoch
        if wait_ready(lifeline, (), 0):
            raise GeneratorGone("the generator of this private pool has gone")


def _lock_namespace(namespace: QueueNamespace, pool: str, teardown: ExitStack) -> None:
    """Allow one dealer per pool and IPC namespace, even where two have different state directories.

    That happens where containers share an IPC namespace and not their volumes. Raises PoolInUse.
    """
    deadline = time.monotonic_ns() + HELD_BRIEFLY_NS
    while (queue := names.hold_lock(namespace, pool)) is None:
        # A dealer holds it for its life; a sweep of the queues of a dead pool of that name, for some milliseconds.
        if time.monotonic_ns() > deadline:
            raise PoolInUse(
                f"pool {pool} is in use by a dealer of this IPC namespace whose state directory is another one: "
                "stop it, or use another --pool"
            )
        wait_ready((), (), HELD_LOOK_NS)
    held = queue

    def release() -> None:
        held.unlink()
        held.close()

    teardown.callback(release)


def _reports(message: object) -> list[tuple[int, Report]]:
    if not isinstance(message, Progress):
        return []
    return [(message.epoch, report) for report in message.reports]


def _drain(queue: QueueEnd, spool: Spool, take: Callable[[object], None]) -> None:
    """Read what is in the queue now. Its writers are dead, so it holds at most `maxmsg` messages and no more come."""
    for _ in range(queue.maxmsg):
        try:
            take(spool.unpack(codec.decode(queue.receive())))
        except QueueEmpty:
            return
        except MessageError:  # its job will run again, as if the report had never been sent
            continue
