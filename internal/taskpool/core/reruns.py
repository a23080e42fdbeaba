"""New runs for jobs that have ended badly: asked for by a person, found by the store, which keeps what they are.

A request names the run that has ended, so that it may be said again: what has had its new run meanwhile is not found.
One question is with the store at a time, behind all that was to be stored before it; so no job is found twice.
"""

from __future__ import annotations

from collections import deque

from taskpool import limits
from taskpool.core.batch import Batch
from taskpool.core.clients import Clients
from taskpool.core.completion import Completion
from taskpool.core.delivery import Delivery
from taskpool.core.job import Job
from taskpool.core.state import PoolState
from taskpool.core.storage import EndedLoaded, LoadEnded
from taskpool.messages import Command, State

JOBS_PER_QUESTION = 256
_VERBS = ("rerun", "requeue")


class _Rerun:
    """One request under way."""

    def __init__(self, command: Command, batch: Batch) -> None:
        self.command = command
        self.batch = batch
        one = [(command.seq, command.seq)] if command.seq else [(1, limits.JOB_SEQ_MAX)]
        self.ranges = sorted(command.jobs) or one
        self.after = 0  # jobs up to this one were looked for
        self.given = 0

    def wants(self, job: Job) -> bool:
        """Whether the request is for this job, which is in quarantine."""
        if job.batch is not self.batch or self.command.number not in (0, job.counts.run):
            return False
        return any(first <= job.seq <= last for first, last in self.ranges)


class Reruns:
    """Gives jobs new runs, one request after the other."""

    def __init__(self, pool: PoolState, completion: Completion, delivery: Delivery, clients: Clients) -> None:
        self._pool = pool
        self._completion = completion
        self._delivery = delivery
        self._waiting: deque[_Rerun] = deque()
        self._asking = False
        for verb in _VERBS:
            clients.serve(verb, self.begin)

    def concerns(self, command: Command) -> bool:
        """Whether the command is about jobs that have ended. Without a job `requeue` is about the quarantine alone."""
        if command.verb == "requeue":
            return bool(command.batch and command.seq) and (command.batch, command.seq) not in self._pool.quarantine
        return command.verb in _VERBS

    def begin(self, command: Command) -> None:
        """Give new runs to jobs of a batch that is in memory, if the store knows it at all."""
        pool = self._pool
        batch = pool.batches.get(command.batch or "")
        if batch is None:
            pool.answer(command, {"error": f"no batch {command.batch!r} here"}, ok=False)
            return
        rerun = _Rerun(command, batch)
        for job in [job for job in pool.quarantine.values() if rerun.wants(job)]:
            self._completion.requeue(job)
            rerun.given += 1
        if pool.config.journaled:
            batch.begin_rerun()
            self._waiting.append(rerun)
        else:
            self._answer(rerun)

    def question(self) -> LoadEnded | None:
        """What to ask the store now; None: nothing."""
        if self._asking or not self._waiting:
            return None
        self._asking = True
        rerun = self._waiting[0]
        return LoadEnded(rerun.batch.name, rerun.ranges, rerun.command.number, rerun.after, JOBS_PER_QUESTION)

    def ended_loaded(self, event: EndedLoaded) -> None:
        """The jobs that were found begin anew. When there are no more, the person is told how many there were."""
        self._asking = False
        rerun = self._waiting[0]
        for stored in event.jobs:
            rerun.after = stored.record.seq
            if not stored.corrupt:  # it would only fail once more
                self._completion.run_again(Job.restored(stored, rerun.batch, State.FAILED))
                rerun.given += 1
        if not event.jobs:
            self._waiting.popleft()
            rerun.batch.end_rerun()
            self._answer(rerun)
            self._delivery.forget_if_done(rerun.batch)

    def _answer(self, rerun: _Rerun) -> None:
        command = rerun.command
        if command.seq and not rerun.given:
            kept = "" if self._pool.config.journaled else "; without a journal, only jobs in quarantine are kept"
            text = f"job {command.batch}/{command.seq} has not ended badly, or what it was is not kept any more{kept}"
            self._pool.answer(command, {"error": text}, ok=False)
        else:
            self._pool.answer(command, {"requeued": rerun.given}, ok=True)
