"""Worker processes: started, signalled, seen dead, and buried.

A worker is buried when its process is reaped *and* none of its descendants is alive: until then its jobs must
not run anywhere else. All reaping of the dealer is here.  # R10
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import SECOND, Clock
from taskpool.codec import decode
from taskpool.core.events import Exited, Spawned, SpawnFailed
from taskpool.errors import ConfigurationError, MessageError, QueueEmpty, QueueError, WorkerCannotBoot
from taskpool.ids import Incarnation
from taskpool.ipc import names
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.procs import process_tree, reap
from taskpool.procs.environment import scrubbed
from taskpool.procs.files import open_unnamed_somewhere
from taskpool.procs.spawn import spawn_worker

EXIT_WAIT_NS_MAX = 5 * SECOND


class LaunchSpec(NamedTuple):
    """What every worker of this dealer is started with."""

    pool: str
    home: str  # the identity of its state directory
    epoch: int
    program: list[str]
    arguments: list[str]  # beside who it is and where it belongs
    spool: str
    log_fd: int
    shape: Shape  # of its request queue


class WorkerProcess:
    """One worker process, until it is buried."""

    def __init__(self, incarnation: Incarnation, queue: QueueEnd, capture_fd: int) -> None:
        self.incarnation = incarnation
        self.queue = queue
        self.capture_fd = capture_fd
        self.pid = 0
        self.exit: reap.ChildExit | None = None
        self.seen_mono_ns = 0


class WorkerProcesses:
    """All worker processes, by incarnation."""

    def __init__(
        self,
        spec: LaunchSpec,
        namespace: QueueNamespace,
        spool: Spool,
        clock: Clock,
        record: Callable[[Incarnation], None],
    ) -> None:
        self._spec = spec
        self._namespace = namespace
        self._spool = spool
        self._clock = clock
        self._record = record  # remembers, before its queue is made, that this incarnation may leave one behind
        self._processes: dict[Incarnation, WorkerProcess] = {}
        self._by_pid: dict[int, WorkerProcess] = {}
        self._dead: list[WorkerProcess] = []  # reaped, and perhaps survived by descendants

    # --- started ---

    def spawn(self, incarnation: Incarnation) -> Spawned | SpawnFailed:
        """Start a worker with a queue of its own."""
        try:
            process = self._prepare(incarnation)
        except (QueueError, OSError) as error:
            return SpawnFailed(incarnation, str(error))
        try:
            process.pid = spawn_worker(
                self._command_line(incarnation),
                self._environment(incarnation),
                capture_fd=process.capture_fd,
                log_fd=self._spec.log_fd,
            )
        except WorkerCannotBoot as error:
            self._discard(process)
            return SpawnFailed(incarnation, str(error))
        self._processes[incarnation] = process
        self._by_pid[process.pid] = process
        return Spawned(incarnation, process.pid)

    def _prepare(self, incarnation: Incarnation) -> WorkerProcess:
        spec = self._spec
        self._record(incarnation)
        queue = self._namespace.create(names.worker(spec.pool, spec.epoch, incarnation), spec.shape)
        try:
            return WorkerProcess(incarnation, queue, open_unnamed_somewhere(spec.spool))
        except OSError:
            queue.unlink()
            queue.close()
            raise

    def _command_line(self, incarnation: Incarnation) -> list[str]:
        spec = self._spec
        identity = ["--pool", spec.pool, "--epoch", str(spec.epoch), "--incarnation", str(incarnation)]
        return [*spec.program, *identity, "--dealer-pid", str(os.getpid()), "--spool", spec.spool, *spec.arguments]

    def _environment(self, incarnation: Incarnation) -> Mapping[str, str]:
        return {**scrubbed(os.environ), process_tree.MARK_VARIABLE: self._mark(incarnation)}

    def _mark(self, incarnation: Incarnation) -> str:
        return process_tree.worker_mark(self._spec.pool, self._spec.home, self._spec.epoch, incarnation)

    def confirm(self, incarnation: int, pid: int) -> bool:
        """The worker holds its queue: take the name away. False: another process says it is this worker."""
        process = self._processes.get(Incarnation(incarnation))
        if process is None or process.pid != pid:
            return False
        process.queue.unlink()
        return True

    # --- spoken to ---

    def request_queue(self, incarnation: Incarnation) -> QueueEnd | None:
        process = self._processes.get(incarnation)
        return process.queue if process is not None else None

    def kill(self, incarnation: Incarnation, name: str) -> None:
        """Signal the worker and its group. It is not reaped yet, so nobody else can have its number."""
        process = self._processes.get(incarnation)
        if process is None or process.exit is not None:
            return
        number = signal.Signals[f"SIG{name}"]
        with suppress(ProcessLookupError, PermissionError):  # nobody is in it, or another user's processes only
            os.killpg(process.pid, number)
        if os.getpgid(process.pid) != process.pid:  # a job has moved its worker, or it is not there yet
            os.kill(process.pid, number)

    # --- buried ---

    def reap(self) -> None:
        """Reap who has died, strangers included."""
        while (pid := reap.peek()) is not None:
            process = self._by_pid.pop(pid, None)
            if process is not None:
                reap.kill_group(pid)
                process.seen_mono_ns = self._clock.now().mono
            ended = reap.reap(pid)
            if process is not None:
                process.exit = ended
                self._dead.append(process)

    def take_exited(self) -> list[Exited]:
        """Those of the dead that nobody survives. The others' descendants are killed; look again when they die."""
        if not self._dead:
            return []
        exits: list[Exited] = []
        try:
            strangers = [pid for pid in process_tree.children_of() if pid not in self._by_pid]
            for process in list(self._dead):
                if strangers and process_tree.kill_marked(strangers, self._mark(process.incarnation)):
                    continue
                self._dead.remove(process)
                exits.append(self._exited(process))
        except OSError as error:
            # Nothing is known of who is left without a descriptor to look with; the next turn looks again.
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        return exits

    @property
    def empty(self) -> bool:
        return not self._by_pid and not self._dead

    def close(self) -> None:
        """Kill every worker, and wait until nothing of them is left."""
        for process in list(self._processes.values()):
            self.kill(process.incarnation, "KILL")
        deadline = self._clock.now().mono + EXIT_WAIT_NS_MAX
        while not self.empty and self._clock.now().mono < deadline:
            self.reap()
            self.take_exited()
            if not self.empty:
                signal.sigtimedwait([], 0.001)  # SIGCHLD has its handler: a death meanwhile costs a millisecond
        for process in list(self._processes.values()):
            self._discard(process)

    def _exited(self, process: WorkerProcess) -> Exited:
        ended = process.exit
        assert ended is not None
        words = _last_words(process.capture_fd)
        self._discard(process)
        return Exited(
            process.incarnation,
            ended.status,
            ended.signal,
            process.seen_mono_ns,
            ended.cpu_ns,
            ended.max_rss_bytes,
            words,
        )

    def _discard(self, process: WorkerProcess) -> None:
        self._processes.pop(process.incarnation, None)
        process.queue.unlink()
        self._empty(process.queue)
        process.queue.close()
        os.close(process.capture_fd)

    def _empty(self, queue: QueueEnd) -> None:
        """Nobody will read these frames: their spool files, if any, must not stay."""
        while True:
            try:
                self._spool.unpack(decode(queue.receive()))
            except QueueEmpty:
                return
            except (MessageError, ConfigurationError):
                continue


def _last_words(fd: int) -> str | None:
    """The end of what the worker wrote to its standard error."""
    size = os.fstat(fd).st_size
    start = max(0, size - limits.STDERR_TAIL_BYTES_MAX)
    tail = os.pread(fd, limits.STDERR_TAIL_BYTES_MAX, start).decode("utf-8", "replace").strip()
    return tail or None
