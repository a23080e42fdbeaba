"""How jobs come in: frames of them in order, taken whole or refused whole, and compared when they are said again."""

from __future__ import annotations

from collections import deque

from taskpool import limits
from taskpool.clock import Instant
from taskpool.core.batch import Batch
from taskpool.core.clients import DRAINING
from taskpool.core.commits import CloseStored, JobsStored
from taskpool.core.effects import Level, Reply, Topic
from taskpool.core.entries import BatchClosed, JobAccepted, JobRecord
from taskpool.core.events import CheckedJob, Submitted
from taskpool.core.job import Job
from taskpool.core.state import PoolState
from taskpool.core.storage import DigestsLoaded, LoadDigests
from taskpool.errors import counted
from taskpool.messages import Accepted, Close, Refused

_UNKNOWN = "this dealer holds no such batch for this generator: say hello first"


class Intake:
    """Takes jobs from the generator that holds their batch."""

    def __init__(self, pool: PoolState) -> None:
        self._pool = pool
        self._comparing: deque[Submitted] = deque()  # said again: until the store has given the digests
        self._comparing_bytes = 0

    @property
    def wants_submissions(self) -> bool:
        """Whether there is room for one more, which may be large: else they wait in their queue. A pool that takes no
        jobs still reads, to say so."""
        waiting = self._comparing_bytes
        if not (self._pool.draining or self._pool.disk_full):
            waiting += self._pool.commits.bytes
        return waiting <= limits.UNSTORED_BYTES_MAX

    def submit(self, event: Submitted, now: Instant) -> None:
        """Take a frame of jobs whole, or refuse it whole."""
        pool = self._pool
        batch = pool.batch_held_by(event.client, event.batch)
        if batch is None:
            self._refuse(event, event.first_seq, "unknown_batch", _UNKNOWN)
            return
        # A generator that lost an answer sends the frame again, and one that resumes sends all of them again.
        again = batch.received + 1 - event.first_seq
        if again > 0:
            self._comparing.append(event)  # said before: is it the same?
            self._comparing_bytes += _payload_bytes(event.jobs)
            pool.emit(LoadDigests(batch.name, event.first_seq, min(again, len(event.jobs))))
        else:
            self._take_new(batch, event, now)

    def digests_loaded(self, loaded: DigestsLoaded, now: Instant) -> None:
        """Compare a repeated frame with what was accepted under its numbers; refuse it when they differ."""
        event = self._comparing.popleft()  # the store answers in the order of the requests
        self._comparing_bytes -= _payload_bytes(event.jobs)
        batch = self._pool.batch_held_by(event.client, event.batch)
        if batch is None:
            return
        for offset, (known, job) in enumerate(zip(loaded.digests, event.jobs, strict=False)):
            if known != job.digest:
                seq = event.first_seq + offset
                text = f"job {seq} of batch {batch.name} is not the job that was accepted under this number"
                self._refuse(event, seq, "conflict", text)
                return
        self._take_new(batch, event, now)

    def _take_new(self, batch: Batch, event: Submitted, now: Instant) -> None:
        """Take the jobs of the frame that are not taken yet."""
        skip = batch.received + 1 - event.first_seq
        jobs = len(event.jobs) - skip
        if skip < 0:
            text = f"job {event.first_seq} came, job {batch.received + 1} is next"
            self._refuse(event, batch.received + 1, "gap", text)
        # The answer was lost, or is still on its way; to repeat it does no harm.
        elif jobs <= 0:
            self._tell_accepted(batch)  # all of it was taken before: say so again
        elif (refusal := self._refusal(batch, event.jobs[skip:])) is not None:
            self._refuse(event, batch.received + 1, *refusal)
        else:
            self._take(batch, event, skip, now)
            self._pool.note(Level.DEBUG, Topic.JOBS_ACCEPTED, batch=batch.name, jobs=jobs)

    def _refusal(self, batch: Batch, jobs: list[CheckedJob]) -> tuple[str, str] | None:
        """(reason, text) when the pool takes no more of this batch now."""
        pool = self._pool
        if pool.draining:
            return "draining", DRAINING
        if batch.closed or batch.cancelled:
            return "closed", f"batch {batch.name} takes no more jobs"
        if pool.disk_full:
            return "full", pool.disk_full
        # Counted over all batches: they share the memory and the disk that the limit protects.
        held = pool.pending
        if not pool.config.journaled:  # then outcomes that are not read take memory as well
            held += sum(each.unread for each in pool.batches.values())
        if held + len(jobs) > pool.config.pending_max:
            return (
                "full",
                f"{counted(held, 'job is', 'jobs are')} pending or unread, the limit is {pool.config.pending_max}",
            )
        if not pool.config.journaled and pool.payload_bytes + _payload_bytes(jobs) > limits.PENDING_BYTES_MAX:
            text = f"pending jobs hold {pool.payload_bytes} bytes of arguments, the limit without a journal is "
            return "full", f"{text}{limits.PENDING_BYTES_MAX}"
        return None

    def _take(self, batch: Batch, event: Submitted, skip: int, now: Instant) -> None:
        pool = self._pool
        # Filled after it is handed over: the commit is answered when all of the frame is in it.
        jobs: list[Job] = []
        for each in event.jobs[skip:]:
            spec = each.spec
            wanted = spec.limits if spec.limits is not None else batch.limits
            ordinal, seq = pool.next_ordinal(), batch.receive()
            record = JobRecord(ordinal, batch.name, seq, wanted.priority, spec, each.traits, now.wall)
            jobs.append(Job(record, batch))
            # One answer for the frame: it hangs on the first entry, and all of them ride one commit.
            pool.commits.add(JobAccepted(record, each.digest), JobsStored(batch, jobs) if len(jobs) == 1 else None)
            pool.count_payload(len(spec.payload))
            pool.counters.jobs_accepted[spec.kind] += 1

    def close(self, close: Close) -> None:
        """No job comes after `total`."""
        batch = self._pool.batch_held_by(close.client, close.batch)
        if batch is None:
            self._refuse_close(close, 0, "unknown_batch", _UNKNOWN)
        elif batch.closed:
            if batch.total == close.total:
                batch.close(close.total)
                self._tell_accepted(batch)
            else:
                text = f"batch {batch.name} was closed at {counted(batch.total or 0, 'job')}, not {close.total}"
                self._refuse_close(close, 0, "conflict", text)
        elif close.total != batch.received:
            text = f"batch {batch.name} has {counted(batch.received, 'job')}, not {close.total}"
            self._refuse_close(close, batch.received + 1, "gap", text)
        else:
            batch.close(close.total)
            self._pool.commits.add(BatchClosed(batch.name, close.total), CloseStored(batch))

    def accepted(self, batch: Batch, jobs: list[Job]) -> None:
        """These jobs are stored: from here on they will get an outcome."""
        batch.accept(jobs[-1].seq)
        self._tell_accepted(batch)

    def closed(self, batch: Batch) -> None:
        """Tell the generator that the end of its batch is stored."""
        batch.close_stored()
        self._tell_accepted(batch)
        self._pool.note(Level.DEBUG, Topic.BATCH_CLOSED, batch=batch.name, total=batch.total)

    def _tell_accepted(self, batch: Batch) -> None:
        if batch.client is not None:
            message = Accepted(batch.client.id, batch.name, batch.accepted, closed=batch.total_stored)
            self._pool.emit(Reply(batch.client.id, message))

    def _refuse(self, event: Submitted, seq: int, reason: str, text: str) -> None:
        self._pool.refuse(Refused(event.client, event.batch, event.first_seq, seq, reason, text))

    def _refuse_close(self, close: Close, seq: int, reason: str, text: str) -> None:
        self._pool.refuse(Refused(close.client, close.batch, 0, seq, reason, text))


def _payload_bytes(jobs: list[CheckedJob]) -> int:
    return sum(len(job.spec.payload) for job in jobs)
