"""The oracle: sees everything that happens, and knows what was promised.

It believes nobody's counters: it counts what processes did, and what lay in queues and on the disk. What it says is
broken:

    I1   nothing that was accepted is lost
    I2   a run has one outcome, and it is told as it is stored
    I4   no job is blamed, failed or put in quarantine for another's crash
    I5   the dealer itself never fails
    I6   what waits in memory is bounded
    I7   no two executions of a job at a time, and none after its result
    I9   what a person wanted and was told is so: paused, given up, scaled
    I10  in a calm everything ends, and nobody is ended without need
    I11  a dealer that leaves leaves nothing behind
    I12  in a pool with a delay, no attempt starts too soon after the one before
    R1 to R9, as in docs/protocol.md; order: first come, first served; fence: what is stale is dropped
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.attempts import Attempts, Mark, SentFrame
from sim.dispatch import Dispatch
from sim.jobs import Facts, Planned, allowed
from taskpool import codec, limits
from taskpool.clock import SECOND
from taskpool.core.effects import Exit
from taskpool.core.entries import Entry, JobAccepted, OutcomeRecorded
from taskpool.core.worker import WorkerState
from taskpool.errors import ExitCode, MessageError
from taskpool.kinds import KINDS
from taskpool.messages import (
    TERMINAL,
    Accepted,
    End,
    Frame,
    Limits,
    Message,
    Outcomes,
    Progress,
    Ready,
    Refused,
    Report,
    Spilled,
    State,
    Welcome,
)

if TYPE_CHECKING:
    from sim.host import SimHost
    from sim.platform import SimPlatform
    from sim.worker import WorkerProcess

MESSAGE_BYTES_MAX = 1000  # of a message of a worker, besides the results in it
LOOKS = 3  # one turn in so many is looked at closely
LINE_MESSAGES_MAX = 1000  # what may wait for one generator


class Oracle:
    """One for a schedule."""

    def __init__(self, host: SimHost) -> None:
        self._host = host
        self._world = host.world
        self.batch_limits: dict[str, Limits] = {}
        self.batch_of: dict[int, str] = {}  # by client
        self.told_accepted: dict[str, int] = {}
        self._told_no: dict[int, int] = {}  # by client: the last outcome told, or that it said it has
        self.attempts = Attempts(host)
        self._dispatch = Dispatch(host)
        self._frames: dict[Mark, list[SentFrame]] = {}  # by worker: those with something left to report
        self._held: dict[Mark, list[SentFrame]] = {}  # by worker: as its dealer knows
        self._rows: Counter[str] = Counter()  # written in the present life
        self._dead_by_themselves: dict[tuple[int, int], WorkerProcess] = {}
        self._begun: dict[tuple[int, int], Planned] = {}  # by (epoch, n)
        self._read: set[tuple[int, int]] = set()  # reports the dealers have read
        self._looks = 0
        self._longest = 0  # bytes of results in one message
        self._unread_ns = 0  # when the dealer last left reports unread

    def limits_of(self, job: Planned) -> Limits:
        return job.script.limits or self.batch_limits[job.batch]

    # --- what the dealer sends ---

    def frame_sent(self, platform: SimPlatform, data: bytes, mark: tuple[int, int]) -> None:
        frame = self._host.spool.peek(codec.decode(data))
        if not isinstance(frame, Frame):
            return
        stored = (frame.epoch, frame.first_n) in self._host.disk.journal_model.attempts  # so decided on earlier
        if not stored:
            self._dispatch.check_may_be_sent(platform, frame)
        tasks = codec.decode_tasks(frame.tasks)
        left = {}
        unread = self._unread_reports(platform)
        for n, task in enumerate(tasks, frame.first_n):
            job = left[n] = self._host.job(frame.batch, task.seq)
            self._dispatch.check_not_again(platform, job, n, unread)
        self._world.note("frame {} of {} jobs sent to worker {}", frame.first_n, len(left), mark[1])
        self._world.say(f"    jobs {[job.number for job in left.values()]}")
        for job in left.values():
            self._dispatch.check_turn(job, 0 if stored else self.told_accepted.get(job.batch, 0))
        if len(left) > 1:
            self._dispatch.check_company(list(left.values()))
        self._dispatch.check_not_taken_back(platform, mark[1], frame.first_n)
        if any(job.facts.unclean_ends >= limits.UNCLEAN_EXITS_ALONE_MIN for job in left.values()):
            self._dispatch.check_alone(platform, frame.first_n)
        seen = self._world.faults.seen
        frames = self._frames.setdefault(mark, [])
        seen["frame_of_several_jobs"] += len(left) > 1
        seen["second_frame_in_flight"] += bool(frames)
        if frames:
            self._dispatch.check_behind(frames, list(left.values()))
        sent = SentFrame(mark, frame.first_n, left, platform.clock.now().mono)
        self.attempts.sent(sent)
        dead = self._dead_by_themselves.get(mark)
        if not frames and dead is not None:
            self.attempts.died(dead, [sent])
            self._count_head_death(left[frame.first_n], dead, frame.first_n)  # its death was not known yet
        frames.append(sent)
        self._held.setdefault(mark, []).append(sent)

    def frame_without_room(self, data: bytes) -> None:
        """Its jobs had their turn; meanwhile others, whose frames need no file, may be sent."""
        message = codec.decode(data)
        if isinstance(message, Frame):
            for task in codec.decode_tasks(message.tasks):
                self._host.job(message.batch, task.seq).sent = True

    def _unread_reports(self, platform: SimPlatform) -> set[Planned]:
        """Jobs of which a report lies in an events queue, and counts."""
        found = set()
        for data in platform.events_waiting():
            progress = self._progress(data)
            for report in progress.reports if progress is not None else ():
                assert progress is not None
                if (progress.epoch, report.n) in self._read or not 0 < report.n < 10**6:
                    continue
                attempt = (progress.epoch, report.n)
                if progress.epoch != platform.epoch and attempt not in self._host.disk.journal_model.attempts:
                    continue  # its attempt is not in the journal: a new dealer knows nothing of it
                job = self._begun.get(attempt)
                if job is not None:
                    found.add(job)
        return found

    def _progress(self, data: bytes) -> Progress | None:
        message = self._message(data)
        return message if isinstance(message, Progress) else None

    def _message(self, data: bytes) -> Message | None:
        try:
            return self._host.spool.peek(codec.decode(data))
        except MessageError:
            return None

    def told(self, platform: SimPlatform, data: bytes) -> None:
        """The dealer tells a generator something."""
        message = self._host.spool.peek(codec.decode(data))
        batches = self._host.disk.journal_model.batches
        if isinstance(message, Accepted):
            batch = batches.get(message.batch)
            known = batch.accepted if batch is not None else 0
            if message.upto > known:
                self._world.fail("R1", f"{message.upto} jobs of {message.batch} told accepted, {known} are stored")
            if message.closed and (batch is None or batch.total is None):
                self._world.fail("R1", f"the end of {message.batch} is told and not stored")
            self.told_accepted[message.batch] = max(message.upto, self.told_accepted.get(message.batch, 0))
        elif isinstance(message, Outcomes):
            self._outcomes_told(platform, message)
        elif isinstance(message, Welcome):
            self._welcomed(message)
        elif isinstance(message, Refused):
            hello = message.first_seq == 0
            self._world.faults.seen["submission_refused_as_full"] += message.reason == "full" and not hello
            self._world.faults.seen["no_connection_left"] += message.reason == "full" and hello
        if message is not None:
            platform.clients.told(message)
        self._world.note("told a generator {} bytes", len(data))
        if self._world.trace is not None:
            self._world.say(f"    {str(message)[:300]}")

    def _outcomes_told(self, platform: SimPlatform, message: Outcomes) -> None:
        stored = self._host.disk.journal_model.outcomes.get(message.batch, [])
        for outcome in message.items:
            self._check_no_gap(message.client, message.batch, outcome.no)
            platform.clients.check_window(message.client, message.batch, outcome.no)
            if outcome.no > len(stored):
                self._world.fail("R3", f"outcome {outcome.no} of {message.batch} is told before it is stored")
            if stored[outcome.no - 1] != outcome:
                self._world.fail("I2", f"outcome {outcome.no} of {message.batch} is told otherwise than stored")

    def _check_no_gap(self, client: int, name: str, no: int) -> None:
        """From what it has acknowledged on, a generator is told one after the other. With a gap it would ask again,
        and live."""
        if client not in self._told_no:
            return
        last = self._told_no[client]
        if no > last + 1:
            self._world.fail("I2", f"outcome {no} of {name} is told after {last}")
        self._told_no[client] = no

    def _welcomed(self, message: Welcome) -> None:
        name = self.batch_of.get(message.client)
        if name is None:
            return
        assert self._host.dealer is not None
        self._told_no[message.client] = self._host.dealer.core.pool.batches[name].acknowledged
        self._host.dealer.clients.begin(message.client, self._told_no[message.client])
        batch = self._host.disk.journal_model.batches.get(name)
        known = batch.accepted if batch is not None else 0
        if message.accepted > known:
            self._world.fail("R1", f"a welcome tells {message.accepted} jobs of {name} accepted, {known} are stored")
        # Forgotten and opened anew in one turn, as memory may: those rows, still on their way, are judged as they come.
        pool = self._host.dealer.core.pool
        anew = not pool.batches[name].received and not pool.config.journaled
        forgotten = anew or name in self._host.disk.journal_model.forgotten
        if message.accepted < self.told_accepted.get(name, 0) and not forgotten:
            self._world.fail("I1", f"a welcome tells {message.accepted} jobs of {name}, fewer than were accepted")
        recorded = batch.recorded if batch is not None else 0
        if message.last_no > recorded:
            self._world.fail("R3", f"a welcome tells {message.last_no} outcomes of {name}, {recorded} are stored")

    # --- what the dealer reads ---

    def events_read(self, platform: SimPlatform, data: bytes) -> None:
        message = self._message(data)
        if isinstance(message, Ready):
            self._ready_read(platform, message)
        progress = message if isinstance(message, Progress) else None
        if progress is not None:
            self._longest = max(self._longest, sum(len(report.value or b"") for report in progress.reports))
            self.attempts.read(platform, progress)
        for report in progress.reports if progress is not None else ():
            assert progress is not None
            attempt = (progress.epoch, report.n)
            self._read.add(attempt)
            job = self._begun.get(attempt)
            if progress.epoch == platform.epoch or report.end is not End.SUCCEEDED or job is None:
                continue
            kept = self._host.disk.journal_model.by_seq[job.batch, job.seq]
            if kept.state is State.RUNNING and kept.attempt == attempt:
                platform.late_successes.add(job)

    def _ready_read(self, platform: SimPlatform, ready: Ready) -> None:
        for worker in platform.workers():
            if worker.mark == (ready.epoch, ready.incarnation) and worker.pid == ready.pid:
                platform.supervision.ready(worker)

    def held_reports_read(self, platform: SimPlatform, worker: WorkerProcess) -> None:
        """The dealer reads what a worker held when it died: such a job has ended, and is not executed again."""
        self.attempts.held_read(platform, worker)
        for report in worker.in_memory:
            attempt = platform.core.pool.attempts.get(report.n)
            # The queue may have told it already, or may have lost that it was started.
            if attempt is not None and attempt.frame.started and report.end is End.SUCCEEDED:
                platform.late_successes.add(self._begun[worker.mark[0], report.n])
                self._world.faults.seen["held_report_used"] += 1

    def said(self, platform: SimPlatform, data: bytes, expected: tuple[type, ...]) -> None:
        """The dealer reads what a generator says."""
        message = self._message(data)
        if message is not None and isinstance(message, expected):
            platform.clients.read(message)

    def spool_swept(self, platform: SimPlatform) -> None:
        """A dealer that starts empties the spool: by then it has read what its workers had still to say."""
        for data in platform.events_waiting():
            message = self._decoded(data)
            if isinstance(message, Spilled) and message.name in self._host.spool.files:
                self._world.fail("I7", "the spool is swept before the reports in it are read")

    @staticmethod
    def _decoded(data: bytes) -> Message | None:
        try:
            return codec.decode(data)
        except MessageError:
            return None

    def frame_taken_back(self, data: bytes, mark: tuple[int, int]) -> None:
        try:
            frame = self._host.spool.peek(codec.decode(data))
        except MessageError:
            return
        frames = self._frames.get(mark)
        if isinstance(frame, Frame) and frames:
            for each in frames:
                if each.first_n == frame.first_n:
                    self.attempts.taken_back(each)
                    each.unread.clear()
            self._frames[mark] = [each for each in frames if each.first_n != frame.first_n]
            self._world.faults.seen["frame_taken_back"] += 1

    # --- what workers do ---

    def begins(self, worker: WorkerProcess, job: Planned, n: int) -> None:
        if job.live:
            self._world.fail("I7", f"job {job.number} is executed twice at the same time")
        self._begun[worker.mark[0], n] = job
        kept = self._host.disk.journal_model.by_seq.get((job.batch, job.seq))
        for other in worker.ran:
            if other.affinity and other.affinity != job.affinity:
                self._world.fail("I4", f"job {job.number} runs where the code of {other.affinity} is loaded")
        crashed = kept is not None and kept.attempt == (worker.mark[0], n) and kept.job.counts.crashes
        if crashed and worker.ran and KINDS[job.spec.kind].in_process:
            self._world.fail("I4", f"job {job.number} has crashed, and runs where others ran")
        worker.ran.append(job)
        if kept is None:
            self._world.fail("I1", f"job {job.number} runs before it is stored")
        elif kept.state in TERMINAL and not job.requeue_asked:
            self._world.fail("I7", f"job {job.number} is executed after its outcome was stored")

    def some_attempt(self, epoch: int) -> tuple[int, int]:
        """(incarnation, number) of an attempt under way."""
        held = [
            (mark[1], n) for mark, frames in self._frames.items() if mark[0] == epoch for f in frames for n in f.left
        ]
        return self._world.rng.choice(held) if held else (1, 1)

    def attempts_of_others(self, worker: WorkerProcess) -> list[int]:
        """Attempts under way elsewhere."""
        frames = [frame for mark, frames in self._frames.items() if mark != worker.mark for frame in frames]
        return [n for frame in frames for n in frame.left][:3]

    def keep_apart(self, delay_ns: int) -> None:
        """The pool has a delay."""
        self._dispatch.delay_ns = delay_ns

    def started(self, worker: WorkerProcess, first_n: int) -> None:
        self._dispatch.check_pause(worker.mark[0])
        for frame in self._frames.get(worker.mark, ()):
            frame.started = frame.started or frame.first_n == first_n

    def reported(self, worker: WorkerProcess, report: Report) -> None:
        """A report is in the queue."""
        frames = self._frames.get(worker.mark, [])
        for frame in frames:
            job = frame.left.pop(report.n, None)
            if job is None:
                continue
            facts = job.facts
            facts.succeeded += report.end is End.SUCCEEDED
            facts.failed += report.end is End.FAILED
            facts.timed_out += report.end is End.TIMED_OUT
            if report.end is End.CRASHED:
                self._count_crash(job, report.signal, fresh=True)  # it had a process of its own
            if report.end is End.LOST:
                facts.head_deaths += 1
                facts.fresh = True
        self._frames[worker.mark] = [frame for frame in frames if frame.left]

    def _count_crash(self, job: Planned, signal: int | None, *, fresh: bool) -> None:
        job.facts.guilty += 1
        job.facts.fresh = fresh
        job.facts.signalled += signal in self.limits_of(job).retry_signal

    def worker_died(self, worker: WorkerProcess) -> None:
        frames = self._frames.pop(worker.mark, [])
        if not worker.killed_by_us:
            self._dead_by_themselves[worker.mark] = worker
        if not frames:
            return
        self.attempts.died(worker, frames)
        head = frames[0]
        received = len(frames) - (worker.requests.depth() if worker.requests is not None else 0)
        n, job = next(iter(head.left.items()))
        if head.started and head.shared:
            return
        if head.started and not head.shared:
            timed_out = self._is_past_timeout(worker, head, job)
            job.facts.timed_out += timed_out
            self.attempts.blame(worker.mark[0], n, guilty=not worker.killed_by_us, timed_out=timed_out)
            if not worker.killed_by_us:
                fresh = received == 1 and all(ran is job for ran in worker.ran)
                self._count_crash(job, worker.signal, fresh=fresh)
                job.facts.doubtful += 1
        elif not head.started and not worker.killed_by_us and worker.status != 0 and n == head.first_n:
            self._count_head_death(job, worker, n)

    def _is_past_timeout(self, worker: WorkerProcess, head: SentFrame, job: Planned) -> bool:
        """By its worker, or by a dealer that wanted its end: that counts from the start which it read, and the worker
        may have stood still before it began."""
        timeout_ns = self.limits_of(job).timeout_ns
        if not timeout_ns:
            return False
        if worker.job is job and self._host.ran_ns(worker.began_ns) >= timeout_ns:
            return True
        dealer = self._host.dealer
        if dealer is None or not worker.end_asked or not head.start_read:
            return False
        return dealer.clock.now().mono - head.heard_mono_ns >= timeout_ns

    def _count_head_death(self, job: Planned, worker: WorkerProcess, n: int) -> None:
        self.attempts.count_loss(worker.mark[0], n)
        facts = job.facts
        facts.head_deaths += 1
        facts.head_signalled += worker.signal in self.limits_of(job).retry_signal
        facts.fresh = not worker.ran

    # --- what is recorded ---

    def recorded(self, row: OutcomeRecorded) -> None:
        outcome = row.outcome
        job = self._host.job(row.batch, outcome.seq)
        facts, limits_ = job.facts, self.limits_of(job)
        job.facts = Facts()
        if self._host.dealer is not None:
            self._host.dealer.late_successes.discard(job)  # from here on its record says that it has ended
        self._world.note("job {} has its outcome, number {}", job.number, outcome.no)
        self._world.say(f"    {outcome.state} after {outcome.attempts} attempts, {outcome.crashes} crashes")
        seen = self._world.faults.seen
        seen["job_quarantined"] += outcome.state == "quarantined"
        seen["job_timed_out"] += outcome.state == "timed-out"
        if job.requeue_asked:
            return
        job.facts = facts
        if outcome.state not in allowed(job, limits_):
            what = {name: getattr(facts, name) for name in Facts.__slots__}
            self._world.fail("I4", f"job {job.number} is recorded as {outcome.state}; what happened to it: {what}")
        crashes = facts.guilty + facts.head_crashes
        if outcome.crashes > crashes:
            self._world.fail("I4", f"job {job.number} has {outcome.crashes} crashes recorded and had {crashes}")
        doubtful = facts.doubtful + facts.head_crashes
        if limits_.crash_limit and outcome.crashes > limits_.crash_limit + doubtful:
            text = f"{outcome.crashes} times, {doubtful} of them with a worker, its limit {limits_.crash_limit}"
            self._world.fail("I4", f"job {job.number} crashed {text}")
        if outcome.value is not None and int(outcome.value) != job.number:
            self._world.fail("I2", f"job {job.number} is recorded with the value of another")

    def frames_of(self, mark: Mark) -> list[SentFrame]:
        """Those of which the worker has something to report."""
        return self._frames.get(mark, [])

    def held_by(self, mark: Mark) -> list[SentFrame]:
        """Those that its dealer knows in the worker's hands: the head, and the one behind it."""
        frames = self._held.get(mark, [])
        while frames and not frames[0].unread:
            done = frames.pop(0)
            if frames:
                frames[0].heard_mono_ns = max(frames[0].heard_mono_ns, done.heard_mono_ns)
        return frames

    def out_of_service(self) -> None:
        if self._host.dealer is not None:
            self._host.dealer.supervision.out_of_service()

    def rows_written(self, rows: Sequence[Entry]) -> None:
        for row in rows:
            if isinstance(row, OutcomeRecorded):
                self._rows[row.outcome.state] += 1
            elif isinstance(row, JobAccepted):
                self._rows["accepted"] += 1
                # Submitted anew, once its batch was forgotten: what was said of it before means the other one.
                self._host.job(row.job.batch, row.job.seq).given_up = 0

    def life_begins(self) -> None:
        self._rows.clear()

    def called_silent(self, pid: int) -> None:
        """The dealer stops a worker for its silence."""
        for worker in self._host.workers:
            if worker.pid == pid and worker.idle and not worker.stopped and not worker.doomed:
                self._world.fail("I10", f"worker {pid} is killed for its silence, and nobody has told it anything")

    def interrupted(self, worker: WorkerProcess) -> None:
        """A worker is told that its job is past its time-out, which counts from when it has said that it started."""
        ran_ns = self._host.ran_ns(worker.told_ns)
        if ran_ns < worker.timeout_ns:
            self._world.fail("I4", f"a job is timed out after {ran_ns / 1e9:.3f} s of {worker.timeout_ns / 1e9:g} s")

    def lapsed(self, pid: int) -> None:
        """The dealer lets go of a generator for its silence."""
        for process in self._host.generators:
            quiet = process.stopped or self._world.now_ns - process.awake_since_ns < limits.LEASE_NS + SECOND
            if process.pid == pid and process.alive and not quiet:
                self._world.fail("I10", f"generator {pid} speaks, and lapses")

    def dealer_ended(self) -> None:
        """A dealer is gone, not in good order."""
        running = self._host.disk.journal_model.running
        for kept in running:
            facts = self._host.job(kept.job.record.batch, kept.job.record.seq).facts
            facts.unclean_ends += 1
            facts.ends_alone = len(running) == 1

    # --- now and then, and in the end ---

    def look_at(self, platform: SimPlatform) -> None:
        """What must hold at every turn and is not seen by a single call."""
        pool = platform.core.pool
        self._world.faults.seen["job_delayed"] += bool(pool.delayed)
        self._look_at_what_waits(platform)
        self._looks += 1
        if self._looks % LOOKS == 0:
            self._look_at_jobs(platform)
            self._look_at_frames(platform)
        platform.clients.look_at_places()
        platform.supervision.look(platform.workers())
        if platform.clients.owed:
            platform.clients.check_owed()
        if platform.reply_files:
            platform.clients.look_at_files()
        for line in platform.reply_lines():
            if len(line.waiting) > LINE_MESSAGES_MAX:
                self._world.fail("I6", f"{len(line.waiting)} messages wait for one generator")

    def _look_at_jobs(self, platform: SimPlatform) -> None:
        for job in platform.core.pool.jobs.values():
            planned = self._host.job(job.batch.name, job.seq)
            # Requeued, it may die in its new run before the outcome of the one before is stored.
            if job.lost_at_head > planned.unstarted and not planned.requeue_asked:
                self._world.fail("I4", f"{job.lost_at_head} deaths are held against job {job.seq} that it never met")

    def _look_at_frames(self, platform: SimPlatform) -> None:
        dead = {process.mark[1] for process in platform.workers() if not process.alive}
        for worker in platform.core.supervisor.workers.values():
            frames = worker.frames
            if len(frames) < 2 or not frames[0].started or worker.state is WorkerState.STOPPING:
                continue
            if worker.incarnation in dead:  # they come back with its end, once none of its descendants is alive
                continue
            # By the dealer's clock, which leaves out its standstills; it may stand amid a turn too.
            # And while it leaves reports unread it cannot know what has become of the frame before.
            waits_ns = platform.clock.now().mono - frames[0].heard_mono_ns
            waits_ns = min(waits_ns, self._world.now_ns - self._unread_ns) - (self._world.now_ns - platform.woke_ns)
            if waits_ns > 5 * SECOND + limits.FRAME_TAKE_BACK_NS and platform.frames_waiting(worker.incarnation):
                self._world.fail("I10", f"a frame waits behind a job that has run for {waits_ns / 1e9:.1f} s")

    def _look_at_what_waits(self, platform: SimPlatform) -> None:
        """What the store has not taken is bounded, and not counted by the dealer's own count."""
        core = platform.core
        self._world.faults.seen["submissions_left_unread"] += not core.intake.wants_submissions
        if not core.wants_reports:
            self._world.faults.seen["reports_left_unread"] += 1
            self._unread_ns = platform.supervision.unread_ns = self._world.now_ns
        waiting = sum(
            len(row.outcome.value or b"") for row in core.pool.commits._entries if isinstance(row, OutcomeRecorded)
        )
        if waiting > limits.UNSTORED_REPORTS_BYTES_MAX + self._longest + MESSAGE_BYTES_MAX and not core.pool.draining:
            self._world.fail("I6", f"{waiting} bytes of results wait for the store")

    def final(self) -> None:
        """Everything is over: nothing was lost, nothing is left."""
        journal_model = self._host.disk.journal_model
        for name, batch in journal_model.batches.items():
            if batch.accepted < self.told_accepted.get(name, 0) and name not in journal_model.forgotten:
                self._world.fail("I1", f"{self.told_accepted[name]} jobs of {name} accepted, {batch.accepted} stored")
            if batch.open and name in self.batch_limits:
                self._world.fail("I1", f"{batch.open} jobs of {name} have no outcome")
            runs = {(outcome.seq, outcome.run) for outcome in journal_model.outcomes[name]}
            if len(runs) != len(journal_model.outcomes[name]):
                self._world.fail("I2", f"a run of a job of {name} has two outcomes")
            if not {(seq, 1) for seq in range(1, batch.accepted + 1)} <= runs:
                self._world.fail("I1", f"a job of {name} has no outcome of its first run")

    def left_in_order(self, platform: SimPlatform, exit: Exit) -> None:
        """A dealer left because it wanted to: nothing of it may stay (I11)."""
        for process in (*self._host.workers, *self._host.descendants):
            self._world.fail("I11", f"process {process.pid}, a {process.what}, outlives a dealer that left")
        ours = [name for name in self._host.namespace.names() if ".reply." not in name]
        if ours:
            self._world.fail("I11", f"queues stay behind: {ours}")
        if exit.code is ExitCode.OK and not platform.draining:
            self._check_leave(platform)
        if platform.core.pool.commits.idle:
            self._check_counts(platform)
            self._check_memory(platform)

    def _check_leave(self, platform: SimPlatform) -> None:
        """A private pool left by itself: its reader has just said that it has everything, and that is stored."""
        for name, batch in self._host.disk.journal_model.batches.items():
            if batch.recorded and name not in platform.clients.confirmed:
                self._world.fail("I11", f"a private pool leaves before its reader has confirmed batch {name}")
            if batch.acknowledged < batch.recorded:
                self._world.fail("I11", f"a private pool leaves with outcomes of {name} that are not acknowledged")

    def _check_counts(self, platform: SimPlatform) -> None:
        """What it counted is what was written in its life."""
        counters = platform.core.pool.counters
        told: Counter[str] = Counter(accepted=sum(counters.jobs_accepted.values()))
        for (_, state), count in counters.jobs_finished.items():
            told[state] += count
        if +told != +self._rows:
            self._world.fail("I9", f"a dealer that left has counted {dict(told)}, and written {dict(self._rows)}")

    def _check_memory(self, platform: SimPlatform) -> None:
        """It holds no batch in memory that has nothing left to do."""
        pool, journal_model = platform.core.pool, self._host.disk.journal_model
        parked = {kept.job.record.batch for kept in journal_model.jobs.values() if kept.state is State.QUARANTINED}
        for name, batch in pool.batches.items():
            kept = journal_model.batches.get(name)
            if kept is None or kept.total is None or kept.open or name in parked:
                continue
            if batch.client is not None or batch.reruns:
                continue
            if self._host.durable or kept.acknowledged >= kept.recorded:
                self._world.fail("I6", f"batch {name}, finished and held by none, stays in memory")
