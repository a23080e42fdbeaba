"""Processes: they sleep, block, are woken, stopped, and killed at any instant between two of their calls.

A process is a Python generator. It yields how long it sleeps, in nanoseconds, or None until it is woken.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from sim.world import World

Life = Generator[int | None, None, int]  # returns an exit status


class Process:
    """One process of the simulated host."""

    def __init__(self, world: World, pid: int, what: str) -> None:
        self.world = world
        self.pid = pid
        self.what = what
        self.alive = True
        self.died_ns = 0
        self.doomed = False  # a SIGKILL is on its way
        self.stopped = False
        self.awake_since_ns = world.now_ns  # started, or continued
        self.stood_ns = 0  # how long it was stopped, in all
        self._stopped_ns = (0, 0)  # since and until when it is stopped
        self.status: int | None = None
        self.signal: int | None = None
        self.ended: Callable[[], None] | None = None
        self.received: bytes | None = None
        self._sent = False
        self._life: Life | None = None
        self._running = False
        self._turn = 0  # a sleep that was cut short must not wake it again
        self._woken = False

    def run(self, life: Life) -> None:
        self._life = life
        self.wake()

    # --- woken ---

    def wake(self) -> None:
        """Runs again after what the scheduler takes."""
        if self.alive and not self._woken:
            self._woken = True
            self._turn += 1
            turn = self._turn
            self.world.soon(lambda: self._resume(turn))

    def can_be_handed(self, data: bytes) -> bool:
        """The kernel hands a message to a receiver that is blocked, even to one that dies this instant. One
        that is stopped is not waiting any more."""
        if not self.alive or self.stopped:
            return False
        self.received = data
        self.wake()
        return True

    def was_sent(self) -> None:
        """The message that this process was blocked with is in the queue."""
        self._sent = True
        self.wake()

    def take_sent(self) -> bool:
        sent, self._sent = self._sent, False
        return sent

    @property
    def is_asleep(self) -> bool:
        """Alive, and nobody has woken it meanwhile."""
        return self.alive and not self._woken

    def _resume(self, turn: int) -> None:
        if turn != self._turn or not self.alive:
            return
        self._woken = False
        if self.stopped:
            self._woken = True  # goes on when continued
            return
        assert self._life is not None
        self._running = True
        try:
            wait = next(self._life)
        except StopIteration as end:
            self.end(status=end.value)
            return
        finally:
            self._running = False
        if wait is not None and self.is_asleep:
            self._turn += 1
            mine = self._turn
            self.world.at(self.world.now_ns + wait, lambda: self._resume(mine))

    # --- signals ---

    def stop(self, for_ns: int) -> None:
        """SIGSTOP, and SIGCONT a while later."""
        if not self.alive:
            return
        now_ns = self.world.now_ns
        since_ns, until_ns = self._stopped_ns if self.stopped else (now_ns, 0)
        self.stopped, self._stopped_ns = True, (since_ns, max(until_ns, now_ns + for_ns))
        self.world.at(self._stopped_ns[1], self._continue)

    def _continue(self) -> None:
        if self.world.now_ns >= self._stopped_ns[1]:  # else it was stopped once more
            self.go_on()

    def go_on(self) -> None:
        if self.alive and self.stopped:
            self.stopped = False
            self.stood_ns += self.world.now_ns - self._stopped_ns[0]
            self.awake_since_ns = self.world.now_ns
            self._woken = False
            self.wake()

    def kill(self, signal: int = 9, within_ns: int = 100_000) -> None:
        """Dies of the signal, very soon. Until then it may still be handed a message that nobody will see."""
        if self.alive and not self.doomed:
            self.doomed = True
            self.world.soon(lambda: self.end(signal=signal), within_ns)

    def end(self, status: int | None = None, signal: int | None = None) -> None:
        """Is dead."""
        if not self.alive:
            return
        if self.received is not None:
            self.world.faults.seen["message_lost_in_hand_over"] += 1
        self.alive = False
        self.died_ns = self.world.now_ns
        self.status, self.signal = status, signal
        if self._life is not None and not self._running:
            self._life.close()
        self.world.note("process {} ended, status {}, signal {}", self.pid, status or 0, signal or 0)
        self.at_end()
        if self.ended is not None:
            self.ended()

    def at_end(self) -> None:
        """What else its death means."""
