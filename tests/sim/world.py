"""The world of one schedule: its time, its chance, its record, and what happens next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import NoReturn

from sim.faults import Faults
from taskpool.clock import Instant

START_NS = 10**12
WALL_NS = 17 * 10**17
STEPS_MAX = 60_000  # some hundred are usual


class Violation(AssertionError):
    """A promise was broken. The text says which."""


class World:
    """One thread, one heap of things to come. Whoever moves time runs what becomes due meanwhile."""

    def __init__(self, seed: int, faults: Faults, *, tracing: bool = False) -> None:
        self.seed = seed
        self.rng = Random(f"world {seed}")
        self.faults = faults
        self.now_ns = START_NS
        self.wall_ahead_ns = WALL_NS - START_NS
        self.steps = 0
        self.hash = 0
        self.trace: list[str] | None = [] if tracing else None
        self.violation: Violation | None = None
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0

    # --- time ---

    def now(self) -> Instant:
        """This makes the world a `clock.Clock`."""
        return Instant(self.now_ns, self.now_ns + self.wall_ahead_ns)

    @property
    def next_ns(self) -> int:
        """When the next thing is due."""
        return self._heap[0][0] if self._heap else 2**62

    def at(self, when_ns: int, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (when_ns, self._order, what))

    def soon(self, what: Callable[[], None], most_ns: int = 60_000) -> None:
        """After what a scheduler may take."""
        self.at(self.now_ns + 1 + int(self.rng.random() * most_ns), what)

    def pass_to(self, when_ns: int) -> None:
        """Let time pass, and everything happen that is due meanwhile."""
        heap = self._heap
        while heap and heap[0][0] <= when_ns:
            self.step()
        self.now_ns = max(self.now_ns, when_ns)

    def step_until(self, when_ns: int) -> bool:
        """The next thing that happens before then. False: nothing does, and it is that time now."""
        if self._heap and self._heap[0][0] <= when_ns:
            self.step()
            return True
        self.now_ns = max(self.now_ns, when_ns)
        return False

    def step(self) -> None:
        when_ns, _, what = heapq.heappop(self._heap)
        self.now_ns = max(self.now_ns, when_ns)
        self.steps += 1
        if self.steps > STEPS_MAX:
            self.fail("I10", f"{STEPS_MAX} steps, and no end")
        what()

    # --- record ---

    def note(self, text: str, *numbers: int) -> None:
        """Something happened. Texts are constants: only their length and the numbers are hashed, which no
        PYTHONHASHSEED changes."""
        self.hash = hash((self.hash, self.now_ns, len(text), numbers))
        if self.trace is not None:
            time = (self.now_ns - START_NS) / 1e9
            self.trace.append(f"{time:13.6f}  {text.format(*numbers)}")

    def say(self, text: str) -> None:
        """For a reader of the trace only."""
        if self.trace is not None:
            self.trace.append(f"{(self.now_ns - START_NS) / 1e9:13.6f}  {text}")

    def fail(self, rule: str, text: str) -> NoReturn:
        """A promise is broken."""
        if self.violation is None:
            self.violation = Violation(f"{rule}: {text}")
            self.say(f"VIOLATION {self.violation}")
        raise self.violation

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def between(self, least: int, most: int) -> int:
        return least + int(self.rng.random() * (most - least + 1))
