"""Hold all processes of a pool in a control group of their own, where one may be made.

A process stays in the group it was born in whatever it does to its environment, its session, its parent or its user,
unless it may write to another one (cgroups(7)). So a group names all that a dealer's life has started, and ends it with
one write. It can be made by root and in a delegated subtree (Delegate= of systemd.resource-control(5), a user's own
services), not where the file system is mounted read-only, as in most containers. No controller is switched on:
limits of the group around it hold as before.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator
from pathlib import Path

from taskpool.clock import MILLISECOND

_NAME_PREFIX = "tp."


class ControlGroup:
    """One group of the unified hierarchy (cgroup v2), with the groups below it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __str__(self) -> str:
        return str(self.directory)

    @classmethod
    def make(cls, name: str) -> ControlGroup | None:
        """Make a group below the one of this process and move this process into it; None where that is not allowed.

        The move waits for a grace period of the kernel (10 to 20 ms, measured), the same for each later one: hence the
        dealer moves once, and its workers are born there.
        """
        around = own_directory()
        if around is None:
            return None
        group = cls(around / f"{_NAME_PREFIX}{name}")
        try:
            os.mkdir(group.directory)
        except OSError:
            return None
        # cgroup.kill: since Linux 5.14. Without it a group that forks could not be ended in one go.
        if (group.directory / "cgroup.kill").exists() and _move_self(group.directory):
            return group
        group.remove()
        return None

    def leave(self) -> None:
        """Move this process to the group around this one, and remove this one."""
        _move_self(self.directory.parent)
        self.remove()

    @property
    def holds_this_process(self) -> bool:
        own = own_directory()
        return own is not None and own.is_relative_to(self.directory)

    def kill(self, deadline_mono_ns: int) -> bool:
        """Kill all that is in the group, and wait for its end until the deadline.

        False: that is not possible, because the group is gone, may not be written to, or holds this process.
        """
        if self.holds_this_process:
            return False
        try:
            (self.directory / "cgroup.kill").write_text("1", encoding="ascii")
            with open(self.directory / "cgroup.events", "rb") as events:
                _wait_until_empty(events.fileno(), deadline_mono_ns)
        except OSError:
            return False
        return True

    def pids(self) -> set[int]:
        """Return the processes in the group and below it that are not dead."""
        files = (Path(path) / "cgroup.procs" for path, _, _ in os.walk(self.directory))
        return {int(pid) for file in files for pid in _read(file).split()}

    def remove(self) -> None:
        """Remove the group and those below it, which pools within its jobs have left. One that is in use stays."""
        for path, _, _ in os.walk(self.directory, topdown=False):
            try:
                os.rmdir(path)
            except OSError:
                return


def own_directory() -> Path | None:
    """Return where the group of this process is in the file system; None where there is no unified hierarchy."""
    unified = next((group for controllers, group in own_groups() if not controllers), None)
    return None if unified is None else mounted(unified, "cgroup2")


def own_groups() -> Iterator[tuple[frozenset[str], Path]]:
    """Give the groups of this process, each with its controllers: none for that of the unified hierarchy."""
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        if not group.startswith("/.."):  # outside of what this mount shows
            yield frozenset(filter(None, controllers.split(","))), Path(group)


def mounted(group: Path, kind: str, controller: str = "") -> Path | None:
    """Find a group below the mount that shows it, see proc_pid_mountinfo(5). One of v1 is of a controller."""
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        mount, _, source = line.partition(" - ")
        root, point = (field.encode().decode("unicode_escape") for field in mount.split()[3:5])
        words = source.split()
        of_kind = words[0] == kind and (not controller or controller in words[2].split(","))
        if of_kind and group.is_relative_to(root):
            return Path(point) / group.relative_to(root)
    return None


def _move_self(directory: Path) -> bool:
    try:
        (directory / "cgroup.procs").write_text("0", encoding="ascii")
    except OSError:
        return False
    return True


def _wait_until_empty(events_fd: int, deadline_mono_ns: int) -> None:
    poll = select.poll()
    poll.register(events_fd, select.POLLPRI)  # a change of the file, since its last reading
    while b"populated 0" not in os.pread(events_fd, 4096, 0):
        left_ns = deadline_mono_ns - time.monotonic_ns()
        if left_ns <= 0:
            return
        poll.poll(-(-left_ns // MILLISECOND))


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
