"""`--delay`: a pause between the starts of attempts, whichever job they are of and why ever they start."""

from __future__ import annotations

from taskpool.clock import NEVER, Instant
from taskpool.core.frame import FrameRecord
from taskpool.core.state import PoolState


class Pacing:
    """Says when the next frame may be sent, in a pool with a delay.

    A worker takes its frame when it can. So the pause is counted from when the dealer has heard that the frame before
    was started, which is never before it was; and of a frame that was lost unstarted, none is counted.
    Events carry the time at which their turn began, and the dealer may be stopped in the middle of a turn. So the pause
    begins at the tick behind the event, whose time is read after it.
    """

    def __init__(self, pool: PoolState) -> None:
        self._pool = pool
        self._last: FrameRecord | None = None  # sent, and not known to be started
        self._heard = False  # that it was started, since the last tick
        self._open_mono_ns = 0

    @property
    def active(self) -> bool:
        """Whether there is a delay. Then a frame carries one job, and goes to a worker that has none."""
        return self._pool.config.delay_ns > 0

    def sent(self, frame: FrameRecord) -> None:
        """Nothing else is sent until it has started."""
        self._last = frame

    def started(self) -> None:
        """A frame has started, or a dealer before this one may just have started one."""
        self._last = None
        self._heard = True

    def tick(self, now: Instant) -> None:
        """Begin the pause behind a start."""
        if self._heard:
            self._heard = False
            self._open_mono_ns = now.mono + self._pool.config.delay_ns

    def must_wait(self, now: Instant) -> bool:
        """Whether no frame may be sent yet."""
        # It has one attempt (`active`). One that was lost is out of the table: nothing will say that it has started.
        if self._last is not None and self._last.first_n in self._pool.attempts:
            return True
        return now.mono < self._open_mono_ns

    def next_deadline_ns(self, now: Instant) -> int:
        """When a frame may be sent again, if that is a matter of time."""
        # A moment that has passed is no deadline: the dealer would wake for it again and again, with nothing to do.
        return self._open_mono_ns if self._open_mono_ns > now.mono else NEVER
