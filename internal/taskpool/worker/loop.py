"""Exchange messages with the dealer: frames come in, `started` and reports go out.

Rules of this file:
1. `started` goes out from a frame's header, before a task is decoded or job code loaded: if those kill the
   worker, the dealer knows which job was at fault (docs/adr/0001).
2. All reports of a frame go out before the next frame's `started`, at the latest in the same message: what the
   dealer sees started must be the only thing that runs.
3. A report may be held to share a message with others, but not while a job runs that may take long, and not by an idle
   worker. What is held lies where the dealer finds it when the next job ends this process (docs/adr/0019).
4. What is no frame of this epoch is dropped: any process of this user may write to the queue.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from mmap import mmap
from typing import NamedTuple

from msgspec import Raw

import taskpool
from taskpool import codec, limits
from taskpool.errors import MessageError, QueueEmpty, QueueInterrupted, SpoolFull
from taskpool.ipc.held_reports import HeldReports
from taskpool.ipc.queue import QueueEnd
from taskpool.ipc.spool import Spool
from taskpool.kinds import KINDS
from taskpool.messages import End, Frame, JobError, Progress, Ready, Report, Task
from taskpool.procs.wait import wait_ready
from taskpool.worker.log import Log
from taskpool.worker.runner import Runner

# What a Progress takes beside its reports, at most: the version, two heads of arrays, the tag and three numbers.
PROGRESS_OVERHEAD_BYTES = 1 + 1 + 3 + 1 + 3 * 9
_LOST_TEXT_BYTES_MAX = 500  # such a report must fit the smallest events queue, for it cannot be spilled


class Identity(NamedTuple):
    """Which worker this is, in every message it sends."""

    epoch: int
    incarnation: int


class Channel(NamedTuple):
    """What a worker and its dealer tell each other through."""

    requests: QueueEnd
    events: QueueEnd
    memory: mmap  # see held_reports


class Loop:
    """Serves one dealer, until the runner says that this process must not run another job."""

    def __init__(self, me: Identity, channel: Channel, spool: Spool, runner: Runner, log: Log) -> None:
        self._me = me
        self._requests = channel.requests
        self._events = channel.events
        self._spool = spool
        self._runner = runner
        self._log = log
        # Reports of the frame in hand that are not sent yet. A message costs more than a tiny job.
        self._held = HeldReports(channel.memory, channel.events.msgsize - PROGRESS_OVERHEAD_BYTES)
        self._held_since_ns = 0

    def send_ready(self) -> None:
        """Say `Ready`: from now on the dealer may send frames."""
        notes = [note for kind in KINDS.values() for note in kind.notes()]
        version = taskpool.__version__
        ready = Ready(self._me.incarnation, self._me.epoch, os.getpid(), version, list(KINDS), notes)
        self._send(codec.encode(ready))

    def serve(self) -> None:
        """Run frame after frame until the runner must exit. Returns with every report sent."""
        while not self._runner.must_exit:
            frame = self._next_frame()
            edited = self._runner.edited_file(frame)
            if edited is not None:
                # The frame is not begun: the dealer gives it to another worker, and counts nothing.
                self._log.warning(f"{edited} was edited since this worker has loaded it: another worker takes over")
                break
            self._send_progress(started=frame.first_n)
            self._run(frame)
        self._send_progress()

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
                self._send_progress()
            try:
                return self._requests.receive_blocking()
            except QueueInterrupted:
                continue  # a signal whose handler has run: none of them ends a worker without a job

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
                # The worker exits, the dealer sends each job alone, and only the bad one fails.
                raise
            self._hold(Report(frame.first_n, End.FAILED, error=JobError("MessageError", str(error))))
            return
        for n, task in enumerate(tasks, frame.first_n):
            if self._held.encoded and (self._held_too_long() or _may_take_long(frame, task)):
                self._send_progress()
            self._hold(self._runner.run(frame, n, task))
            if self._runner.must_exit:
                return

    def _hold(self, report: Report) -> None:
        """Keep a report until the next message. One that none has room for beside others goes out at once."""
        data = codec.encode_report(report)
        if not self._held.fits(data):
            self._send_progress()
        if not self._held.fits(data):
            self._send_large(report)
            return
        if not self._held.encoded:
            self._held_since_ns = time.monotonic_ns()
        self._held.add(data)

    def _held_too_long(self) -> bool:
        return time.monotonic_ns() - self._held_since_ns > limits.REPORT_HELD_NS_MAX

    def _send_progress(self, started: int = 0) -> None:
        """Send the held reports and `started`; send nothing when there is neither."""
        reports = self._held.encoded
        if reports or started:
            self._send(self._progress(reports, started))
        if reports:
            self._held.clear()  # behind the send: what is in both places when this process dies is counted once

    def _send_large(self, report: Report) -> None:
        try:
            self._send(self._progress([report]))
        except MessageError as error:
            # More than any message takes: this job fails, and the worker goes on.
            self._send(self._progress([_without_result(report, error)]))

    def _progress(self, reports: Sequence[Report | Raw], started: int = 0) -> bytes:
        return codec.encode(Progress(self._me.incarnation, self._me.epoch, reports, started))  # type: ignore[arg-type]

    def _send(self, data: bytes) -> None:
        message = self._pack(data)
        while True:
            try:
                # May block, alone of all sends in the pool: the dealer empties `events` first in each turn, and if it
                # dies now the kernel kills this process, which nothing else would wake.
                return self._events.send_blocking(message)
            except QueueInterrupted:
                continue

    def _pack(self, data: bytes) -> bytes:
        """Wait for the spool if the message needs it: jobs must not fail because the pool's own files are in trouble.

        The dealer waits too: it sends nothing meanwhile, and takes no worker for silent.
        """
        pause_ns = limits.SHORTAGE_PAUSE_NS_MIN
        while True:
            try:
                return self._spool.pack(data, self._events.msgsize)
            except SpoolFull as error:
                if pause_ns == limits.SHORTAGE_PAUSE_NS_MIN:
                    self._log.warning(f"A report of {len(data)} bytes waits: {error}")
            wait_ready((), timeout_ns=pause_ns)
            pause_ns = min(2 * pause_ns, limits.SHORTAGE_PAUSE_NS_MAX)


def _tasks(frame: Frame) -> list[Task]:
    tasks = codec.decode_tasks(frame.tasks)
    if len(tasks) != frame.count:
        raise MessageError(f"a frame of {len(tasks)} jobs that says {frame.count}")
    return tasks


def _without_result(report: Report, cause: Exception) -> Report:
    text = f"the job {report.end}, but its result cannot be handed over: {cause}"
    # `cause` may hold a path with any bytes; cut by bytes, since the queue counts those.
    fits = text.encode("utf-8", "backslashreplace")[:_LOST_TEXT_BYTES_MAX].decode("utf-8", "ignore")
    error = JobError("ResultLost", fits)
    return Report(report.n, End.FAILED, None, report.exit_status, report.signal, error, report.usage)


def _may_take_long(frame: Frame, task: Task) -> bool:
    """Say whether a job may take long. The dealer puts only tiny ones together, but judges by a mean."""
    return frame.limits.timeout_ns > 0 or task.kind not in KINDS or not KINDS[task.kind].in_process
