"""When a dead worker is replaced at once, when later, and when not at all.

A worker that served and died is replaced at once: its job is to blame, and jobs have their own limit. A worker that
died before it was ready is a broken program; its replacement waits, longer each time, and after BOOT_DEATHS_MAX such
deaths within BOOT_DEATHS_WINDOW_NS none is started for OUT_OF_SERVICE_NS. Deaths by KILL or TERM come from outside and
do not count, unless no worker comes up for very many of them: then it is the machine that kills them, most likely for
the memory they want.
"""

from __future__ import annotations

from collections import deque

from taskpool import limits


class Respawn:
    """The pool's breaker. One for all workers: a worker has no slot before it is given work."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._deaths: deque[int] = deque()
        self._failures = 0
        self._kills = 0  # in a row
        self._allowed_from_ns = 0
        self.out_of_service = False
        self.ever_ready = False

    def ready(self) -> None:
        """A worker came up: the program works."""
        self.ever_ready = True
        self._failures = 0
        self._kills = 0
        self._deaths.clear()
        self.out_of_service = False

    def boot_death(self, now_ns: int, *, cannot_boot: bool, hung: bool = False) -> None:
        """A worker died before it was ready. `cannot_boot`: it said by its exit code that it never will; `hung`: we
        killed it, and such deaths are too far apart for the window."""
        self._failures += 1
        self._deaths.append(now_ns)
        while self._deaths[0] < now_ns - limits.BOOT_DEATHS_WINDOW_NS:
            self._deaths.popleft()
        # A hang takes as long as BOOT_NS_MAX, so five of them never fall into the window of deaths.
        hangs = hung and self._failures >= limits.BOOT_HANGS_MAX
        if cannot_boot or hangs or self.out_of_service or len(self._deaths) >= limits.BOOT_DEATHS_MAX:
            self.out_of_service = True  # and stays so when the one worker that is tried later dies as well
            self._allowed_from_ns = now_ns + limits.OUT_OF_SERVICE_NS
        else:
            self._allowed_from_ns = now_ns + self._delay_ns()

    def tolerates_kill(self) -> bool:
        """A worker was killed before it was ready; whether that may have been done by hand."""
        self._kills += 1
        return self._kills <= limits.BOOT_KILLS_TOLERATED_MAX

    def may_spawn(self, now_ns: int, booting: int) -> bool:
        """Out of service, and after a failure, one worker at a time is tried."""
        if now_ns < self._allowed_from_ns:
            return False
        return self._failures == 0 or booting == 0

    def next_ns(self, now_ns: int) -> int | None:
        """When a spawn that is forbidden now will be allowed."""
        return self._allowed_from_ns if now_ns < self._allowed_from_ns else None

    def _delay_ns(self) -> int:
        """Doubling, with a jitter of a quarter that the seed and the count alone decide."""
        delay = min(limits.RESPAWN_DELAY_NS_MIN << min(self._failures - 1, 20), limits.RESPAWN_DELAY_NS_MAX)
        # A multiplicative hash (2**64 divided by the golden ratio) in place of a random number: pools that failed
        # together must not try again together, and the same events must give the same effects.
        jitter = (self._seed + self._failures * 0x9E3779B97F4A7C15) % 1024
        return delay + delay * jitter // 4096
