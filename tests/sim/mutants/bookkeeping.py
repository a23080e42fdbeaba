"""Planted bugs in the backlog and at the intake: what is in memory, what is on disk, what is told to whom."""

from __future__ import annotations

from sim.mutants.plan import Edit, mutant

BACKLOG, BATCH, DELIVERY = "core/backlog.py", "core/batch.py", "core/delivery.py"
INTAKE, REACTOR = "core/intake.py", "core/reactor.py"

BOOKKEEPING = (
    mutant(
        "the horizon is off by one",
        "I1",
        REACTOR,
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
        REACTOR,
        "or record.ordinal in pool.jobs",
        "or record.ordinal < 0",
    ),
    mutant(
        "the store is read before it knows everything",
        "I1",
        REACTOR,
        "        if pool.backlog.wants_more() and pool.commits.handed_over:\n",
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
        "        return (-self.record.priority, self.record.ordinal)\n",
        "        return (-self.record.priority, -self.record.ordinal)\n",
    ),
    mutant(
        "what is said twice is taken twice",
        "I2",
        INTAKE,
        "        skip = batch.received + 1 - event.first_seq\n        jobs",
        "        skip = 0\n        jobs",
    ),
    mutant(
        "a gap is not noticed",
        "I1",
        INTAKE,
        "        if skip < 0:\n",
        "        if skip < -(10**6):\n",
    ),
    mutant(
        "a batch is closed at any number",
        "I1",
        INTAKE,
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
        BATCH,
        "        self.behind = self.sent + len(self.unsent) < self.recorded\n",
        "        self.behind = False\n",
    ),
    mutant(
        "jobs of a cancelled batch are lost on their way in",
        "I1",
        "core/completion.py",
        "            if job.given_up:\n                self.cancel_waiting(job, now)\n",
        "            if job.given_up:\n                del self._pool.jobs[job.ordinal]\n",
    ),
    mutant(
        "a batch is forgotten with jobs open",
        "I1",
        DELIVERY,
        "batch.at_rest if journaled else",
        "batch.client is None if journaled else",
    ),
    mutant(
        "without a journal, a batch is forgotten unread",
        "I1",
        DELIVERY,
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
    mutant(
        "the living generators are let go instead of the dead",
        "I10",
        "dealer/reply_queues.py",
        "if pidfd in ready]",
        "if pidfd not in ready]",
    ),
    mutant(
        "more generators are let in than there are connections",
        "I5",
        "core/clients.py",
        "        elif not self._has_place(hello):\n",
        "        elif hello.client < 0:\n",
    ),
    mutant(
        "a generator that was turned away keeps its queue",
        "I6",
        "core/clients.py",
        "        else:\n            self._pool.emit(Release(hello.client))\n",
        "",
    ),
    mutant(
        "the hello of a dead generator counts",
        "I6",
        "dealer/loop.py",
        "end.fileno(), clients) or end.held():\n",
        "end.fileno(), clients) or end:\n",
        Edit("dealer/reply_queues.py", "if client not in watched and", "if client < 0 and"),
    ),
    mutant(
        "a generator without a connection does not ask again",
        "I10",
        "client/turn.py",
        "        return now + RETRY_NS\n",
        "        self.deadline = 2**63\n        return 2**63\n",
    ),
)
