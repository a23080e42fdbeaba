"""What the journal holds, as plain tables that refuse what a database with constraints would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import structs

from sim.world import World
from taskpool.core.entries import (
    Acknowledged,
    AttemptMade,
    BatchCancelled,
    BatchClosed,
    BatchForgotten,
    BatchOpened,
    BatchRecord,
    Entry,
    JobAccepted,
    JobCounts,
    JobReturned,
    OutcomeRecorded,
    QuarantineDropped,
)
from taskpool.core.storage import InFlight, LoadEnded, Restored, StoredJob
from taskpool.messages import TERMINAL, Outcome, State

if TYPE_CHECKING:
    from sim.oracle import Oracle


# What a person may have run again: what the job is stays for it.
ENDED_BADLY = TERMINAL - {State.SUCCEEDED}


class Kept:
    """A job's row."""

    def __init__(self, job: StoredJob) -> None:
        self.job = job
        self.state = State.QUEUED  # or RUNNING, or a terminal one
        self.attempt = (0, 0)  # (epoch, n)
        self.dropped = False
        self.not_before_ns = 0  # its back-off

    @property
    def name(self) -> str:
        return f"{self.job.record.batch}/{self.job.record.seq}"

    def with_tries(self, tries: int) -> StoredJob:
        return StoredJob(self.job.record, structs.replace(self.job.counts, tries=tries))


class JournalModel:
    """All that is durable."""

    def __init__(self, world: World, oracle: Oracle) -> None:
        self._world = world
        self._oracle = oracle
        self.notes: Counter[str] = Counter()  # by batch: how often it was said to be in use
        self.jobs: dict[int, Kept] = {}
        self.batches: dict[str, BatchRecord] = {}
        self.outcomes: dict[str, list[Outcome]] = {}
        self.digests: dict[str, list[bytes]] = {}
        self.by_seq: dict[tuple[str, int], Kept] = {}
        self.forgotten: set[str] = set()
        self.attempts: set[tuple[int, int]] = set()  # every (epoch, n) that was ever written
        self._handlers = {
            BatchOpened: self._opened,
            BatchClosed: self._closed,
            BatchCancelled: self._cancelled,
            BatchForgotten: self._forgotten,
            JobAccepted: self._accepted,
            AttemptMade: self._attempt,
            JobReturned: self._returned,
            QuarantineDropped: self._dropped,
            OutcomeRecorded: self._recorded,
            Acknowledged: self._acknowledged,
        }

    # --- written ---

    def apply(self, epoch: int, rows: Sequence[Entry]) -> None:
        for row in rows:
            self._handlers[type(row)](row, epoch)  # type: ignore[operator]
        self._oracle.rows_written(rows)

    def _opened(self, row: BatchOpened, epoch: int) -> None:
        if row.batch in self.batches:
            self._world.fail("I1", f"batch {row.batch} is opened a second time over what is there")
        self.batches[row.batch] = BatchRecord(row.batch, row.limits)
        self.outcomes[row.batch] = []
        self.digests[row.batch] = []

    def _closed(self, row: BatchClosed, epoch: int) -> None:
        batch = self.batches[row.batch]
        if row.total != batch.accepted or batch.total not in (None, row.total):
            self._world.fail("I1", f"batch {row.batch} closed at {row.total}, {batch.accepted} accepted")
        batch.total = row.total

    def _cancelled(self, row: BatchCancelled, epoch: int) -> None:
        self.batches[row.batch].cancelled = True

    def _forgotten(self, row: BatchForgotten, epoch: int) -> None:
        """Without a journal: its reader has everything."""
        batch = self.batches.pop(row.batch)
        self.forgotten.add(row.batch)
        if batch.open or batch.acknowledged < batch.recorded:
            self._world.fail("I1", f"batch {row.batch} is forgotten before its reader has everything")
        del self.outcomes[row.batch], self.digests[row.batch]
        for key in [key for key in self.by_seq if key[0] == row.batch]:
            del self.jobs[self.by_seq.pop(key).job.record.ordinal]

    def _accepted(self, row: JobAccepted, epoch: int) -> None:
        job = row.job
        batch = self.batches[job.batch]
        if job.seq != batch.accepted + 1 or job.ordinal in self.jobs or batch.total is not None:
            self._world.fail("I1", f"job {job.batch}/{job.seq} (ordinal {job.ordinal}) accepted out of turn")
        batch.accepted = job.seq
        batch.open += 1
        self.jobs[job.ordinal] = self.by_seq[job.batch, job.seq] = Kept(StoredJob(job, JobCounts()))
        self.digests[job.batch].append(row.digest)

    def _attempt(self, row: AttemptMade, epoch: int) -> None:
        kept = self.jobs[row.ordinal]
        if kept.state is not State.QUEUED:
            self._world.fail("I7", f"attempt {row.n} of job {kept.name}, which is {kept.state}")
        self._oracle.attempts.begun(kept, epoch, row.n)
        kept.state = State.RUNNING
        kept.attempt = (epoch, row.n)
        self.attempts.add(kept.attempt)
        kept.job = kept.with_tries(row.try_)

    def _returned(self, row: JobReturned, epoch: int) -> None:
        kept = self.jobs[row.ordinal]
        requeued = kept.state in ENDED_BADLY and row.counts.run == kept.job.counts.run + 1 and not kept.dropped
        if requeued:
            if row.counts != JobCounts(run=row.counts.run):
                self._world.fail("I4", f"job {kept.name} begins a new run with {row.counts}")
            self.batches[kept.job.record.batch].open += 1
            kept.not_before_ns = 0  # it was cancelled amid the back-off of another run
        elif kept.state is not State.RUNNING or row.counts.run != kept.job.counts.run:
            self._world.fail("I2", f"job {kept.name} comes back and is {kept.state}")
        else:
            self._oracle.attempts.returned(kept, row.counts, epoch)
        kept.state = State.QUEUED
        kept.job = StoredJob(kept.job.record, row.counts)

    def _dropped(self, row: QuarantineDropped, epoch: int) -> None:
        self.jobs[row.ordinal].dropped = True

    def _recorded(self, row: OutcomeRecorded, epoch: int) -> None:
        kept, batch, outcome = self.jobs[row.ordinal], self.batches[row.batch], row.outcome
        where = f"job {row.batch}/{outcome.seq}, run {outcome.run}"
        if kept.state not in (State.QUEUED, State.RUNNING) or outcome.run != kept.job.counts.run:
            self._world.fail("I2", f"{where} has an outcome ({kept.state}, run {kept.job.counts.run}) and gets another")
        if outcome.no != batch.recorded + 1 or kept.job.record.seq != outcome.seq:
            self._world.fail("I2", f"{where}: outcome number {outcome.no} after {batch.recorded}")
        self._oracle.attempts.recorded(kept, outcome, epoch)
        kept.state = outcome.state
        batch.recorded = outcome.no
        batch.open -= 1
        self.outcomes[row.batch].append(outcome)
        self._oracle.recorded(row)

    def _acknowledged(self, row: Acknowledged, epoch: int) -> None:
        batch = self.batches[row.batch]
        if row.upto > batch.recorded:
            self._world.fail("I1", f"{row.upto} outcomes of {row.batch} acknowledged, {batch.recorded} recorded")
        batch.acknowledged = max(batch.acknowledged, row.upto)
        self.notes[row.batch] += 1

    def forget_attempts(self, epoch: int, rows: Sequence[Entry]) -> None:
        """Power was lost before these were synced."""
        for row in rows:
            assert isinstance(row, AttemptMade)
            kept = self.jobs[row.ordinal]
            kept.state = State.QUEUED
            kept.job = kept.with_tries(row.try_ - 1)
            self.attempts.discard((epoch, row.n))

    # --- read ---

    @property
    def running(self) -> list[Kept]:
        return [kept for kept in self.jobs.values() if kept.state is State.RUNNING]

    def queued_after(self, after: tuple[int, int], limit: int, bytes_max: int) -> tuple[list[StoredJob], bool]:
        waiting = [
            kept.job
            for kept in self.jobs.values()
            if kept.state is State.QUEUED and (-kept.job.record.priority, kept.job.record.ordinal) > after
        ]
        waiting.sort(key=lambda job: (-job.record.priority, job.record.ordinal))
        jobs: list[StoredJob] = []
        for job in islice(waiting, limit):
            bytes_max -= len(job.record.spec.payload)
            if jobs and bytes_max < 0:
                break
            jobs.append(job)
        return jobs, len(jobs) < len(waiting)

    def ended(self, request: LoadEnded) -> list[StoredJob]:
        found = [
            kept.job
            for (batch, seq), kept in sorted(self.by_seq.items())
            if batch == request.batch and seq > request.after and any(a <= seq <= b for a, b in request.ranges)
            # Those in quarantine are the core's own.
            if kept.state in ENDED_BADLY - {State.QUARANTINED} and request.run in (0, kept.job.counts.run)
        ]
        return found[: request.limit]

    def stored_batch(self, name: str) -> BatchRecord | None:
        batch = self.batches.get(name)
        return None if batch is None else structs.replace(batch)

    def restored(self, *, unclean_exit: bool) -> Restored | None:
        if not self.batches:
            return None
        parked = [kept.job for kept in self.jobs.values() if kept.state is State.QUARANTINED and not kept.dropped]
        wanted = {job.record.batch for job in parked}
        found = [self.stored_batch(name) for name, batch in self.batches.items() if batch.open or name in wanted]
        return Restored(
            unclean_exit=unclean_exit,
            ordinal=max(self.jobs, default=0),
            batches=[batch for batch in found if batch is not None],
            in_flight=[InFlight(*kept.attempt, kept.job) for kept in self.running],
            quarantined=parked,
            late=[],
        )
