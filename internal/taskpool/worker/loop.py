"""A worker's conversation with its dealer: frames come in, `started` and reports go out.

Rules of this file:
1. `started` goes out from a frame's header, before a task is decoded or job code loaded: if those kill the
   worker, the dealer knows whose fault it was.
2. All reports of a frame go out before the next frame's `started`, at the latest in the same message.
3. A report may wait for company, but not for a job that may take long, and never for an idle worker.
4. What is no frame of this epoch is dropped: the queue's other end may be anybody.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import taskpool
from taskpool import codec, limits
from taskpool.errors import ConfigurationError, MessageError, QueueEmpty, QueueInterrupted
from taskpool.ipc.queue import QueueEnd
from taskpool.ipc.spool import Spool
from taskpool.kinds import KINDS
from taskpool.messages import End, Frame, JobError, Progress, Ready, Report, Task
from taskpool.worker.log import Log
from taskpool.worker.runner import Runner

_LOST_TEXT_BYTES_MAX = 500  # such a report must fit the smallest events queue, for it cannot be spilled


class Identity(NamedTuple):
    """Which worker this is, in every message it sends."""

    epoch: int
    incarnation: int


class Loop:
    """Serves one dealer, until the runner says that this process must not run another job."""

    def __init__(
        self, me: Identity, requests: QueueEnd, events: QueueEnd, spool: Spool, runner: Runner, log: Log
    ) -> None:
        self._me = me
        self._requests = requests
        self._events = events
        self._spool = spool
        self._runner = runner
        self._log = log
        self._held: list[Report] = []  # reports of the frame in hand that are not sent yet
        self._held_since_ns = 0

    def say_ready(self) -> None:
        """The worker's first words: from now on the dealer may send frames."""
        notes = [note for kind in KINDS.values() for note in kind.notes()]
        version = taskpool.__version__
        ready = Ready(self._me.incarnation, self._me.epoch, os.getpid(), version, list(KINDS), notes)
        self._send(codec.encode(ready))

    def serve(self) -> None:
        """Frame after frame. Returns with every report sent."""
        while not self._runner.spent:
            frame = self._next_frame()
            self._tell(started=frame.first_n)
            self._run(frame)
        self._tell()

    def _next_frame(self) -> Frame:
        while True:
            frame = self._frame(self._receive())
            if frame is not None:
                return frame

    def _receive(self) -> bytes:
        while True:
            try:
                return self._requests.receive()  # it waits already: `started` and the last reports go as one
            except QueueEmpty:
                self._tell()
            try:
                return self._requests.receive_blocking()
            except QueueInterrupted:
                continue

    def _frame(self, data: bytes) -> Frame | None:
        try:
            message = self._spool.unpack(codec.decode(data))
        except MessageError as error:
            self._log.warning(f"Dropped a message: {error}")
            return None
        if not isinstance(message, Frame):
            self._log.warning(f"Dropped a message: {type(message).__name__} is not for workers")
            return None
        if message.epoch != self._me.epoch:
            self._log.warning(f"Dropped a frame of epoch {message.epoch}: this is epoch {self._me.epoch}")
            return None
        return message

    def _run(self, frame: Frame) -> None:
        try:
            tasks = _tasks(frame)
        except MessageError as error:
            if frame.count > 1:
                raise  # the worker dies, the dealer sends each job alone, and only the bad one fails
            self._hold(Report(frame.first_n, End.FAILED, error=JobError("MessageError", str(error))))
            return
        for n, task in enumerate(tasks, frame.first_n):
            if self._held and (self._held_too_long() or _may_take_long(task)):
                self._tell()
            self._hold(self._runner.run(frame, n, task))
            if self._runner.spent:
                return

    def _hold(self, report: Report) -> None:
        if not self._held:
            self._held_since_ns = time.monotonic_ns()
        self._held.append(report)

    def _held_too_long(self) -> bool:
        return time.monotonic_ns() - self._held_since_ns > limits.REPORT_HELD_NS_MAX

    def _tell(self, started: int = 0) -> None:
        """Sends what there is to say; nothing when there is nothing."""
        reports, self._held = self._held, []
        if reports or started:
            self._tell_these(reports, started)

    def _tell_these(self, reports: list[Report], started: int) -> None:
        data = codec.encode(Progress(self._me.incarnation, self._me.epoch, reports, started))
        if len(data) > self._events.msgsize and len(reports) > 1:
            # Two messages cost less than a file, and half of the reports may well fit.
            middle = len(reports) // 2
            self._tell_these(reports[:middle], 0)
            self._tell_these(reports[middle:], started)
            return
        try:
            self._send(data)
        except (ConfigurationError, MessageError) as error:
            if len(reports) != 1:
                raise
            # No room in the spool for a large result: that is this job's bad luck, not the worker's end.
            lost = Progress(self._me.incarnation, self._me.epoch, [_without_result(reports[0], error)], started)
            self._send(codec.encode(lost))

    def _send(self, data: bytes) -> None:
        message = self._spool.pack(data, self._events.msgsize)
        while True:
            try:
                return self._events.send_blocking(message)  # may block: if the dealer dies now, so does this process
            except QueueInterrupted:
                continue


def _tasks(frame: Frame) -> list[Task]:
    tasks = codec.decode_tasks(frame.tasks)
    if len(tasks) != frame.count:
        raise MessageError(f"a frame of {len(tasks)} jobs that says {frame.count}")
    return tasks


def _without_result(report: Report, cause: Exception) -> Report:
    text = f"the job {report.end}, but its result cannot be handed over: {cause}"
    fits = text.encode("utf-8", "backslashreplace")[:_LOST_TEXT_BYTES_MAX].decode("utf-8", "ignore")
    error = JobError("ResultLost", fits)
    return Report(report.n, End.FAILED, None, report.exit_status, report.signal, error, report.usage)


def _may_take_long(task: Task) -> bool:
    """A frame of several jobs holds tiny ones; a time-out or a program says that this one may not be."""
    return task.timeout_ns > 0 or task.kind not in KINDS or not KINDS[task.kind].in_process
