"""A batch: one submission, accepted from the front, delivered from the front; and the generator that reads it.

Rule of this file: a batch is the only writer of its counters.
"""

from __future__ import annotations

from collections import deque

from msgspec import field, structs

from taskpool import limits
from taskpool.clock import MILLISECOND, NEVER, Instant
from taskpool.core.entries import BatchRecord
from taskpool.messages import Outcome, Try


class Client:
    """A connected generator. Its lease ends when it is silent for too long."""

    __slots__ = ("batch", "id", "lease_mono_ns", "pid")

    def __init__(self, id: int, pid: int, now: Instant) -> None:
        self.id = id
        self.pid = pid
        self.batch: Batch | None = None
        self.lease_mono_ns = 0
        self.renew(now)

    def renew(self, now: Instant) -> None:
        """Whatever a generator sends renews its lease."""
        self.lease_mono_ns = now.mono + limits.LEASE_NS

    def is_overdue(self, now: Instant) -> bool:
        """It pings three times as often as this, so it is dead, or as good as dead; another may have its batch."""
        return now.mono >= self.lease_mono_ns - limits.LEASE_NS + limits.REPLY_OVERDUE_NS

    def hold(self, batch: Batch) -> None:
        self.batch = batch

    def release(self) -> None:
        self.batch = None


class Batch(BatchRecord, eq=False, kw_only=True):
    """A batch in memory: its record, and what is not stored yet or only this life of the dealer knows.

    Jobs come in order: `received` counts what was taken off the intake, `accepted` what is stored as well.
    Outcomes are numbered in the order of their recording: `numbered` counts them, `recorded` what is stored, `sent` and
    `acknowledged` what its reader was sent and has said it holds.
    """

    received: int = 0
    numbered: int = 0
    sent: int = 0
    total_stored: bool = False
    client: Client | None = None
    reruns: int = 0  # requests for new runs that the store looks up
    confirmed: bool = False  # the reader has said, in this connection, that it has all outcomes there are
    expires_mono_ns: int = NEVER  # without a journal: when unread outcomes are let go
    unsent: deque[Outcome] = field(default_factory=deque)  # recorded and not sent, as long as they are few
    unsent_bytes: int = 0
    behind: bool = False  # the reader is so far behind that outcomes must be read back from the store
    loading: bool = False
    sent_sizes: deque[int] = field(default_factory=deque)  # bytes of what was sent and not acknowledged
    unread_bytes: int = 0  # their sum
    unread_bytes_guess: int = 0  # of what is recorded and not acknowledged, sent or not
    mean_ns: dict[str, int] = field(default_factory=dict)  # running mean of a job's duration, by kind

    @classmethod
    def restored(cls, record: BatchRecord) -> Batch:
        """As the store has it: everything in it is accepted and recorded, and no reader has been sent more than it
        acknowledged."""
        return cls(
            **structs.asdict(record),
            received=record.accepted,
            numbered=record.recorded,
            sent=record.acknowledged,
            total_stored=record.total is not None,
            behind=record.acknowledged < record.recorded,
        )

    # --- where it stands ---

    @property
    def closed(self) -> bool:
        return self.total is not None

    @property
    def unread(self) -> int:
        return self.recorded - self.acknowledged

    @property
    def finished(self) -> bool:
        """Every job that will ever come has its outcome stored."""
        return self.total_stored and self.open == 0 and self.recorded == self.numbered and not self.reruns

    @property
    def at_rest(self) -> bool:
        """No generator holds it, no job of it is open, and the store knows all there is to know."""
        opened = self.accepted > 0 or self.total_stored  # BatchOpened is stored when what followed it is
        # What waits for its commit would come back to a batch that is gone.
        told = opened and self.closed == self.total_stored and self.recorded == self.numbered
        return told and self.client is None and self.open == 0 and not self.reruns

    @property
    def settled(self) -> bool:
        """Finished, and its reader has everything."""
        return self.finished and self.acknowledged >= self.recorded

    @property
    def congested(self) -> bool:
        """Its reader lags so far behind that, without a journal, memory would fill with outcomes."""
        return self.unread > limits.OUTCOMES_UNREAD_MAX or self.unread_bytes_guess > limits.OUTCOMES_UNREAD_BYTES_MAX

    # --- its jobs ---

    def receive(self) -> int:
        """One more job is taken off the intake; returns its number."""
        self.received += 1
        self.open += 1
        return self.received

    def accept(self, upto: int) -> None:
        """Every job up to this number is stored."""
        self.accepted = upto

    def close(self, total: int) -> None:
        """No job comes after `total`; said again in a later connection, perhaps."""
        self.total = total
        # Where there is no outcome to acknowledge, its reader has all there is.
        self.confirmed = self.confirmed or not total

    def close_stored(self) -> None:
        self.total_stored = True

    def cancel(self) -> None:
        self.cancelled = True

    def reopen_job(self) -> None:
        """A job that has ended gets a new run."""
        self.open += 1

    def begin_rerun(self) -> None:
        """Jobs of it may be about to get new runs: it is not over."""
        self.reruns += 1

    def end_rerun(self) -> None:
        self.reruns -= 1

    def finish_job(self) -> int:
        """A run has its outcome; returns the outcome's number."""
        self.open -= 1
        self.numbered += 1
        return self.numbered

    # --- how long its jobs take ---

    def learn_duration(self, kind: str, run_ns: int) -> None:
        """A mean that weighs the last job a quarter: after eight jobs of another length it has come round."""
        known = self.mean_ns.get(kind)
        # Integers only: the same events must give the same effects on every machine.
        self.mean_ns[kind] = run_ns if known is None else known + (run_ns - known) // 4

    def frame_jobs(self, kind: str) -> int:
        """How many jobs of the kind go into one frame. One, until the kind is known to be tiny."""
        mean = self.mean_ns.get(kind)
        if mean is None or mean >= limits.FRAME_TINY_JOB_NS_MAX:
            return 1
        # A job may report 0 ns; the floor of 10 µs keeps the division sane and a frame within its limit.
        return max(1, min(limits.FRAME_JOBS_MAX, limits.FRAME_TARGET_NS // max(mean, MILLISECOND // 100)))

    def jobs_are_short(self, kind: str) -> bool:
        """So short that a worker would idle between two frames if it held only one."""
        mean = self.mean_ns.get(kind)
        return mean is not None and mean < limits.FRAME_SHORT_JOB_NS_MAX

    # --- its outcomes ---

    def record(self, outcome: Outcome) -> None:
        """The outcome is stored. Keep it for the reader, unless that lags so far that it must be read back anyway."""
        self.recorded = outcome.no
        self.unread_bytes_guess += outcome_bytes(outcome)
        # More than a full window in memory helps no reader, and the store has all of them.
        full = len(self.unsent) >= limits.OUTCOMES_IN_FLIGHT_MAX
        full = full or self.unsent_bytes >= limits.OUTCOMES_IN_FLIGHT_BYTES_MAX
        if self.behind or self.client is None or full:
            self.behind = True
        else:
            self._keep_unsent(outcome)

    def _keep_unsent(self, outcome: Outcome) -> None:
        self.unsent.append(outcome)
        self.unsent_bytes += outcome_bytes(outcome)

    def _drop_unsent(self) -> None:
        self.unsent.clear()
        self.unsent_bytes = 0

    def window(self) -> int:
        """How many more outcomes may be sent before the reader acknowledges some."""
        if self.unread_bytes >= limits.OUTCOMES_IN_FLIGHT_BYTES_MAX:
            return 0
        return limits.OUTCOMES_IN_FLIGHT_MAX - (self.sent - self.acknowledged)

    def take_unsent(self) -> list[Outcome]:
        """What fits the reader's window now, counted as sent."""
        items: list[Outcome] = []
        while self.unsent and self.window() > 0:
            outcome = self.unsent.popleft()
            size = outcome_bytes(outcome)
            self.sent = outcome.no
            self.sent_sizes.append(size)
            self.unsent_bytes -= size
            self.unread_bytes += size
            items.append(outcome)
        if self.unsent_bytes > limits.OUTCOMES_UNSENT_BYTES_MAX:
            self._drop_unsent()
            self.behind = True
        return items

    def begin_reload(self) -> int:
        """How many outcomes to read back from the store; 0 when none are wanted now."""
        if not self.behind or self.loading or self.unsent:
            return 0
        window = self.window()
        self.loading = window > 0
        return max(0, window)

    def end_reload(self, items: list[Outcome]) -> None:
        """Outcomes were read back. What does not follow on is dropped: the reader said hello again meanwhile, and is
        sent everything from its cursor on."""
        self.loading = False
        for outcome in items:
            if outcome.no == self.sent + len(self.unsent) + 1:
                self._keep_unsent(outcome)
        # New outcomes may have been recorded since the read was asked for.
        self.behind = self.sent + len(self.unsent) < self.recorded

    def acknowledge(self, upto: int) -> bool:
        """Whether the acknowledgement said anything new. A number never sent says nothing."""
        self.confirmed = self.confirmed or upto >= self.recorded
        # An acknowledgement may be repeated, and a hostile one may name any number.
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

    # --- its reader ---

    def attach(self, client: Client, cursor: int) -> bool:
        """A reader takes over and has everything up to `cursor`. Whether that was news."""
        self.client = client
        self.confirmed = False
        client.hold(self)
        before = self.acknowledged
        self._read_up_to(min(cursor, self.recorded))
        self._rewind()
        return self.acknowledged > before

    def detach(self) -> None:
        """Take the batch from its reader."""
        assert self.client is not None
        self.client.release()
        self.client = None
        self._rewind()

    def _rewind(self) -> None:
        # A new connection has a new queue: whatever lay in the old one, its reader says by the cursor what it holds.
        self.sent = self.acknowledged
        self.sent_sizes.clear()
        self.unread_bytes = 0
        self._drop_unsent()
        self.behind = self.sent < self.recorded

    def expires(self, now: Instant) -> bool:
        """Without a journal: whether outcomes that nothing has read for UNREAD_KEPT_NS are to be let go. The time
        begins with the first call; `keep` ends it."""
        if self.expires_mono_ns == NEVER:
            self.expires_mono_ns = now.mono + limits.UNREAD_KEPT_NS
        return self.expires_mono_ns <= now.mono

    def keep(self) -> None:
        self.expires_mono_ns = NEVER


def outcome_bytes(outcome: Outcome) -> int:
    """About how much memory an outcome takes."""
    # Fields besides these are bounded and small; files are on disk.
    value, output, error = outcome.value, outcome.output, outcome.error
    size = 256
    # Most have nothing of these: asked for in this way, because it is counted several times for each job.
    if value is not None:
        size += len(value)
    if output.stdout:
        size += len(output.stdout)
    if output.stderr:
        size += len(output.stderr)
    if error is not None:
        size += len(error.message) + len(error.traceback or "")
    if outcome.tries:
        size += tries_bytes(outcome.tries)
    return size


def tries_bytes(tries: tuple[Try, ...]) -> int:
    """About how much memory what is told of tries takes."""
    return sum(256 + len(tried.stderr_tail or "") for tried in tries)
