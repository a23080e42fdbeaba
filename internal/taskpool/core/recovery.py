"""Take over what an earlier life of the dealer left in the store.

Attempts that were under way end as lost, unless their report lay in the events queue: then it counts as if it had been
read in time. Everything else is still queued, and is read as the backlog asks for it.
"""

from __future__ import annotations

from taskpool.clock import Instant
from taskpool.core.attempt import Attempt
from taskpool.core.batch import Batch
from taskpool.core.completion import REPORTABLE, Completion
from taskpool.core.frame import FrameRecord
from taskpool.core.job import Job
from taskpool.core.state import PoolState
from taskpool.core.storage import InFlight, Restored
from taskpool.core.worker import Worker
from taskpool.identifiers import Incarnation
from taskpool.messages import JobError, Report, State

CORRUPT_JOB = JobError("Corrupt", "the journal's copy of this job does not match its checksum: submit it again")


class Recovery:
    """Begins a life of the dealer where the one before ended."""

    def __init__(self, pool: PoolState, completion: Completion) -> None:
        self._pool = pool
        self._completion = completion

    def take_over(self, event: Restored, now: Instant) -> None:
        """Before any other event."""
        pool = self._pool
        assert not pool.batches
        pool.backlog.empty_front()  # what goes back comes in again in its turn, with the others
        pool.continue_after(event.ordinal)
        for record in event.batches:
            pool.batches[record.name] = Batch.restored(record)
        for parked in event.quarantined:
            job = Job.restored(parked, pool.batches[parked.record.batch], State.QUARANTINED)
            pool.quarantine[job.batch.name, job.seq] = job
        # By epoch and number: numbers begin anew in each life, and reports of several lives may lie in the queue.
        late = {(epoch, report.n): report for epoch, report in event.late if report.end in REPORTABLE}
        for each in event.in_flight:
            self._end_attempt(each, late.get((each.epoch, each.n)), event, now)

    def _end_attempt(self, each: InFlight, report: Report | None, event: Restored, now: Instant) -> None:
        job = Job.restored(each.job, self._pool.batches[each.job.record.batch], State.RUNNING)
        self._pool.jobs[job.ordinal] = job
        if each.job.corrupt:
            self._completion.refuse(job, CORRUPT_JOB, now)
            return
        # The worker that ran it is dead: a starting dealer ends every process of the earlier life first.
        gone = Worker(Incarnation(0), now)
        attempt = Attempt(each.n, job, gone, FrameRecord(each.n, now))
        self._completion.recover(attempt, report, unclean_exit=event.unclean_exit, now=now)
