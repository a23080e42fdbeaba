"""How often the kernel has ended a process of this control group because memory ran out.

SIGKILL does not say who sent it, and people send it too. The kernel counts its own in the group of the process that it
ends, whichever group's limit was met, the machine's own included: `oom_kill` of memory.events (cgroup v2), or of
memory.oom_control (v1, since Linux 4.13).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from taskpool.procs.control_group import mounted, own_groups

_FIELD = b"oom_kill "


def kills() -> int | None:
    """Return the count; None where the kernel does not tell, as in a machine's topmost group."""
    # Opened each time: a job that closes all descriptors could leave its own file under a number kept here.
    file = _counter()
    try:
        data = file.read_bytes() if file is not None else b""
    except OSError:
        return None
    found = data.partition(_FIELD)[2].split(None, 1)
    return int(found[0]) if found else None


def since(before: int | None) -> bool | None:
    """Say whether the kernel has ended a process of this group since `kills` gave `before`; None: it does not tell."""
    now = kills()
    return None if now is None or before is None else now > before


@cache
def _counter() -> Path | None:
    return next((file for file in _candidates() if _has_field(file)), None)


def _candidates() -> Iterator[Path]:
    for controllers, group in own_groups():
        if not controllers and (directory := mounted(group, "cgroup2")) is not None:
            # A group without the controller is accounted to the nearest one above that has it.
            yield from (above / "memory.events" for above in (directory, *directory.parents))
        elif "memory" in controllers and (directory := mounted(group, "cgroup", "memory")) is not None:
            yield directory / "memory.oom_control"


def _has_field(file: Path) -> bool:
    try:
        return b"\n" + _FIELD in b"\n" + file.read_bytes()
    except OSError:
        return False
