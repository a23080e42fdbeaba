"""A worker process as the dealer knows it: its state, the frames it holds, and when it must have been heard from.

    STARTING --ready--> SPARE --assign--> BUSY --done--> IDLE --assign--> BUSY ...
        any of them --stop--> STOPPING

Wanted and actual are apart: STOPPING is what the dealer wants, and the process may exit in any state. So its exit is no
event of the table: the supervisor forgets the worker.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from taskpool import limits
from taskpool.clock import NEVER, Instant
from taskpool.core.frame import FrameRecord
from taskpool.core.job import Job
from taskpool.identifiers import Incarnation


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


def _row(**cells: WorkerState) -> dict[WorkerEvent, WorkerState | None]:
    return {event: cells.get(event.name) for event in WorkerEvent}


_ROWS: dict[WorkerState, dict[WorkerEvent, WorkerState | None]] = {
    WorkerState.STARTING: _row(READY=WorkerState.SPARE, STOP=WorkerState.STOPPING),
    WorkerState.SPARE: _row(ASSIGN=WorkerState.BUSY, STOP=WorkerState.STOPPING),
    WorkerState.IDLE: _row(ASSIGN=WorkerState.BUSY, STOP=WorkerState.STOPPING),
    WorkerState.BUSY: _row(ASSIGN=WorkerState.BUSY, DONE=WorkerState.IDLE, STOP=WorkerState.STOPPING),
    WorkerState.STOPPING: _row(),
}

# The state that follows; None: stale, the event came too late or too early to mean anything.
WORKER_TABLE: dict[tuple[WorkerState, WorkerEvent], WorkerState | None] = {
    (state, event): following for state, row in _ROWS.items() for event, following in row.items()
}


class StopReason(Enum):
    """Why the dealer stops a worker, hence how its running attempt ends."""

    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"
    SILENT = "silent"  # it did not start, or not finish, what it was sent
    PROTOCOL = "protocol"  # it sent what no worker sends
    BOOT = "boot"  # it never became ready
    UNWANTED = "unwanted"  # scaled down, recycled, or the dealer stops


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

    def __init__(self, incarnation: Incarnation, now: Instant) -> None:
        self.incarnation = incarnation
        self.pid = 0
        self.state = WorkerState.STARTING
        self.slot: int | None = None
        self.frames: deque[FrameRecord] = deque()
        self.served = 0  # jobs ever sent to it
        self.affinity = ""
        self.errors = 0
        self.retiring = False
        self.stop_reason: StopReason | None = None
        # How long a boot takes is a metric; a slow one is the first sign of a machine without memory.
        self.spawned_mono_ns = now.mono
        self.deadline_ns = now.mono + limits.BOOT_NS_MAX
        self.kill_at_ns = NEVER  # after TERM, when KILL follows
        self.overdue_mono_ns = 0  # when a deadline was found missed

    def take(self, event: WorkerEvent) -> bool:
        """Go to the state that the table names; false when the event is stale in the present one."""
        # The table decides, here and nowhere else.
        following = WORKER_TABLE[self.state, event]
        if following is None:
            return False
        self.state = following
        self._set_deadline()
        return True

    # --- its process ---

    def set_pid(self, pid: int) -> None:
        self.pid = pid

    def retire(self) -> None:
        """Let it finish what it has; it gets nothing more."""
        self.retiring = True

    def stop(self, reason: StopReason, kill_at_ns: int) -> bool:
        """The dealer wants it gone, and sends KILL at `kill_at_ns` if it must. False: it is stopping already, and the
        first reason stands."""
        if not self.take(WorkerEvent.STOP):
            return False
        self.stop_reason = reason
        self.kill_at_ns = kill_at_ns
        return True

    def miss_deadline(self, now: Instant) -> None:
        self.overdue_mono_ns = now.mono

    def died_in_time(self, seen_mono_ns: int) -> None:
        """It was dead before its deadline was found missed, and only waited for its descendants' end: what was then
        decided about it was decided about a dead process."""
        if seen_mono_ns < self.overdue_mono_ns:
            self.stop_reason = None

    def kill_is_sent(self) -> None:
        self.kill_at_ns = NEVER

    def count_error(self) -> int:
        """One more message that no worker sends; returns how many there were."""
        self.errors += 1
        return self.errors

    # --- its frames ---

    @property
    def head(self) -> FrameRecord | None:
        return self.frames[0] if self.frames else None

    def suits(self, job: Job) -> bool:
        """Return whether the job may run in this process."""
        if job.wants_fresh_worker and self.served:
            return False
        return self.affinity in ("", job.traits.affinity)

    def assign(self, free_slots: set[int]) -> None:
        """It is about to be sent a frame; with its first one it takes the lowest free slot and keeps it."""
        took = self.take(WorkerEvent.ASSIGN)
        assert took, f"worker {self.incarnation} is {self.state} and gets work"
        # Slots name the work for people and for metrics; a spare has none, so their number stays that of the workers.
        if self.slot is None:
            self.slot = min(free_slots)
            free_slots.remove(self.slot)

    def hold(self, frame: FrameRecord, jobs: list[Job]) -> None:
        """The frame is about to be sent."""
        self.frames.append(frame)
        self.served += len(jobs)
        # User code cannot be unloaded, so what the first job loads decides for the process's whole life.
        self.affinity = self.affinity or jobs[0].traits.affinity
        self._set_deadline()

    def start(self, first_n: int, now: Instant) -> bool:
        """It began a frame. False: no such frame waits at its head."""
        head = self.head
        if head is None or head.first_n != first_n or head.started:
            return False
        head.start(now)
        self._set_deadline()
        return True

    def send_stored(self, frame: FrameRecord, now: Instant) -> None:
        """Note that the frame leaves now: its attempts are stored."""
        frame.send(now)
        self._set_deadline()

    def end_attempt(self, frame: FrameRecord, n: int, now: Instant) -> None:
        """An attempt is over. Behind the last one of a frame, the next frame becomes the head."""
        del frame.jobs[n]
        if not frame.jobs:
            self._drop(frame, now)
        self._set_deadline()

    def find(self, first_n: int) -> FrameRecord | None:
        return next((frame for frame in self.frames if frame.first_n == first_n), None)

    def ask_back(self) -> None:
        """What it has not received is about to be taken from its queue."""
        for frame in self.frames:
            if not frame.started:
                frame.ask_back()

    def extend_deadlines(self, gap_ns: int) -> None:
        """It could not say what it has to say for so long: push every deadline on by that much."""
        for frame in self.frames:
            frame.extend_deadline(gap_ns)
        if self.state is WorkerState.STARTING:
            self.deadline_ns += gap_ns
        else:
            self._set_deadline()

    def _drop(self, frame: FrameRecord, now: Instant) -> None:
        was_head = self.head is frame
        self.frames.remove(frame)
        if was_head and self.frames and not self.frames[0].started:
            self.frames[0].hear(now)  # it could not be started before; its time begins now

    def _set_deadline(self) -> None:
        head = self.head
        stopping = self.state is WorkerState.STOPPING  # nothing more is expected of it but its end
        self.deadline_ns = head.deadline_ns() if head is not None and not stopping else NEVER
