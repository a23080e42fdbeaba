"""How a dealer stops: it drains, stops running jobs by force, exits.

TERM drains within a limit; INT drains without one, twice stops running jobs, three times leaves at once; QUIT
and the end of the lifeline stop running jobs at once. What did not run goes back, uncounted.
"""

from __future__ import annotations

from taskpool.clock import NEVER, SECOND, Instant
from taskpool.core.batch import Batch
from taskpool.core.effects import Exit, Level, Topic
from taskpool.core.state import PoolState
from taskpool.core.supervisor import Supervisor
from taskpool.core.worker import StopReason, WorkerState
from taskpool.errors import ExitCode, counted

READERS_WAIT_NS = 1 * SECOND  # how long it waits for readers that acknowledge nothing


class Shutdown:
    """Decides whether, why and by when the dealer exits."""

    def __init__(self, pool: PoolState, supervisor: Supervisor) -> None:
        self._pool = pool
        self._supervisor = supervisor
        self._interrupts = 0
        self._code = ExitCode.OK
        self._force_at_ns = NEVER
        self._exit_at_ns = NEVER
        self._store_wait_ends_ns = NEVER
        self._orphaned = False
        self.exiting = False

    def signalled(self, name: str, now: Instant) -> None:
        """TERM, INT or QUIT."""
        if name == "TERM":
            self._drain(ExitCode.TERMINATED, now.mono + self._pool.drain_timeout_ns)
        elif name == "QUIT":
            self._drain(ExitCode.TERMINATED, now.mono)
        else:
            self._interrupts += 1
            if self._interrupts >= 3:
                self._exit(ExitCode.INTERRUPTED, "interrupted three times: leaving now")
            else:
                self._drain(ExitCode.INTERRUPTED, now.mono if self._interrupts == 2 else NEVER)

    def drain(self, now: Instant) -> None:
        """Drain on a command: without a time limit, and with exit code 0."""
        self._drain(ExitCode.OK, NEVER)

    def orphaned(self, now: Instant) -> None:
        """The generator of this private pool is gone."""
        self._orphaned = True
        self._drain(ExitCode.TERMINATED, now.mono)

    def tick(self, now: Instant) -> None:
        """Exit once drained; stop running jobs when their time is up."""
        if self.exiting:
            return
        # Not before the last acknowledgement is stored: the outcomes of a batch that is kept would be sent again.
        if self._pool.config.private and self._pool.commits.idle and any(map(_is_over, self._pool.batches.values())):
            self._exit(ExitCode.OK, "All jobs completed. Shutting down workers...")
            return
        if not self._pool.draining:
            return
        if now.mono >= self._force_at_ns:
            self._force_at_ns = NEVER
            self._stop_running()
        # Their reports, or their workers' deaths, are still to come and to be stored.
        if self._pool.attempts:
            return
        self._set_exit_time(now)
        if self._all_delivered() or now.mono >= self._exit_at_ns:
            self._exit_drained()

    def next_deadline_ns(self) -> int:
        return min(self._force_at_ns, self._exit_at_ns)

    def _drain(self, code: ExitCode, force_at_ns: int) -> None:
        # The latest signal names the exit code: a second, harder one is the reason that the dealer ends as it does.
        self._code = code
        # A later signal can only shorten the time, never give back what an earlier one took.
        self._force_at_ns = min(self._force_at_ns, force_at_ns)
        if self._pool.draining:
            return
        self._pool.begin_drain()
        running = len(self._pool.attempts)
        self._pool.note(Level.INFO, Topic.DRAINING, running=running, queued=self._pool.pending - running)
        for worker in self._supervisor.workers.values():
            # What a worker has not received can still be taken from its queue, so it need not be waited for.
            if any(not frame.started for frame in worker.frames):
                self._supervisor.take_back(worker)

    def _stop_running(self) -> None:
        for worker in list(self._supervisor.workers.values()):
            if worker.state is WorkerState.BUSY:
                self._supervisor.stop(worker, StopReason.UNWANTED)

    def _set_exit_time(self, now: Instant) -> None:
        """Nothing runs any more. Readers get a moment, since what they miss is kept. The store gets as long as running
        jobs do, since what it misses is done again; but a full or dead disk must not hold the dealer."""
        pool = self._pool
        if self._store_wait_ends_ns == NEVER:
            self._store_wait_ends_ns = now.mono + max(READERS_WAIT_NS, pool.drain_timeout_ns)
        if pool.commits.idle or pool.disk_full:
            self._exit_at_ns = min(self._exit_at_ns, self._store_wait_ends_ns, now.mono + READERS_WAIT_NS)
        else:
            self._exit_at_ns = self._store_wait_ends_ns

    def _all_delivered(self) -> bool:
        pool = self._pool
        # The reader of a private pool is gone with its lifeline: there is none to give a moment to.
        return pool.commits.idle and (
            self._orphaned or not any(batch.unread for batch in pool.batches.values() if batch.client is not None)
        )

    def _exit_drained(self) -> None:
        # What is told depends on where it is left: in a journal for the next dealer, or nowhere.
        pending = self._pool.pending
        if not self._pool.commits.idle:
            text = "drained, but the journal's disk did not take all there was to store: what is missing runs again"
            self._exit(ExitCode.ENVIRONMENT, text)
        elif not pending:
            self._exit(ExitCode.OK, "drained: every accepted job is finished")
        elif self._pool.config.journaled:
            self._exit(ExitCode.OK, f"drained: {counted(pending, 'job is', 'jobs are')} kept in the journal")
        else:
            code = self._code if self._code is not ExitCode.OK else ExitCode.TERMINATED
            self._exit(code, f"drained: {counted(pending, 'accepted job')} did not run, lost as there is no journal")

    def _exit(self, code: ExitCode, text: str) -> None:
        self.exiting = True
        if code is ExitCode.OK:  # of what is wrong, the program's last line tells
            self._pool.note(Level.INFO, Topic.EXITING, text=text)
        self._pool.emit(Exit(code, text))


def _is_over(batch: Batch) -> bool:
    """Its reader has all of it and has just said so. A reader that comes back to a settled batch has not: it
    compares its jobs first."""
    return batch.settled and batch.confirmed
