"""Planted bugs against the ordering rules R1 to R9, and against fencing."""

from __future__ import annotations

from sim.mutants.plan import Edit, mutant

_TAKE = "            self._take(batch, event, skip, now)\n"
_RECORD = "        pool.commits.add(OutcomeRecorded(job.ordinal, batch.name, outcome), OutcomeStored(batch, outcome))\n"
_DRAIN = (
    "        for events in self._queues.events:\n"
    "            # R4 (docs/protocol.md, 11): drain, then handle exits.\n"
    '            self._receive(events, ingress.EVENTS, "events", events.maxmsg + senders, '
    "lambda: self._core.wants_reports)"
)
_HELD = "        self._take_reports(worker, event.held, now)\n"
_ENDED = "        self.completion.worker_exited(worker, event, now)\n"
_EXITS = (
    "        if self._heard:\n"
    "            for exited in self._processes.take_exited():\n"
    "                self._handle(exited)\n"
)

ORDERING = (
    mutant(
        "accepted is told before the commit",
        "R1",
        "core/intake.py",
        _TAKE,
        _TAKE + "            batch.accepted = batch.received\n            self._tell_accepted(batch)\n",
    ),
    mutant(
        "the end of a batch is told before the commit",
        "R1",
        "core/intake.py",
        "            batch.close(close.total)\n            self._pool.commits",
        "            batch.close(close.total)\n            self.closed(batch)\n            self._pool.commits",
    ),
    mutant(
        "a start after an unclean end does not write ahead",
        "R2",
        "core/reactor.py",
        "        if event.unclean_exit:\n",
        "        if not event.unclean_exit:\n",
    ),
    mutant(
        "a dealer that writes ahead sends before its attempt is stored",
        "R2",
        "core/scheduler.py",
        "        sent = now.mono >= self._write_ahead_until_ns\n",
        "        sent = True\n",
    ),
    mutant(
        "attempts are not stored",
        "R2",
        "core/scheduler.py",
        "            self._pool.commits.add(entry, stored)\n",
        "            if stored:\n                self._pool.commits.add(entry, stored)\n",
    ),
    mutant(
        "an outcome is told before the commit",
        "R3",
        "core/completion.py",
        _RECORD,
        _RECORD
        + "        from taskpool.core.effects import Reply\n        from taskpool.messages import Outcomes\n\n"
        + "        if batch.client is not None:\n"
        + "            pool.emit(Reply(batch.client.id, Outcomes(batch.client.id, batch.name, [outcome])))\n",
    ),
    mutant(
        "a death is judged before the queue is drained",
        "R4",
        "dealer/loop.py",
        _DRAIN,
        _EXITS + _DRAIN,
    ),
    mutant(
        "a death is seen after the queue was drained",
        "R4",
        "dealer/loop.py",
        _EXITS,
        "        self._processes.reap(self._now.mono)\n" + _EXITS,
    ),
    mutant(
        "what a dead worker held is not looked at",
        "I7",
        "core/reactor.py",
        _HELD,
        "",
    ),
    mutant(
        "what a dead worker held is taken behind its death",
        "R4",
        "core/reactor.py",
        _HELD,
        "",
        Edit("core/reactor.py", _ENDED, _ENDED + _HELD),
    ),
    mutant(
        "the wake-up is emptied after looking who died",
        "R9",
        "dealer/loop.py",
        "        self._handle_signals(signals)\n",
        "        self._handle_signals([*signals, *self._signals()])\n",
    ),
    mutant(
        "one message is read before a death is judged",
        "R4",
        "dealer/loop.py",
        'ingress.EVENTS, "events", events.maxmsg + senders, ',
        'ingress.EVENTS, "events", 1, ',
    ),
    mutant(
        "orphans are not ended",
        "R5",
        "dealer/takeover.py",
        "    orphans = platform.end_orphans(pool, epoch)\n",
        "    orphans = 0\n",
    ),
    mutant(
        "orphans are ended after the queues are read",
        "R5",
        "dealer/takeover.py",
        "    orphans = platform.end_orphans(pool, epoch)\n",
        "    orphans = 0\n",
        Edit(
            "dealer/dealer.py",
            "        processes = platform.processes(",
            "        platform.end_orphans(options.pool, epoch)\n        processes = platform.processes(",
        ),
    ),
    mutant(
        "a failed commit is taken for a good one",
        "R6",
        "core/reactor.py",
        '        self.pool.emit(Exit(ExitCode.ENVIRONMENT, f"the journal cannot be written: {event.text}"))\n',
        "        self._on_committed(Committed(event.number), now)\n",
    ),
    mutant(
        "the second frame is lost",
        "R7",
        "core/scheduler.py",
        "        if frame.sent:\n",
        "        if frame.sent and len(attempts[0].worker.frames) < 2:\n",
    ),
    mutant(
        "a message of any type comes in anywhere",
        "R8",
        "dealer/ingress.py",
        "        if not isinstance(message, expected):\n",
        "        if message is None:\n",
    ),
    mutant(
        "anybody speaks for anybody's batch",
        "R8",
        "core/state.py",
        "return batch if batch is not None and batch.client is not None and batch.client.id == client else None",
        "return batch",
    ),
    mutant(
        "deadlines are judged before anybody is heard",
        "R9",
        "dealer/loop.py",
        "        self._receive_from_workers()\n        self._report_stall(stalled_ns)\n",
        "        self._handle(Tick())\n        self._receive_from_workers()\n",
        Edit("dealer/loop.py", "        self._clock.skip(stalled_ns)\n        self._now", "        self._now"),
    ),
    mutant(
        "a death is judged though reports were left unread",
        "R4",
        "dealer/loop.py",
        "        if self._heard:\n",
        "        if self._clock:\n",
    ),
    mutant(
        "nothing wakes the loop for what it left unread",
        "R9",
        "dealer/loop.py",
        "            unread = self._core.wants_reports and not self._heard",
        "            unread = False",
        Edit("dealer/loop.py", "events=self._core.wants_reports)", "events=self._heard)"),
    ),
    mutant(
        "reports are read whatever waits for the store",
        "I6",
        "core/reactor.py",
        "        return pool.draining or pool.commits.bytes <= limits.UNSTORED_REPORTS_BYTES_MAX\n",
        "        return pool is not None\n",
        Edit(
            "core/state.py",
            "        if self.commits.bytes > limits.UNSTORED_BYTES_MAX:\n",
            "        if self.draining:\n",
        ),
    ),
    mutant(
        "outcomes that wait for the store are not counted",
        "I6",
        "core/commits.py",
        "        return outcome_bytes(entry.outcome)\n",
        "        return 0\n",
    ),
    mutant(
        "outcomes dropped for a slow reader are not read back",
        "I10",
        "core/batch.py",
        "            self._drop_unsent()\n            self.behind = True\n",
        "            self._drop_unsent()\n",
    ),
    mutant(
        "one read of outcomes is asked for, and no more",
        "I10",
        "core/delivery.py",
        "        self._reading = False\n        self._send_loaded(event)\n",
        "        self._send_loaded(event)\n",
    ),
    mutant(
        "a pause of the pool counts as time that a job ran",
        "I4",
        "dealer/loop.py",
        "            skipped_ns = late_ns if late_ns > STANDSTILL_NS_MIN else 0\n",
        "            skipped_ns = 0\n",
    ),
    mutant(
        "a long sleep hides a pause",
        "I4",
        "dealer/loop.py",
        "            if self._core.pool.attempts:",
        "            if self._performer.exit:",
    ),
    mutant(
        "no fencing by epoch",
        "fence",
        "core/reactor.py",
        "        if worker is None or message.epoch != self.pool.config.epoch:\n",
        "        if worker is None:\n",
    ),
    mutant(
        "no fencing by owner",
        "fence",
        "core/reactor.py",
        "            if attempt is None or attempt.worker is not worker:\n",
        "            if attempt is None:\n",
    ),
    mutant(
        "an attempt outlives its report",
        "fence",
        "core/completion.py",
        "        del self._pool.attempts[attempt.n]\n",
        "",
    ),
    mutant(
        "a journal with work under way is closed as clean",
        "I11",
        "dealer/dealer.py",
        "        return self.core.pool.commits.idle and not self.core.pool.attempts\n",
        "        return True\n",
    ),
    mutant(
        "a worker's family is not waited for",
        "I7",
        "sim/processes.py",
        "            if family:\n",
        "            if len(family) > 10:\n",
    ),
)
