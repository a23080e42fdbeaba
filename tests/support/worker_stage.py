"""A real worker process on real queues, with a test as its dealer."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from support.source_tree import ROOT
from taskpool import codec
from taskpool.ipc import held_reports, names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.queue import QueueEnd
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.kinds import typed_kind
from taskpool.messages import Frame, Limits, Progress, Ready, Report, Task
from taskpool.procs.process_tree import MARK_VARIABLE, worker_mark
from taskpool.procs.spawn import spawn_worker

EPOCH = 2
INCARNATION = 3
BATCH = "b"
PATIENCE_SECONDS = 20.0
EVENTS = Shape(10, 1024)
REQUESTS = Shape(2, 1024)
PROGRAM = (sys.executable, f"{ROOT}/cmd/tp-worker/main.py")

JOBS = """
import ctypes, decimal, faulthandler, gc, locale, multiprocessing
import os, resource, signal, socket, subprocess, sys, threading, time

libc = ctypes.CDLL(None)

def echo(value): return value

def large(size): return "x" * size

def gate(path):
    with open(path) as fifo: return fifo.read()

def spin():
    while True: pass

def printing(text):
    print(text)
    print(text + "!", file=sys.stderr)
    os.write(1, b"from below ")
    subprocess.run(["echo", "from a child"])

def raw(): os.write(1, bytes([0xff, 0xfe]))

def vanish():
    os.write(2, b"last words")
    os._exit(7)

def grandchild():
    script = "import os, subprocess; print(subprocess.Popen(['sleep', '1000'], start_new_session=True, stdout=2).pid)"
    return int(subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE).stdout)

def fork():
    return os.fork() and 1

def close_output(): os.closerange(1, 3)

def replace_output(path):
    os.dup2(os.open(path, os.O_RDWR), 1)
    print("hello")

def wander():
    os.chdir("/")
    return os.getcwd()

def where(): return os.getcwd()

def do(line): exec(line, globals())

def surroundings():
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    os.umask(mask := os.umask(0))
    return [
        dict(os.environ),
        subprocess.run(["env"], stdout=subprocess.PIPE, text=True).stdout,
        {name: resource.getrlimit(getattr(resource, name)) for name in names},
        [str(signal.getsignal(number)) for number in signal.valid_signals()],
        [str(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        [signal.getitimer(timer) for timer in range(3)],
        [os.getcwd(), mask, threading.active_count(), signal.set_wakeup_fd(-1)],
        [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), sorted(os.sched_getaffinity(0))],
        [os.getpgrp(), os.getsid(0), open("/proc/self/oom_score_adj").read(), open("/proc/self/comm").read()],
        [libc.syscall(252, 1, 0), *[libc.prctl(option, 0, 0, 0, 0) for option in (3, 39)], prctl(2), prctl(37)],
        [time.tzname, time.strftime("%H %Z", time.localtime(0)), locale.setlocale(locale.LC_ALL)],
        [os.fstat(0).st_rdev, sys.stdin.read(), sys.path, sys.argv],
        [sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()],
        decimal.getcontext().prec,
        [socket.getdefaulttimeout(), multiprocessing.get_start_method(allow_none=True), faulthandler.is_enabled()],
        [
            [stream.fileno(), stream.encoding, stream.errors, stream.line_buffering, stream.closed]
            for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)
        ],
    ]

def prctl(option):
    number = ctypes.c_int()
    libc.prctl(option, ctypes.byref(number), 0, 0, 0)
    return number.value
"""


def command_line(pool: str, dealer_pid: object, spool: str, *options: str) -> list[str]:
    """What a dealer types."""
    number = ["--epoch", str(EPOCH), "--incarnation", str(INCARNATION), "--dealer-pid", str(dealer_pid)]
    return [*PROGRAM, "--pool", pool, *number, "--spool", spool, *options]


def environment(pool: str) -> dict[str, str]:
    """What a worker finds around it."""
    mark = worker_mark(pool, "home", EPOCH, INCARNATION)
    return {**os.environ, "PYTHONPATH": f"{ROOT}/internal", MARK_VARIABLE: mark}


@contextmanager
def queues(pool: str, shape: Shape = EVENTS) -> Iterator[tuple[QueueEnd, QueueEnd]]:
    """The events queue of a pool, and the request queue of its one worker."""
    namespace = KernelNamespace()
    with ExitStack() as stack:
        made = []
        for name, size in ((names.events(pool), shape), (names.worker(pool, EPOCH, INCARNATION), REQUESTS)):
            queue = namespace.create(name, size)
            stack.callback(queue.close)
            stack.callback(namespace.unlink, name)
            made.append(queue)
        yield made[0], made[1]


class Dealer:
    """The other end of one worker's queues."""

    ready: Ready

    def __init__(
        self, pool: str, home: Path, options: tuple[str, ...] = (), events: Shape = EVENTS, log: int | None = None
    ) -> None:
        self.home = home
        self.spool = Spool(home / "spool")
        self.spool.sweep()
        (home / "jobs_of_the_test.py").write_text(JOBS)
        self._queues = queues(pool, events)
        self.events, self.requests = self._queues.__enter__()
        self.capture = os.open(home, os.O_TMPFILE | os.O_RDWR | os.O_APPEND)
        self.reports = held_reports.allocate()
        self.log = os.open(home / "log", os.O_CREAT | os.O_RDWR | os.O_APPEND) if log is None else os.dup(log)
        self.mark = worker_mark(pool, "home", EPOCH, INCARNATION)
        self.pid = self._spawn(pool, options)
        self.status: int | None = None
        self.n = 100

    def _spawn(self, pool: str, options: tuple[str, ...]) -> int:
        command = command_line(pool, os.getpid(), str(self.spool.directory), *options)
        return spawn_worker(
            command, environment(pool), capture_fd=self.capture, log_fd=self.log, reports_fd=self.reports
        )

    def send(self, *tasks: Task, epoch: int = EPOCH, count: int | None = None, timeout_ns: int = 0) -> int:
        """One frame; returns its first number."""
        first_n, self.n = self.n, self.n + len(tasks)
        frame = Frame(
            epoch, first_n, count or len(tasks), 0, BATCH, codec.encode_tasks(tasks), Limits(timeout_ns=timeout_ns)
        )
        self.requests.send(codec.encode(frame))
        return first_n

    def hear(self) -> Ready | Progress:
        """The next message, once it comes."""
        poll = select.poll()
        poll.register(self.events.fileno(), select.POLLIN)
        assert poll.poll(PATIENCE_SECONDS * 1000), f"nothing heard; the worker wrote: {self.last_words()}"
        message = self.spool.unpack(codec.decode(self.events.receive()))
        assert isinstance(message, Ready | Progress)
        assert (message.incarnation, message.epoch) == (INCARNATION, EPOCH)
        return message

    def hear_progress(self) -> Progress:
        message = self.hear()
        assert isinstance(message, Progress)
        return message

    def hear_started(self, n: int) -> None:
        assert self.hear() == Progress(INCARNATION, EPOCH, [], started=n)

    def result(self, task: Task) -> Report:
        """The report on a job that is alone in its frame."""
        n = self.send(task)
        self.hear_started(n)
        progress = self.hear_progress()
        [report] = progress.reports
        assert (report.n, progress.started) == (n, 0)
        return report

    def death(self) -> int:
        """How the worker ended, once it has: its exit status, or the signal as a negative number."""
        if self.status is None:
            pidfd = os.pidfd_open(self.pid)
            try:
                assert select.select([pidfd], [], [], PATIENCE_SECONDS)[0], "the worker lives on"
            finally:
                os.close(pidfd)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def found(self) -> list[tuple[int, bytes | None]]:
        """What the worker holds and has not sent: numbers and values."""
        return [(report.n, report.value) for report in held_reports.read(self.reports)]

    def kill(self, number: signal.Signals) -> None:
        assert self.status is None
        os.kill(self.pid, number)

    def last_words(self) -> str:
        return os.pread(self.capture, 10_000, 0).decode()

    def log_text(self) -> str:
        return (self.home / "log").read_text()

    def close(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.death()
        self._queues.__exit__(None, None, None)
        os.close(self.capture)
        os.close(self.reports)
        os.close(self.log)
        self.spool.close()


class Start:
    """Starts workers for a test; what is left of them ends with it."""

    def __init__(self, pool: str, home: Path) -> None:
        self._pool = pool
        self._home = home
        self._dealers: list[Dealer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for dealer in self._dealers:
            dealer.close()

    def __call__(self, *options: str, events: Shape = EVENTS, log: int | None = None) -> Dealer:
        dealer = Dealer(self._pool, self._home, options, events, log)
        self._dealers.append(dealer)
        ready = dealer.hear()
        assert isinstance(ready, Ready)
        dealer.ready = ready
        return dealer


def fib(n: int, seq: int = 1) -> Task:
    return Task(seq, 1, "fib", typed_kind("fib").parse({"n": n}, "test"))


def call(dealer: Dealer, function: str, *args: object, seq: int = 1) -> Task:
    job: dict[str, object] = {"call": f"jobs_of_the_test:{function}", "args": list(args), "path": [str(dealer.home)]}
    return Task(seq, 1, "python", typed_kind("python").parse(job, "test"))


def command(*argv: str) -> Task:
    return Task(1, 1, "command", typed_kind("command").parse({"argv": list(argv)}, "test"))
