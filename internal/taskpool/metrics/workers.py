"""The families about worker processes. What a process uses is read from /proc while the page is made."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.core import Metric

from taskpool.clock import SECOND
from taskpool.core.counters import EXIT_REASONS, SIGNALS, Counters
from taskpool.core.supervisor import Supervisor
from taskpool.core.worker import WorkerState
from taskpool.metrics.families import counter, counter_by, gauge, gauge_by, histogram
from taskpool.procs import procfs

_WITHOUT_SIGNAL = frozenset({"clean", "error"})  # exits by exit status only


class Use(NamedTuple):
    """What a process uses."""

    cpu_ns: int = 0  # user and system, with all children it has waited for
    resident_bytes: int = 0


NOTHING = Use()


def families(supervisor: Supervisor, counters: Counters) -> Iterator[Metric]:
    workers = list(supervisor.workers.values())  # a copy: the loop goes on meanwhile
    states = Counter(worker.state for worker in workers)
    yield gauge_by(
        "taskpool_workers",
        "Worker processes, by state.",
        ["state"],
        [([state.value], states[state]) for state in WorkerState],
    )
    yield gauge(
        "taskpool_workers_wanted", "Workers the dealer tries to keep at work, without spares.", supervisor.wanted
    )
    yield gauge(
        "taskpool_workers_out_of_service",
        "1 while workers die before they are ready, and are started one at a time and seldom.",
        supervisor.respawn.out_of_service,
    )
    yield counter("taskpool_worker_starts_total", "Worker processes started.", counters.worker_spawns)
    yield counter("taskpool_worker_respawns_total", "Workers started in place of another.", counters.worker_respawns)
    yield counter_by(
        "taskpool_worker_exits_total",
        "Worker processes that ended, by why and by signal.",
        ["reason", "signal"],
        [([reason, signal], counters.worker_exits[reason, signal]) for reason, signal in _exits()],
    )
    yield histogram("taskpool_worker_boot_seconds", "From a worker's start until it is ready.", counters.boot)
    yield from _use_by_slot(
        {worker.slot: worker.pid for worker in workers if worker.slot is not None}, supervisor.wanted
    )


def _exits() -> list[tuple[str, str]]:
    """The pairs of reason and signal that there can be."""
    possible = [(reason, signal) for reason in EXIT_REASONS for signal in SIGNALS]
    return [
        (reason, signal)
        for reason, signal in possible
        if not (signal and reason in _WITHOUT_SIGNAL) and not (reason == "signal" and not signal)
    ]


def _use_by_slot(pids: dict[int, int], wanted: int) -> Iterator[Metric]:
    slots = sorted(set(range(wanted)) | pids.keys())  # a slot beyond `wanted` is on its way out
    uses = {slot: use_of(pids.get(slot, 0)) for slot in slots}
    yield gauge_by(
        "taskpool_worker_resident_memory_bytes",
        "Resident memory of the worker in a slot, without the programs it has started.",
        ["slot"],
        [([str(slot)], use.resident_bytes) for slot, use in uses.items()],
    )
    yield counter_by(
        "taskpool_worker_cpu_seconds_total",
        "CPU time of the worker in a slot and of what it started and outlived; from 0 again with each new worker.",
        ["slot"],
        [([str(slot)], use.cpu_ns / SECOND) for slot, use in uses.items()],
    )


def use_of(pid: int) -> Use:
    """What a child of this process uses; nothing when it is gone, whoever has its number by now."""
    if not pid:
        return NOTHING
    try:
        stat = procfs.stat_of(pid)
    except OSError:
        return NOTHING
    if stat is None or stat.parent != os.getpid():
        return NOTHING
    return Use(stat.cpu_ns, stat.resident_bytes)
