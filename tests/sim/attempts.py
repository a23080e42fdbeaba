"""How each attempt was seen to end, and whether the journal tells the same of it (docs/protocol.md, section 8).

An attempt that ends is written as a job that comes back with its counts, or as an outcome. Which of the two, and how
the counts move, follows from what the dealer had read and what became of the worker: here that is worked out again,
from what processes did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from sim.jobs import Planned
from taskpool import limits
from taskpool.core.entries import JobCounts
from taskpool.messages import End, Limits, Outcome, Progress, Report, State, Try

if TYPE_CHECKING:
    from sim.host import SimHost
    from sim.journal_model import Kept
    from sim.platform import SimPlatform
    from sim.worker import WorkerProcess

Mark = tuple[int, int]  # of a worker: (epoch, incarnation)


def raised_memory(wanted: Limits, had: int) -> int:
    """What a try may have after one that ran out of so much."""
    if not wanted.memory_growth_percent:
        return had
    raised = had * wanted.memory_growth_percent // 100
    return min(raised, wanted.memory_bytes_max) if wanted.memory_bytes_max else raised


class Moves(NamedTuple):
    """How the end of an attempt moves the counts of its job."""

    tries: int
    failures: int
    crashes: int


NOTHING, LOST, FAILED, CRASHED = Moves(0, 0, 0), Moves(-1, 0, 0), Moves(0, 1, 0), Moves(0, 0, 1)
_SAYS = {End.SUCCEEDED: NOTHING, End.FAILED: FAILED, End.TIMED_OUT: FAILED}
_REPORTABLE = (*_SAYS, End.CRASHED, End.LOST)


class SentFrame:
    """A frame that a worker was sent, with its attempts that have no report in the queue."""

    def __init__(self, mark: Mark, first_n: int, left: dict[int, Planned], sent_mono_ns: int) -> None:
        self.mark = mark
        self.first_n = first_n
        self.left = left
        self.unread = set(left)  # those of which the dealer has read no report
        self.shared = len(left) > 1
        self.started = False  # said so, perhaps unread
        self.start_read = False
        self.heard_mono_ns = sent_mono_ns  # by the dealer's clock: sent, at the head, started or reported


class Attempt:
    """One attempt, from the moment its frame is in its worker's queue."""

    def __init__(self, frame: SentFrame, job: Planned, sent_ns: int) -> None:
        self.frame = frame
        self.job = job
        self.sent_ns = sent_ns
        self.report: Report | None = None  # the first that a dealer has read ...
        self.reader = 0  # ... in this epoch
        self.taken_back = False
        self.worker: WorkerProcess | None = None  # that died with it
        self.guilty = False  # it was started and alone in its frame then
        self.timed_out = False  # and past its time-out
        self.judged_ns = 0  # the turn in which the dealer learnt how it ended began then, or later
        self.losses = 0  # or it was not begun, or given back: so often in a row by now


class Attempts:
    """Every attempt that was ever sent."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._world = host.world
        self._made: dict[tuple[int, int], Attempt] = {}  # by (epoch, n)
        self.unclean = False  # whether the present life began after an unclean end

    def sent(self, frame: SentFrame) -> None:
        for n, job in frame.left.items():
            self._made[frame.mark[0], n] = Attempt(frame, job, self._world.now_ns)

    def read(self, platform: SimPlatform, progress: Progress) -> None:
        """The dealer has read what a worker says of its own attempts."""
        mark = (progress.epoch, progress.incarnation)
        mono = platform.clock.now().mono
        for report in progress.reports:
            self._read_report(platform, mark, report)
        attempt = self._made.get((progress.epoch, progress.started)) if progress.started else None
        if attempt is None or attempt.frame.start_read:
            return
        if self._host.oracle.held_by(mark)[:1] == [attempt.frame]:  # a frame that is not at the head cannot start
            attempt.frame.start_read = True
            attempt.frame.heard_mono_ns = mono

    def held_read(self, platform: SimPlatform, worker: WorkerProcess) -> None:
        """It has read what a dead worker held, and judges what that had in hand besides."""
        for report in worker.in_memory:
            self._read_report(platform, worker.mark, report)
        head = self._host.oracle.held_by(worker.mark)[:1]
        if head and head[0].start_read and not worker.end_asked:
            for n in head[0].unread:
                self._made[worker.mark[0], n].job.unstarted = 0

    def _read_report(self, platform: SimPlatform, mark: Mark, report: Report) -> None:
        attempt = self._made.get((mark[0], report.n))
        if attempt is None or attempt.frame.mark != mark:
            return
        if mark[0] == platform.epoch and not attempt.frame.start_read:  # a later dealer takes it for what it is
            return
        attempt.frame.heard_mono_ns = platform.clock.now().mono
        attempt.frame.unread.discard(report.n)
        # A worker may say it twice, and the dealer that read it first may have died before it recorded it.
        if report.end not in _REPORTABLE or (attempt.report is not None and attempt.reader == platform.epoch):
            return
        attempt.report, attempt.reader = report, platform.epoch
        attempt.judged_ns = platform.woke_ns
        if mark[0] == platform.epoch and report.end is End.LOST:
            self.count_loss(mark[0], report.n)
        elif mark[0] == platform.epoch:
            attempt.job.unstarted = 0

    def taken_back(self, frame: SentFrame) -> None:
        for n in frame.left:
            attempt = self._made[frame.mark[0], n]
            attempt.taken_back = attempt.worker is None  # else its queue is emptied behind its worker's death

    def died(self, worker: WorkerProcess, frames: list[SentFrame]) -> None:
        """A worker is dead with these frames. The first attempt of the first one may be to blame."""
        for frame in frames:
            for n in frame.left:
                self._made[frame.mark[0], n].worker = worker

    def blame(self, epoch: int, n: int, *, guilty: bool = False, timed_out: bool = False) -> None:
        """What the death says of the attempt."""
        attempt = self._made[epoch, n]
        attempt.guilty, attempt.timed_out = guilty, timed_out
        dealer = self._host.dealer
        attempt.judged_ns = dealer.woke_ns if dealer is not None else self._world.now_ns

    def count_loss(self, epoch: int, n: int) -> None:
        """Its worker died with it at the head and not begun, or gave it back."""
        attempt = self._made[epoch, n]
        job = attempt.job
        if job.head_epoch != epoch:
            job.head_epoch, job.unstarted = epoch, 0  # a new dealer knows nothing of it
        job.unstarted += 1
        attempt.losses = job.unstarted

    # --- what is written ---

    def begun(self, kept: Kept, epoch: int, n: int) -> None:
        """An attempt is stored."""
        attempt = self._made.get((epoch, n))
        sent_ns = attempt.sent_ns if attempt is not None else self._world.now_ns
        if sent_ns < kept.not_before_ns and kept.attempt[0] == epoch:
            early_ns = kept.not_before_ns - sent_ns
            self._world.fail("I10", f"job {kept.name} is sent {early_ns / 1e6:.1f} ms before its back-off is over")
        kept.not_before_ns = 0

    def returned(self, kept: Kept, counts: JobCounts, epoch: int) -> None:
        """A job comes back from its attempt."""
        before = kept.job.counts
        moves = Moves(counts.tries - before.tries, counts.failures - before.failures, counts.crashes - before.crashes)
        may = self._moves(kept, epoch)
        if moves not in may or (moves == NOTHING):
            self._world.fail("I4", f"job {kept.name} comes back: counts move by {moves}, seen was {sorted(may)}")
        unclean = before.unclean_exits
        attempt, mine = self._made.get(kept.attempt), kept.attempt[0] == epoch
        ended = attempt is not None and (attempt.reader == epoch or (mine and attempt.worker is not None))
        if ended or moves != LOST:
            fits = counts.unclean_exits == 0
        elif mine:
            fits = counts.unclean_exits in (0, unclean)  # lost, or taken back
        else:
            fits = counts.unclean_exits == unclean + self.unclean
        if not fits:
            self._world.fail("I4", f"job {kept.name} comes back with {counts.unclean_exits} unclean ends of {unclean}")
        self._check_told(kept, counts.told, counts.tries, counted=moves in (FAILED, CRASHED))
        if moves == FAILED:
            self._begin_backoff(kept, counts.failures)

    def recorded(self, kept: Kept, outcome: Outcome, epoch: int) -> None:
        """A job has its outcome."""
        before = kept.job.counts
        tries, crashes = outcome.attempts - before.tries, outcome.crashes - before.crashes
        if kept.state is not State.RUNNING:
            if tries or crashes or outcome.state is not State.CANCELLED:
                self._world.fail("I4", f"job {kept.name} waits, and is recorded as {outcome.state}, {outcome.attempts}")
            self._check_told(kept, outcome.tries, outcome.attempts, counted=False)
            return
        may = self._moves(kept, epoch)
        states = {
            NOTHING: (State.SUCCEEDED,),
            LOST: (State.CANCELLED, State.QUARANTINED),
            FAILED: (State.FAILED, State.TIMED_OUT),
            CRASHED: (State.QUARANTINED, State.CANCELLED),
        }
        if not any((each.tries, each.crashes) == (tries, crashes) and outcome.state in states[each] for each in may):
            text = f"{outcome.state}, tries {tries:+}, crashes {crashes:+}"
            self._world.fail("I4", f"job {kept.name} is recorded as {text}; seen was {sorted(may)}")
        counted = crashes > 0 or outcome.state in (State.FAILED, State.TIMED_OUT)
        self._check_told(kept, outcome.tries, outcome.attempts, counted=counted)

    def _check_told(self, kept: Kept, told: tuple[Try, ...], tries: int, *, counted: bool) -> None:
        """What is told of the run's tries is what was told before, and of the one that has just been counted its end
        as it was seen: by the dealer in a report, or as the death of its worker."""
        before = kept.job.counts.told
        if not counted:
            if told != before:
                self._world.fail("I4", f"job {kept.name}: told of its tries was {before}, and now {told}")
            return
        if not told or told[:-1] != (*before, None)[-limits.TRIES_KEPT_MAX : -1] or told[-1].no != tries:
            self._world.fail("I4", f"job {kept.name}: told of its tries was {before}, and with try {tries} {told}")
            return
        self._world.faults.seen["told_of_tries"] += len(told) > 1
        self._check_memory(kept, told)
        last, attempt = told[-1], self._made.get(kept.attempt)
        if attempt is None:
            return
        if attempt.report is not None:
            end = End.CRASHED if attempt.report.end is End.LOST else attempt.report.end
            seen = (end, attempt.report.signal, attempt.report.exit_status)
        elif attempt.worker is not None and last.end is End.CRASHED:
            seen = (End.CRASHED, attempt.worker.signal, attempt.worker.status)
        else:
            return
        if (last.end, last.signal, last.exit_status) != seen:
            self._world.fail("I4", f"job {kept.name}: try {tries} is told as {last}; seen was {seen}")
        if attempt.worker is not None and last.pid not in (attempt.worker.pid, None):
            self._world.fail("I4", f"job {kept.name}: try {tries} is told of PID {last.pid}, not {attempt.worker.pid}")

    def check_limits(self, job: Planned, limits_: Limits) -> None:
        """It runs under its own; its memory may have been raised as often as it ran out of that."""
        wanted = self._host.oracle.limits_of(job)
        if structs.replace(limits_, memory_bytes=wanted.memory_bytes) != wanted:
            self._world.fail("I2", f"job {job.number} runs under the limits of another")
        may = [wanted.memory_bytes]
        for _ in range(job.memory_ends):
            may.append(raised_memory(wanted, may[-1]))
        if limits_.memory_bytes not in may:
            self._world.fail("I2", f"job {job.number} runs with {limits_.memory_bytes} bytes of memory: {may}")
        self._world.faults.seen["memory_raised"] += limits_.memory_bytes > wanted.memory_bytes

    def _check_memory(self, kept: Kept, told: tuple[Try, ...]) -> None:
        """Each try had the memory of the one before, or more when that one ran out of it."""
        wanted = self._host.oracle.limits_of(self._host.job(kept.job.record.batch, kept.job.record.seq))
        before = None
        for each in told:
            had = each.memory_limit_bytes or 0
            if before is None:
                fits = each.no > 1 or had == wanted.memory_bytes
            else:
                fits = had == (raised_memory(wanted, before[0]) if before[1] else before[0])
            if not fits:
                self._world.fail("I4", f"job {kept.name}: try {each.no} had {had} bytes of memory: {told}")
            before = (had, each.out_of_memory)

    def _moves(self, kept: Kept, epoch: int) -> set[Moves]:
        """How the counts may move."""
        attempt = self._made.get(kept.attempt)
        if attempt is not None and attempt.report is not None and attempt.reader == epoch:
            return self._of_report(attempt, attempt.report)
        if attempt is None or attempt.taken_back or kept.attempt[0] != epoch or attempt.worker is None:
            return {LOST}
        return self._of_death(attempt, attempt.worker)

    def _of_report(self, attempt: Attempt, report: Report) -> set[Moves]:
        if report.end is End.LOST:
            return self._of_loss(attempt, CRASHED)
        return {_SAYS[report.end] if report.end in _SAYS else self._of_crash(attempt.job, report.signal)}

    def _of_crash(self, job: Planned, signal: int | None) -> Moves:
        expected = self._host.oracle.limits_of(job).retry_signal
        return FAILED if signal is not None and signal in expected else CRASHED

    def _of_death(self, attempt: Attempt, worker: WorkerProcess) -> set[Moves]:
        crash = self._of_crash(attempt.job, worker.signal)
        if attempt.guilty:  # of one that the dealer wanted to end as well, it may have thought first
            return {crash, LOST, FAILED} if worker.end_asked else {crash}
        if attempt.timed_out:
            return {FAILED, LOST}
        return self._of_loss(attempt, crash)

    @staticmethod
    def _of_loss(attempt: Attempt, crash: Moves) -> set[Moves]:
        """So many in a row count as one crash. Which of them that is, depends on how far the dealer had counted."""
        return {LOST, crash} if attempt.losses >= limits.LOST_HEAD_MAX else {LOST}

    def _begin_backoff(self, kept: Kept, failures: int) -> None:
        attempt = self._made.get(kept.attempt)
        if attempt is None:
            return
        wanted = self._host.oracle.limits_of(attempt.job)
        delay_ns = min(wanted.backoff_min_ns << (failures - 1), max(wanted.backoff_min_ns, wanted.backoff_max_ns))
        kept.not_before_ns = attempt.judged_ns + delay_ns
