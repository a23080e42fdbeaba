"""Worker processes: start them, signal them, reap them.

A worker has exited when its process is reaped *and* none of its descendants is alive: until then its jobs must not run
anywhere else. All reaping of the dealer is here.  # R10 (docs/protocol.md, 11)

A traced process is its tracer's to reap first, and a tracer may be stopped, or be a debugger at whose prompt a person
thinks. One that was killed and runs no instruction any more has exited, whatever its tracer does.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

from taskpool import limits
from taskpool.clock import SECOND, Clock
from taskpool.codec import decode
from taskpool.core.events import Exited, Spawned, SpawnFailed
from taskpool.dealer.slot_usage import use_of
from taskpool.dealer.template import CopyLost, WorkerTemplate
from taskpool.errors import ConfigurationError, MessageError, QueueEmpty, QueueError, WorkerCannotBoot
from taskpool.identifiers import Incarnation
from taskpool.ipc import held_reports, names
from taskpool.ipc.names import StaleQueues
from taskpool.ipc.queue import QueueEnd, QueueNamespace
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.procs import oom, process_tree, procfs, reap
from taskpool.procs.files import open_unnamed_somewhere
from taskpool.procs.orphans import WorkerList
from taskpool.procs.reap import ChildExit
from taskpool.procs.spawn import INCARNATION_DIGITS, INCARNATION_FLAG, TEMPLATE_FLAG, scrubbed, spawn_worker

TRACER_NS = 1 * SECOND  # so long a tracer (strace, gdb) has to let go of a worker that was killed
EXIT_WAIT_NS_MAX = 5 * SECOND  # for SIGKILL to take effect everywhere; a process with much memory takes its time


class LaunchSpec(NamedTuple):
    """What every worker of this dealer is started with."""

    pool: str
    state_id: str  # the identity of its state directory
    epoch: int
    program: list[str]
    arguments: list[str]  # beside those that tell the worker its identity and its pool
    spool: str
    log_fd: int
    shape: Shape  # of its request queue


class WorkerProcess:
    """One worker process, until it has exited."""

    def __init__(self, incarnation: Incarnation, queue: QueueEnd, capture_fd: int, reports_fd: int) -> None:
        self.incarnation = incarnation
        self.queue = queue
        self.capture_fd = capture_fd
        self.reports_fd = reports_fd
        self.pid = 0
        self.killed_mono_ns: int | None = None  # when it was sent SIGKILL
        self.exit: ChildExit | None = None  # once it is reaped
        self.death_mono_ns = 0  # when its death was first seen; recovery is measured from here
        self.oom_kills: int | None = None  # by the kernel, up to a second before this one was last given work
        self.out_of_memory: bool | None = None  # whether it was one of those; None: it was not asked, or is not known

    def reaped(self, exit: ChildExit, death_mono_ns: int) -> None:
        self.exit = exit
        self.death_mono_ns = death_mono_ns
        if exit.signal == signal.SIGKILL and self.killed_mono_ns is None:  # not ours
            self.out_of_memory = oom.since(self.oom_kills)


class WorkerProcesses:
    """All worker processes, by incarnation."""

    def __init__(
        self,
        spec: LaunchSpec,
        namespace: QueueNamespace,
        spool: Spool,
        clock: Clock,
        stale_queues: StaleQueues,
        worker_list: WorkerList,
    ) -> None:
        self._spec = spec
        self._namespace = namespace
        self._spool = spool
        self._clock = clock
        self._stale_queues = stale_queues
        self._worker_list = worker_list
        self._processes: dict[Incarnation, WorkerProcess] = {}
        self._by_pid: dict[int, WorkerProcess] = {}
        self._reaped: list[WorkerProcess] = []  # their descendants may be alive
        self._oom_kills = oom.kills()  # by the kernel, when that was last looked at
        self._oom_look_due_ns = 0
        self._held: set[int] = set()  # children that will run no more and are not reaped: a tracer has them
        # What the program that execed this one had started; to PID 1 others may come.
        self._strangers = set(process_tree.children_of())
        self._template = WorkerTemplate(self._start_template)
        self._template.prepare()  # it loads what workers need while this process makes the rest of itself

    # --- start ---

    def spawn(self, incarnation: Incarnation) -> Spawned | SpawnFailed:
        """Start a worker with a request queue of its own."""
        try:
            process = self._prepare(incarnation)
        except (QueueError, OSError) as error:
            return SpawnFailed(incarnation, str(error))
        try:
            process.pid = self._copy_template(process) or self._start(process)
        except WorkerCannotBoot as error:
            self._discard(process)
            return SpawnFailed(incarnation, str(error))
        self._processes[incarnation] = process
        self._by_pid[process.pid] = process
        self._worker_list.add(process.pid)
        return Spawned(incarnation, process.pid)

    def _copy_template(self, process: WorkerProcess) -> int:
        """Return the pid of a worker made by the template; 0: there is none. Raises WorkerCannotBoot."""
        try:
            self._template.prepare()
            return self._template.copy(process.incarnation, process.capture_fd, process.reports_fd)
        except CopyLost:
            self._template.end()
        # Two workers of one incarnation would read one queue: what was begun is ended before another is started.
        deadline = self._clock.now().mono + EXIT_WAIT_NS_MAX
        while self._clock.now().mono < deadline:
            self.reap(self._clock.now().mono)
            if not self._template.pid and not process_tree.kill_strays(self._strays()):
                return 0
            signal.sigtimedwait([], 0.001)
        raise WorkerCannotBoot("the template of the workers was killed, and does not end")

    def _start(self, process: WorkerProcess) -> int:
        """Start a worker as a program of its own; return its pid. Raises WorkerCannotBoot."""
        return spawn_worker(
            self._command_line(INCARNATION_FLAG, str(process.incarnation)),
            self._environment(process.incarnation),
            capture_fd=process.capture_fd,
            log_fd=self._spec.log_fd,
            reports_fd=process.reports_fd,
        )

    def _start_template(self, socket_fd: int) -> int:
        """Start the template with its end of the socket; return its pid. Raises WorkerCannotBoot."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            pid = spawn_worker(
                self._command_line(TEMPLATE_FLAG, "0" * INCARNATION_DIGITS),
                self._environment(Incarnation(0)),
                capture_fd=null,
                log_fd=self._spec.log_fd,
                reports_fd=socket_fd,
            )
        finally:
            os.close(null)
        self._worker_list.add(pid)
        return pid

    def _prepare(self, incarnation: Incarnation) -> WorkerProcess:
        spec = self._spec
        self._stale_queues.note(incarnation)
        with ExitStack() as made:  # a queue that stayed would be charged to the user for as long as this dealer lives
            queue = self._namespace.create(names.worker(spec.pool, spec.epoch, incarnation), spec.shape)
            made.callback(queue.close)
            made.callback(queue.unlink)
            capture_fd = open_unnamed_somewhere(spec.spool)
            made.callback(os.close, capture_fd)
            process = WorkerProcess(incarnation, queue, capture_fd, held_reports.allocate())
            made.pop_all()
        return process

    def _command_line(self, *which: str) -> list[str]:
        spec = self._spec
        identity = ["--pool", spec.pool, "--epoch", str(spec.epoch), *which]
        return [*spec.program, *identity, "--dealer-pid", str(os.getpid()), "--spool", spec.spool, *spec.arguments]

    def _environment(self, incarnation: Incarnation) -> Mapping[str, str]:
        return {**scrubbed(os.environ), process_tree.MARK_VARIABLE: self._mark(incarnation)}

    def _mark(self, incarnation: Incarnation) -> str:
        return process_tree.worker_mark(self._spec.pool, self._spec.state_id, self._spec.epoch, incarnation)

    def confirm(self, incarnation: int, pid: int) -> bool:
        """Unlink the queue of a worker that has opened it. False: another process claims to be this worker.

        From here on the kernel frees the queue when worker and dealer have closed it, however they end.
        """
        process = self._processes.get(Incarnation(incarnation))
        if process is None or process.pid != pid:
            return False
        process.queue.unlink()
        return True

    # --- send and signal ---

    def request_queue(self, incarnation: Incarnation) -> QueueEnd | None:
        process = self._processes.get(incarnation)
        if process is None:
            return None
        process.oom_kills = self._oom_kills
        return process.queue

    def kill(self, incarnation: Incarnation, name: str) -> None:
        """Signal the worker and its group. While it is not reaped, no other process can have its PID.

        Of a KILL the group gets its share when the worker is reaped, where a resource tracker is spared.
        """
        process = self._processes.get(incarnation)
        if process is None or process.exit is not None:
            return
        number = signal.Signals[f"SIG{name}"]
        if number is signal.SIGKILL and process.killed_mono_ns is None:
            process.killed_mono_ns = self._clock.now().mono
        with suppress(ProcessLookupError, PermissionError):  # the group is empty, or all of it another user's
            # The worker leads a session, so it cannot leave its group (setpgid(2)).
            (os.kill if number is signal.SIGKILL else os.killpg)(process.pid, number)

    # --- exits ---

    def reap(self, now_ns: int) -> None:
        """Reap every child that has died: workers, and orphans that the kernel gave to this subreaper. It was seen at
        `now_ns`, by the clock."""
        # Until there is none, because SIGCHLD coalesces: many deaths may have been one wake-up.
        while (pid := reap.peek()) is not None:
            process = self._by_pid.pop(pid, None)
            if pid == self._template.pid or (process is not None and not self._has_tracker()):
                # Before the reaping, while the PID, which is also its group's number, cannot be used again. With a
                # tracker in the group its processes are killed one by one: see `take_exited`.
                reap.kill_group(pid)
            ended = reap.reap(pid)
            if self._template.reaped(pid):
                self._worker_list.remove(pid)
            self._strangers.discard(pid)
            self._held.discard(pid)
            if process is not None:
                process.reaped(ended, now_ns)
                self._reaped.append(process)
                self._oom_look_due_ns = now_ns  # what it counted for counts for no worker that is given work after it
        if now_ns >= self._oom_look_due_ns:
            self._oom_kills, self._oom_look_due_ns = oom.kills(), now_ns + SECOND
        self._give_up_held()

    def _give_up_held(self) -> None:
        """Count the workers as exited that were killed and whose tracer does not let go of them."""
        now_ns = self._clock.now().mono
        killed = [each for each in self._by_pid.values() if each.killed_mono_ns is not None]
        for process in killed:
            pid, killed_ns = process.pid, process.killed_mono_ns or 0
            if now_ns < killed_ns + TRACER_NS or not procfs.runs_no_more(pid):
                continue
            reap.kill_group(pid)
            del self._by_pid[pid]
            self._held.add(pid)
            use = use_of(pid)
            process.reaped(ChildExit(pid, None, signal.SIGKILL, use.cpu_ns, use.resident_bytes), now_ns)
            self._reaped.append(process)

    def take_exited(self) -> list[Exited]:
        """Return the reaped workers, once none of their descendants is alive; those are killed.

        Their deaths wake the loop, which asks again.
        """
        if not self._reaped:
            return []
        try:
            # A child of this process that is no worker was left by one: by which cannot be told, so all wait for it. A
            # descendant that has a parent between itself and the worker becomes such a child once that is killed.
            spare = self._clock.now().mono < self._reaped[-1].death_mono_ns + limits.TRACKER_END_NS
            strays = self._strays()
            if process_tree.kill_strays(strays, spare_trackers=spare):
                # Looked past from the next look on: it finds what those of them that are dead have handed over.
                self._held |= set() if spare else set(filter(procfs.runs_no_more, strays))
                return []
            if process_tree.kill_below(self._held):
                return []
            self._strangers |= strays  # another user's, which cannot be killed
        except OSError as error:
            # Without a descriptor to look with, it is unknown what is left. The next turn looks again.
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return []
        exited, self._reaped = self._reaped, []
        return [self._exited(process) for process in exited]

    def _strays(self) -> set[int]:
        """Children of this process that were left by a worker."""
        left = {pid for pid in process_tree.children_of() if pid not in self._by_pid}
        return left - self._strangers - self._held - {self._template.pid}

    def _has_tracker(self) -> bool:
        try:
            return any(map(process_tree.is_resource_tracker, self._strays()))
        except OSError:  # out of descriptors: then nothing is spared
            return False

    @property
    def empty(self) -> bool:
        """Whether neither a worker nor a descendant of one is left."""
        return not self._by_pid and not self._reaped

    @property
    def _gone(self) -> bool:
        return self.empty and not self._template.pid

    def close(self) -> None:
        """Kill every worker, and wait until nothing of them is left."""
        for process in list(self._processes.values()):
            self.kill(process.incarnation, "KILL")
        self._template.end()
        deadline = self._clock.now().mono + EXIT_WAIT_NS_MAX
        while not self._gone and self._clock.now().mono < deadline:
            self.reap(self._clock.now().mono)
            self.take_exited()
            if not self._gone:
                # A pause of a millisecond. Waiting for SIGCHLD itself is not possible: its handler takes it.
                signal.sigtimedwait([], 0.001)
        for process in list(self._processes.values()):
            self._discard(process)

    def _exited(self, process: WorkerProcess) -> Exited:
        ended = process.exit
        assert ended is not None
        stderr_tail, held = _stderr_tail(process.capture_fd), held_reports.read(process.reports_fd)
        self._worker_list.remove(process.pid)
        self._discard(process)
        return Exited(
            process.incarnation,
            ended.status,
            ended.signal,
            process.death_mono_ns,
            ended.cpu_ns,
            ended.max_rss_bytes,
            stderr_tail,
            ended.core_dumped,
            process.out_of_memory,
            held,
        )

    def _discard(self, process: WorkerProcess) -> None:
        self._processes.pop(process.incarnation, None)
        process.queue.unlink()
        self._empty(process.queue)
        process.queue.close()
        os.close(process.capture_fd)
        os.close(process.reports_fd)

    def _empty(self, queue: QueueEnd) -> None:
        """Take out the frames that the worker will not read, and with each its spool file, if it has one."""
        while True:
            try:
                self._spool.unpack(decode(queue.receive()))
            except QueueEmpty:
                return
            except (MessageError, ConfigurationError):
                continue


def _stderr_tail(fd: int) -> str | None:
    """Return the end of what the worker wrote to its standard error; None when it wrote nothing."""
    size = os.fstat(fd).st_size
    start = max(0, size - limits.STDERR_TAIL_BYTES_MAX)
    tail = os.pread(fd, limits.STDERR_TAIL_BYTES_MAX, start).decode("utf-8", "replace").strip()
    return tail or None
