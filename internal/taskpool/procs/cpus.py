"""Count the CPUs that this process may really use."""

from __future__ import annotations

import os
import re

from taskpool import limits
from taskpool.errors import UsageError

# Digits are limited, because int() of a long text takes time that grows with its square.
_WORKERS = re.compile(r"(\+?)(\d{1,6})(%?)", re.ASCII)


def usable_cpus(cgroup_root: str = "/sys/fs/cgroup", membership: str = "/proc/self/cgroup") -> int:
    """Return the CPUs in the affinity mask, or fewer when a control group's quota allows fewer. At least 1.

    `os.cpu_count()` knows neither: a container of 2 CPUs on a host of 64 would start 64 workers.
    The parameters are files that exist once on a machine, for tests to replace.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _quota_cpus(cgroup_root, membership)
    return max(1, min(allowed, quota) if quota is not None else allowed)


def worker_count(text: str, cpus: int | None = None) -> int:
    """Return how many workers `N`, `N%` (of the usable CPUs) or `+N` (beside them) means, as a dealer counts them.

    `cpus`: the usable ones; None: those of this process. Raises UsageError naming the value, the limit and the forms.
    """
    match = _WORKERS.fullmatch(text)
    forms = f"expected N, N% of the CPUs or +N beside them, 1 to {limits.WORKERS_MAX} workers in all"
    if match is None or (match[1] and match[3]):
        raise UsageError(f"--workers {text}: {forms}")
    usable, number = usable_cpus() if cpus is None else cpus, int(match[2])
    wanted = usable + number if match[1] else max(1, usable * number // 100) if match[3] else number
    if not 1 <= wanted <= limits.WORKERS_MAX:
        raise UsageError(f"--workers {text}: that is {wanted} workers; {forms}")
    return wanted


def _quota_cpus(root: str, membership: str) -> int | None:
    """Return the smallest quota on the way from our control group up, in whole CPUs, rounded up. None: no quota."""
    # All on the way up: a group is held to its parents' quotas too, and the own one is often unlimited.
    quotas = []
    for path in _cgroup_paths(root, membership):
        quota = _quota_v2(path) or _quota_v1(path)
        if quota is not None:
            quotas.append(-(-quota[0] // quota[1]))
    return min(quotas, default=None)


def _cgroup_paths(root: str, membership: str) -> list[str]:
    # Lines of cgroups(7): "0::/path" in version 2, "4:cpu,cpuacct:/path" in version 1; on hybrid hosts there are both.
    paths = []
    for line in (_read(membership) or "").splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root if not controllers else os.path.join(root, controllers)
        parts = [part for part in own.split("/") if part]
        paths += [os.path.join(base, *parts[:depth]) for depth in range(len(parts), -1, -1)]
    return paths


def _quota_v2(path: str) -> tuple[int, int] | None:
    """Return (quota, period) in microseconds of a group of version 2."""
    fields = (_read(os.path.join(path, "cpu.max")) or "").split()  # "max 100000" where there is no quota
    return (int(fields[0]), int(fields[1])) if len(fields) == 2 and fields[0].isdigit() else None


def _quota_v1(path: str) -> tuple[int, int] | None:
    """Return (quota, period) in microseconds of a group of version 1, where -1 stands for no quota."""
    quota = _read(os.path.join(path, "cpu.cfs_quota_us"))
    period = _read(os.path.join(path, "cpu.cfs_period_us"))
    return (int(quota), int(period)) if quota and period and int(quota) > 0 else None


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return None  # this level has no such controller, or the other version's file names
