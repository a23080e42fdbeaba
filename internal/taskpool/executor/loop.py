"""The background thread of an Executor: calls in, outcomes out.

**Which thread does what.** The thread that calls `submit` pickles the call, puts its future at the end of `_incoming`
under the lock and wakes the loop. Everything else happens in one thread of the loop's own: it alone holds the
connection, numbers the jobs, completes the futures and runs their callbacks. Nothing is held locked meanwhile, so a
callback may submit, cancel and shut down.

**What wakes it.** An eventfd, which stands beside the reply queue and the dealer's pidfd in the one wait that
`Connection.run_until` has. `_awake` says that it was written to and not yet read, so that a thousand calls in a row
write it once.

**How a future is completed.** Its outcome comes, it is completed, then the outcome is acknowledged. A cancelled future
is told at once; the pool is asked to cancel its job as soon as it has accepted that, and once more in each new
connection, since a dealer that was killed may have taken the request along.

**How it ends.** DRAIN: no call comes any more, and the loop ends when every future is done. LEAVE: it ends now, and
cancels what is left. Either way the private dealer ends with it. Without a journal a dealer that is killed takes what
it had accepted along: these futures fail with JobLost, and the next calls get a new dealer. After
`RESTARTS_MAX` of those without one outcome in between, the pool is gone for good.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Iterable, Set
from contextlib import suppress
from enum import IntEnum
from typing import Any

from taskpool import limits
from taskpool.client.connection import Connection, DealerEnded, TurnHandler
from taskpool.client.submissions import SUBMIT_HEADER_BYTES, encoded_bytes
from taskpool.client.unreachable import JobsLost
from taskpool.errors import TaskpoolError, system_refused
from taskpool.executor import result
from taskpool.executor.errors import JobLost, PoolError
from taskpool.executor.future import CallFuture
from taskpool.executor.link import Link
from taskpool.messages import JobSpec, Outcome, State
from taskpool.private.process import RESTARTS_MAX

_WHOLE_BATCH = 0  # where numbers of jobs stand


class Ending(IntEnum):
    """How the loop is to end. It only grows."""

    NOT = 0
    DRAIN = 1
    LEAVE = 2


class Loop(TurnHandler):
    """Runs the calls of one Executor in a thread of its own."""

    def __init__(self, link: Link) -> None:
        self._link = link
        # A collection of garbage, or a signal's handler, may come while it is held, and call what needs it.
        self._lock = threading.RLock()
        self._incoming: deque[CallFuture[Any]] = deque()
        self._cancelled: deque[CallFuture[Any]] = deque()
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._awake = False
        self._ending = Ending.NOT
        self._broken: PoolError | None = None
        self._connection: Connection | None = None
        self._pending: dict[int, CallFuture[Any]] = {}  # with the pool, by their jobs' numbers
        self._to_cancel: set[int] = set()  # jobs that are cancelled and have no outcome
        self._asked: tuple[int, set[int]] = (0, set())  # in which connection to cancel which
        self._cancels_waiting = False
        self._begun = False  # the batch is ours: the dealer has said so
        self._lost_in_a_row = 0
        self.states: Counter[State] = Counter()
        self.submitted = self.attempts = self.crashes = self.lost = 0
        self.cancelled_early = 0  # before the pool heard of them: no outcome will tell
        # No daemon: such a thread is stopped anywhere when the interpreter ends, amid a callback too.
        self.thread = threading.Thread(target=self._run, name="taskpool")

    # --- what other threads call ------------------------------------------------------------------

    def submit(self, future: CallFuture[Any]) -> None:
        """Take a call. Raises PoolError when the pool is gone, RuntimeError after a shutdown."""
        with self._lock:
            if self._broken is not None:
                # Another one each time: an exception gains a traceback whenever it is raised.
                raise PoolError(str(self._broken)) from self._broken.__cause__
            if self._ending:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._incoming.append(future)
            self.submitted += 1
            self._wake()

    def on_cancel(self, future: CallFuture[Any]) -> None:
        """End the job of a future that was cancelled."""
        with self._lock:
            self._cancelled.append(future)
            self._wake()

    def end(self, how: Ending, *, cancel: bool = False) -> None:
        """Have the loop end. `cancel`: and the futures whose calls do not run yet; of a durable batch, all.

        Which those are, only the dealer knows. It cancels them with their batch, which nothing can be added to then.
        """
        with self._lock:
            self._ending = max(self._ending, how)
            left = [*self._incoming] if cancel else []
            if cancel and self._link.durable:
                left += self._pending.values()
            self._cancels_waiting = self._cancels_waiting or (cancel and not self._link.durable)
            self._wake()
        # Not under the lock: this runs callbacks, which may wait for another thread that submits.
        for future in left:
            future.cancel()

    @property
    def pending(self) -> int:
        """How many futures are not done."""
        with self._lock:
            return len(self._incoming) + len(self._pending)

    def let_go(self) -> None:
        """In a forked child: close what it has of the pool, which is the parent's."""
        self._lock = threading.RLock()  # another thread may have held the old one when the process was forked
        self._link.let_go()
        if self._wakeup >= 0:
            os.close(self._wakeup)
            self._wakeup = -1

    def _wake(self) -> None:
        if not self._awake and self._wakeup >= 0:
            self._awake = True
            os.eventfd_write(self._wakeup, 1)

    # --- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        error: PoolError | None = None
        try:
            while not self._serve():
                pass
        except TaskpoolError as problem:
            error = PoolError(f"the pool is gone: {problem}")
        except OSError as problem:
            error = PoolError(f"the pool is gone: {system_refused(problem)}")
        except BaseException as problem:  # noqa: BLE001 - a thread that ends in silence would leave futures for ever
            error = PoolError(f"the pool is gone, by an error of taskpool itself: {problem!r}")
            error.__cause__ = problem
        finally:
            self._finish(error)

    def _serve(self) -> bool:
        """Serve one batch; return whether that is the end, or another one has to be begun. Raises TaskpoolError."""
        try:
            self._connection = self._link.connect(self)
            self._connection.run_until(self._is_over, self)
            self._conclude(self._connection)
            return True
        except (DealerEnded, JobsLost) as error:
            if self._ending is Ending.LEAVE:
                return True
            reason = self._link.explain_end()
            if reason is not None or self._link.durable or self._lost_in_a_row >= RESTARTS_MAX:
                raise TaskpoolError(reason or str(error)) from error
            self._lost_in_a_row += 1
            self._lose()
            self._connection, self._begun = None, False
            self._link.renew()
            return False

    def _conclude(self, connection: Connection) -> None:
        """Close the batch in a pool that stays, and have all acknowledged."""
        if self._link.private is None and not connection.session.connecting:
            if self._ending is Ending.LEAVE:
                connection.session.command("cancel", self._link.batch)
            connection.session.submissions.finish()
            until = self._link.clock.now().mono + limits.RESEND_NS
            connection.run_until(lambda: connection.session.submissions.settled, deadline=until)
        elif self._link.durable or self._pending:
            if not self._link.durable and not connection.session.connecting:
                # All of these are cancelled. The dealer has to know that, for it tells of accepted jobs that are lost.
                connection.session.command("cancel", self._link.batch)
            until = self._link.clock.now().mono + limits.TERM_GRACE_NS
            with suppress(DealerEnded):
                connection.run_until(lambda: not connection.writable, deadline=until)
        self._link.conclude(dict(self.states), complete=not self._pending and not self._incoming)

    def _finish(self, error: PoolError | None) -> None:
        """Complete what is left, and leave the pool."""
        with self._lock:
            self._broken = error
            self._ending = max(self._ending, Ending.DRAIN)
            left = [*self._pending.values(), *self._incoming]
            self._incoming.clear()
            self._pending.clear()
        for future in left:
            if not self._link.durable:  # else the job may run yet, and read it
                future.remove_file()
            if error is None:
                future.cancel()
                future.tell_cancelled()
                self.cancelled_early += 1
            else:
                # One for each: to raise an exception adds to its traceback, and many threads may do so at once.
                result.complete(future, error=PoolError(str(error)))
        while self._cancelled:
            self._cancelled.popleft().tell_cancelled()
        try:
            self._link.close()
        finally:
            # Under the lock: a late `_wake` must not write to a number that another file has by then.
            with self._lock:
                os.close(self._wakeup)
                self._wakeup = -1

    def _lose(self) -> None:
        """Fail what the dealer took along. What it was not told of stays for the next one."""
        lost = list(self._pending.items())
        self._pending.clear()
        self._to_cancel.clear()
        for _, future in lost:
            self.lost += 1
            text = f"job {future.job} is lost: its dealer is gone, and without a journal nothing has kept it"
            error = JobLost(f"{text}; journal=True, batch='ID' keeps what is accepted", job=future.job or "")
            result.complete(future, error=error)

    def _is_over(self) -> bool:
        if self._ending is Ending.LEAVE:
            return True
        if self._ending is Ending.NOT or self._incoming or self._cancelled:
            return False
        # What is cancelled ends with a private dealer, unless a journal would bring it back.
        forgets = self._link.private is not None and not self._link.durable
        return not self._pending if not forgets else all(future.cancelled() for future in self._pending.values())

    # --- a turn -----------------------------------------------------------------------------------

    def readable(self) -> Iterable[int]:
        return (self._wakeup,)

    def before_receive(self, now: int) -> None:
        if self._awake:
            # As one step: a call that came in between would be seen now, and leave a flag that keeps the next one from
            # waking the loop.
            with self._lock:
                os.eventfd_read(self._wakeup)
                self._awake = False
        while self._cancelled:
            future = self._cancelled.popleft()
            future.tell_cancelled()
            if future.seq in self._pending:
                self._to_cancel.add(future.seq)

    def on_received(self, outcomes: list[Outcome], now: int) -> None:
        if self._connection is None:
            return  # an earlier run's outcomes are asked for
        session = self._connection.session
        session.answers.clear()
        if session.welcome is not None and not self._begun:
            self._begun = True
            if self._link.known is not None:
                self._link.known.begin(session.submissions.accepted)
        for outcome in outcomes:
            self._take(outcome)
        # Behind the loop: the dealer forgets what is acknowledged.
        session.deliveries.store(session.deliveries.delivered)

    def before_send(self, ready: Set[int], now: int) -> None:
        connection = self._connection
        if connection is None or not self._begun:
            return
        if (refusal := connection.session.submissions.refusal) is not None:
            raise TaskpoolError(f"it refuses calls ({refusal.reason}): {refusal.text}")
        self._submit(connection)
        self._ask_to_cancel(connection)

    def _ask_to_cancel(self, connection: Connection) -> None:
        session = connection.session
        if self._asked[0] != session.generation:
            self._asked = (session.generation, set())
        if self._cancels_waiting and _WHOLE_BATCH not in self._asked[1]:
            if self._incoming or session.submissions.accepted < session.submissions.submitted:
                return  # what comes behind the cancellation would be refused
            self._asked[1].add(_WHOLE_BATCH)
            session.command("cancel-waiting", self._link.batch)
        for seq in self._to_cancel - self._asked[1]:
            if seq <= session.submissions.accepted:  # before, the dealer need not know it
                self._asked[1].add(seq)
                session.command("cancel", self._link.batch, seq)

    # --- calls in ---------------------------------------------------------------------------------

    def _submit(self, connection: Connection) -> None:
        submissions = connection.session.submissions
        bytes_max = connection.intake_bytes
        while bytes_max is not None and submissions.has_room and (futures := self._take_frame(bytes_max)):
            first = submissions.submitted + 1
            if self._link.known is not None:
                self._link.known.add([key for _, _, key in futures])
            for seq, (future, _, _) in enumerate(futures, first):
                future.batch, future.seq = self._link.batch, seq
                with self._lock:  # for other threads walk through it, in `end`
                    self._pending[seq] = future
                if future.cancelled():
                    self._to_cancel.add(seq)
            submissions.submit([job for _, job, _ in futures])

    def _take_frame(self, bytes_max: int) -> list[tuple[CallFuture[Any], JobSpec, bytes]]:
        """Take the next calls that fit one message: at least one, if any is there."""
        room = bytes_max - SUBMIT_HEADER_BYTES
        frame: list[tuple[CallFuture[Any], JobSpec, bytes]] = []
        while self._incoming and len(frame) < limits.SUBMIT_JOBS_MAX:
            future = self._incoming[0]
            if future.cancelled():
                self.cancelled_early += 1
                self._incoming.popleft()
                continue
            if future.call is None or self._is_known(future):
                self._incoming.popleft()
                continue
            try:
                job, file = future.call.job(self._link.home, self._link.batch, sync=self._link.durable)
            except OSError as error:
                error.add_note("while the call was written to a file for the worker")
                result.complete(future, error=error)
                self._incoming.popleft()
                continue
            room -= encoded_bytes(job)
            if frame and room < 0:
                if file is not None:
                    file.unlink()
                break
            key = future.call.key if self._link.known is not None else b""
            if file is not None:
                future.file = file
            future.call = None  # a program may keep a future for long, and its pickles are of no use any more
            frame.append((future, job, key))
            self._incoming.popleft()
        return frame

    def _is_known(self, future: CallFuture[Any]) -> bool:
        """Whether an earlier run of the program has submitted the call; then its future is that of this job."""
        known = self._link.known
        if known is None or future.call is None or (seq := known.claim(future.call.key)) is None:
            return False
        future.batch, future.seq = self._link.batch, seq
        with self._lock:
            self._pending[seq] = future
        if (outcome := known.outcomes.pop(seq, None)) is not None:
            self._settle(outcome)
        return True

    # --- outcomes out -----------------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        if outcome.seq not in self._pending and self._link.known is not None:
            self._link.known.outcomes[outcome.seq] = outcome  # its call may still come
            return
        result.hand_on_output(outcome, keep_files=self._link.durable)
        self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        self._lost_in_a_row = 0
        self.states[outcome.state] += 1
        self.attempts += outcome.attempts
        self.crashes += outcome.crashes
        with self._lock:
            future = self._pending.pop(outcome.seq, None)
        self._to_cancel.discard(outcome.seq)
        if future is None:
            return
        if future.call is not None and outcome.state is State.CANCELLED and not future.cancelled():
            # An earlier run has cancelled it, and the word of that came only now: this one wants it.
            future.seq = 0
            with self._lock:
                self._incoming.appendleft(future)
        else:
            result.settle(future, outcome, keep_files=self._link.durable)
