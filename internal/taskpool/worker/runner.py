"""Run one attempt and write its report.

Whatever the job does, the report is one the dealer accepts, nothing the job has started lives on, and the next job
finds the process as this one found it; where that is impossible, the process `must_exit` after the report.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from taskpool import limits
from taskpool.certificate import OUT_OF_MEMORY
from taskpool.clock import SystemClock, seconds
from taskpool.errors import TaskpoolError
from taskpool.identifiers import Token
from taskpool.kinds import KINDS, Context, JobTimedOut, Kind, Result, WorkerUnfit
from taskpool.kinds.capture import lost
from taskpool.messages import End, Frame, JobError, Output, Report, Task, Usage
from taskpool.procs.memory import AllocationBound
from taskpool.procs.prctl import ParentTie
from taskpool.procs.process_tree import kill_descendants
from taskpool.procs.procfs import take_own_peak_bytes
from taskpool.sizes import human_size
from taskpool.worker.cancel import CancelSignal
from taskpool.worker.capture import Capture
from taskpool.worker.helpers import forget_helpers, shut_down_in_order
from taskpool.worker.imports import Imports
from taskpool.worker.log import Log
from taskpool.worker.process_state import ProcessState
from taskpool.worker.timeout import TimeoutSignal

if TYPE_CHECKING:
    from taskpool.worker.chaos import FaultInjector


class Runner:
    """Runs all attempts of a worker. `must_exit` says that this process may not run another job."""

    def __init__(
        self,
        spool: str,
        tie: ParentTie,
        timeout_signal: TimeoutSignal,
        capture: Capture,
        log: Log,
        fault_injector: FaultInjector | None = None,
    ) -> None:
        self.must_exit = False
        self._spool = spool
        self._tie = tie
        self._timeout_signal = timeout_signal
        self._cancel_signal = CancelSignal()
        self._memory = AllocationBound()
        self._capture = capture
        self._log = log
        self._fault_injector = fault_injector
        self._clock = SystemClock()
        self._cpu_ns = 0  # of this process at the end of its last attempt
        self._pid = os.getpid()
        self._process_state = ProcessState()
        self._imports = Imports(self._process_state)

    def watch_imports(self) -> None:
        """Tell what modules do when they are imported from what functions do when they are called."""
        self._imports.watch()

    def edited_file(self, frame: Frame) -> str | None:
        """Return a file that was edited since this process has loaded its code: then it must not run the frame."""
        return self._imports.edited_file(frame.batch)

    def run(self, frame: Frame, n: int, task: Task) -> Report:
        """Run one attempt, from the fault that `--chaos` may inject to the end of its last descendant."""
        if self._fault_injector is not None:
            self._fault_injector.inject(task.seq, task.try_)
        kind = KINDS.get(task.kind)
        if kind is None:
            error = JobError("UnknownKind", f"{task.kind!r}; this worker knows {', '.join(KINDS)}")
            return Report(n, End.FAILED, error=error)
        began = self._clock.now()
        if n == frame.first_n:  # the clock is a system call, which takes as long as a tiny job
            self._cpu_ns = time.process_time_ns()
        token = Token(frame.epoch, n)
        identity = (frame.batch, task.seq, task.try_, frame.slot, token)
        state = self._process_state
        ways = (self._keep, self._cancel_signal.interruptible, state.lowered)
        context = Context(*identity, self._spool, began.mono, frame.limits, *ways)
        result = self._result(kind, task.payload, context)
        if kind.runs_user_code and os.getpid() != self._pid:
            # The job has forked, and this is the child that returned from it: there must be no second worker that
            # reads the same queue and sends the same report.
            os._exit(0)
        run_ns = self._clock.now().mono - began.mono
        if kind.in_process:
            usage = self._own_usage(began.wall, run_ns)
        else:
            usage = Usage(began.wall, run_ns, result.cpu_ns, result.max_rss_bytes)
            kill_descendants()
        output = self._clean_up(context) if kind.runs_user_code else result.output
        return _report(n, result, usage, output)

    def _keep(self) -> None:
        with self._memory.lifted():  # what a job is limited to must not stay for the ones behind it
            self._process_state.keep()

    def _own_usage(self, began_wall_ns: int, run_ns: int) -> Usage:
        """Return what an attempt inside this process has used, which has just ended."""
        before_ns, self._cpu_ns = self._cpu_ns, time.process_time_ns()
        cpu_ns = self._cpu_ns - before_ns
        if run_ns > limits.FRAME_TINY_JOB_NS_MAX:
            return Usage(began_wall_ns, run_ns, cpu_ns, take_own_peak_bytes())
        # Reading the peak takes longer than a tiny job, which cannot touch much memory in its time. And where it shared
        # its frame, its CPU time begins at the end of the attempt before.
        return Usage(began_wall_ns, run_ns, min(cpu_ns, run_ns), 0)

    def _clean_up(self, context: Context) -> Output:
        """Take away what a user's code has left in this process and beside it; return what it has printed."""
        self._restore_process(context)  # before anything else, which might fail in such a process
        # Before the output is taken, since they may still write to it; and before the report, since the dealer may then
        # send the job again elsewhere. It does not wait for them to close their descriptors, which may be never.
        forget_helpers()
        kill_descendants()
        return self._take_output(context)

    def _result(self, kind: Kind[Any], payload: bytes, context: Context) -> Result:
        try:
            result = self._run_inside(kind, payload, context) if kind.in_process else self._wait(kind, payload, context)
        except JobTimedOut:
            return self._timed_out(context)
        except WorkerUnfit as error:
            self.must_exit = True
            job = f"{context.batch}/{context.seq}"
            self._log.warning(f"Job {job} cannot be started here: {error}: another worker takes over")
            return Result(End.LOST, error=JobError("WorkerUnfit", str(error)))
        except (OSError, TaskpoolError) as error:
            # The machine under the job fails, or its payload is damaged: what a job's own code raises, its kind tells.
            return Result(End.FAILED, error=JobError(type(error).__name__, str(error)))
        self.must_exit = self.must_exit or result.last
        if self._timeout_signal.fired and result.end is End.FAILED:
            return self._timed_out(context)  # its code caught JobTimedOut, and failed because of it
        # A job that caught it and succeeded keeps its result; the process is as suspect as after any interruption.
        self.must_exit = self.must_exit or self._timeout_signal.fired
        return result

    def _run_inside(self, kind: Kind[Any], payload: bytes, context: Context) -> Result:
        try:
            self._timeout_signal.arm(context.deadline_ns)
            with self._memory.of(context.limits.memory_bytes if kind.runs_user_code else 0):
                result = kind.run(payload, context)
                if kind.runs_user_code:
                    shut_down_in_order()
            return _of_memory(result, context)
        finally:
            self._timeout_signal.disarm()  # until it has returned, the signal may still come

    def _wait(self, kind: Kind[Any], payload: bytes, context: Context) -> Result:
        """Run a job that is a process of its own: its kind keeps its time, and this one has only to wait."""
        with self._tie.descendants_first(), self._cancel_signal.heard():
            result = kind.run(payload, context)
        # The dealer waits for the end of this process, whether the program was still there to be ended or not.
        self.must_exit = self.must_exit or self._cancel_signal.came
        return result

    def _timed_out(self, context: Context) -> Result:
        self.must_exit = True  # interrupted at any point: locks held, half-done imports, threads
        text = f"still running after its time-out of {seconds(context.limits.timeout_ns):g} s"
        return Result(End.TIMED_OUT, error=JobError("TimedOut", text))

    def _restore_process(self, context: Context) -> None:
        """Undo what the job has changed about this process, or make it the process's last job."""
        left = self._process_state.restore()
        if left is not None:
            self.must_exit = True
            self._log.warning(f"Job {context.batch}/{context.seq} leaves {left}: another worker takes over")

    def _take_output(self, context: Context) -> Output:
        """Return what the job has printed, or a note that it is lost: that does not change how the job ended."""
        try:
            return self._capture.take(context)
        except (OSError, ValueError) as error:
            self.must_exit = True
            self._log.warning(f"Job {context.batch}/{context.seq}: what the job printed is lost: {error}")
            return lost(error)


def _of_memory(result: Result, context: Context) -> Result:
    """Name its limit where a job could allocate no more: MemoryError says nothing by itself."""
    error, limit = result.error, context.limits.memory_bytes
    if not limit or error is None or error.type != "MemoryError":
        return result
    text = f"could allocate no more within its memory limit of {human_size(limit)}"
    return result._replace(
        error=JobError(OUT_OF_MEMORY, f"{text}: {error.message}".removesuffix(": "), error.traceback)
    )


def _report(n: int, result: Result, usage: Usage, output: Output) -> Report:
    error = _accepted(result.error) if result.error else None
    tail = None if result.end is End.SUCCEEDED or output.stderr_file is None else _tail(output.stderr_file)
    ended = (result.end, result.value, result.exit_status, result.signal, error)
    return Report(n, *ended, usage, output, result.core_dumped, tail, result.out_of_memory)


def _tail(name: str) -> str | None:
    """Return the end of a file of standard error: the dealer, which tells it, reads no files of jobs."""
    try:
        with open(name, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - limits.STDERR_TAIL_BYTES_MAX))
            return file.read(limits.STDERR_TAIL_BYTES_MAX).decode("utf-8", "replace")
    except OSError:  # the file is in its place by now: to read it is not worth a report
        return None


def _accepted(error: JobError) -> JobError:
    """Return the error as the protocol takes it: its texts are a job's, of any length and with any character."""
    traceback = None if error.traceback is None else _text(error.traceback)
    return JobError(_text(error.type), _text(error.message), traceback)


def _text(text: str) -> str:
    data = text.encode("utf-8", "backslashreplace")  # a surrogate: a byte of a file name that is no UTF-8
    if len(data) > limits.ERROR_TEXT_BYTES_MAX:
        half = limits.ERROR_TEXT_BYTES_MAX // 2 - 8
        data = data[:half] + b"\n ...\n " + data[-half:]  # a traceback begins with where and ends with what
    return data.decode("utf-8", "replace")
