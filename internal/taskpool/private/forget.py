"""Remove what is kept of private batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress

from taskpool.errors import PoolInUse, TaskpoolError, UsageError
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.private import notes
from taskpool.private.notes import KeptBatch
from taskpool.private.process import clear_away
from taskpool.private.state import PrivateState
from taskpool.procs.pool_lock import is_held, last_holder
from taskpool.procs.state_dir import OUTPUT_NAME


def forget(kept: KeptBatch) -> int:
    """Remove a batch; return how many files of output stay, because outcomes that were written name them.

    Raises PoolInUse when a generator or a dealer has it, ConfigurationError.
    """
    batch = kept.note.batch
    with closing(PrivateState(batch, kept.note.journal or "none", resume=True)) as state:
        # A dealer may outlive a generator that was killed, and it holds another lock.
        if is_held(state.directory):
            holder = last_holder(state.directory)
            pid = f" (PID {holder.pid})" if holder is not None else ""
            raise PoolInUse(f"batch {batch!r} runs: its dealer{pid} is still there; stop it first")
        clear_away(state, KernelNamespace())
        outputs = state.directory / OUTPUT_NAME
        told = {path for path in outputs.rglob("*") if path.is_file()} if kept.note.names_files else set()
        return state.remove(told)


def forget_expired(now_wall_ns: int) -> list[str]:
    """Remove batches that have succeeded and whose time is over (--retain); return their ids."""
    forgotten = []
    for kept in expired(now_wall_ns):
        with suppress(TaskpoolError, OSError):  # it is in use just now, and goes later
            forget(kept)
            forgotten.append(kept.note.batch)
    return forgotten


def expired(now_wall_ns: int) -> Iterator[KeptBatch]:
    """Yield the batches that `forget_expired` removes."""
    for path in notes.with_result():
        kept = notes.look_at(path)
        expires = None if kept is None else kept.expires_wall_ns
        if kept is not None and expires is not None and expires < now_wall_ns:
            yield kept


def forget_succeeded(batch: str) -> None:
    """Make room for a new batch of this name where all of the kept one has succeeded, as that of last night."""
    kept = notes.find(batch)
    if kept is not None and kept.state == "succeeded":
        with suppress(PoolInUse):  # it is begun just now by another, who is told of instead
            forget(kept)


def find(batch: str) -> KeptBatch:
    """Return a kept batch. Raises UsageError, which names the nearest ids, when there is none."""
    kept = notes.find(batch)
    if kept is None:
        raise UsageError(f"forget: {notes.unknown(batch, notes.known_ids(), 'that is kept here')}")
    return kept
