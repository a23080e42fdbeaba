"""A worker process as the dealer knows it: its state, the frames it holds, and when it must have spoken.

    STARTING --ready--> SPARE --assign--> BUSY --frames done--> IDLE --assign--> BUSY ...
        any of them --stop--> STOPPING --exited--> (gone)

Wanted and actual are apart: `stop` says what we want, `exited` what is. Rules of this file: `Worker.move` is
the only writer of a worker's state; ownership of a job is decided when its frame is sent, guilt when the
frame was started.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from taskpool import limits
from taskpool.clock import NEVER
from taskpool.core.job import Job
from taskpool.ids import Incarnation


class WorkerState(Enum):
    STARTING = "starting"
    SPARE = "spare"  # ready, never worked, holds no slot
    IDLE = "idle"  # holds a slot, waits
    BUSY = "busy"
    STOPPING = "stopping"


class WorkerEvent(Enum):
    READY = "ready"
    ASSIGN = "assign"
    DONE = "done"  # its last frame is finished
    STOP = "stop"
    EXITED = "exited"


class WorkerAction(Enum):
    ENLIST = "enlist"
    WORK = "work"
    REST = "rest"
    STOP = "stop"
    COUNT_BOOT_DEATH = "count the death at boot"
    REPLACE = "replace"
    JUDGE = "judge"  # somebody's job may be to blame
    BURY = "bury"  # its death was our wish
    STALE = "stale"


def _row(**cells: WorkerAction) -> dict[WorkerEvent, WorkerAction]:
    row = dict.fromkeys(WorkerEvent, WorkerAction.STALE)
    row.update({WorkerEvent[name]: action for name, action in cells.items()})
    return row


_ROWS: dict[WorkerState, dict[WorkerEvent, WorkerAction]] = {
    WorkerState.STARTING: _row(READY=WorkerAction.ENLIST, STOP=WorkerAction.STOP, EXITED=WorkerAction.COUNT_BOOT_DEATH),
    WorkerState.SPARE: _row(ASSIGN=WorkerAction.WORK, STOP=WorkerAction.STOP, EXITED=WorkerAction.REPLACE),
    WorkerState.IDLE: _row(ASSIGN=WorkerAction.WORK, STOP=WorkerAction.STOP, EXITED=WorkerAction.REPLACE),
    WorkerState.BUSY: _row(
        ASSIGN=WorkerAction.WORK, DONE=WorkerAction.REST, STOP=WorkerAction.STOP, EXITED=WorkerAction.JUDGE
    ),
    WorkerState.STOPPING: _row(EXITED=WorkerAction.BURY),
}

WORKER_TABLE: dict[tuple[WorkerState, WorkerEvent], WorkerAction] = {
    (state, event): action for state, row in _ROWS.items() for event, action in row.items()
}

_MOVES: frozenset[tuple[WorkerState, WorkerState]] = frozenset(
    {(WorkerState.STARTING, WorkerState.SPARE), (WorkerState.SPARE, WorkerState.BUSY)}
    | {(WorkerState.IDLE, WorkerState.BUSY), (WorkerState.BUSY, WorkerState.IDLE)}
    | {(state, WorkerState.STOPPING) for state in WorkerState if state is not WorkerState.STOPPING}
)


class StopReason(Enum):
    """Why the dealer stops a worker, hence how its running attempt ends."""

    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"
    SILENT = "silent"  # it did not start, or not finish, what it was sent
    PROTOCOL = "protocol"  # it said what no worker says
    BOOT = "boot"  # it never became ready
    UNWANTED = "unwanted"  # scaled down, recycled, or the dealer leaves


class Attempt:
    """One execution of a job, from the moment its frame is sent."""

    __slots__ = ("frame", "fresh", "job", "n", "worker")

    def __init__(self, n: int, job: Job, worker: Worker, frame: FrameRecord) -> None:
        self.n = n
        self.job = job
        self.worker = worker
        self.frame = frame
        self.fresh = worker.served == 0  # nothing else ever ran in that process


class FrameRecord:
    """A frame a worker holds: its attempts without a report, in order."""

    __slots__ = (
        "attempts",
        "first_n",
        "heard_mono_ns",
        "sent",
        "shared",
        "started",
        "started_wall_ns",
        "taking_back",
        "timeout_ns",
    )

    def __init__(self, first_n: int, now_ns: int) -> None:
        self.first_n = first_n
        self.attempts: dict[int, Attempt] = {}
        self.shared = False
        self.started_wall_ns = 0
        self.sent = True  # not yet, while a careful dealer stores its attempts
        self.started = False
        self.taking_back = False
        self.timeout_ns = 0
        self.heard_mono_ns = now_ns  # when it became the head, was started, or last reported

    def deadline_ns(self) -> int:
        """When the head frame must have spoken."""
        if not self.sent:
            return NEVER
        if not self.started:
            return self.heard_mono_ns + limits.START_SILENT_NS_MAX
        if self.shared:
            return self.heard_mono_ns + limits.FRAME_SILENT_NS_MAX
        return self.heard_mono_ns + self.timeout_ns if self.timeout_ns else NEVER


class Worker:
    """One process, numbered by its incarnation."""

    __slots__ = (
        "affinity",
        "deadline_ns",
        "errors",
        "frames",
        "incarnation",
        "kill_at_ns",
        "overdue_mono_ns",
        "pid",
        "retiring",
        "served",
        "slot",
        "spawned_mono_ns",
        "state",
        "stop_reason",
    )

    def __init__(self, incarnation: Incarnation, now_ns: int) -> None:
        self.incarnation = incarnation
        self.pid = 0
        self.state = WorkerState.STARTING
        self.slot: int | None = None
        self.frames: deque[FrameRecord] = deque()
        self.served = 0
        self.affinity = ""
        self.errors = 0
        self.retiring = False
        self.stop_reason: StopReason | None = None
        self.spawned_mono_ns = now_ns
        self.deadline_ns = now_ns + limits.BOOT_NS_MAX
        self.kill_at_ns = NEVER  # after TERM, when KILL follows
        self.overdue_mono_ns = 0  # when a deadline was found missed

    @property
    def head(self) -> FrameRecord | None:
        return self.frames[0] if self.frames else None

    def suits(self, job: Job) -> bool:
        if job.wants_fresh_worker and self.served:
            return False
        return self.affinity in ("", job.traits.affinity)

    def move(self, state: WorkerState) -> None:
        assert (self.state, state) in _MOVES, f"worker {self.incarnation}: {self.state} -> {state}"
        self.state = state

    def hold(self, frame: FrameRecord, jobs: list[Job]) -> None:
        """The frame is about to be sent."""
        self.frames.append(frame)
        self.served += len(jobs)
        self.affinity = self.affinity or jobs[0].traits.affinity
        self.watch()

    def watch(self) -> None:
        """Recompute when this worker must have spoken."""
        head = self.head
        stopping = self.state is WorkerState.STOPPING  # nothing more is expected of it but its end
        self.deadline_ns = head.deadline_ns() if head is not None and not stopping else NEVER

    def find(self, first_n: int) -> FrameRecord | None:
        return next((frame for frame in self.frames if frame.first_n == first_n), None)

    def drop(self, frame: FrameRecord, now_ns: int) -> None:
        """The frame is finished or taken back; the next one, if any, is the head from now on."""
        was_head = self.head is frame
        self.frames.remove(frame)
        if was_head and self.frames and not self.frames[0].started:
            self.frames[0].heard_mono_ns = now_ns
        self.watch()

    def extend_deadlines(self, gap_ns: int) -> None:
        """The dealer itself stood still: push every deadline on by that much."""
        for frame in self.frames:
            frame.heard_mono_ns += gap_ns
        if self.state is WorkerState.STARTING:
            self.deadline_ns += gap_ns
        else:
            self.watch()
