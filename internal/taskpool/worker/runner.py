"""Runs one attempt and writes its report.

Whatever the job does, the report is one the dealer accepts, nothing the job has started lives on, and the
next job finds the process as this one found it; where that cannot be had, the process is `spent`.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from taskpool import limits
from taskpool.clock import SystemClock, seconds
from taskpool.errors import TaskpoolError
from taskpool.ids import Token
from taskpool.kinds import KINDS, Context, JobTimedOut, Kind, Result
from taskpool.kinds.capture import lost
from taskpool.messages import End, Frame, JobError, Output, Report, Task, Usage
from taskpool.procs.process_tree import kill_descendants
from taskpool.worker.capture import Capture
from taskpool.worker.log import Log
from taskpool.worker.process_state import ProcessState
from taskpool.worker.timeout import TimeoutSignal
from taskpool.worker.usage import take_peak_bytes

if TYPE_CHECKING:
    from taskpool.worker.chaos import Faults


class Runner:
    """One for a worker's life. `spent` says that this process must not run another job."""

    def __init__(
        self, spool: str, timeout_signal: TimeoutSignal, capture: Capture, log: Log, faults: Faults | None = None
    ) -> None:
        self.spent = False
        self._spool = spool
        self._timeout_signal = timeout_signal
        self._capture = capture
        self._log = log
        self._faults = faults
        self._clock = SystemClock()
        self._pid = os.getpid()
        self._process_state = ProcessState()

    def run(self, frame: Frame, n: int, task: Task) -> Report:
        """One attempt, from the fault that `--chaos` may have in store to the last descendant's end."""
        if self._faults is not None:
            self._faults.inject(task.seq, task.try_)
        kind = KINDS.get(task.kind)
        if kind is None:
            error = JobError("UnknownKind", f"{task.kind!r}; this worker knows {', '.join(KINDS)}")
            return Report(n, End.FAILED, error=error)
        began, cpu_ns = self._clock.now(), time.process_time_ns()
        token = Token(frame.epoch, n)
        context = Context(frame.batch, task.seq, task.try_, frame.slot, token, self._spool, began.mono, task.timeout_ns)
        result = self._result(kind, task.payload, context)
        if os.getpid() != self._pid:
            os._exit(0)  # the job has forked, and this is the child: a second worker must not come of it
        run_ns, cpu_ns = self._clock.now().mono - began.mono, time.process_time_ns() - cpu_ns
        if kind.runs_user_code:
            self._put_back(context)  # before anything else, which might fail in such a process
        if kind.in_process:
            # Looking takes longer than a tiny job, which cannot touch much memory in its time.
            peak_bytes = take_peak_bytes() if run_ns > limits.FRAME_TINY_JOB_NS_MAX else 0
            usage = Usage(began.wall, run_ns, cpu_ns, peak_bytes)
        else:
            usage = Usage(began.wall, run_ns, result.cpu_ns, result.max_rss_bytes)
        kill_descendants()
        output = self._take_output(context) if kind.in_process else result.output
        return _report(n, result, usage, output)

    def _result(self, kind: Kind[Any, Any], payload: bytes, context: Context) -> Result:
        # Only a job in this process needs to be interrupted: other kinds keep the time of what they start.
        deadline_ns = context.deadline_ns if kind.in_process else None
        try:
            try:  # two, because the signal may still come in the `finally`
                self._timeout_signal.arm(deadline_ns)
                result = kind.run(payload, context)
            finally:
                self._timeout_signal.disarm()
        except JobTimedOut:
            return self._timed_out(context)
        except (OSError, TaskpoolError) as error:  # the machine under the job fails, or its payload is damaged
            return Result(End.FAILED, error=JobError(type(error).__name__, str(error)))
        if self._timeout_signal.fired and result.end is End.FAILED:
            return self._timed_out(context)  # its code caught the interruption and failed of it
        self.spent = self.spent or self._timeout_signal.fired
        return result

    def _timed_out(self, context: Context) -> Result:
        self.spent = True  # interrupted at any point: locks held, half-done imports, threads
        text = f"still running after its time-out of {seconds(context.timeout_ns):g} s"
        return Result(End.TIMED_OUT, error=JobError("TimedOut", text))

    def _put_back(self, context: Context) -> None:
        """Undoes what the job has changed about this process, or makes it the process's last."""
        left = self._process_state.put_back()
        if left is not None:
            self.spent = True
            self._log.warning(f"Job {context.batch}/{context.seq} leaves {left}: another worker takes over")

    def _take_output(self, context: Context) -> Output:
        """What the job has printed."""
        try:
            return self._capture.take(context)
        except (OSError, ValueError) as error:
            self.spent = True
            self._log.warning(f"Job {context.batch}/{context.seq}: what the job printed is lost: {error}")
            return lost(error)


def _report(n: int, result: Result, usage: Usage, output: Output) -> Report:
    error = _accepted(result.error) if result.error else None
    return Report(n, result.end, result.value, result.exit_status, result.signal, error, usage, output)


def _accepted(error: JobError) -> JobError:
    """The error as the protocol takes it: its words are a job's, of any length and with any character."""
    traceback = None if error.traceback is None else _text(error.traceback)
    return JobError(_text(error.type), _text(error.message), traceback)


def _text(text: str) -> str:
    data = text.encode("utf-8", "backslashreplace")  # a surrogate: a byte of a file name that is no UTF-8
    if len(data) > limits.ERROR_TEXT_BYTES_MAX:
        half = limits.ERROR_TEXT_BYTES_MAX // 2 - 8
        data = data[:half] + b"\n ...\n " + data[-half:]  # both ends tell: where it began, what it was
    return data.decode("utf-8", "replace")
