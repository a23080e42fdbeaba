"""A batch: one submission, accepted from the front, told from the front; and the generator that reads it."""

from __future__ import annotations

from collections import deque

from taskpool import limits
from taskpool.clock import MILLISECOND, NEVER
from taskpool.core.events import StoredBatch
from taskpool.messages import Limits, Outcome


class Client:
    """A generator in conversation. Its lease ends when it is silent for too long."""

    __slots__ = ("batch", "id", "lease_mono_ns", "pid")

    def __init__(self, id: int, pid: int, lease_mono_ns: int) -> None:
        self.id = id
        self.pid = pid
        self.lease_mono_ns = lease_mono_ns
        self.batch: Batch | None = None


class Batch:
    """Where a batch stands.

    Jobs come in order: `received` counts what was taken off the intake, `accepted` what is stored as well.
    Outcomes are numbered in the order of their recording: `numbered` counts them, `recorded` what is stored,
    `sent` and `acknowledged` what its reader was sent and has said it holds.
    """

    __slots__ = (
        "accepted",
        "acknowledged",
        "behind",
        "cancelled",
        "client",
        "confirmed",
        "expires_mono_ns",
        "limits",
        "loading",
        "mean_ns",
        "name",
        "numbered",
        "open",
        "received",
        "recorded",
        "sent",
        "sent_sizes",
        "total",
        "total_stored",
        "unread_bytes",
        "unread_bytes_guess",
        "unsent",
    )

    def __init__(self, name: str, wanted: Limits) -> None:
        self.name = name
        self.limits = wanted
        self.client: Client | None = None
        self.confirmed = False  # the reader has said, in this conversation, that it has all outcomes there are
        self.expires_mono_ns = NEVER  # without a journal: when unread outcomes are let go
        self.received = 0
        self.accepted = 0
        self.open = 0  # jobs without an outcome of their present run
        self.total: int | None = None
        self.total_stored = False
        self.cancelled = False
        self.numbered = 0
        self.recorded = 0
        self.sent = 0
        self.acknowledged = 0
        self.unsent: deque[Outcome] = deque()  # recorded and not sent, as long as they are few
        self.behind = False  # the reader is so far behind that outcomes must be read back
        self.loading = False
        self.sent_sizes: deque[int] = deque()
        self.unread_bytes = 0  # of what was sent and not acknowledged
        self.unread_bytes_guess = 0  # of what is recorded and not acknowledged, sent or not
        self.mean_ns: dict[str, int] = {}  # running mean of a job's duration, by kind

    @classmethod
    def restored(cls, stored: StoredBatch) -> Batch:
        batch = cls(stored.name, stored.limits)
        batch.received = batch.accepted = stored.accepted
        batch.open = stored.open
        batch.cancelled = stored.cancelled
        batch.total = stored.total
        batch.total_stored = stored.total is not None
        batch.numbered = batch.recorded = stored.recorded
        batch.sent = batch.acknowledged = stored.acknowledged
        batch.behind = batch.sent < batch.recorded
        return batch

    @property
    def closed(self) -> bool:
        return self.total is not None

    @property
    def unread(self) -> int:
        return self.recorded - self.acknowledged

    @property
    def finished(self) -> bool:
        """Every job that will ever come has its outcome stored."""
        return self.total_stored and self.open == 0 and self.recorded == self.numbered

    @property
    def at_rest(self) -> bool:
        """Nobody holds it, no job of it is open, and the store knows all there is to know."""
        opened = self.accepted > 0 or self.total_stored  # is stored, as what is stored after it is
        told = opened and self.closed == self.total_stored and self.recorded == self.numbered
        return told and self.client is None and self.open == 0

    @property
    def settled(self) -> bool:
        """Finished, and its reader has everything."""
        return self.finished and self.acknowledged >= self.recorded

    def learn_duration(self, kind: str, run_ns: int) -> None:
        """Weighted so that eight jobs are enough to change the mind about a kind."""
        known = self.mean_ns.get(kind)
        self.mean_ns[kind] = run_ns if known is None else known + (run_ns - known) // 4

    def frame_jobs(self, kind: str) -> int:
        """How many jobs of the kind go into one frame. One, until the kind is known to be tiny."""
        mean = self.mean_ns.get(kind)
        if mean is None or mean >= limits.FRAME_TINY_JOB_NS_MAX:
            return 1
        return max(1, min(limits.FRAME_JOBS_MAX, limits.FRAME_TARGET_NS // max(mean, MILLISECOND // 100)))

    def jobs_are_short(self, kind: str) -> bool:
        mean = self.mean_ns.get(kind)
        return mean is not None and mean < limits.FRAME_SHORT_JOB_NS_MAX

    def hold(self, outcome: Outcome) -> None:
        """Keep a stored outcome for the reader, unless it lags so far that it must be read back anyway."""
        self.recorded = outcome.no
        self.unread_bytes_guess += outcome_bytes(outcome)
        if self.behind or self.client is None:
            self.behind = True
        elif len(self.unsent) >= limits.OUTCOMES_IN_FLIGHT_MAX:
            self.unsent.clear()
            self.behind = True
        else:
            self.unsent.append(outcome)

    def room(self) -> int:
        """How many more outcomes may be sent before the reader acknowledges some."""
        if self.unread_bytes >= limits.OUTCOMES_IN_FLIGHT_BYTES_MAX:
            return 0
        return limits.OUTCOMES_IN_FLIGHT_MAX - (self.sent - self.acknowledged)

    def count_sent(self, outcome: Outcome) -> None:
        self.sent = outcome.no
        size = outcome_bytes(outcome)
        self.sent_sizes.append(size)
        self.unread_bytes += size

    def acknowledge(self, upto: int) -> bool:
        """Whether the acknowledgement said anything new. A number never sent says nothing."""
        if not self.acknowledged < upto <= self.sent:
            return False
        for _ in range(upto - self.acknowledged):
            self.unread_bytes -= self.sent_sizes.popleft()
        self._read_up_to(upto)
        return True

    def _read_up_to(self, upto: int) -> None:
        # A guess by the mean: keeping every size would cost memory just when there is much to keep.
        if upto > self.acknowledged:
            self.unread_bytes_guess = self.unread_bytes_guess * (self.recorded - upto) // self.unread
            self.acknowledged = upto

    def attach(self, client: Client, cursor: int) -> bool:
        """A reader takes over and has everything up to `cursor`. Whether that was news."""
        self.client = client
        self.confirmed = False
        client.batch = self
        before = self.acknowledged
        self._read_up_to(min(cursor, self.recorded))
        self._rewind()
        return self.acknowledged > before

    def detach(self) -> None:
        assert self.client is not None
        self.client.batch = None
        self.client = None
        self._rewind()

    def _rewind(self) -> None:
        self.sent = self.acknowledged
        self.sent_sizes.clear()
        self.unread_bytes = 0
        self.unsent.clear()
        self.behind = self.sent < self.recorded


def outcome_bytes(outcome: Outcome) -> int:
    """About how much memory an outcome's payload takes."""
    output = outcome.output
    return 256 + len(outcome.value or b"") + len(output.stdout or "") + len(output.stderr or "")
