"""The store of a pool without a journal: everything is gone with its dealer.

It keeps what the core does not hold in memory itself: jobs behind the backlog's horizon, and outcomes that
their reader has not acknowledged.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from msgspec import structs

from taskpool import limits
from taskpool.core.batch import outcome_bytes
from taskpool.core.entries import (
    Acknowledged,
    AttemptMade,
    BatchForgotten,
    Entry,
    JobAccepted,
    JobReturned,
    OutcomeRecorded,
    QuarantineDropped,
)
from taskpool.core.events import (
    BatchFound,
    Committed,
    DigestsLoaded,
    Loaded,
    OutcomesLoaded,
    Restored,
    StoredJob,
)
from taskpool.journal.store import StoreEvent
from taskpool.messages import Outcome, State


class _Line:
    """The waiting jobs of one priority, by ordinal. Jobs come in order; those that come back do not, and
    stand apart so that the others need no sorting."""

    def __init__(self) -> None:
        self._in_order: dict[int, None] = {}
        self._returned: set[int] = set()
        self._last = 0

    def add(self, ordinal: int) -> None:
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


class MemoryStore:
    """See `store.Store`."""

    durable = False

    def __init__(self) -> None:
        self._jobs: dict[int, StoredJob] = {}
        self._lines: dict[int, _Line] = {}
        self._outcomes: dict[str, deque[Outcome]] = {}
        self._digests: dict[str, list[bytes]] = {}
        self._answers: list[StoreEvent] = []

    def restore(self) -> Restored | None:
        return None

    def commit(self, number: int, rows: Sequence[Entry]) -> None:
        for row in rows:
            if isinstance(row, JobAccepted):
                self._accept(row)
            elif isinstance(row, AttemptMade):
                self._leave_line(row.ordinal)
            elif isinstance(row, JobReturned):
                self._come_back(row)
            elif isinstance(row, OutcomeRecorded):
                self._record(row)
            elif isinstance(row, QuarantineDropped):
                del self._jobs[row.ordinal]
            elif isinstance(row, Acknowledged):
                self._acknowledge(row)
            elif isinstance(row, BatchForgotten):
                self._outcomes.pop(row.batch, None)
                self._digests.pop(row.batch, None)
        self._answers.append(Committed(number))

    def load_jobs(self, after: tuple[int, int], limit: int, bytes_max: int) -> None:
        jobs: list[StoredJob] = []
        bytes_left = bytes_max
        for job in islice(self._waiting_after(after), limit + 1):
            bytes_left -= len(job.spec.payload)
            if len(jobs) == limit or (jobs and bytes_left < 0):
                self._answers.append(Loaded(jobs, more=True))
                return
            jobs.append(job)
        self._answers.append(Loaded(jobs, more=False))

    def load_outcomes(self, batch: str, after: int, limit: int, reader: int) -> None:
        kept = self._outcomes.get(batch, ())
        bytes_left = limits.OUTCOMES_IN_FLIGHT_BYTES_MAX
        items: list[Outcome] = []
        for outcome in islice((outcome for outcome in kept if outcome.no > after), limit):
            bytes_left -= outcome_bytes(outcome)
            if items and bytes_left < 0:
                break
            items.append(outcome)
        self._answers.append(OutcomesLoaded(batch, items, reader))

    def find_batch(self, name: str) -> None:
        self._answers.append(BatchFound(name, None))  # what there is, the core holds

    def load_digests(self, batch: str, first_seq: int, count: int) -> None:
        digests = self._digests.get(batch, [])[first_seq - 1 : first_seq - 1 + count]
        self._answers.append(DigestsLoaded(batch, first_seq, digests))

    def answers(self) -> list[StoreEvent]:
        answers, self._answers = self._answers, []
        return answers

    def fileno(self) -> int:
        return -1

    def check(self) -> None:
        pass

    def close(self, *, clean: bool, chosen: bool = False) -> None:
        pass

    def _waiting_after(self, after: tuple[int, int]) -> Iterator[StoredJob]:
        for priority in sorted(self._lines, reverse=True):
            if -priority < after[0]:
                continue
            beyond = after[1] if -priority == after[0] else 0
            for ordinal in self._lines[priority].after(beyond):
                yield self._jobs[ordinal]

    def _accept(self, row: JobAccepted) -> None:
        self._jobs[row.ordinal] = StoredJob(
            ordinal=row.ordinal,
            batch=row.batch,
            seq=row.seq,
            run=1,
            tries=0,
            failures=0,
            crashes=0,
            unclean_exits=0,
            priority=row.priority,
            spec=row.spec,
            traits=row.traits,
            queued_wall_ns=row.queued_wall_ns,
        )
        self._digests.setdefault(row.batch, []).append(row.digest)
        self._lines.setdefault(row.priority, _Line()).add(row.ordinal)

    def _leave_line(self, ordinal: int) -> None:
        self._lines[self._jobs[ordinal].priority].remove(ordinal)

    def _come_back(self, row: JobReturned) -> None:
        job = self._jobs[row.ordinal] = structs.replace(
            self._jobs[row.ordinal],
            run=row.run,
            tries=row.tries,
            failures=row.failures,
            crashes=row.crashes,
            unclean_exits=row.unclean_exits,
        )
        self._lines[job.priority].add(job.ordinal)

    def _record(self, row: OutcomeRecorded) -> None:
        self._leave_line(row.ordinal)
        if row.outcome.state is not State.QUARANTINED:  # a person may still want that one to run again
            del self._jobs[row.ordinal]
        self._outcomes.setdefault(row.batch, deque()).append(row.outcome)

    def _acknowledge(self, row: Acknowledged) -> None:
        kept = self._outcomes.get(row.batch)
        while kept and kept[0].no <= row.upto:
            kept.popleft()
