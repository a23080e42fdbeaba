"""What a person may ask of a running pool. Each verb answers after its effect, in JSON.

A page thread calls `status` too, beside the loop: what it reads of dicts is copied first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

from taskpool.certificate import as_fields, slot_shown
from taskpool.clock import SECOND, Instant, rfc3339
from taskpool.core.attempt import Attempt
from taskpool.core.completion import Completion
from taskpool.core.delivery import Delivery
from taskpool.core.effects import Level, Topic
from taskpool.core.entries import BatchCancelled, QuarantineDropped
from taskpool.core.job import JOB_TABLE, Job, JobAction, JobEvent
from taskpool.core.shutdown import Shutdown
from taskpool.core.state import PoolState
from taskpool.core.storage import LoadOutcomes
from taskpool.core.supervisor import Supervisor
from taskpool.core.worker import Worker
from taskpool.messages import Command, State

Body = dict[str, Any]
LISTED_MAX = 1_000  # entries in an answer that lists things
OUTCOMES_PAGE = 256  # outcomes in one answer to `outcomes`


class CommandError(Exception):
    """The command cannot be carried out; the text says why."""


class Commands:
    """The verbs, one small method each."""

    def __init__(
        self,
        pool: PoolState,
        supervisor: Supervisor,
        completion: Completion,
        delivery: Delivery,
        shutdown: Shutdown,
    ) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self._completion = completion
        self._delivery = delivery
        self._shutdown = shutdown
        self._verbs: dict[str, Callable[[Command, Instant], Body]] = {
            "status": self._status,
            "show": self._show,
            "cancel": self._cancel,
            "cancel-waiting": self._cancel_waiting,
            "requeue": self._requeue,
            "pause": self._pause,
            "unpause": self._unpause,
            "scale": self._scale,
            "drain": self._drain,
            "quarantine-list": self._quarantine_list,
            "quarantine-requeue": self._requeue,
            "quarantine-drop": self._quarantine_drop,
        }

    def perform(self, command: Command, now: Instant) -> None:
        """Carry out a command and answer its client, if it is connected."""
        if command.verb == "outcomes":  # answered by the store, page by page
            if command.client in self._pool.clients:
                self._delivery.read(LoadOutcomes(command.batch or "", command.seq, OUTCOMES_PAGE, command.client))
            return
        verb = self._verbs.get(command.verb)
        try:
            if verb is None:
                raise CommandError(f"unknown verb {command.verb!r}; known: {', '.join(sorted(self._verbs))}")
            ok, body = True, verb(command, now)
        except CommandError as error:
            ok, body = False, {"error": str(error)}
        self._pool.answer(command, body, ok=ok)

    def status(self, now: Instant, *, described: bool = False) -> Body:
        """The pool at a glance. `described`: with what its jobs are, which is not for pages that others can read."""
        pool, supervisor = self._pool, self._supervisor
        delayed = sum(job.state is State.DELAYED for _, _, job in pool.delayed)  # cancelled ones linger in the heap
        # What lies beyond the front of the queue is in the store only, so the waiting ones are counted by what is left.
        waiting = pool.pending - len(pool.attempts) - delayed
        return {
            "pool": pool.config.name,
            "epoch": pool.config.epoch,
            "pid": pool.config.pid,
            "version": pool.config.version,
            "state": "draining" if pool.draining else "paused" if pool.paused else "running",
            "journal": pool.config.journaled,
            "workers_wanted": supervisor.wanted,
            "spares": pool.config.spares,
            "workers": dict(Counter(worker.state.value for worker in supervisor.workers.values())),
            "worker_spawns": pool.counters.worker_spawns,
            "worker_respawns": pool.counters.worker_respawns,
            "out_of_service": supervisor.respawn.out_of_service,
            "jobs": {"queued": waiting, "delayed": delayed, "running": len(pool.attempts)},
            "finished": _by_state(pool),
            "attempts": dict(pool.counters.attempts),
            "quarantined": len(pool.quarantine),
            "batches": [
                {"batch": batch.name, "accepted": batch.accepted, "total": batch.total, "open": batch.open}
                for batch in islice(pool.batches.values(), LISTED_MAX)
            ],
            "running": [
                self._worker_line(worker, now, described=described)
                for worker in supervisor.workers.values()
                if worker.frames
            ],
        }

    def _worker_line(self, worker: Worker, now: Instant, *, described: bool) -> Body:
        head = worker.frames[0]
        # The first without a report is the one that runs.
        job = next(iter(head.jobs.values()))
        return {
            "slot": slot_shown(worker.slot),
            "pid": worker.pid,
            "job": job.name,
            "kind": job.spec.kind,
            "started": head.started,
            "seconds": max(0, now.mono - head.heard_mono_ns) / SECOND,
            **({"description": self._pool.title(job.spec)} if described else {}),
        }

    def _status(self, command: Command, now: Instant) -> Body:
        return self.status(now, described=True)

    def _show(self, command: Command, now: Instant) -> Body:
        job = self._one_job(command)
        tries = [as_fields(tried, self._completion.signal_name) for tried in job.counts.told]
        return {**self._describe(job, self._pool.attempts.get(job.attempt_n)), "tries": tries}

    def _cancel(self, command: Command, now: Instant) -> Body:
        jobs = [self._one_job(command)] if command.seq else self._whole_batch(command)
        waiting = running = 0
        for job in jobs:
            action = JOB_TABLE[job.state, JobEvent.CANCEL]
            if action is JobAction.CANCEL:
                self._cancel_one(job, now)
                waiting += 1
            elif action is JobAction.STOP_ATTEMPT:
                self._stop_attempt(job, now)
                running += 1
        return {"cancelled": waiting, "stopping": running}

    def _cancel_waiting(self, command: Command, now: Instant) -> Body:
        """Let what runs finish; nothing of the batch starts any more."""
        waiting = [
            job for job in self._whole_batch(command) if JOB_TABLE[job.state, JobEvent.CANCEL] is JobAction.CANCEL
        ]
        for job in waiting:
            self._cancel_one(job, now)
        return {"cancelled": len(waiting)}

    def _cancel_one(self, job: Job, now: Instant) -> None:
        self._pool.backlog.discard(job)
        self._completion.cancel_waiting(job, now)

    def _stop_attempt(self, job: Job, now: Instant) -> None:
        """Its worker goes with it. What waits behind it in the same worker goes back, uncounted."""
        job.cancel()
        attempt = self._pool.attempts[job.attempt_n]
        if attempt.worker.head is attempt.frame:
            self._supervisor.cancel(attempt.worker, job, now)
        elif not attempt.frame.taking_back:  # a frame asked for and not returned is stopped when it starts
            self._supervisor.take_back(attempt.worker)

    def _whole_batch(self, command: Command) -> list[Job]:
        batch = self._pool.batches.get(command.batch or "")
        if batch is None:
            raise CommandError(f"no batch {command.batch!r} here")
        # Recorded once: a second cancel finds what came to the front of the queue since.
        if not batch.cancelled:
            batch.cancel()  # what lies in the store is cancelled as it comes in
            self._pool.commits.add(BatchCancelled(batch.name))
        return [job for job in self._pool.jobs.values() if job.batch is batch]

    def _requeue(self, command: Command, now: Instant) -> Body:
        """Give quarantined jobs a new run: one, or all of a batch."""
        jobs = self._parked(command)
        for job in jobs:
            self._completion.requeue(job)
        return {"requeued": len(jobs)}

    def _quarantine_list(self, command: Command, now: Instant) -> Body:
        parked = self._pool.quarantine
        return {
            "total": len(parked),
            "quarantine": [self._describe(job) for job in islice(parked.values(), LISTED_MAX)],
        }

    def _quarantine_drop(self, command: Command, now: Instant) -> Body:
        jobs = self._parked(command)
        for job in jobs:
            del self._pool.quarantine[job.batch.name, job.seq]
            self._pool.commits.add(QuarantineDropped(job.ordinal))
        # The last job in quarantine may have been all that kept a finished batch in memory.
        for batch in {job.batch.name: job.batch for job in jobs}.values():
            self._delivery.forget_if_done(batch)
        return {"dropped": len(jobs)}

    def _pause(self, command: Command, now: Instant) -> Body:
        self._pool.set_paused(True)
        return {"state": "paused"}

    def _unpause(self, command: Command, now: Instant) -> Body:
        self._pool.set_paused(False)
        return {"state": "running"}

    def _scale(self, command: Command, now: Instant) -> Body:
        return self.scale(command.number)

    def scale(self, by: int) -> Body:
        """As far as there is room: a worker that cannot have its descriptors or its queue would only be missed."""
        # A step and not a number: two people who each ask for one more get two.
        asked = self._supervisor.wanted + by
        wanted = self._supervisor.scale(asked)
        if wanted >= asked:
            self._pool.note(Level.INFO, Topic.SCALED, wanted=wanted, limit="")
            return {"workers_wanted": wanted}
        limit = f"there is no room for {asked}: {self._pool.config.workers_limit}"
        self._pool.note(Level.WARNING, Topic.SCALED, wanted=wanted, limit=limit)
        return {"workers_wanted": wanted, "limit": limit}

    def _drain(self, command: Command, now: Instant) -> Body:
        self._shutdown.drain(now)
        return {"state": "draining"}

    def _one_job(self, command: Command) -> Job:
        job = self._pool.find_job(command.batch or "", command.seq)
        if job is None:
            journaled = self._pool.config.journaled
            raise CommandError(
                f"job {command.batch}/{command.seq} is not waiting, running or in quarantine here (finished jobs are "
                f"{'among the results of their batch' if journaled else 'not kept without a journal'})"
            )
        return job

    def _parked(self, command: Command) -> list[Job]:
        jobs = [
            job
            for job in self._pool.quarantine.values()
            if (not command.batch or job.batch.name == command.batch) and (not command.seq or job.seq == command.seq)
        ]
        if not jobs and command.seq:
            raise CommandError(f"job {command.batch}/{command.seq} is not in quarantine")
        if not jobs and command.batch:
            raise CommandError(f"no job of batch {command.batch!r} is in quarantine")
        return jobs

    def _describe(self, job: Job, attempt: Attempt | None = None) -> Body:
        title = self._pool.title
        return {
            "job": job.name,
            "kind": job.spec.kind,
            "label": job.spec.label,
            "state": job.state.value,
            "run": job.counts.run,
            "attempts": job.counts.tries,
            "crashes": job.counts.crashes,
            "crash_limit": job.limits.crash_limit,
            "priority": job.limits.priority,
            "queued_at": rfc3339(job.record.queued_wall_ns),
            "pid": attempt.worker.pid if attempt is not None else None,
            "description": title(job.spec),  # last: in a table it may be long
        }


def _by_state(pool: PoolState) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for (_, state), count in pool.counters.jobs_finished.items():
        totals[state] += count
    return dict(totals)
