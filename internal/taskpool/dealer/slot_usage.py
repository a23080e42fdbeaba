"""What the worker in each slot uses, for the pages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from taskpool.certificate import slot_shown
from taskpool.clock import SECOND
from taskpool.core.metric import computed
from taskpool.core.supervisor import Supervisor
from taskpool.procs import procfs


class Use(NamedTuple):
    """What a process uses."""

    cpu_ns: int = 0  # user and system, with all children it has waited for
    resident_bytes: int = 0


NOTHING = Use()


class SlotUsage:
    """What the worker in each slot uses, read when a page is made, on the page's thread."""

    def __init__(self, supervisor: Supervisor) -> None:
        workers = list(supervisor.workers.values())  # a copy: the loop goes on meanwhile
        pids = {worker.slot: worker.pid for worker in workers if worker.slot is not None}
        slots = sorted(set(range(supervisor.wanted)) | pids.keys())  # one beyond `wanted` is about to be given up
        # Once for both families: reading /proc is what a page of a large pool takes longest for.
        self._uses = {str(slot_shown(slot)): use_of(pids.get(slot, 0)) for slot in slots}

    @computed(
        "gauge",
        "taskpool_worker_resident_memory_bytes",
        "Resident memory of the worker in a slot, without the programs it has started.",
        labels={"slot": None},
    )
    def resident_bytes(self) -> Mapping[str, int]:
        return {slot: use.resident_bytes for slot, use in self._uses.items()}

    @computed(
        "counter",
        "taskpool_worker_cpu_seconds_total",
        "CPU time of the worker in a slot and of what it started and outlived; from 0 again with each new worker.",
        labels={"slot": None},
        unit=SECOND,
    )
    def cpu_ns(self) -> Mapping[str, int]:
        return {slot: use.cpu_ns for slot, use in self._uses.items()}


def use_of(pid: int) -> Use:
    """Read what a child of this process uses; nothing when it is gone, whatever process has its PID by now."""
    if not pid:
        return NOTHING
    try:
        stat = procfs.stat_of(pid)
    except OSError:  # out of descriptors: a page without this number is better than none
        return NOTHING
    if stat is None or stat.parent != os.getpid():
        return NOTHING
    return Use(stat.cpu_ns, stat.resident_bytes)
