"""Planted bugs in what becomes of attempts and jobs: ownership, guilt, retries, restart."""

from __future__ import annotations

from sim.mutants.plan import mutant

ENDINGS, JOB, RESTORE, DISPATCHER = "core/endings.py", "core/job.py", "core/restore.py", "core/dispatcher.py"

DECISIONS = (
    mutant(
        "ownership is learnt from the acknowledgement",
        "I1",
        ENDINGS,
        "        for index, frame in enumerate(list(worker.frames)):\n",
        "        for index, frame in enumerate([frame for frame in worker.frames if frame.started]):\n",
    ),
    mutant(
        "guilt is counted at dispatch",
        "I4",
        ENDINGS,
        "        if not frame.started:\n            return self._lost",
        "        if frame is None:\n            return self._lost",
    ),
    mutant(
        "a frame that was not sent counts against its job",
        "I4",
        ENDINGS,
        "        if nobodys or not head or not frame.sent:\n",
        "        if nobodys or not head:\n",
    ),
    mutant(
        "a crash is counted for company",
        "I4",
        ENDINGS,
        "        if frame.shared or worker.verdict is Verdict.SILENT:\n",
        "        if worker.verdict is Verdict.SILENT:\n",
    ),
    mutant(
        "a worker we stopped counts as a crash",
        "I4",
        ENDINGS,
        "        nobodys = worker.verdict in (Verdict.UNWANTED, Verdict.PROTOCOL, Verdict.CANCELLED)\n",
        "        nobodys = worker.verdict is Verdict.CANCELLED\n",
    ),
    mutant(
        "no job is ever quarantined",
        "I10",
        JOB,
        "    return job.crashes >= limit and blamed_alone\n",
        "    return job.crashes >= 10**6 and blamed_alone\n",
    ),
    mutant(
        "the crash limit is off by one",
        "I4",
        JOB,
        "    return job.crashes >= limit and blamed_alone\n",
        "    return job.crashes > limit and blamed_alone\n",
    ),
    mutant(
        "an earlier job's damage is blamed on the next",
        "I4",
        ENDINGS,
        "        blamed_alone = attempt.fresh or not job.traits.in_process\n",
        "        blamed_alone = True\n",
    ),
    mutant(
        "the last retry is not given",
        "I4",
        JOB,
        "    if job.failures > wanted.retries:\n",
        "    if job.failures >= wanted.retries:\n",
    ),
    mutant(
        "a delayed job is forgotten",
        "I1",
        ENDINGS,
        "            heappush(self._pool.delayed, (now.mono + delay_ns, job.ordinal, job))\n",
        "",
    ),
    mutant(
        "attempts under way are not requeued at a restart",
        "I1",
        RESTORE,
        "    for each in event.in_flight:\n",
        "    for each in event.in_flight[1:]:\n",
    ),
    mutant(
        "late reports are not looked at",
        "I7",
        RESTORE,
        "late.get((each.epoch, each.n))",
        "None",
    ),
    mutant(
        "late reports are matched by number alone",
        "fence",
        RESTORE,
        "late.get((each.epoch, each.n))",
        "next((report for (_, n), report in late.items() if n == each.n), None)",
    ),
    mutant(
        "unclean ends are forgotten at a restart",
        "I10",
        JOB,
        "        job.failures, job.crashes, job.unclean = stored.failures, stored.crashes, stored.unclean\n",
        "        job.failures, job.crashes = stored.failures, stored.crashes\n",
    ),
    mutant(
        "quarantined after unclean ends in company",
        "I4",
        ENDINGS,
        "        if job.unclean > limits.UNCLEAN_ALONE_MIN and",
        "        if job.unclean >= limits.UNCLEAN_ALONE_MIN and",
    ),
    mutant(
        "a dangerous job runs in company",
        "I4",
        "core/dealing.py",
        "        return job.wants_pool_alone and bool(self._pool.attempts)\n",
        "        return False\n",
    ),
    mutant(
        "ordinals begin anew after a restart",
        "I1",
        RESTORE,
        "    pool.ordinal = event.ordinal\n",
        "",
    ),
    mutant(
        "frames are taken back that the worker has",
        "I7",
        DISPATCHER,
        "for frame in worker.frames if frame.taking_back and not frame.sent]",
        "for frame in worker.frames if frame.taking_back and frame.first_n not in event.first_ns]",
    ),
    mutant(
        "frames taken back are not noticed",
        "I10",
        DISPATCHER,
        "        for first_n in (*event.first_ns, *unsent):\n",
        "        for first_n in unsent:\n",
    ),
    mutant(
        "a frame taken back before it was sent is sent",
        "I10",
        DISPATCHER,
        "        for first_n in (*event.first_ns, *unsent):\n",
        "        for first_n in event.first_ns:\n",
    ),
    mutant(
        "a time-out ends nothing",
        "I10",
        "core/worker.py",
        "        return self.heard_mono_ns + self.timeout_ns if self.timeout_ns else NEVER\n",
        "        return NEVER\n",
    ),
    mutant(
        "a job past its time-out is never killed",
        "I10",
        "core/crew.py",
        "now.mono + limits.TERM_GRACE_NS)",
        "NEVER)",
    ),
)
