"""A batch's submissions until they are accepted: go-back-N over a queue that may lose everything.

Frames of jobs are kept until accepted, at most SUBMITS_IN_FLIGHT_MAX of them. When one went missing, all are sent again
from the first that is not accepted: the dealer compares what it has already by digest and accepts it once more.
A batch that is resumed is submitted anew from its first job. The dealer compares each frame with what it has and then
accepts everything it has; so that part is sent a frame at a time, and only the frame under way counts.
Pure: times are monotonic nanoseconds, handed in.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import MILLISECOND
from taskpool.codec import encode
from taskpool.messages import Close, JobSpec, Limits, Refused, Submit

SUBMIT_HEADER_BYTES = 96  # version, tag, client, batch, first_seq and list header of a Submit

# A full pool has room again as soon as a job ends, which may take milliseconds or hours: so the pause doubles.
FULL_DELAY_NS_MIN = 50 * MILLISECOND
FULL_DELAY_NS_MAX = 2_000 * MILLISECOND


def encoded_bytes(job: JobSpec) -> int:
    """Give the most that a job takes in a Submit."""
    # Estimated, not encoded: each job is encoded once, with its frame. 4 bytes are the most a character takes in UTF-8.
    label = 1 if job.label is None else 3 + 4 * len(job.label)
    own = 1 if job.limits is None else _limits_bytes(job.limits)
    return 8 + len(job.kind) + len(job.payload) + label + own


@lru_cache(maxsize=64)  # the jobs of one file mostly share a few limits
def _limits_bytes(wanted: Limits) -> int:
    return len(encode(wanted))


class _Frame(NamedTuple):
    """Jobs first..last, ready to be sent as often as it takes."""

    first: int
    last: int
    data: bytes


class Submissions:
    """Counts jobs: `submitted`, `accepted` and totals are numbers of jobs, from the batch's first."""

    def __init__(self, client: int, batch: str, now: int) -> None:
        self._client = client
        self._batch = batch
        self._frames: deque[_Frame] = deque()
        self._unsent = 0  # index of the next frame to send
        self.sent_upto = 0  # the last job ever sent, accepted or not
        self.submitted = 0  # the last job put into a frame
        self.accepted = 0
        self.known = 0  # jobs that an earlier client got accepted, and that are to be compared
        self.abandoned = False  # more jobs may come in another run: the batch is not closed
        self.refusal: Refused | None = None  # for good: no job from its first_seq on ever gets in
        self._total: int | None = None
        self._close_sent = False
        self.closed = False  # the dealer knows the total
        self._progress_at = now
        self._resend_ns = limits.RESEND_NS
        self._rewound_at = -1  # `accepted` when last rewound for a gap
        self._paused_until = 0  # the pool was full; 0: no pause
        self._full_delay = FULL_DELAY_NS_MIN

    # --- what the caller wants --------------------------------------------------------------------

    @property
    def has_room(self) -> bool:
        """Whether another frame may be submitted."""
        return len(self._frames) < limits.SUBMITS_IN_FLIGHT_MAX and self._total is None and not self.abandoned

    @property
    def comparing(self) -> bool:
        """Whether jobs that were accepted from an earlier client are still to be compared with ours."""
        return self.accepted < self.known

    @property
    def settled(self) -> bool:
        """Whether all that was submitted is accepted and no more comes: the batch is closed, or the pool refused."""
        return self.closed or (self.refusal is not None and self.abandoned and not self._frames)

    def compare_first(self, known: int, *, adopt: bool = False) -> None:
        """Have the first `known` jobs compared with those that the dealer has, before others are sent. `adopt`: they
        are all of the batch, and there is none to compare or to add."""
        self.known = known
        if adopt:
            self.submitted = self.accepted = self._total = known
            self.closed = self._close_sent = True

    def begin_behind(self, known: int) -> None:
        """Begin behind the first `known` jobs, which the dealer has and keeps as they are."""
        self.submitted = self.accepted = self.sent_upto = known

    def submit(self, jobs: list[JobSpec]) -> None:
        """Put the batch's next jobs into a frame. Only while it `has_room`."""
        assert self.has_room
        first = self.submitted + 1
        self.submitted += len(jobs)
        data = encode(Submit(client=self._client, batch=self._batch, first_seq=first, jobs=jobs))
        self._frames.append(_Frame(first, self.submitted, data))

    def finish(self) -> None:
        """Close the batch behind the jobs submitted so far."""
        if self._total is None and not self.abandoned:
            self._total = self.submitted

    def truncate(self) -> None:
        """Drop the frames never sent, and close the batch behind those that were."""
        if self._drop_unsent():
            self._total = None
        self.finish()

    def abandon(self) -> None:
        """Drop the frames never sent, and leave the batch open for another run to go on with."""
        if self._drop_unsent() or self._total is None:
            self._total = None
            self.abandoned = True

    # --- what is to be sent -----------------------------------------------------------------------

    def next_message(self, now: int) -> bytes | None:
        """Return the next message for the intake queue: frames in order, and the close behind the last."""
        if now < self._paused_until:
            return None
        if self._unsent < len(self._frames):
            # `Accepted` names all that the dealer has, compared or not: with two frames under way it would not say
            # which of them was compared.
            if self.comparing and self._unsent:
                return None
            frame = self._frames[self._unsent]
            if self._unsent == 0:
                self._progress_at = now
            self._unsent += 1
            self.sent_upto = max(self.sent_upto, frame.last)
            return frame.data
        # A close is answered at once, with everything that is accepted, while a frame before it is still compared.
        if self._total is None or self._close_sent or self.comparing:
            return None
        self._close_sent = True
        if not self._frames:
            self._progress_at = now
        return encode(Close(client=self._client, batch=self._batch, total=self._total))

    def rewind(self, now: int) -> None:
        """Send again, from the first frame that is not accepted."""
        self._unsent = 0
        self._close_sent = self.closed
        self._progress_at = now

    # --- what the dealer says ---------------------------------------------------------------------

    def accept(self, upto: int, now: int, *, closed: bool) -> None:
        """Drop the frames up to this job, cumulatively. A number beyond what was submitted is ignored."""
        if self.comparing:
            # The dealer names all that it has: no frame counts but the one under way.
            upto = min(upto, self._frames[0].last if self._unsent else self.accepted)
        if self.accepted < upto <= self.submitted:
            self.accepted = upto
            while self._frames and self._frames[0].last <= upto:
                self._frames.popleft()
                self._unsent = max(0, self._unsent - 1)
            self._progress_at = now
            self._resend_ns = limits.RESEND_NS
            self._full_delay = FULL_DELAY_NS_MIN
        if closed and self._total is not None and self.accepted == self._total:
            self.closed = True

    def pause(self, now: int) -> None:
        """Wait before sending again: the pool is full."""
        # The frames behind the refused one are refused too; only the first of these answers begins a pause.
        if now >= self._paused_until:
            self._paused_until = now + self._full_delay
            self._full_delay = min(self._full_delay * 2, FULL_DELAY_NS_MAX)

    def rewind_once(self, now: int) -> None:
        """Send again from the first frame not accepted, since one went missing."""
        # Every frame behind the gap is refused as well; the first such answer is enough.
        if now >= self._paused_until and self._rewound_at != self.accepted:
            self._rewound_at = self.accepted
            self.rewind(now)

    def refuse(self, refusal: Refused, *, for_now: bool) -> None:
        """Drop this frame and all behind it. `for_now`: another run may get them in, so the batch is left open."""
        # Of a frame behind one that was refused before, or of one that another process sent in our name.
        if not any(frame.first == refusal.first_seq for frame in self._frames):
            return
        self.refusal = refusal
        while self._frames and self._frames[-1].first >= refusal.first_seq:
            self._drop_last()
        self._unsent = min(self._unsent, len(self._frames))
        # The frames before it are accepted or will be: the dealer takes them in order.
        self._total, self._close_sent = (None if for_now else self.submitted), False
        self.abandoned = for_now

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> int | None:
        """Return when `tick` has something to do; None: when something else happens."""
        if self._paused_until:
            return self._paused_until
        return self._progress_at + self._resend_ns if self._awaiting else None

    def tick(self, now: int) -> None:
        """Send again after a pause, or what was not answered for too long."""
        due = self.next_deadline()
        if due is None or now < due:
            return
        if self._paused_until:
            self._paused_until = 0
        else:
            # Doubling: a dealer that is only slow gets the same frames again at most a few times.
            self._resend_ns = min(self._resend_ns * 2, limits.LEASE_NS)
        self.rewind(now)

    @property
    def _awaiting(self) -> bool:
        """Whether something was sent and is not answered."""
        return self._unsent > 0 or (self._close_sent and not self.closed)

    def _drop_unsent(self) -> bool:
        """Drop the frames that no dealer can have; return whether there were any."""
        before = len(self._frames)
        while self._frames and self._frames[-1].first > self.sent_upto:
            self._drop_last()
        return len(self._frames) < before

    def _drop_last(self) -> None:
        self.submitted = self._frames.pop().first - 1
