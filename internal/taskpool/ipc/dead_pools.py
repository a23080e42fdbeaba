"""Find and take away what killed pools have left: processes of their jobs, their spool, and their queues, which count
against this user's limit. A dealer does it for private pools; for others a person does (`tp-generator doctor --fix`),
since their next dealer takes their queues back.

A private pool is ended by its generator and its dealer. When both are killed together (a control group out of memory, a
time-out of the job that started them), the next dealer of the same user does it, whichever pool it serves. It finds
the dead by their state directories, beside its own.

A pool is dead when none of the three locks is held: its generator's on the note in its directory, its dealer's on the
lock file there, and in this IPC namespace that of its lock queue. All three are held here, the first two shared, until
its queues are gone: a generator or a dealer that starts meanwhile waits for that. What has a batch to go on with keeps
its directory and its journal.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import msgspec

from taskpool import limits
from taskpool.errors import QueueError, QueueMissing, TaskpoolError
from taskpool.ipc import names
from taskpool.ipc.queue import QueueNamespace
from taskpool.procs.orphans import end_orphans, last_life
from taskpool.procs.pool_lock import LOCK_NAME, PoolLock, is_held, lock_shared
from taskpool.procs.state_dir import JOURNAL_NAME, OUTPUT_NAME, PRIVATE_NOTE, SPOOL_NAME, remove_all_but


class _Note(msgspec.Struct):
    """What is used of a generator's note on its private pool."""

    journal: str | None  # its path


def sweep(namespace: QueueNamespace, own: Path, ipc_namespace: str) -> list[str]:
    """Sweep the dead private pools beside the state directory `own`; return their names."""
    return [path.name for path in _private_pools(own.parent, ipc_namespace, own.name) if _sweep(namespace, path)]


def sweep_all(namespace: QueueNamespace, pools: Path, ipc_namespace: str) -> list[str]:
    """Sweep all dead private pools in the directory `pools`; return their names."""
    return [path.name for path in _private_pools(pools, ipc_namespace) if _sweep(namespace, path)]


def find(pools: Path, ipc_namespace: str) -> list[Path]:
    """Return the directories of private pools that a sweep would take away, or the queues of which it would."""
    found = []
    for path in _private_pools(pools, ipc_namespace):
        with ExitStack() as locks:
            begun = names.StaleQueues(path).begun_in() is not None
            with suppress(OSError, msgspec.MsgspecError):  # a damaged note: a sweep leaves it alone
                if _lock(path, begun, locks) and (not _has_batch(path) or begun):
                    found.append(path)
    return found


def find_named(pools: Path, ipc_namespace: str) -> list[Path]:
    """Return the directories of other pools whose dealer was killed and whose queues may be in this IPC namespace."""
    return [path for path in _named_pools(pools) if names.StaleQueues(path).begun_in() == ipc_namespace]


def unlink_named(namespace: QueueNamespace, directory: Path) -> bool:
    """Take away the queues of a dead pool that is not private; False: its dealer lives, or they are another user's.

    What its workers reported last is lost with them, so those jobs run again.
    """
    with closing(PoolLock(directory, directory.name)) as lock:
        if not lock.hold() or not names.unlink_pool(namespace, directory.name, directory):
            return False
        names.StaleQueues(directory).end(namespace, directory.name)
    return True


def has_dealer(namespace: QueueNamespace, pool: str) -> bool:
    """Say whether a dealer has a pool in this IPC namespace, whatever its state directory is. Creates nothing."""
    try:
        with closing(namespace.open(names.lock(pool), send=True, receive=True)) as queue:
            queue.hold_notification_lock()
    except QueueMissing:
        return False
    except QueueError:  # held, or not ours to judge
        return True
    return False


def unlink_listed(namespace: QueueNamespace, pool: str, queues: Iterable[str]) -> bool:
    """Take away queues of a pool that has no state directory here; False: a dealer has it, or they are not ours."""
    try:
        held = names.hold_lock(namespace, pool)
    except QueueError:
        return False
    if held is None:
        return False
    with closing(held):
        for name in queues:
            with suppress(QueueError):
                namespace.unlink(name)
        held.unlink()
    return True


def _named_pools(pools: Path) -> Iterator[Path]:
    with suppress(OSError):
        for path in sorted(pools.iterdir()):
            own = path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.geteuid()
            if own and not (path / PRIVATE_NOTE).exists() and not is_held(path):
                yield path


def _private_pools(pools: Path, ipc_namespace: str, but: str = "") -> Iterator[Path]:
    """Yield the directories of private pools that may have queues in this IPC namespace, or have no journal.

    A directory that is shared with other namespaces may have some there: those are for a dealer of that namespace.
    """
    try:
        entries = list(os.scandir(pools))
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        begun_in = names.StaleQueues(path).begun_in()
        # Of a directory with neither a pool was killed before it had begun. Most have a journal, and wait for a resume.
        if entry.name == but or begun_in not in (ipc_namespace, None):
            continue
        with suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if begun_in is None and (path / JOURNAL_NAME).exists():
                continue
            if entry.is_dir(follow_symlinks=False) and status.st_uid == os.geteuid():
                yield path


def _sweep(namespace: QueueNamespace, path: Path) -> bool:
    """Sweep one pool, unless it lives or has left in good order."""
    stale = names.StaleQueues(path)
    begun = stale.begun_in() is not None
    with ExitStack() as locks:
        if not _lock(path, begun, locks):
            return False
        try:
            has_batch = _has_batch(path)
            end_orphans(last_life(path, path.name), 0, time.monotonic_ns() + limits.TERM_GRACE_NS)
            if begun and not names.unlink_pool(namespace, path.name, path):
                return False
            if has_batch and not begun:
                return False
            shutil.rmtree(path / SPOOL_NAME, ignore_errors=True)
            if has_batch:
                stale.end(namespace, path.name)  # last: a dealer that is killed before it leaves the rest to the next
            else:
                # Output of jobs stays: results that were written may name it.
                remove_all_but(path, lambda file: file.is_relative_to(path / OUTPUT_NAME))
        except (OSError, msgspec.MsgspecError, TaskpoolError):
            return False  # what is wrong with a dead pool must not keep a living one from starting
    return True


def _lock(path: Path, begun: bool, locks: ExitStack) -> bool:
    """Take the locks of a pool's generator and dealer; False: one of them lives."""
    for name in (PRIVATE_NOTE, LOCK_NAME):  # as a generator and its dealer take them, one after the other
        fd = lock_shared(path / name)
        if fd is not None:
            locks.callback(os.close, fd)
        elif begun or name == PRIVATE_NOTE or (path / name).exists():
            return False
    return True


def _has_batch(path: Path) -> bool:
    """Say whether a private pool has a batch to go on with. Raises OSError, MsgspecError: its note does not tell."""
    note = msgspec.json.decode((path / PRIVATE_NOTE).read_bytes(), type=_Note)
    journal = None if note.journal is None else Path(note.journal)
    # One in another place may just not be mounted.
    return journal is not None and (journal.parent != path or journal.exists())
