"""What the dealer does to its workers: none is ended without need, none is spared that is overdue, and those that are
missing are started, at once or as slowly as the breaker wants (docs/protocol.md, section 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskpool import limits
from taskpool.clock import SECOND
from taskpool.kinds import KINDS

if TYPE_CHECKING:
    from sim.attempts import SentFrame
    from sim.host import SimHost
    from sim.platform import SimPlatform
    from sim.worker import WorkerProcess

LATE_NS_MAX = SECOND + SECOND // 5  # what a dealer may take to notice: it looks every 100 ms, and a stall is no fault
UNHEARD_NS = 2 * SECOND  # after it left reports unread


class Supervision:
    """Of one life of a dealer."""

    def __init__(self, host: SimHost, platform: SimPlatform, wanted: int, spares: int) -> None:
        self._host = host
        self._world = host.world
        self._platform = platform
        self._spares = spares
        self.wanted = wanted  # workers, after what people asked for
        self.unread_ns = 0  # when the dealer last left reports unread
        self.spool_full_ns = 0  # when it last knew that the spool is full
        self._ever_ready = False
        self._failures = 0  # at boot since a worker came up: surely counted ...
        self._doubtful = 0  # ... and those that may be counted
        self._failed_mono_ns = 0  # when the last sure one was
        self._slow_until_ns = 0  # until then the breaker may hold starts back, whatever came up meanwhile
        self._looks = 0

    def scaled(self, by: int) -> None:
        self.wanted = max(1, min(limits.WORKERS_MAX, self.wanted + by))

    # --- boots ---

    def ready(self, worker: WorkerProcess) -> None:
        """The dealer has read that the worker is up."""
        worker.ready_read = self._ever_ready = True
        self._failures = 0
        if not worker.end_asked:
            self._doubtful = 0

    def exited(self, worker: WorkerProcess) -> None:
        """The dealer is told of a worker's end."""
        if worker.ready_read:
            return
        self._doubt()
        if not worker.end_asked and worker.signal not in (9, 15):
            self.boot_failed()

    def boot_failed(self) -> None:
        self._failures += 1
        self._doubt()
        self._failed_mono_ns = self.turn_mono_ns()

    def _doubt(self) -> None:
        self._doubtful += 1
        self._hold_back(_delay_ns(self._doubtful) * 5 // 4)

    def _hold_back(self, for_ns: int) -> None:
        self._slow_until_ns = max(self._slow_until_ns, self._platform.clock.now().mono + for_ns)

    def spawns(self) -> None:
        """A worker is started."""
        if not self._failures:
            return
        waited_ns = self._platform.clock.now().mono - self._failed_mono_ns
        if waited_ns < _delay_ns(self._failures):
            text = f"{self._failures} did not come up, {waited_ns / 1e6:.1f} ms ago the last"
            self._world.fail("I10", f"a worker is started though {text}")

    def out_of_service(self) -> None:
        self._hold_back(limits.OUT_OF_SERVICE_NS)
        if self._ever_ready and self._doubtful < limits.BOOT_HANGS_MAX:
            self._world.fail("I10", f"out of service after {self._doubtful} deaths at boot since a worker came up")

    # --- ends that the dealer wants ---

    def kills(self, worker: WorkerProcess) -> None:
        """The dealer sends KILL to a worker that is alive."""
        if worker.distrusted or worker.stood_ns or worker.stopped or self._platform.core.pool.draining:
            return
        due_ns = limits.TERM_GRACE_NS + limits.COMMAND_BACKSTOP_NS - SECOND
        if worker.cancelled_ns and worker.job is not None and self._host.ran_ns(worker.cancelled_ns) < due_ns:
            self._world.fail("I10", f"worker {worker.pid} is killed while its cancelled command may yet obey")
        if any(each.cancel_asked for each in worker.ran):
            return
        if not worker.term_ns:
            self._check_silence(worker)
        job, frames = worker.job, self._host.oracle.frames_of(worker.mark)
        if job is None or not frames or frames[0].shared:
            return
        if self._world.now_ns - self.unread_ns < limits.START_SILENT_NS_MAX + UNHEARD_NS:
            return
        if not worker.timeout_ns:
            self._world.fail("I10", f"worker {worker.pid} is killed amid job {job.number}, which may run on")
        if KINDS[job.spec.kind].in_process:
            graced = 0 < worker.term_ns <= self._world.now_ns - limits.TERM_GRACE_NS + SECOND
        else:
            ran_ns = self._host.ran_ns(worker.began_ns)
            graced = ran_ns >= worker.timeout_ns + limits.TERM_GRACE_NS + limits.COMMAND_BACKSTOP_NS - SECOND
        if not graced:
            self._world.fail("I10", f"worker {worker.pid} is killed amid job {job.number} before its grace is over")

    def terms(self, worker: WorkerProcess) -> None:
        """The dealer sends TERM to a worker that is alive."""
        if not worker.distrusted:
            self._check_silence(worker)

    def _check_silence(self, worker: WorkerProcess) -> None:
        if worker.waits_for_room and "spool" in self._platform.full:
            self._world.fail("I10", f"worker {worker.pid} is ended while its reports wait for room in the spool")

    # --- now and then ---

    def look(self, workers: list[WorkerProcess]) -> None:
        """At the end of a turn. `workers` are those whose end the dealer was not told of."""
        pool = self._platform.core.pool
        if pool.draining:
            return
        missing = self.wanted + self._spares
        for worker in workers:
            missing -= not worker.end_asked
        if missing > 0 and not self._held_back and not self._platform.leaves:
            self._world.fail("I10", f"{missing} workers are missing, and none failed to come up")
        self._looks += 1
        if self._looks % 4 == 0:
            self._platform.clients.look(self.turn_mono_ns() - LATE_NS_MAX)
        if self._looks % 4 or self._world.now_ns - self.unread_ns < UNHEARD_NS:
            return
        turn_ns = self.turn_mono_ns() - LATE_NS_MAX
        for worker in workers:
            if worker.alive and not worker.end_asked:
                self._look_at(worker, turn_ns)
            told_ns = worker.told_mono_ns
            overdue = told_ns and turn_ns > told_ns + limits.TERM_GRACE_NS + limits.COMMAND_BACKSTOP_NS + SECOND
            if overdue and worker.alive and not worker.killed_by_us:
                self._world.fail("I10", f"worker {worker.pid} does not end its cancelled command, and is not killed")

    def _look_at(self, worker: WorkerProcess, turn_ns: int) -> None:
        """`turn_ns`: what was due then must be done."""
        if not worker.ready_read:
            since_ns = worker.spawned_mono_ns
            if since_ns >= self.spool_full_ns and turn_ns > since_ns + limits.BOOT_NS_MAX:
                self._world.fail("I10", f"worker {worker.pid} does not come up, and is not ended")
            return
        frames = self._host.oracle.held_by(worker.mark)
        if not frames or frames[0].heard_mono_ns < self.spool_full_ns:
            return
        frame = frames[0]
        limit_ns = self._limit_ns(frame)
        if limit_ns and turn_ns > frame.heard_mono_ns + limit_ns:
            text = f"says nothing of frame {frame.first_n} for {(turn_ns - frame.heard_mono_ns) / 1e9:.1f} s"
            self._world.fail("I10", f"worker {worker.pid} {text}, and is not ended")

    def _limit_ns(self, frame: SentFrame) -> int:
        """How long its worker may say nothing. 0: for ever."""
        if not frame.start_read:
            return limits.START_SILENT_NS_MAX
        if frame.shared:
            return limits.FRAME_SILENT_NS_MAX
        job = next(iter(frame.left.values()), None)
        timeout_ns = self._host.oracle.limits_of(job).timeout_ns if job is not None else 0
        grace_ns = limits.TERM_GRACE_NS + limits.COMMAND_BACKSTOP_NS
        return timeout_ns and timeout_ns + (0 if job is None or KINDS[job.spec.kind].in_process else grace_ns)

    @property
    def _held_back(self) -> bool:
        return bool(self._doubtful) or self.turn_mono_ns() < self._slow_until_ns

    def turn_mono_ns(self) -> int:
        """When the present turn of the dealer began, by its clock."""
        return self._platform.clock.now().mono - (self._world.now_ns - self._platform.woke_ns)


def _delay_ns(failures: int) -> int:
    """How long the next start waits at least: doubling."""
    return min(limits.RESPAWN_DELAY_NS_MIN << min(failures - 1, 20), limits.RESPAWN_DELAY_NS_MAX)
