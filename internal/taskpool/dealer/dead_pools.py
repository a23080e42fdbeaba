"""Take away what killed private pools have left: processes of their jobs, their spool, and their queues, which count
against this user's limit.

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
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from taskpool import limits
from taskpool.errors import TaskpoolError
from taskpool.ipc import names
from taskpool.ipc.queue import QueueNamespace
from taskpool.procs.orphans import end_orphans, last_life
from taskpool.procs.pool_lock import LOCK_NAME, lock_shared
from taskpool.procs.state_dir import OUTPUT_NAME, PRIVATE_NOTE, SPOOL_NAME, remove_all_but


class _Note(msgspec.Struct):
    """What is used of a generator's note on its private pool."""

    journal: str | None  # its path


def sweep(namespace: QueueNamespace, own: Path, ipc_namespace: str) -> list[str]:
    """Sweep the dead private pools beside the state directory `own`; return their names."""
    return [path.name for path in _private_pools(own, ipc_namespace) if _sweep(namespace, path)]


def _private_pools(own: Path, ipc_namespace: str) -> Iterator[Path]:
    """Yield the directories of private pools that may have queues in this IPC namespace.

    A directory that is shared with other namespaces may have some there: those are for a dealer of that namespace.
    """
    try:
        entries = list(os.scandir(own.parent))
    except OSError:
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.name == own.name or names.StaleQueues(path).begun_in() != ipc_namespace:
            continue
        with suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False) and status.st_uid == os.geteuid():
                yield path


def _sweep(namespace: QueueNamespace, path: Path) -> bool:
    """Sweep one pool, unless it lives."""
    with ExitStack() as locks:
        for name in (PRIVATE_NOTE, LOCK_NAME):  # as a generator and its dealer take them, one after the other
            fd = lock_shared(path / name)
            if fd is None:
                return False
            locks.callback(os.close, fd)
        try:
            note = msgspec.json.decode((path / PRIVATE_NOTE).read_bytes(), type=_Note)
            end_orphans(last_life(path, path.name), 0, time.monotonic_ns() + limits.TERM_GRACE_NS)
            # Last, what marks the directory: a dealer that is killed here leaves the rest to the next one.
            if not names.unlink_pool(namespace, path.name, path):
                return False
            shutil.rmtree(path / SPOOL_NAME, ignore_errors=True)
            if note.journal is not None and Path(note.journal).exists():
                names.StaleQueues(path).end(namespace, path.name)
            else:
                # No batch to go on with. Output of jobs stays: results that were written may name it.
                remove_all_but(path, {file for file in (path / OUTPUT_NAME).rglob("*") if file.is_file()})
        except (OSError, msgspec.MsgspecError, TaskpoolError):
            return False  # what is wrong with a dead pool must not keep a living one from starting
    return True
