"""The pool that an Executor uses: its own dealer or a named one, and the connection with it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from taskpool import limits
from taskpool.client.connection import Connection, DealerEnded, TurnHandler
from taskpool.client.opening import new_client_id, open_connection
from taskpool.client.queries import BatchQueries
from taskpool.client.session import ConnectTimeouts, SessionOptions
from taskpool.clock import AwakeClock, SystemClock
from taskpool.executor.known import KnownCalls
from taskpool.executor.options import PoolOptions
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.log import Fact
from taskpool.messages import State
from taskpool.private.forget import forget_expired
from taskpool.private.notes import Summary
from taskpool.private.process import LaunchOptions, PrivateDealer, wait_for_predecessor
from taskpool.private.state import Beginning, PrivateState
from taskpool.procs.prctl import require_pidfds
from taskpool.procs.state_dir import CALLS_NAME

_log = logging.getLogger("taskpool")


class LogNotices:
    """Says it with the program's own logging, as the logger `taskpool`."""

    def detail(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        _log.debug("%s", text)

    def info(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        _log.info("%s", text)

    def notice(self, text: str) -> None:
        _log.info("%s", text)

    def warning(self, text: str, fields: Mapping[str, Fact] | None = None) -> None:
        _log.warning("%s", text)


class Link:
    """One batch in one pool. `renew` begins another one, when this one is lost."""

    def __init__(self, options: PoolOptions) -> None:
        """Start the dealer, if it is to be a private one. Raises TaskpoolError, OSError."""
        self._options = options
        self._notices = LogNotices()
        self.clock = AwakeClock(SystemClock())
        self.connection: Connection | None = None
        self.private: PrivateDealer | None = None
        self.known: KnownCalls | None = None
        self._open()

    @property
    def durable(self) -> bool:
        """Whether another run of the program goes on with the batch."""
        return self._options.journal

    @property
    def home(self) -> Path:
        """The pool's state directory. Of a named pool it is known once there is a connection."""
        if self.private is not None:
            return self.private.state.directory
        assert self.connection is not None and self.connection.session.welcome is not None
        return Path(self.connection.session.welcome.spool).parent

    def _open(self) -> None:
        self.batch = self._options.batch or f"py-{os.urandom(8).hex()}"
        if self._options.pool is not None:
            return
        require_pidfds()  # to hold its dealer by
        if self.durable:
            forget_expired(SystemClock().now().wall)
        journal = None if self.durable else "none"
        beginning = Beginning(named=self.durable)
        state = PrivateState(self.batch, journal, resume=self.durable, beginning=beginning)
        try:
            if self.durable:
                wait_for_predecessor(state, self._notices)
                self.known = KnownCalls(state.directory / CALLS_NAME)
            self.private = PrivateDealer(state, self._launch(), KernelNamespace(), self._notices)
        except BaseException:
            self.let_go()
            state.close()
            raise

    def _launch(self) -> LaunchOptions:
        words = ["--metrics=none", "-q"]
        if self._options.workers is not None:
            words.append(f"--workers={self._options.workers}")
        if self._options.worker_exec is not None:
            words.append(f"--worker-exec={self._options.worker_exec}")
        return LaunchOptions(tuple(words))

    def connect(self, handler: TurnHandler) -> Connection:
        """Return a connection that is about the batch; of a durable one, look first what is there of it.

        Raises TaskpoolError.
        """
        private = self.private is not None
        options = SessionOptions(
            pool=self.private.pool if self.private is not None else self._options.pool or "",
            client=new_client_id(),
            pid=os.getpid(),
            batch=self.batch,
            limits=self._options.limits,
            # A private dealer was just started: it comes, however loaded the machine is.
            timeouts=ConnectTimeouts(connect_ns=limits.BOOT_NS_MAX) if private else ConnectTimeouts(),
            private=private,
            resume=self.durable,
            extend=self.durable,
        )
        cursor = self._recall(options, handler) if self.known is not None else 0
        if self.private is not None:
            self.private.state.begin_run()
        self.connection = self._connection(options, cursor=cursor)
        return self.connection

    def _recall(self, options: SessionOptions, handler: TurnHandler) -> int:
        """Read the outcomes that an earlier run has acknowledged, which are not sent again; return how many."""
        assert self.known is not None
        queries = BatchQueries(self._connection(options, collect_pages=True), self.clock, handler)
        try:
            status = queries.batch(self.batch)
            last = 0 if status is None else status.acknowledged
            for outcome in queries.outcomes(self.batch, 0, last):
                self.known.outcomes[outcome.seq] = outcome
        except DealerEnded:
            queries.close(goodbye=False)
            raise
        except BaseException:
            queries.close()
            raise
        # As the same client: until the next hello the dealer lets no other one have the batch.
        queries.close(goodbye=False)
        return last

    def _connection(self, options: SessionOptions, *, cursor: int = 0, collect_pages: bool = False) -> Connection:
        import msgspec

        changed = msgspec.structs.replace(options, cursor=cursor, collect_pages=collect_pages)
        return open_connection(changed, self._notices, self.clock, self.private)

    def renew(self) -> None:
        """Begin anew in another batch: what this one had is lost. Raises TaskpoolError, OSError."""
        self.close()
        self._open()

    def conclude(self, states: dict[State, int], *, complete: bool) -> None:
        """Note what became of a batch that is kept, for `tp-generator batches`. Raises ConfigurationError."""
        if self.durable and self.private is not None:
            self.private.note_batch_known()
            counts = {str(state): count for state, count in states.items() if count}
            self.private.state.conclude(Summary(sum(counts.values()), counts, complete, SystemClock().now().wall))

    def close(self) -> None:
        """Leave the pool; a private dealer ends. May be called twice."""
        if self.connection is not None:
            if self.private is None:  # a private dealer needs no goodbye: it goes with its lifeline
                self.connection.leave()
            self.connection.close()
            self.connection = None
        if self.private is not None:
            if self.durable:
                self.private.note_batch_known()  # what was accepted is there for another run
            self.private.expect_exit()
            self.private.close()
            self.private = None
        if self.known is not None:
            self.known.close()
            self.known = None

    def let_go(self) -> None:
        """Close what a forked child has of it, and leave the pool to its parent."""
        if self.private is not None:
            self.private.let_go()
        if self.known is not None:
            self.known.close()
        self.connection = self.private = self.known = None

    def explain_end(self) -> str | None:
        """Return why the private dealer has ended by itself; None: it was killed, or lives."""
        ended = None if self.private is None else self.private.poll()
        if ended is None or ended.status is None:
            return None
        return f"its dealer ended with exit status {ended.status}, and has said why on standard error"
