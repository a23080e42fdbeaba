"""What a restarted dealer makes of what its predecessor left in the store.

Attempts that were under way end as lost, unless their report lay in the events queue: then it counts as if it
had been read in time. Everything else is still queued, and is read as the backlog asks for it.
"""

from __future__ import annotations

from taskpool.clock import Instant
from taskpool.core.batch import Batch
from taskpool.core.completion import REPORTABLE, Completion
from taskpool.core.events import InFlight, Restored
from taskpool.core.job import Job
from taskpool.core.state import PoolState
from taskpool.core.worker import Attempt, FrameRecord, Worker
from taskpool.ids import Incarnation
from taskpool.messages import JobError, Report, State

CORRUPT = JobError("Corrupt", "the journal's copy of this job does not match its checksum: submit it again")


def restore(pool: PoolState, completion: Completion, event: Restored, now: Instant) -> None:
    """Take over. Before any other event."""
    assert not pool.batches
    pool.backlog.empty_front()  # what goes back comes in again in its turn, with the others
    pool.ordinal = event.ordinal
    for stored in event.batches:
        pool.batches[stored.name] = Batch.restored(stored)
        pool.pending += stored.open
    for parked in event.quarantined:
        job = Job.restored(parked, pool.batches[parked.batch], State.QUARANTINED)
        pool.quarantine[parked.batch, parked.seq] = job
    late = {(epoch, report.n): report for epoch, report in event.late if report.end in REPORTABLE}
    for each in event.in_flight:
        _take_over(pool, completion, each, late.get((each.epoch, each.n)), event.unclean_exit, now)


def _take_over(
    pool: PoolState, completion: Completion, each: InFlight, report: Report | None, unclean_exit: bool, now: Instant
) -> None:
    job = Job.restored(each.job, pool.batches[each.job.batch], State.RUNNING)
    pool.jobs[job.ordinal] = job
    if each.job.corrupt:
        completion.refuse(job, CORRUPT, now)
        return
    nobody = Worker(Incarnation(0), now.mono)  # whoever ran it is dead: a start ends all of the earlier life
    attempt = Attempt(each.n, job, nobody, FrameRecord(each.n, now.mono))
    completion.restore(attempt, report, unclean_exit=unclean_exit, now=now)
