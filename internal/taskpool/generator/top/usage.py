"""Memory and CPU of workers, with all that descends from them, from /proc."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from taskpool.generator.top.history import Use
from taskpool.procs import procfs
from taskpool.procs.procfs import ProcessStat

_TREE_MAX = 256  # processes of one worker that are looked at: a fork bomb must not stop the screen


class UsageReader:
    """Reads again and again: how much CPU is used shows from one reading to the next."""

    def __init__(self, pool: str) -> None:
        self._word = pool.encode()
        self._before: dict[tuple[int, int], int] = {}  # CPU time by process, as it was
        self._read_at = 0

    def read(self, pids: Iterable[int], now: int) -> dict[int, Use]:
        """Return what each of these workers uses; those that /proc does not show are not in it."""
        elapsed, before = now - self._read_at, self._before
        self._read_at, self._before = now, {}
        uses: dict[int, Use] = {}
        for pid in pids:
            # A dealer in another PID namespace tells pids that mean other processes here.
            if self._word in (procfs.read(pid, "cmdline") or b"").split(b"\0"):
                uses[pid] = self._use(pid, before, elapsed)
        return uses

    def _use(self, worker: int, before: dict[tuple[int, int], int], elapsed: int) -> Use:
        cpu_ns, rss_bytes, known = 0, 0, False
        for pid, stat in _tree(worker):
            key = stat.key(pid)
            self._before[key] = stat.cpu_ns
            rss_bytes += stat.resident_bytes
            if pid == worker:
                known = key in before
            # A child that is new since has all its time since; that of one that has ended is now its parent's.
            cpu_ns += stat.cpu_ns - before.get(key, 0)
        if not known or elapsed <= 0:
            return Use(None, rss_bytes)
        # Never below nothing: a child's time that was counted before is counted to its parent when that waits for it.
        return Use(max(0.0, 100 * cpu_ns / elapsed), rss_bytes)


def _tree(root: int) -> Iterable[tuple[int, ProcessStat]]:
    waiting, seen = [root], 0
    while waiting and seen < _TREE_MAX:
        pid = waiting.pop()
        seen += 1
        stat = procfs.stat_of(pid)
        if stat is None:
            continue
        yield pid, stat
        with suppress(OSError):
            waiting += procfs.listed_children(pid) or ()
