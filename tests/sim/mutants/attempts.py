"""Planted bugs in how attempts end, and what a job keeps of its past."""

from __future__ import annotations

from sim.mutants.plan import Edit, mutant

ATTEMPTS = (
    mutant(
        "of a run the last try alone is told",
        "I4",
        "certificate.py",
        "    return (*tries, one_more)[-limits.TRIES_KEPT_MAX :]\n",
        "    return (one_more,)\n",
    ),
    mutant(
        "a job is stored without what is told of its tries",
        "I4",
        "core/entries.py",
        "self.crashes, self.unclean_exits, self.told)\n",
        "self.crashes, self.unclean_exits)\n",
    ),
    mutant(
        "of the death of a worker its signal is not told",
        "I4",
        "certificate.py",
        "        signal=report.signal,\n",
        "        signal=report.signal if report.output is not NO_OUTPUT else None,\n",
        Edit("certificate.py", "import End, ExitStatus, Report,", "import NO_OUTPUT, End, ExitStatus, Report,"),
    ),
    mutant(
        "a deadline is judged between two looks at a full spool",
        "I10",
        "core/supervisor.py",
        "worker.deadline_ns <= now.mono and not self._pool.spool_full:",
        "worker.deadline_ns <= now.mono:",
    ),
    mutant(
        "only the first job of a repeated frame is compared",
        "I2",
        "core/intake.py",
        "zip(loaded.digests, event.jobs, strict=False)",
        "zip(loaded.digests[:1], event.jobs, strict=False)",
    ),
    mutant(
        "a worker that died in time is judged by its deadline",
        "I4",
        "core/worker.py",
        "        if seen_mono_ns < self.overdue_mono_ns:\n",
        "        if seen_mono_ns < 0:\n",
    ),
    mutant(
        "deaths at the head of a frame are never forgotten",
        "I4",
        "core/job.py",
        (
            '        """A worker ran it after all, however it ended: no loss before counts against it any more."""\n'
            "        self.lost_at_head = 0\n"
        ),
        '        """A worker ran it after all, however it ended: no loss before counts against it any more."""\n',
    ),
    mutant(
        "a report is believed before its frame has started",
        "I4",
        "core/reactor.py",
        "            elif report.end not in REPORTABLE or not attempt.frame.started:\n",
        "            elif report.end not in REPORTABLE:\n",
    ),
    mutant(
        "a crashed job that was given up is sent again",
        "I9",
        "core/completion.py",
        (
            "        if job.given_up:\n"
            "            self._finish(job, State.CANCELLED, attempt, report, now)\n"
            "        # With"
        ),
        (
            "        if job.attempt_n:\n"
            "            self._finish(job, State.CANCELLED, attempt, report, now)\n"
            "        # With"
        ),
    ),
    mutant(
        "unclean ends are not cleared by an end in order",
        "I4",
        "core/completion.py",
        ("        job.counts.clear_unclean_exits()\n        self._actions"),
        "        self._actions",
    ),
    mutant(
        "a new run keeps the crashes of the last",
        "I4",
        "core/entries.py",
        "self.tries = self.failures = self.crashes = self.unclean_exits = 0",
        "self.tries = self.failures = self.unclean_exits = 0",
    ),
    mutant(
        "the back-off before a retry is ignored",
        "I10",
        "core/completion.py",
        "(now.mono + delay_ns, job.ordinal, job)",
        "(now.mono, job.ordinal, job)",
    ),
    mutant(
        "the back-off does not double",
        "I10",
        "core/job.py",
        "    doublings = min(job.counts.failures - 1, 40)\n",
        "    doublings = 0\n",
    ),
    mutant(
        "a job that is cancelled while it waits is counted twice",
        "I9",
        "core/completion.py",
        "        pool.counters.jobs_finished",
        (
            "        pool.counters.jobs_finished[job.spec.kind, state] += attempt is None\n"
            "        pool.counters.jobs_finished"
        ),
    ),
)
