"""A frame on its way to a worker or held by one: which of its jobs are without a report, and its deadline.

The dealer's record of it; what travels is `messages.Frame`.
"""

from __future__ import annotations

from taskpool import limits
from taskpool.clock import NEVER, Instant
from taskpool.core.job import Job


class FrameRecord:
    """A frame that a worker holds: its jobs whose attempt has no report, in order.

    `deadline_ns` is when it must have been heard from, on the monotonic clock. Silence is counted from `heard_mono_ns`:
    when the frame became the worker's head, was started, or last reported.
    """

    __slots__ = (
        "first_n",
        "heard_mono_ns",
        "jobs",
        "sent",
        "shared",
        "started",
        "started_wall_ns",
        "taking_back",
        "timeout_ns",
    )

    def __init__(self, first_n: int, now: Instant, *, size: int = 1, timeout_ns: int = 0, sent: bool = True) -> None:
        """`size`: its jobs. `sent` is false while its attempts are stored first, by a dealer that writes ahead."""
        self.first_n = first_n
        # Insertion order is the order in which the worker runs them, so the first one left is the one it is at.
        self.jobs: dict[int, Job] = {}  # by the number of the attempt
        self.shared = size > 1
        self.timeout_ns = timeout_ns
        self.sent = sent
        self.started = False
        self.started_wall_ns = 0
        self.taking_back = False
        self.heard_mono_ns = now.mono

    def send(self, now: Instant) -> None:
        """Its attempts are stored; it leaves now, and only now its worker can be late."""
        self.sent = True
        self.heard_mono_ns = now.mono

    def start(self, now: Instant) -> None:
        self.started = True
        self.started_wall_ns = now.wall
        self.heard_mono_ns = now.mono

    def hear(self, now: Instant) -> None:
        """It became the head, or reported: its silence begins anew."""
        self.heard_mono_ns = now.mono

    def extend_deadline(self, gap_ns: int) -> None:
        """Its worker could not speak for so long."""
        self.heard_mono_ns += gap_ns

    def ask_back(self) -> None:
        """The dealer is about to receive it from the worker's queue itself."""
        self.taking_back = True

    def deadline_ns(self) -> int:
        """When the frame at the head must have been heard from."""
        if not self.sent:
            return NEVER
        if not self.started:
            # A ready worker that does not take its frame hangs outside any job: in its own loop, or stopped by a
            # signal.
            return self.heard_mono_ns + limits.START_SILENT_NS_MAX
        if self.shared:
            # Jobs share a frame only when they are tiny; one that is silent for so long is none of them, and holds up
            # the others.
            return self.heard_mono_ns + limits.FRAME_SILENT_NS_MAX
        return self.heard_mono_ns + self.timeout_ns if self.timeout_ns else NEVER

    def is_long(self, now: Instant) -> bool:
        """Whether it has run for so long that nothing must wait behind it."""
        return now.mono - self.heard_mono_ns >= limits.FRAME_TAKE_BACK_NS

    @property
    def runs_in_process(self) -> bool:
        return all(job.traits.in_process for job in self.jobs.values())
