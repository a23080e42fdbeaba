"""The store of a pool without a journal: everything is gone with its dealer.

It keeps what the core does not hold in memory itself: jobs behind the backlog's horizon, and outcomes that their reader
has not acknowledged. Large outcomes lie in files of the pool's spool, which is swept with the dealer: those of a batch
that has no reader may come to any number.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import structs

from taskpool import limits
from taskpool.core.batch import outcome_bytes
from taskpool.core.entries import (
    Acknowledged,
    AttemptMade,
    BatchForgotten,
    Entry,
    JobAccepted,
    JobCounts,
    JobReturned,
    OutcomeRecorded,
    QuarantineDropped,
)
from taskpool.core.storage import (
    BatchFound,
    Commit,
    Committed,
    DigestsLoaded,
    EndedLoaded,
    FindBatch,
    LoadDigests,
    Loaded,
    LoadEnded,
    LoadJobs,
    LoadOutcomes,
    OutcomesLoaded,
    Restored,
    StoredJob,
    StoreEvent,
    StoreRequest,
)
from taskpool.errors import SpoolFull
from taskpool.messages import NO_OUTPUT, JobError, Outcome, State


class _Queue:
    """The waiting jobs of one priority, by ordinal. Jobs come in order; those that come back do not, and stand apart so
    that the others need no sorting."""

    def __init__(self) -> None:
        self._in_order: dict[int, None] = {}
        self._returned: set[int] = set()
        self._last = 0

    def add(self, ordinal: int) -> None:
        # Ordinals only rise as jobs are accepted, so a dict keeps them sorted for nothing.
        if ordinal > self._last:
            self._last = ordinal
            self._in_order[ordinal] = None
        else:
            self._returned.add(ordinal)

    def remove(self, ordinal: int) -> None:
        self._in_order.pop(ordinal, None)
        self._returned.discard(ordinal)

    def after(self, ordinal: int) -> Iterator[int]:
        returned = sorted(each for each in self._returned if each > ordinal)
        return heapq.merge((each for each in self._in_order if each > ordinal), returned)


class Shelf(Protocol):
    """Where large outcomes lie: `ipc.spool.Spool`."""

    def keep(self, data: bytes) -> str: ...

    def kept(self, name: str) -> bytes: ...

    def forget(self, name: str) -> None: ...


class _Kept(NamedTuple):
    """An outcome, as it is or, without what makes it large, beside the name of its file."""

    outcome: Outcome
    size: int
    file: str = ""


class MemoryStore:
    """See `store.Store`. Without a shelf large outcomes are in memory too."""

    durable = False

    def __init__(self, shelf: Shelf | None = None) -> None:
        self._shelf = shelf
        self._jobs: dict[int, StoredJob] = {}
        self._queues: dict[int, _Queue] = {}  # by priority
        self._outcomes: dict[str, deque[_Kept]] = {}
        self._digests: dict[str, list[bytes]] = {}
        self._answers: list[StoreEvent] = []
        # One line a request: a new question of the core needs one here, and one in `Statements.answer`.
        self._requests: dict[type, Callable[[Any], StoreEvent]] = {
            Commit: self._commit,
            LoadJobs: self._load_jobs,
            LoadOutcomes: self._load_outcomes,
            FindBatch: lambda request: BatchFound(request.name, None),  # what there is, the core holds
            LoadDigests: self._load_digests,
            LoadEnded: lambda request: EndedLoaded([]),  # what has ended is not kept: it would fill the memory
        }
        # Entries without a line here change nothing that is kept here: the core has it in memory.
        self._entries: dict[type, Callable[[Any], None]] = {
            JobAccepted: self._accept,
            AttemptMade: lambda entry: self._leave_queue(entry.ordinal),
            JobReturned: self._return,
            OutcomeRecorded: self._record,
            QuarantineDropped: lambda entry: self._forget_job(entry.ordinal),
            Acknowledged: self._acknowledge,
            BatchForgotten: self._forget_batch,
        }

    def restore(self) -> Restored | None:
        return None

    def request(self, request: StoreRequest) -> None:
        self._answers.append(self._requests[type(request)](request))

    def answers(self) -> list[StoreEvent]:
        answers, self._answers = self._answers, []
        return answers

    def fileno(self) -> int:
        return -1

    def check(self) -> None:
        pass

    def close(self, *, clean: bool, chosen: bool = False) -> None:
        pass

    # --- requests ---

    def _commit(self, commit: Commit) -> StoreEvent:
        for entry in commit.entries:
            self._apply(entry)
        return Committed(commit.number)

    def _load_jobs(self, request: LoadJobs) -> StoreEvent:
        jobs: list[StoredJob] = []
        bytes_left = request.bytes_max
        for job in islice(self._waiting_after(request.after), request.limit + 1):
            bytes_left -= len(job.record.spec.payload)
            if len(jobs) == request.limit or (jobs and bytes_left < 0):
                return Loaded(jobs, more=True)
            jobs.append(job)
        return Loaded(jobs, more=False)

    def _load_outcomes(self, request: LoadOutcomes) -> StoreEvent:
        kept = self._outcomes.get(request.batch, ())
        bytes_left = limits.OUTCOMES_IN_FLIGHT_BYTES_MAX
        items: list[Outcome] = []
        for each in islice((each for each in kept if each.outcome.no > request.after), request.limit):
            bytes_left -= each.size
            if items and bytes_left < 0:
                break
            items.append(self._whole(each))
        return OutcomesLoaded(request.batch, items, request.reader)

    def _load_digests(self, request: LoadDigests) -> StoreEvent:
        first = request.first_seq - 1
        digests = self._digests.get(request.batch, [])[first : first + request.count]
        return DigestsLoaded(request.batch, request.first_seq, digests)

    def _waiting_after(self, after: tuple[int, int]) -> Iterator[StoredJob]:
        for priority in sorted(self._queues, reverse=True):
            if -priority < after[0]:
                continue
            beyond = after[1] if -priority == after[0] else 0
            for ordinal in self._queues[priority].after(beyond):
                yield self._jobs[ordinal]

    # --- entries ---

    def _apply(self, entry: Entry) -> None:
        apply = self._entries.get(type(entry))
        if apply is not None:
            apply(entry)

    def _accept(self, entry: JobAccepted) -> None:
        record = entry.job
        self._jobs[record.ordinal] = StoredJob(record, JobCounts())
        self._digests.setdefault(record.batch, []).append(entry.digest)
        self._queues.setdefault(record.priority, _Queue()).add(record.ordinal)

    def _leave_queue(self, ordinal: int) -> None:
        self._queues[self._jobs[ordinal].record.priority].remove(ordinal)

    def _return(self, entry: JobReturned) -> None:
        record = self._jobs[entry.ordinal].record
        self._jobs[entry.ordinal] = StoredJob(record, entry.counts)
        self._queues[record.priority].add(entry.ordinal)

    def _record(self, entry: OutcomeRecorded) -> None:
        self._leave_queue(entry.ordinal)
        if entry.outcome.state is not State.QUARANTINED:  # a person may still want that one to run again
            self._forget_job(entry.ordinal)
        self._outcomes.setdefault(entry.batch, deque()).append(self._keep(entry.outcome))

    def _keep(self, outcome: Outcome) -> _Kept:
        size = outcome_bytes(outcome)
        if self._shelf is None or size <= limits.INLINE_OUTPUT_BYTES_MAX:
            return _Kept(outcome, size)
        try:
            file = self._shelf.keep(msgspec.msgpack.encode(outcome))
        except SpoolFull:
            return _Kept(outcome, size)  # more memory is better than a lost result
        return _Kept(structs.replace(outcome, value=None, output=NO_OUTPUT, error=None), size, file)

    def _whole(self, kept: _Kept) -> Outcome:
        if not kept.file or self._shelf is None:
            return kept.outcome
        try:
            return msgspec.msgpack.decode(self._shelf.kept(kept.file), type=Outcome)
        except (OSError, msgspec.MsgspecError) as error:
            text = f"the job {kept.outcome.state}, but its file {kept.file} in the pool's spool is lost: {error}"
            return structs.replace(kept.outcome, state=State.FAILED, error=JobError("ResultLost", text))

    def _forget_outcome(self, kept: _Kept) -> None:
        if kept.file and self._shelf is not None:
            self._shelf.forget(kept.file)

    def _forget_job(self, ordinal: int) -> None:
        del self._jobs[ordinal]

    def _acknowledge(self, entry: Acknowledged) -> None:
        kept = self._outcomes.get(entry.batch)
        while kept and kept[0].outcome.no <= entry.upto:
            self._forget_outcome(kept.popleft())

    def _forget_batch(self, entry: BatchForgotten) -> None:
        for kept in self._outcomes.pop(entry.batch, ()):
            self._forget_outcome(kept)
        self._digests.pop(entry.batch, None)
