"""What an Executor and its calls are limited to, checked. Each error names the argument, the value and the range."""

from __future__ import annotations

import os
import re
import sys
from typing import Any, NamedTuple

from msgspec.structs import replace

from taskpool import limits
from taskpool.clock import SECOND
from taskpool.errors import UsageError
from taskpool.messages import Limits
from taskpool.procs.spawn import WORKER
from taskpool.sizes import human_size, parse_size

_BATCH = re.compile(limits.BATCH_ID_PATTERN)
_POOL = re.compile(limits.POOL_NAME_PATTERN)
_NANOSECONDS_MIN = 1_000_000  # a shorter time-out cannot be kept
_MEMORY_BYTES_MIN = 1024 * 1024  # with less, the call itself cannot be unpickled


class PoolOptions(NamedTuple):
    """Which pool is used, and how."""

    pool: str | None  # a named one; None: a private dealer
    journal: bool
    batch: str | None
    workers: int | None
    worker_exec: str | None
    limits: Limits


def call_limits(
    base: Limits,
    *,
    timeout: float | None = None,
    retries: int | None = None,
    crash_limit: int | None = None,
    priority: int | None = None,
    memory_limit: int | str | None = None,
) -> Limits:
    """Return `base` with what is given changed. Raises ValueError, TypeError."""
    changes: dict[str, Any] = {}
    if memory_limit is not None:
        changes["memory_bytes"] = _memory_bytes(memory_limit)
    if timeout is not None:
        changes["timeout_ns"] = _nanoseconds(timeout)
    for name, value, least, most in (
        ("retries", retries, 0, limits.RETRIES_MAX),
        ("crash_limit", crash_limit, 1, limits.RETRIES_MAX),
        ("priority", priority, -limits.PRIORITY_MAX, limits.PRIORITY_MAX),
    ):
        if value is not None:
            changes[name] = whole_number(name, value, least, most)
    return replace(base, **changes)


def pool_options(
    wanted: Limits,
    *,
    max_workers: int | None,
    pool: str | None,
    journal: bool,
    batch: str | None,
    worker_python: str | None,
) -> PoolOptions:
    """Check which pool is wanted. Raises ValueError, TypeError."""
    if pool is not None:
        if not _POOL.match(pool):
            raise ValueError(f"pool={pool!r}: expected up to 32 lower-case letters, digits and '-'")
        given = {"max_workers": max_workers, "journal": journal or None, "batch": batch, "worker_python": worker_python}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{name}={value!r} is for a private pool: the dealer of {pool!r} has options of its own"
                )
    if journal != (batch is not None):
        cure = (
            "batch='ID' names what is to be gone on with" if journal else "only a journal keeps a batch: journal=True"
        )
        raise ValueError(f"journal={journal!r}, batch={batch!r}: they go together: {cure}")
    if batch is not None and not _BATCH.match(batch):
        raise ValueError(
            f"batch={batch!r}: expected up to 64 letters, digits, '.', '_' and '-', starting with a letter or digit"
        )
    if max_workers is not None:
        whole_number("max_workers", max_workers, 1, limits.WORKERS_MAX)
    return PoolOptions(pool, journal, batch, max_workers, _worker_exec(worker_python), wanted)


def whole_number(name: str, value: object, least: int, most: int | None = None) -> int:
    """Return the number. Raises TypeError or ValueError, which name it."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r}: expected a whole number")
    if value < least or (most is not None and value > most):
        raise ValueError(f"{name}={value!r}: expected {least} {'or more' if most is None else f'to {most}'}")
    return value


def _nanoseconds(timeout: object) -> int:
    if not isinstance(timeout, int | float) or isinstance(timeout, bool):
        raise TypeError(f"timeout={timeout!r}: expected seconds")
    most = limits.TIMEOUT_NS_MAX
    if not _NANOSECONDS_MIN <= timeout * SECOND <= most:  # of a NaN, too
        raise ValueError(f"timeout={timeout!r}: expected 0.001 to {most // SECOND} seconds, or None for no limit")
    return int(timeout * SECOND)


def _memory_bytes(memory_limit: object) -> int:
    try:
        size = parse_size(memory_limit, f"memory_limit={memory_limit!r}")
    except UsageError as error:
        raise ValueError(str(error)) from None
    if size < _MEMORY_BYTES_MIN:
        raise ValueError(f"memory_limit={memory_limit!r}: expected {human_size(_MEMORY_BYTES_MIN)} or more")
    return size


def _worker_exec(python: str | None) -> str | None:
    """Return the worker of that Python; of the program's own where none is named, and None where it has none."""
    beside = os.path.join(os.path.dirname(python or sys.executable), WORKER)
    if os.access(beside, os.X_OK):
        return os.path.abspath(beside)
    if python is not None:
        raise ValueError(f"worker_python={python!r}: there is no program {beside}: install taskpool for that Python")
    return None
