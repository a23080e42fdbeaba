"""The machine that was measured on: a figure without it says nothing, and a busy one spoils it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from msgspec import Struct

BUSY_LOAD = 0.5  # by the load average of the last minute, before the bench begins


class Machine(Struct, frozen=True):
    """What tells machines apart, and how busy this one was."""

    cpu: str
    cores: int  # those that this process may use
    kernel: str
    load: float
    busy: bool

    def text(self) -> str:
        state = "busy: its figures prove nothing" if self.busy else "idle"
        return f"{self.cpu}, {self.cores} cores, Linux {self.kernel}; load at start {self.load:.2f} ({state})"


def this_machine() -> Machine:
    load = os.getloadavg()[0]
    return Machine(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text()) or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        load=load,
        busy=load > BUSY_LOAD,
    )


def cpu_model(cpuinfo: str) -> str | None:
    """Return what /proc/cpuinfo calls the processor; None on machines where it has no name."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return None
