"""One execution of a job: which worker does it, in which frame.

Which worker owns a job is decided when its frame is sent; whether a crash is its own, when the frame is started.
Between the two a worker's death is no crash of the job (docs/protocol.md, section 7).
"""

from __future__ import annotations

from taskpool.core.frame import FrameRecord
from taskpool.core.job import Job
from taskpool.core.worker import Worker


class Attempt:
    """One execution, from the moment its frame is sent until its report or its worker's death."""

    __slots__ = ("frame", "fresh", "job", "n", "worker")

    def __init__(self, n: int, job: Job, worker: Worker, frame: FrameRecord) -> None:
        self.n = n
        self.job = job
        self.worker = worker
        self.frame = frame
        # Nothing else ever ran in that process: then no earlier job can have corrupted it, and a crash is this job's.
        self.fresh = worker.served == 0 and not frame.shared

    def share_process(self) -> None:
        """Another frame was in the same process: its decoder, not this job, may have ended the worker."""
        self.fresh = False
