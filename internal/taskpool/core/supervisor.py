"""The worker processes: wanted against actual, which holds which slot, and which has been silent for too long.

A worker takes the lowest free slot when it is first given work and keeps it until it dies. Spares are ready workers
without a slot; they make a replacement immediate.
"""

from __future__ import annotations

from taskpool import limits
from taskpool.clock import NEVER, SECOND, Instant
from taskpool.core.effects import Exit, Kill, Level, Spawn, TakeBack, Topic
from taskpool.core.events import ReadyUnreadable
from taskpool.core.job import Job
from taskpool.core.respawn import Respawn
from taskpool.core.state import PoolState
from taskpool.core.worker import StopReason, Worker, WorkerEvent, WorkerState
from taskpool.errors import ExitCode
from taskpool.identifiers import Incarnation
from taskpool.messages import Ready

CANCEL_SIGNAL = "USR1"
"""Has a worker end the program that it waits for, and itself. Not TERM: that comes from a service manager as well."""

EXIT_CANNOT_BOOT = frozenset({int(ExitCode.ENVIRONMENT), int(ExitCode.UNREACHABLE)})


class Supervisor:
    """All workers of the pool, by incarnation."""

    def __init__(self, pool: PoolState) -> None:
        self._pool = pool
        self.wanted = pool.config.workers
        self.workers: dict[Incarnation, Worker] = {}
        self.respawn = Respawn(pool.config.seed)
        self._incarnation = 0
        self.free_slots = set(range(self.wanted))
        self._versions = {pool.config.version}  # of workers, as far as nothing is left to say about them

    # --- what happens to a worker ---

    def spawned(self, incarnation: Incarnation, pid: int) -> None:
        self.workers[incarnation].set_pid(pid)
        self._pool.note(Level.DEBUG, Topic.WORKER_SPAWNED, pid=pid, incarnation=incarnation)

    def ready(self, message: Ready, now: Instant) -> None:
        """Mark the worker ready, unless it cannot load a kind of this pool."""
        worker = self._starting(message)
        if worker is None:
            return
        if missing := set(self._pool.config.kinds).difference(message.kinds):
            lacks = f"does not know the kind {', '.join(sorted(missing))}: it is of version {message.version}"
            self._refuse(worker, f"{lacks}, this dealer of version {self._pool.config.version}", now)
            return
        self._compare_versions(worker, message)
        if not self.respawn.ever_ready:
            for text in message.notes:
                self._pool.note(Level.WARNING, Topic.WORKER_NOTE, text=text)
        # A worker that boots shows that the program works: what failed before had a passing cause.
        self.respawn.ready()
        worker.take(WorkerEvent.READY)
        self._pool.note(Level.DEBUG, Topic.WORKER_READY, pid=worker.pid, incarnation=worker.incarnation)

    def ready_unreadable(self, message: ReadyUnreadable, now: Instant) -> None:
        """Give up a worker that speaks another version of the protocol: it can be sent no job and tell of none."""
        worker = self._starting(message)
        if worker is not None:
            theirs = f"speaks protocol version {message.protocol} and is of version {message.version}"
            ours = f"this dealer speaks {message.ours} and is of version {self._pool.config.version}"
            self._refuse(worker, f"{theirs}, {ours}", now)

    def _starting(self, message: Ready | ReadyUnreadable) -> Worker | None:
        """The worker that says it is up; None when it said so before, is stopping already or is none of this life."""
        worker = self.workers.get(Incarnation(message.incarnation))
        if worker is None or message.epoch != self._pool.config.epoch:
            self._pool.counters.stale_reports += 1
            return None
        return worker if worker.state is WorkerState.STARTING else None

    def _refuse(self, worker: Worker, why: str, now: Instant) -> None:
        """As if it had exited because it cannot load a kind: its jobs would all fail."""
        self.stop(worker, StopReason.UNWANTED)
        self.boot_death(now, int(ExitCode.UNREACHABLE), f"worker PID {worker.pid} {why}; see --worker-exec")

    def _compare_versions(self, worker: Worker, message: Ready) -> None:
        """Tell once that another program is at work: one given by --worker-exec, or upgraded under a running dealer."""
        if message.version in self._versions:
            return
        self._versions.add(message.version)
        text = f"worker PID {worker.pid} is of version {message.version}, this dealer of {self._pool.config.version}"
        self._pool.note(Level.WARNING, Topic.WORKER_NOTE, text=text)

    def done(self, worker: Worker) -> None:
        """The worker's last frame is finished."""
        if worker.take(WorkerEvent.DONE) and worker.retiring:
            self.stop(worker, StopReason.UNWANTED)

    def stop(self, worker: Worker, reason: StopReason, signal: str = "KILL", kill_at_ns: int = NEVER) -> None:
        """The dealer wants this worker gone. The first reason stands."""
        if not worker.stop(reason, kill_at_ns):
            return
        self._pool.emit(Kill(worker.incarnation, signal))
        if reason is not StopReason.UNWANTED:
            self._pool.note(Level.WARNING, Topic.WORKER_STOPPED, pid=worker.pid, reason=reason.value, signal=signal)

    def cancel(self, worker: Worker, job: Job, now: Instant) -> None:
        """End the job that it runs, and it. A program is told to end as at its time-out; code within the worker cannot
        be: what it does next is not known to be safe to interrupt."""
        if job.traits.in_process:
            self.stop(worker, StopReason.CANCELLED)
        else:
            kill_at_ns = now.mono + job.limits.grace_ns + limits.COMMAND_BACKSTOP_NS
            self.stop(worker, StopReason.CANCELLED, CANCEL_SIGNAL, kill_at_ns)

    def remove(self, worker: Worker) -> None:
        """The worker's process is gone; its slot is free for the next one."""
        del self.workers[worker.incarnation]
        if worker.slot is not None and worker.slot < self.wanted:
            self.free_slots.add(worker.slot)

    def boot_death(self, now: Instant, status: int | None, text: str, *, hung: bool = False) -> None:
        """A worker died before it was ready, or could not be started: be slower, or give up."""
        # Once any worker was ready the program can boot: then such a status has a passing cause.
        cannot_boot = status in EXIT_CANNOT_BOOT and not self.respawn.ever_ready
        self.respawn.boot_death(now.mono, cannot_boot=cannot_boot, hung=hung)
        if not self.respawn.out_of_service:
            self._pool.note(Level.WARNING, Topic.RESPAWN_DELAYED, text=text)
            return
        self._pool.note(Level.ERROR, Topic.OUT_OF_SERVICE, text=text, seconds=limits.OUT_OF_SERVICE_NS / SECOND)
        serving = any(worker.state is not WorkerState.STARTING for worker in self.workers.values())
        # A pool that never had a worker is configured wrongly, and a private one has a person who waits for it.
        if not self.respawn.ever_ready or (self._pool.config.private and not serving):
            self._pool.emit(Exit(ExitCode.ENVIRONMENT, f"no worker can be started: {text}"))

    # --- which one gets work ---

    def pick(self, job: Job, now: Instant, *, seconds: bool = True) -> Worker | None:
        """The worker for this job now: an idle one, a spare when a slot is free, or one whose jobs are short, which
        then holds a second frame if there are to be `seconds`."""
        # An idle worker before a spare: a spare without work is what makes the next replacement immediate.
        spare = None
        short = None
        for worker in self.workers.values():
            if worker.retiring or not worker.suits(job):
                continue
            if worker.state is WorkerState.IDLE:
                return worker
            if worker.state is WorkerState.SPARE and self.free_slots and spare is None:
                spare = worker
            elif (
                seconds and worker.state is WorkerState.BUSY and short is None and self._takes_second(worker, job, now)
            ):
                short = worker
        return spare or short

    def has_capacity(self) -> bool:
        """Whether any worker could take any job at all."""
        return any(
            worker.state is WorkerState.IDLE
            or (worker.state is WorkerState.SPARE and self.free_slots)
            or (worker.state is WorkerState.BUSY and len(worker.frames) < limits.FRAMES_IN_FLIGHT_MAX)
            for worker in self.workers.values()
        )

    @property
    def any_affinity(self) -> bool:
        """Whether a worker has loaded user code, and so serves only jobs that want the same."""
        return any(worker.affinity for worker in self.workers.values())

    def assign(self, worker: Worker) -> None:
        """The worker is about to be sent a frame."""
        worker.assign(self.free_slots)

    def make_room(self, waiting: int) -> None:
        """Jobs wait for a worker that has run nothing else. Idle workers that do not suit them hold the slots, or the
        place of a fresh process: replace one for each such job. A slot that is free and only lacks its process is room
        enough, however long that process takes to come."""
        stopping = sum(worker.state is WorkerState.STOPPING for worker in self.workers.values())
        if len(self.free_slots) + stopping >= waiting:
            return
        for worker in self.workers.values():
            if worker.state is WorkerState.IDLE:
                self.stop(worker, StopReason.UNWANTED)
                return

    @staticmethod
    def _takes_second(worker: Worker, job: Job, now: Instant) -> bool:
        """Whether a job may wait in the worker behind the frame it runs. Not behind one whose crash would end it
        too, or for whose time-out it would wait."""
        return (
            len(worker.frames) < limits.FRAMES_IN_FLIGHT_MAX
            and job.shares_frames
            and job.batch.jobs_are_short(job.spec.kind)
            and not worker.frames[0].timeout_ns
            and not any(job.counts.crashes for job in worker.frames[0].jobs.values())
            and not worker.frames[0].is_long(now)  # it would be taken back at once, and sent again, for ever
        )

    # --- wanted against actual ---

    def scale(self, wanted: int) -> int:
        """Want this many workers, within 1 and what there is room for; returns what is wanted now."""
        wanted = max(1, min(self._pool.config.workers_max, wanted))
        taken = {worker.slot for worker in self.workers.values() if worker.slot is not None}
        self.wanted = wanted
        self.free_slots = set(range(wanted)) - taken
        for worker in list(self.workers.values()):
            if worker.slot is not None and worker.slot >= wanted:
                self._retire(worker)
        # Those without a slot have no work: they can go at once.
        surplus = self._actual() - (wanted + self._pool.config.spares)
        for worker in list(self.workers.values()):
            if surplus > 0 and worker.state in (WorkerState.SPARE, WorkerState.STARTING):
                self.stop(worker, StopReason.UNWANTED)
                surplus -= 1
        return wanted

    def _retire(self, worker: Worker) -> None:
        """Let the worker finish what it has, then go."""
        worker.retire()
        if worker.state is not WorkerState.BUSY:
            self.stop(worker, StopReason.UNWANTED)

    def reconcile(self, now: Instant) -> None:
        """Start what is missing, as far as the breaker lets us."""
        # Those that retire or stop are not counted: their replacement need not wait for their end.
        for _ in range(self.wanted + self._pool.config.spares - self._actual()):
            booting = sum(worker.state is WorkerState.STARTING for worker in self.workers.values())
            # The pool stays smaller until the delay is over; `next_deadline_ns` wakes the loop for it.
            if not self.respawn.may_spawn(now.mono, booting):
                return
            self._incarnation += 1
            incarnation = Incarnation(self._incarnation)
            self.workers[incarnation] = Worker(incarnation, now)
            self._pool.counters.worker_spawns += 1
            # The first workers and spares are no replacements.
            self._pool.counters.worker_respawns += self._incarnation > self.wanted + self._pool.config.spares
            self._pool.emit(Spawn(incarnation))

    def _actual(self) -> int:
        return sum(not worker.retiring and worker.state is not WorkerState.STOPPING for worker in self.workers.values())

    # --- time ---

    def overdue(self, now: Instant) -> None:
        """Stop what has been silent for too long; take back what waits behind a long job."""
        for worker in list(self.workers.values()):
            if worker.kill_at_ns <= now.mono:
                worker.kill_is_sent()
                self._pool.emit(Kill(worker.incarnation, "KILL"))
            # A deadline may fall between two looks at a full spool: it is pushed on by the next one, and judged then.
            elif worker.deadline_ns <= now.mono and not self._pool.spool_full:
                self._past_deadline(worker, now)
            elif self._could_block(worker) and worker.frames[0].is_long(now):
                self.take_back(worker)

    def take_back(self, worker: Worker) -> None:
        """Ask for the frames the worker has not received."""
        worker.ask_back()
        self._pool.emit(TakeBack(worker.incarnation))

    def next_deadline_ns(self, now: Instant) -> int:
        """Return when `overdue` or `reconcile` has something to do, on the monotonic clock."""
        deadlines = [NEVER]
        for worker in self.workers.values():
            deadlines += (NEVER if self._pool.spool_full else worker.deadline_ns, worker.kill_at_ns)
            if self._could_block(worker):
                deadlines.append(worker.frames[0].heard_mono_ns + limits.FRAME_TAKE_BACK_NS)
        if self._actual() < self.wanted + self._pool.config.spares:
            # Something is missing and may not be started yet.
            deadlines.append(self.respawn.next_ns(now.mono) or NEVER)
        return min(deadlines)

    def extend_deadlines(self, gap_ns: int) -> None:
        for worker in self.workers.values():
            worker.extend_deadlines(gap_ns)

    def _past_deadline(self, worker: Worker, now: Instant) -> None:
        head = worker.head
        worker.miss_deadline(now)
        if head is None:
            self.stop(worker, StopReason.BOOT)
        elif not head.started or head.shared:
            self.stop(worker, StopReason.SILENT)
        elif head.runs_in_process:
            # TERM interrupts the job, and the worker reports the time-out itself; KILL is for code that ignores it.
            self.stop(worker, StopReason.TIMED_OUT, "TERM", now.mono + limits.TERM_GRACE_NS)
        else:
            self.stop(worker, StopReason.TIMED_OUT)  # the worker should have ended the program, and has not

    @staticmethod
    def _could_block(worker: Worker) -> bool:
        """Whether a frame waits behind one that runs, and is not asked back yet."""
        frames = worker.frames
        if worker.state is not WorkerState.BUSY or len(frames) < 2:
            return False
        return frames[0].started and not frames[1].taking_back
