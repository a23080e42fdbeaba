"""A pool that is asked again and again, in a thread of its own, and told what a person wants of it.

Rules of this file:
1. The main thread reads `row` and calls `want` and `end`; everything else happens in the thread.
2. A question costs the dealer little: one `status` each time; of failures and deaths, so much and no more.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Set
from contextlib import closing, suppress

import msgspec

from taskpool.client.connection import NoNotices, TurnHandler
from taskpool.client.opening import new_client_id, open_connection
from taskpool.client.queries import BatchQueries
from taskpool.client.session import ConnectTimeouts, SessionOptions
from taskpool.clock import SECOND, AwakeClock, SystemClock, rfc3339
from taskpool.errors import TaskpoolError, system_refused
from taskpool.generator.top import answers
from taskpool.generator.top.answers import PoolStatus, RunningJob, Unreadable
from taskpool.generator.top.history import PoolHistory
from taskpool.generator.top.model import PoolRow, Request
from taskpool.generator.top.usage import UsageReader
from taskpool.procs.wait import Descriptor

_ANSWER_NS_MAX = 5 * SECOND  # for a command
_SHOWN_MAX = 4  # jobs that are asked about in one refresh
_PAGES_MAX = 2  # pages of outcomes that are read in one refresh
_BACK_MAX = 64  # outcomes of a batch that are looked at when it is first seen
_BEHIND_MAX = 1_024  # and later: what is further behind is passed over


class _Ended(Exception):
    """The thread is to end."""


class _Wake(TurnHandler):
    """Ends waits of the connection when something is wanted."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.ending = False

    def set(self) -> None:
        with suppress(BlockingIOError):  # it is set already
            os.eventfd_write(self.fd, 1)

    def readable(self) -> Iterable[Descriptor]:
        return (self.fd,)

    def before_receive(self, now: int) -> None:
        if self.ending:
            raise _Ended

    def before_send(self, ready: Set[int], now: int) -> None:
        if self.fd in ready:
            with suppress(BlockingIOError):
                os.eventfd_read(self.fd)


class Watcher:
    """Watches one pool until it has gone, or `end` is called."""

    def __init__(self, pool: str, refresh_ns: int, timeouts: ConnectTimeouts, changed_fd: int, row: PoolRow) -> None:
        """Begin. `changed_fd`: an eventfd that is written to whenever there is something new to show; `row`: what is
        shown until then."""
        self.pool = pool
        self.row = row
        self.answered_ns = time.monotonic_ns()  # when it last has, or was first asked
        self.failure: TaskpoolError | None = None  # why it is watched no more
        self._refresh_ns = refresh_ns
        self._timeouts = timeouts
        self._changed_fd = changed_fd
        self._wake = _Wake()
        self._wanted: deque[Request] = deque()
        self._said: deque[str] = deque()
        self._history = PoolHistory(pool)
        self._usage = UsageReader(pool)
        self._before: PoolStatus | None = None
        self._read_upto: dict[str, int] = {}  # by batch: the last outcome that was looked at
        # A daemon: an end does not wait for a dealer that is stopped.
        self._thread = threading.Thread(target=self._run, name=f"top {pool}", daemon=True)
        self._thread.start()

    @property
    def gone(self) -> bool:
        """Whether it is watched no more."""
        return not self._thread.is_alive()

    def want(self, request: Request) -> None:
        """Have something done; what came of it is among `take_said`."""
        self._wanted.append(request)
        self._wake.set()

    def take_said(self) -> list[str]:
        """Return, once, what is to be told."""
        said = []
        while self._said:
            said.append(self._said.popleft())
        return said

    def end(self) -> None:
        """Have it end."""
        self._wake.ending = True
        self._wake.set()

    def join(self, timeout_ns: int) -> None:
        """Wait until it has ended and has given its queue back, at most so long."""
        self._thread.join(max(0, timeout_ns) / SECOND)

    # --- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._watch()
        except _Ended:
            pass
        except TaskpoolError as error:
            self.failure = error
        except OSError as error:
            self.failure = TaskpoolError(system_refused(error))
        if self.failure is not None:
            self.row = PoolRow(self.pool, problem=str(self.failure))
        self._tell()

    def _watch(self) -> None:
        clock = AwakeClock(SystemClock())
        options = SessionOptions(
            pool=self.pool, client=new_client_id(), pid=os.getpid(), timeouts=self._timeouts, collect_pages=True
        )
        # What it has to say is a line on the screen, which is whole already.
        connection = open_connection(options, NoNotices(), clock)
        with closing(connection):
            queries = BatchQueries(connection, clock, self._wake)
            try:
                while True:
                    self._refresh(queries, clock)
                    due = clock.now().mono + self._refresh_ns
                    connection.run_until(lambda: bool(self._wanted), self._wake, due)
                    while self._wanted:
                        self._carry_out(self._wanted.popleft(), queries, clock)
            except _Ended:
                connection.leave()
                raise

    def _refresh(self, queries: BatchQueries, clock: AwakeClock) -> None:
        try:
            status = answers.read_status(queries.status())
        except Unreadable as error:
            self.row = PoolRow(self.pool, problem=str(error))
            self._answered()
            return
        self._look_for_deaths(status, queries)
        now = clock.now().mono
        uses = self._usage.read((job.pid for job in status.running), now)
        self.row = self._history.take(status, uses, now)
        self._before = status
        self._answered()

    def _look_for_deaths(self, status: PoolStatus, queries: BatchQueries) -> None:
        """Ask about jobs whose worker is another one now, and read the outcomes that are new."""
        now_running = {(job.job, job.pid) for job in status.running}
        before: list[RunningJob] = [] if self._before is None else self._before.running
        gone = [job.job for job in before if (job.job, job.pid) not in now_running]
        for job in gone[:_SHOWN_MAX]:
            batch, _, seq = job.rpartition("/")
            if batch and seq.isdecimal():
                seen_at, body = rfc3339(SystemClock().now().wall), queries.job(batch, int(seq)).body
                self._history.note_deaths(answers.deaths_of_job(self.pool, job, body, seen_at))
        pages = _PAGES_MAX
        for each in status.batches:
            if pages and each.accepted - each.open != self._read_upto.get(each.batch, 0):
                pages -= self._read_outcomes(each.batch, queries)

    def _read_outcomes(self, batch: str, queries: BatchQueries) -> int:
        """Read a page of a batch's outcomes, the newest where they are too many. Return how many pages were read."""
        found = queries.batch(batch)
        if found is None:
            return 0
        after, known = self._read_upto.get(batch, 0), batch in self._read_upto
        least = found.recorded - (_BEHIND_MAX if known else _BACK_MAX)
        whole, after = after >= least, max(after, least)
        failed, deaths = 0, []
        for outcome in queries.outcomes(batch, after, min(found.recorded, after + _BACK_MAX * 4)):
            failed += answers.is_failure(outcome)
            deaths += answers.deaths_of_outcome(self.pool, batch, outcome)
            after = outcome.no
        self._read_upto[batch] = after
        self._history.note_failures(batch, failed, whole=whole)
        self._history.note_deaths(deaths)
        return 1

    def _carry_out(self, request: Request, queries: BatchQueries, clock: AwakeClock) -> None:
        answer = queries.command((request.verb, request.batch, request.seq), clock.now().mono + _ANSWER_NS_MAX)
        what = request.verb if request.batch is None else f"{request.verb} {target_of(request)}"
        if answer is None:
            self._said.append(f"{what}: pool {self.pool} did not answer")
            return
        with suppress(msgspec.MsgspecError):
            body = msgspec.json.decode(answer.body, type=dict[str, object])
            facts = ", ".join(f"{value} {name}" for name, value in body.items())
            self._said.append(f"{what}: {facts}" if answer.ok else f"{what}: {body.get('error', 'refused')}")
        self._tell()

    def _answered(self) -> None:
        self.answered_ns = time.monotonic_ns()
        self._tell()

    def _tell(self) -> None:
        with suppress(OSError):  # the screen has just been closed
            os.eventfd_write(self._changed_fd, 1)


def target_of(request: Request) -> str:
    """Say which batch or job a request is about."""
    return f"{request.batch}/{request.seq}" if request.seq else str(request.batch)
