"""Worker processes, and what jobs leave behind them: the protocol of tp-worker, and every way to die of it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from msgspec import structs

from sim.jobs import Act, Planned
from sim.process import Life, Process
from sim.queues import SimQueueEnd
from sim.world import World
from taskpool import __version__, codec
from taskpool.certificate import OUT_OF_MEMORY
from taskpool.clock import MILLISECOND, SECOND
from taskpool.errors import MessageError, QueueMissing
from taskpool.ipc import names
from taskpool.kinds import KINDS
from taskpool.limits import TERM_GRACE_NS
from taskpool.messages import DEFAULT_LIMITS, End, Frame, JobError, Progress, Ready, Report, Spilled, Task, Usage
from taskpool.worker.loop import PROGRESS_OVERHEAD_BYTES

if TYPE_CHECKING:
    from sim.host import SimHost

Steps = Generator[int | None, None, None]
TERM, KILL = 15, 9
FOREVER_NS = 10**15
LONG_NS = 3 * MILLISECOND  # a job that runs longer makes the worker tell what it holds first


class Descendant(Process):
    """What a job has started and not waited for. It executes the job as well, as long as it lives."""

    def __init__(self, world: World, pid: int, mark: tuple[int, int], job: Planned, *, in_group: bool) -> None:
        super().__init__(world, pid, "descendant")
        self.lingers = False  # takes its time to die
        self.mark = mark
        self.job = job
        self.in_group = in_group
        job.live.append(self)

    def life(self) -> Life:
        yield FOREVER_NS
        return 0

    def at_end(self) -> None:
        self.job.live.remove(self)


class WorkerProcess(Process):
    """A tp-worker."""

    def __init__(self, host: SimHost, pid: int, pool: str, epoch: int, incarnation: int) -> None:
        super().__init__(host.world, pid, "worker")
        self.host = host
        self.pool = pool
        self.mark = (epoch, incarnation)
        self.dealer_gone = False
        self.armed = False
        self.stubborn = False  # no death signal reaches it
        self.killed_by_us = False  # by its dealer, or with it
        self.terminated = False
        self.cancelled_ns = 0  # told to end the program that it waits for
        self.told_mono_ns = 0  # the same by the dealer's clock, heard or not
        self.end_asked = False  # the dealer has sent it a signal
        self.term_ns = 0  # when TERM came
        self.distrusted = False  # it, or another in its name, broke the protocol
        self.waits_for_room = False  # with a message that is too long for its queue
        self.ready_read = False  # its dealer knows that it is up
        self.spawned_mono_ns = 0  # by its dealer's clock
        self.spent = False
        self.held: list[Report] = []
        self.in_memory: list[Report] = []  # what its dealer finds of it behind its death
        self.saying: tuple[list[Report], int] = ([], 0)  # on its way into the queue
        self.told_ns = 0  # when it told of the start of the frame in hand
        self.began_ns = 0
        self.limits = DEFAULT_LIMITS  # of the frame in hand
        self.ran: list[Planned] = []  # what it has executed or executes
        self.requests: SimQueueEnd | None = None
        self.job: Planned | None = None  # being executed
        self.descendants: list[Descendant] = []

    # --- life ---

    def life(self) -> Life:
        faults, world = self.world.faults, self.world
        yield from self._boot()
        if self.dealer_gone and not self.stubborn:
            faults.seen["worker_armed_too_late"] += 1
            return 0
        self.armed = True
        if faults.fires("worker_exits_before_ready"):
            return 1
        namespace = self.host.namespace
        try:
            requests = namespace.open(names.worker(self.pool, *self.mark), send=False, receive=True)
            yield world.between(1_000, 20_000)
            events = namespace.open(names.events(self.pool), send=True, receive=False)
        except QueueMissing:
            return 3
        ready = Ready(self.mark[1], self.mark[0], self.pid, __version__, list(KINDS), [])
        yield from events.block_sending(self, codec.encode(ready))
        self.requests = requests
        while not self.spent:
            data = yield from self._receive(requests, events)
            frame = self._frame(data)
            if frame is not None:
                yield from self._serve(frame, events)
        yield from self._tell(events)
        return 0

    def _boot(self) -> Steps:
        faults = self.world.faults
        yield self.world.between(200_000, 2 * MILLISECOND)
        if faults.fires("worker_boots_slowly"):
            yield faults.amount(MILLISECOND, 120 * SECOND)
        if faults.fires("worker_dies_at_boot"):
            self.end(signal=11)
            yield None

    def _receive(self, requests: SimQueueEnd, events: SimQueueEnd) -> Generator[int | None, None, bytes]:
        if requests.depth() == 0 and self.received is None:
            yield from self._tell(events)
        return (yield from requests.block_receiving(self))

    def _frame(self, data: bytes) -> Frame | None:
        try:
            message = self.host.spool.unpack(codec.decode(data))
        except MessageError:
            return None
        if not isinstance(message, Frame) or message.epoch != self.mark[0]:
            return None
        return message

    @property
    def timeout_ns(self) -> int:
        return self.limits.timeout_ns

    @property
    def idle(self) -> bool:
        """It waits for work, and there is none in its queue."""
        if self.requests is None or self.received is not None:
            return False
        return self in self.requests.queue.receivers and not self.requests.depth()

    # --- a frame ---

    def _serve(self, frame: Frame, events: SimQueueEnd) -> Steps:
        faults = self.world.faults
        tasks = codec.decode_tasks(frame.tasks)
        jobs = [self.host.job(frame.batch, task.seq) for task in tasks]
        if jobs[0].script.act(jobs[0].executions + 1).what == "die_at_once":
            self._begin_uncounted(jobs[0])
            yield from self._die_of_frame()
        if faults.fires("worker_stopped_with_frame"):
            self.stop(faults.amount(MILLISECOND, 5 * SECOND))
            yield 1_000
        if faults.fires("worker_dies_before_started"):
            yield from self._die_of_frame()
        if faults.fires("worker_leaves_with_frame"):  # its code is older than the files it came from
            self.spent = True
            return
        if not self.host.durable and faults.fires("worker_reports_before_it_starts"):
            yield from self._report_too_early(events, frame.first_n)
        yield from self._tell(events, started=frame.first_n)
        self.told_ns = self.world.now_ns
        if faults.fires("worker_stopped_amid_frame"):
            self.stop(faults.amount(MILLISECOND, 30 * SECOND))
            yield 1_000
        if faults.fires("worker_dies_after_started"):
            yield from self._die(11)
        self.limits = frame.limits
        for n, (job, task) in enumerate(zip(jobs, tasks, strict=True), frame.first_n):
            yield from self._serve_job(job, n, task, events)
            if self.spent:
                return
        if faults.fires("worker_dies_after_report") or faults.fires("worker_exits_after_report"):
            yield from self._tell(events)
            yield from self._die(11)

    def _serve_job(self, job: Planned, n: int, task: Task, events: SimQueueEnd) -> Steps:
        faults = self.world.faults
        if not KINDS[task.kind].in_process and faults.fires("worker_gives_job_back"):  # it can start no program
            self.held.append(Report(n, End.LOST, error=JobError("WorkerUnfit")))
            self.spent = True
            return
        act = self._begin(job, n, task)
        if self.held and (act.run_ns > LONG_NS or self.timeout_ns or act.what == "hang"):
            yield from self._tell(events)
        report = yield from self._execute(act, job, n, task)
        self._note_end(job, report)
        # Not past a time-out: whether it was the job's would be told by its worker's death alone.
        if not self.timeout_ns and faults.fires("worker_dies_before_it_holds"):
            yield from self._die(11)
        yield from self._hold(report, events)

    def _begin_uncounted(self, job: Planned) -> None:
        """It dies of the frame alone: such a death is an execution of the script, and not of the job."""
        job.executions += 1

    def _begin(self, job: Planned, n: int, task: Task) -> Act:
        self.host.oracle.begins(self, job, n)
        if task.payload != job.spec.payload:
            self.world.fail("I2", f"job {job.number} runs with the payload of another")
        self.host.oracle.attempts.check_limits(job, self.limits)
        job.executions += 1
        act = job.script.act(job.executions)
        if self.timeout_ns and self.world.faults.fires("pool_paused_amid_job"):
            pause_ns = self.world.faults.amount(10 * MILLISECOND, 40 * SECOND)
            in_ns = self.world.between(0, min(act.run_ns, self.timeout_ns))
            self.world.at(self.world.now_ns + in_ns, lambda: self.host.pause_pool(pause_ns))
        if act.what in ("fail", "crash", "exit", "need_memory") and self.world.faults.fires("cancelled_amid_attempt"):
            self.host.cancel(job)
        job.live.append(self)
        self.job, self.began_ns, self.terminated = job, self.world.now_ns, False
        self.world.note("worker {} runs job {} as attempt {}", self.pid, job.number, n)
        return act

    def _execute(self, act: Act, job: Planned, n: int, task: Task) -> Generator[int | None, None, Report]:
        world = self.world
        if act.forks:
            self.descendants.append(self.host.start_descendant(self.mark, job))
            self.descendants[-1].lingers = act.what == "crash" and act.run_ns > SECOND
        if act.what == "end_host":
            self.host.end_dealer("host_killed_by_job")
            yield None  # its death comes with the dealer's
        in_process = KINDS[task.kind].in_process
        stood_ns = self.stood_ns
        cancelled = yield from self._wait_out(act, in_process=in_process)
        run_ns = world.now_ns - self.began_ns - self.stood_ns + stood_ns
        if cancelled:
            report = Report(n, End.LOST)
        elif act.what in ("crash", "die_at_once"):
            if in_process:
                yield from self._die(act.number or 11)
            report = Report(n, End.CRASHED, signal=act.number or 11)
        elif act.what == "exit" and in_process:
            yield from self._die(None)
            raise AssertionError
        elif self.terminated or (self.timeout_ns and not in_process and run_ns >= self.timeout_ns):
            self.spent = in_process
            report = Report(n, End.TIMED_OUT, error=JobError("TimedOut"))
        else:
            report = self._plain_report(act, job, n)
        yield from self._end_descendants()
        return self._after(report, job, run_ns)

    def _wait_out(self, act: Act, *, in_process: bool) -> Generator[int | None, None, bool]:
        """Wait for the end of what runs; return whether it was ended because it is cancelled."""
        until = self.began_ns + (FOREVER_NS if act.what == "hang" else act.run_ns)
        if self.timeout_ns and not in_process:
            until = min(until, self.began_ns + self.timeout_ns)
            if act.deaf and act.what == "hang":
                until += TERM_GRACE_NS  # TERM does not end it
        stood_ns, obeys_by_ns = self.stood_ns, 0
        while (left_ns := until - self.world.now_ns + self.stood_ns - stood_ns) > 0:
            yield left_ns
            if self.terminated and in_process and not act.deaf:
                break
            if self.cancelled_ns and not obeys_by_ns:
                grace_ns = TERM_GRACE_NS if act.deaf else self.world.between(10_000, 10 * MILLISECOND)
                obeys_by_ns = until = self.world.now_ns + grace_ns
        return obeys_by_ns > 0

    def _plain_report(self, act: Act, job: Planned, n: int) -> Report:
        if act.what in ("fail", "exit"):
            return Report(n, End.FAILED, exit_status=act.number)
        if act.what == "need_memory" and act.number > self.limits.memory_bytes:
            job.memory_ends += 1
            return Report(n, End.FAILED, signal=KILL, error=JobError(OUT_OF_MEMORY))
        value = b"%d" % job.number
        return Report(n, End.SUCCEEDED, value=value + b" " * 5000 if act.what == "big" else value)

    def _after(self, report: Report, job: Planned, run_ns: int) -> Report:
        job.live.remove(self)
        self.job = None
        wall = self.world.now_ns + self.world.wall_ahead_ns
        usage = Usage(started_wall_ns=wall - run_ns, run_ns=run_ns)
        return Report(report.n, report.end, report.value, report.exit_status, report.signal, report.error, usage)

    def _end_descendants(self) -> Steps:
        while any(each.alive for each in self.descendants):
            for each in self.descendants:
                each.kill(KILL)
            yield 50_000
        self.descendants.clear()

    # --- words ---

    def _hold(self, report: Report, events: SimQueueEnd) -> Steps:
        room = events.msgsize - PROGRESS_OVERHEAD_BYTES
        size = len(codec.encode_report(report))
        if sum(len(codec.encode_report(each)) for each in self.held) + size > room:
            yield from self._tell(events)
        self.held.append(report)
        if size > room:
            yield from self._tell(events)
        else:
            self.in_memory.append(report)

    def _tell(self, events: SimQueueEnd, started: int = 0) -> Steps:
        reports, self.held = self.held, []
        if not reports and not started:
            return
        if self.world.faults.fires("worker_talks_nonsense"):
            yield from self._talk_nonsense(events)
        data = codec.encode(Progress(self.mark[1], self.mark[0], reports, started))
        self.saying = (reports, started)
        if len(data) > events.msgsize:
            data = yield from self._spill(data)
        arrives = self.saying == (reports, started)
        yield from events.block_sending(self, data)
        self._said()
        if self.world.faults.fires("worker_dies_before_it_forgets"):
            yield from self._die(11)
        self.in_memory.clear()
        if arrives and self.world.faults.fires("worker_says_it_twice"):
            again = codec.encode(Progress(self.mark[1], self.mark[0], reports, 0))
            yield from events.block_sending(self, self.host.spool.pack(again, events.msgsize))

    def _spill(self, data: bytes) -> Generator[int | None, None, bytes]:
        """Put a message into the spool, once that has room. A tidy-up may take it away: then nothing is said."""
        self.world.faults.seen["message_spilled"] += 1
        spool = self.host.spool
        if self.world.faults.fires("spool_full_for_report"):
            spool.full_until_ns = self.world.now_ns + self.world.faults.amount(10**9, 2 * 10**10)
        self.waits_for_room = True
        while self.world.now_ns < spool.full_until_ns:
            yield 50 * MILLISECOND
        self.waits_for_room = False
        spilled = codec.decode(spool.pack(data, 0))
        assert isinstance(spilled, Spilled)
        if self.world.faults.fires("report_gone_from_spool"):
            del spool.files[spilled.name]
            self.saying = ([], 0)
            self.distrusted = True
        return codec.encode(structs.replace(spilled, sender=self.mark[1]))

    def was_sent(self) -> None:
        super().was_sent()
        self._said()

    def _said(self) -> None:
        """What it was saying is in the queue."""
        (reports, started), self.saying = self.saying, ([], 0)
        for report in reports:
            self.host.oracle.reported(self, report)
        if started:
            self.host.oracle.started(self, started)
            self.world.note("worker {} has started frame {}", self.pid, started)

    def _report_too_early(self, events: SimQueueEnd, n: int) -> Steps:
        self.distrusted = True
        lie = Progress(self.mark[1], self.mark[0], [Report(n, End.SUCCEEDED)], 0)
        yield from events.block_sending(self, codec.encode(lie))

    def _talk_nonsense(self, events: SimQueueEnd) -> Steps:
        # After a restart a report is told by its number alone: there a lie like this would be believed.
        others = [] if self.host.durable else self.host.oracle.attempts_of_others(self)
        self.distrusted = True
        n = self.world.rng.choice((0, 10**9, 10**15, *others))
        end = self.world.rng.choice((End.SUCCEEDED, End.LOST, End.CANCELLED))
        nonsense = Progress(self.mark[1], self.mark[0], [Report(n, end)], 0)
        yield from events.block_sending(self, codec.encode(nonsense))

    def _note_end(self, job: Planned, report: Report) -> None:
        self.world.note("worker {} ends job {}", self.pid, job.number)
        self.world.say(f"    attempt {report.n} {report.end}")

    # --- death ---

    def terminate(self) -> None:
        """SIGTERM: heard only by a job past its time-out."""
        if self.timeout_ns and self.job is not None and self.world.now_ns >= self.began_ns + self.timeout_ns:
            self.terminated = True
            self.host.oracle.interrupted(self)
            self.wake()

    def cancel(self) -> None:
        """SIGUSR1: ends the program that it waits for and then itself; without one, itself at once."""
        if self.job is None or KINDS[self.job.spec.kind].in_process:
            self.killed_by_us = True
            self.host.kill_soon(self)
            return
        self.world.faults.seen["command_cancelled"] += 1
        if self.world.faults.fires("cancel_is_not_heard"):  # its program is another user's, or it is stuck in a call
            return
        self.cancelled_ns, self.spent = self.world.now_ns, True
        self.wake()

    def _die(self, signal: int | None) -> Steps:
        self.end(status=None if signal is not None else 1, signal=signal)
        yield None

    def _die_of_frame(self) -> Steps:
        """Decoding it is the end, and may also spoil what is held of the frame before."""
        if self.in_memory and self.world.faults.fires("held_reports_spoilt_by_frame"):
            self.in_memory.clear()
        yield from self._die(11)

    def at_end(self) -> None:
        if self.job is not None:
            self.job.live.remove(self)
        if self.in_memory and self.world.faults.fires("held_reports_damaged"):
            self.in_memory.clear()
        for report in self.in_memory:
            self.host.oracle.reported(self, report)
        self.host.oracle.worker_died(self)
        for each in self.descendants:
            if each.alive:
                self.world.faults.seen["descendant_outlived_worker"] += 1
