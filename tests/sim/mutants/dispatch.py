"""Planted bugs in what is sent, when, and to which worker."""

from __future__ import annotations

from sim.mutants.plan import mutant

DISPATCH = (
    mutant(
        "the pause between starts is not kept",
        "I12",
        "core/pacing.py",
        "        return now.mono < self._open_mono_ns",
        "        return False",
    ),
    mutant(
        "the pause between starts is counted from the sending",
        "I12",
        "core/pacing.py",
        "            return True",
        "            pass",
    ),
    mutant(
        "jobs share a frame in spite of the pause",
        "I12",
        "core/scheduler.py",
        " or self.pacing.active:",
        ":",
    ),
    mutant(
        "jobs are sent while a disk is full",
        "R6",
        "core/reactor.py",
        "pool.paused or pool.disk_full or self",
        "pool.paused or self",
    ),
    mutant(
        "jobs are sent while the dealer drains",
        "I9",
        "core/reactor.py",
        "        if not (pool.draining or pool.paused",
        "        if not (pool.paused",
    ),
    mutant(
        "jobs are sent while the pool is paused",
        "I9",
        "core/reactor.py",
        "pool.draining or pool.paused or pool.disk_full",
        "pool.draining or pool.disk_full",
    ),
    mutant(
        "jobs with a time-out share a frame",
        "I4",
        "core/job.py",
        "        return not (self.limits.timeout_ns or suspect)\n",
        "        return not suspect\n",
    ),
    mutant(
        "jobs of different limits share a frame",
        "I2",
        "core/scheduler.py",
        "        and (job.limits is first.limits or job.limits == first.limits)\n",
        "",
    ),
    mutant(
        "jobs of two paths share a frame",
        "I4",
        "core/scheduler.py",
        "        and job.traits.affinity == first.traits.affinity\n",
        "",
    ),
    mutant(
        "a worker serves the code of two paths",
        "I4",
        "core/worker.py",
        '        return self.affinity in ("", job.traits.affinity)\n',
        "        return True\n",
    ),
    mutant(
        "a job that crashed runs where others ran",
        "I4",
        "core/worker.py",
        ("        if job.wants_fresh_worker and self.served:\n            return False\n"),
        "",
    ),
    mutant(
        "something waits behind a job with a time-out",
        "I10",
        "core/supervisor.py",
        "            and not worker.frames[0].timeout_ns\n",
        "",
    ),
    mutant(
        "a worker that is scaled away is killed amid its job",
        "I10",
        "core/supervisor.py",
        ("        worker.retire()\n        if worker.state is not WorkerState.BUSY:\n            self.stop"),
        ("        worker.retire()\n        if worker.state is not WorkerState.STOPPING:\n            self.stop"),
    ),
    mutant(
        "a slot that was scaled away is handed out again",
        "I9",
        "core/supervisor.py",
        "        if worker.slot is not None and worker.slot < self.wanted:\n",
        "        if worker.slot is not None:\n",
    ),
    mutant(
        "a death at boot delays no start",
        "I10",
        "core/respawn.py",
        "            self._allowed_from_ns = now_ns + self._delay_ns()\n",
        "            self._allowed_from_ns = now_ns\n",
    ),
    mutant(
        "there is no grace between TERM and KILL",
        "I10",
        "core/supervisor.py",
        "now.mono + limits.TERM_GRACE_NS)",
        "now.mono)",
    ),
    mutant(
        "a scale-down is told and not done",
        "I9",
        "core/commands.py",
        "        wanted = self._supervisor.scale(asked)\n",
        ("        wanted = asked\n        self._supervisor.scale(max(asked, self._supervisor.wanted))\n"),
    ),
)
