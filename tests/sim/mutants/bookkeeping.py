"""Planted bugs in the backlog and at the intake: what is in memory, what is on disk, what is told to whom."""

from __future__ import annotations

from sim.mutants.plan import mutant

BACKLOG, DESK, DISPATCHER, BATCH = "core/backlog.py", "core/intake.py", "core/reactor.py", "core/batch.py"

BOOKKEEPING = (
    mutant(
        "the horizon is off by one",
        "I1",
        DISPATCHER,
        "        horizon = (-last.priority, last.ordinal) if last is not None else None\n",
        "        horizon = (-last.priority, last.ordinal + 1) if last is not None else None\n",
    ),
    mutant(
        "what comes in during a read is not held",
        "I1",
        BACKLOG,
        "            if self.loading:\n                self._held.append(job)\n            return self.loading\n",
        "            return False\n",
    ),
    mutant(
        "the front is cut back during a read",
        "I1",
        BACKLOG,
        "        if self.loading or (len(self._waiting)",
        "        if (len(self._waiting)",
    ),
    mutant(
        "a job in memory is read again",
        "I7",
        DISPATCHER,
        "or stored.ordinal in pool.jobs",
        "or stored.ordinal < 0",
    ),
    mutant(
        "the store is read before it knows everything",
        "I1",
        DISPATCHER,
        "        if pool.backlog.wants_more() and pool.commits.blank:\n",
        "        if pool.backlog.wants_more():\n",
    ),
    mutant(
        "the horizon stays behind jobs given up",
        "I1",
        BACKLOG,
        "        self.horizon = ordered[keep - 1].key\n",
        "        self.horizon = ordered[-1].key\n",
    ),
    mutant(
        "jobs passed over may fall beyond the horizon",
        "I1",
        "core/scheduler.py",
        "        for job in reversed(passed_over):",
        "        for job in passed_over:",
    ),
    mutant(
        "first in, last out",
        "order",
        "core/job.py",
        "        return (-self.limits.priority, self.ordinal)\n",
        "        return (-self.limits.priority, -self.ordinal)\n",
    ),
    mutant(
        "what is said twice is taken twice",
        "I2",
        DESK,
        "        skip = batch.received + 1 - event.first_seq\n        jobs",
        "        skip = 0\n        jobs",
    ),
    mutant(
        "a gap is not noticed",
        "I1",
        DESK,
        "        if skip < 0:\n",
        "        if skip < -(10**6):\n",
    ),
    mutant(
        "a batch is closed at any number",
        "I1",
        DESK,
        "        elif close.total != batch.received:\n",
        "        elif close.total < 0:\n",
    ),
    mutant(
        "an acknowledgement beyond what was sent is accepted",
        "I1",
        BATCH,
        "        if not self.acknowledged < upto <= self.sent:\n",
        "        if not self.acknowledged < upto:\n",
    ),
    mutant(
        "the end of a lease drops outcomes",
        "I1",
        BATCH,
        "        self.behind = self.sent < self.recorded\n\n",
        "        self.behind = False\n\n",
    ),
    mutant(
        "what was read back is taken for all there is",
        "I10",
        DESK,
        "        batch.behind = batch.sent + len(batch.unsent) < batch.recorded\n        if event",
        "        batch.behind = False\n        if event",
    ),
    mutant(
        "jobs of a cancelled batch are lost on their way in",
        "I1",
        DISPATCHER,
        "        if job.batch.cancelled:\n            self.completion.cancel_waiting(job, now)\n",
        "        if job.batch.cancelled:\n            del pool.jobs[job.ordinal]\n",
    ),
    mutant(
        "a batch is forgotten with jobs open",
        "I1",
        DESK,
        "batch.at_rest if journaled else",
        "batch.client is None if journaled else",
    ),
    mutant(
        "without a journal, a batch is forgotten unread",
        "I1",
        DESK,
        "if journaled else batch.settled and batch.client is None",
        "if journaled else batch.finished and batch.client is None",
    ),
    mutant(
        "an end that was chosen is held against the jobs under way",
        "I4",
        "dealer/dealer.py",
        "chosen=self._left_by_choice(error)",
        "chosen=False",
    ),
)
