"""Look at the host, print a row for each thing that a pool needs of it, and cure what `--fix` may."""

from __future__ import annotations

import os
import resource
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from taskpool import limits
from taskpool.clock import SystemClock
from taskpool.errors import ConfigurationError, ExitCode, TaskpoolError, UsageError
from taskpool.generator.doctor import host, host_checks, queue_checks
from taskpool.generator.doctor.row import Row, Status, as_json, as_table, fault, has_fault, in_a_line
from taskpool.generator.output.console import Console
from taskpool.generator.output.stream import Piece, write_pieces
from taskpool.ipc import dead_pools
from taskpool.ipc.mqueue import KernelNamespace, ipc_namespace, kernel_limits
from taskpool.private.forget import forget_expired
from taskpool.procs import oom
from taskpool.procs.cpus import usable_cpus, worker_count
from taskpool.procs.state_dir import chosen_by, pools_directory

_STDOUT = 1
DEALER_VARIABLE = "TP_DEALER_WORKERS"  # which a private dealer reads itself, where no flag says more


def doctor(args: Namespace, console: Console) -> ExitCode:
    """Print the rows; JOBS_FAILED, which is 1, when one is a fault. Raises UsageError."""
    workers = _workers(args.workers)  # a setting, where none was typed
    # Before anything is looked at: the rows tell how the host is now.
    if args.fix:
        fix(console)
    rows = [row for look in (*_cheap(workers), *_costly()) for row in look()]
    write_pieces([Piece(_STDOUT, as_json(rows) if args.json else as_table(rows))])
    return ExitCode.JOBS_FAILED if has_fault(rows) else ExitCode.OK


def tell_faults(console: Console, workers: str | None) -> None:
    """Tell of the faults that can have kept a private pool of so many workers from starting, below the error that
    did."""
    try:
        # Not the others: a person waits for the error, and no control group keeps a pool from starting.
        rows = [row for look in _cheap(_workers(workers)) for row in look()]
    except (TaskpoolError, OSError):
        return  # the error itself has been told
    for row in rows:
        if row.status is Status.FAULT:
            console.warning(in_a_line(row))


def fix(console: Console) -> None:
    """Take away what dead pools and expired batches have left, and say what."""
    namespace, here = KernelNamespace(), ipc_namespace()
    try:
        pools = pools_directory()
    except ConfigurationError:
        return  # no place for state: a row says so
    # Each takes the locks of what it takes away, so that a pool which starts meanwhile is left alone or waits.
    for name in dead_pools.sweep_all(namespace, pools, here):
        console.info(f"Private pool {name}: its generator and dealer were killed; what they left is taken away")
    for path in dead_pools.find_named(pools, here):
        if dead_pools.unlink_named(namespace, path):
            console.info(f"Pool {path.name}: its dealer was killed; its queues are taken away")
    for pool, queues in host.unknown_queues(pools).items():
        if dead_pools.unlink_listed(namespace, pool, queues):
            console.info(f"Pool {pool}: it has no dealer and no state directory here; its queues are taken away")
    for batch in forget_expired(SystemClock().now().wall):
        console.info(f"Batch {batch}: all its jobs have succeeded and its --retain is over; it is forgotten")


def _workers(text: str | None) -> int:
    """Return how many workers a pool started from here would have. Raises UsageError."""
    if text is not None:
        return worker_count(text)
    variable = os.environ.get(DEALER_VARIABLE)
    if not variable:
        return min(usable_cpus(), limits.WORKERS_MAX)
    try:
        return worker_count(variable)
    except UsageError as error:
        raise UsageError(f"{DEALER_VARIABLE}: {error}") from None


Look = Callable[[], list[Row]]


def _cheap(workers: int) -> list[Look]:
    """What may keep a pool from starting."""
    return [
        lambda: _queues(workers),
        lambda: host_checks.state_directory(host.state_directory(), chosen_by(os.environ)),
        lambda: [host_checks.descriptors(*host.rlimits(resource.RLIMIT_NOFILE), workers)],
        lambda: [host_checks.processes(host.processes_of_user(), host.processes_of_group(), workers)],
        lambda: [host_checks.kernel_calls(host.kernel_calls(host.nearest(_spool_place())))],
    ]


def _costly() -> list[Look]:
    """What costs a pool time, or its queues later."""
    return [
        _left,
        lambda: [host_checks.control_group(host.control_group())],
        lambda: [host_checks.oom_count(oom.kills())],
        lambda: [host_checks.core_pattern(host.core_pattern())],
        lambda: [host_checks.remove_ipc(host.login())],
        lambda: [host_checks.clock(hasattr(time, "CLOCK_BOOTTIME"), host.synchronised())],
        lambda: [host_checks.container(host.container())],
    ]


def _queues(workers: int) -> list[Row]:
    try:
        kernel = kernel_limits()
    except ConfigurationError as error:
        return [
            fault(
                "queue limits",
                "not readable",
                str(error),
                "sudo mount -t proc proc /proc",
            )
        ]
    return [
        queue_checks.queue_limits(kernel, workers),
        queue_checks.queue_bytes(kernel, host.queue_uses(), workers),
        queue_checks.trial_queue(host.trial_queue()),
    ]


def _left() -> list[Row]:
    try:
        left = host.leavings(SystemClock().now().wall)
    except ConfigurationError:
        return []  # no place for state: its own row says so
    return [queue_checks.stale_queues(left), queue_checks.kept_state(left)]


def _spool_place() -> Path:
    try:
        return pools_directory()
    except ConfigurationError:
        return Path("/tmp")  # its own row says what is wrong with the place for state
