"""Worker processes: started, signalled, seen dead, and buried.

A worker is buried when its process is reaped *and* none of its descendants is alive: until then its jobs must
not run anywhere else. All reaping of the dealer is here.  # R10
"""

from __future__ import annotations

import errno
import fcntl
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
from taskpool.ipc.queue import Mailbox, Post
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.procs import process_tree as family
from taskpool.procs import reap
from taskpool.procs.environment import scrubbed
from taskpool.procs.spawn import spawn_worker

BURIAL_NS_MAX = 5 * SECOND


class Hire(NamedTuple):
    """What every worker of this dealer is started with."""

    pool: str
    home: str  # the identity of its state directory
    epoch: int
    program: list[str]
    arguments: list[str]  # beside who it is and where it belongs
    spool: str
    log_fd: int
    shape: Shape  # of its request queue


class Member:
    """One worker process, until it is buried."""

    def __init__(self, incarnation: Incarnation, mailbox: Mailbox, capture_fd: int) -> None:
        self.incarnation = incarnation
        self.mailbox = mailbox
        self.capture_fd = capture_fd
        self.pid = 0
        self.exit: reap.Exit | None = None
        self.seen_mono_ns = 0


class Staff:
    """All worker processes, by incarnation."""

    def __init__(
        self, hire: Hire, post: Post, spool: Spool, clock: Clock, record: Callable[[Incarnation], None]
    ) -> None:
        self._hire = hire
        self._post = post
        self._spool = spool
        self._clock = clock
        self._record = record  # remembers, before its queue is made, that this incarnation may leave one behind
        self._members: dict[Incarnation, Member] = {}
        self._by_pid: dict[int, Member] = {}
        self._dead: list[Member] = []  # reaped, and perhaps survived by descendants

    # --- started ---

    def spawn(self, incarnation: Incarnation) -> Spawned | SpawnFailed:
        """Start a worker with a queue of its own."""
        try:
            member = self._prepare(incarnation)
        except (QueueError, OSError) as error:
            return SpawnFailed(incarnation, str(error))
        try:
            member.pid = spawn_worker(
                self._command_line(incarnation),
                self._environment(incarnation),
                capture_fd=member.capture_fd,
                log_fd=self._hire.log_fd,
            )
        except WorkerCannotBoot as error:
            self._discard(member)
            return SpawnFailed(incarnation, str(error))
        self._members[incarnation] = member
        self._by_pid[member.pid] = member
        return Spawned(incarnation, member.pid)

    def _prepare(self, incarnation: Incarnation) -> Member:
        hire = self._hire
        self._record(incarnation)
        mailbox = self._post.create(names.worker(hire.pool, hire.epoch, incarnation), hire.shape)
        try:
            return Member(incarnation, mailbox, _unnamed_file(hire.spool))
        except OSError:
            mailbox.unlink()
            mailbox.close()
            raise

    def _command_line(self, incarnation: Incarnation) -> list[str]:
        hire = self._hire
        identity = ["--pool", hire.pool, "--epoch", str(hire.epoch), "--incarnation", str(incarnation)]
        return [*hire.program, *identity, "--dealer-pid", str(os.getpid()), "--spool", hire.spool, *hire.arguments]

    def _environment(self, incarnation: Incarnation) -> Mapping[str, str]:
        return {**scrubbed(os.environ), family.MARK_VARIABLE: self._mark(incarnation)}

    def _mark(self, incarnation: Incarnation) -> str:
        return family.worker_mark(self._hire.pool, self._hire.home, self._hire.epoch, incarnation)

    def settled(self, incarnation: int, pid: int) -> bool:
        """The worker holds its queue: take the name away. False: another process says it is this worker."""
        member = self._members.get(Incarnation(incarnation))
        if member is None or member.pid != pid:
            return False
        member.mailbox.unlink()
        return True

    # --- spoken to ---

    def mailbox(self, incarnation: Incarnation) -> Mailbox | None:
        member = self._members.get(incarnation)
        return member.mailbox if member is not None else None

    def kill(self, incarnation: Incarnation, name: str) -> None:
        """Signal the worker and its group. It is not reaped yet, so nobody else can have its number."""
        member = self._members.get(incarnation)
        if member is None or member.exit is not None:
            return
        number = signal.Signals[f"SIG{name}"]
        with suppress(ProcessLookupError, PermissionError):  # nobody is in it, or another user's processes only
            os.killpg(member.pid, number)
        if os.getpgid(member.pid) != member.pid:  # a job has moved its worker, or it is not there yet
            os.kill(member.pid, number)

    # --- buried ---

    def look(self) -> None:
        """Reap who has died, strangers included."""
        while (pid := reap.peek()) is not None:
            member = self._by_pid.pop(pid, None)
            if member is not None:
                reap.kill_group(pid)
                member.seen_mono_ns = self._clock.now().mono
            ended = reap.reap(pid)
            if member is not None:
                member.exit = ended
                self._dead.append(member)

    def bury(self) -> list[Exited]:
        """Those of the dead that nobody survives. The others' descendants are killed; look again when they die."""
        if not self._dead:
            return []
        exits: list[Exited] = []
        try:
            strangers = [pid for pid in family.children_of() if pid not in self._by_pid]
            for member in list(self._dead):
                if strangers and family.kill_marked(strangers, self._mark(member.incarnation)):
                    continue
                self._dead.remove(member)
                exits.append(self._exited(member))
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
        for member in list(self._members.values()):
            self.kill(member.incarnation, "KILL")
        deadline = self._clock.now().mono + BURIAL_NS_MAX
        while not self.empty and self._clock.now().mono < deadline:
            self.look()
            self.bury()
            if not self.empty:
                signal.sigtimedwait([], 0.001)  # SIGCHLD has its handler: a death meanwhile costs a millisecond
        for member in list(self._members.values()):
            self._discard(member)

    def _exited(self, member: Member) -> Exited:
        ended = member.exit
        assert ended is not None
        words = _last_words(member.capture_fd)
        self._discard(member)
        return Exited(
            member.incarnation,
            ended.status,
            ended.signal,
            member.seen_mono_ns,
            ended.cpu_ns,
            ended.max_rss_bytes,
            words,
        )

    def _discard(self, member: Member) -> None:
        self._members.pop(member.incarnation, None)
        member.mailbox.unlink()
        self._empty(member.mailbox)
        member.mailbox.close()
        os.close(member.capture_fd)

    def _empty(self, mailbox: Mailbox) -> None:
        """Nobody will read these frames: their spool files, if any, must not stay."""
        while True:
            try:
                self._spool.unpack(decode(mailbox.receive()))
            except QueueEmpty:
                return
            except (MessageError, ConfigurationError):
                continue


def _unnamed_file(directory: str) -> int:
    """A file that needs no cleaning up, for what a worker writes to its standard error."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:  # some file systems know no unnamed files
        fd = os.memfd_create("tp-worker-stderr", os.MFD_CLOEXEC)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)  # a worker insists on it: several processes write
        return fd


def _last_words(fd: int) -> str | None:
    """The end of what the worker wrote to its standard error."""
    size = os.fstat(fd).st_size
    start = max(0, size - limits.STDERR_TAIL_BYTES_MAX)
    tail = os.pread(fd, limits.STDERR_TAIL_BYTES_MAX, start).decode("utf-8", "replace").strip()
    return tail or None
