"""How outcomes reach the generator that holds their batch: sent within a window, acknowledged, read back, let go."""

from __future__ import annotations

from taskpool.core.batch import Batch
from taskpool.core.effects import Reply
from taskpool.core.entries import Acknowledged, BatchForgotten
from taskpool.core.state import PoolState
from taskpool.core.storage import LoadOutcomes, OutcomesLoaded
from taskpool.messages import Ack, Outcomes, Refused


class Delivery:
    """Sends what is stored, and keeps a batch until its reader has all of it."""

    def __init__(self, pool: PoolState) -> None:
        self._pool = pool
        self._reads: dict[tuple[str, int], LoadOutcomes] = {}  # by batch, or by the client that wants a page
        self._reading = False

    def acknowledge(self, ack: Ack) -> None:
        """Record what the reader has safely, and send more."""
        batch = self._pool.batch_held_by(ack.client, ack.batch)
        if batch is not None and batch.acknowledge(ack.upto):
            self._pool.commits.add(Acknowledged(batch.name, ack.upto))
            self.deliver(batch)

    def deliver(self, batch: Batch) -> None:
        """Send what is stored and fits the reader's window; read back what lies further behind."""
        client = batch.client
        if client is None:
            return
        if items := batch.take_unsent():
            self._pool.emit(Reply(client.id, Outcomes(client.id, batch.name, items)))
        # One read of a batch at a time: what it returns decides where the next one begins.
        if wanted := batch.begin_reload():
            self.read(LoadOutcomes(batch.name, batch.sent, wanted))

    def read(self, request: LoadOutcomes) -> None:
        """Ask the store for outcomes; one answer at a time, since each may take megabytes. A client that asks for a
        page anew does not wait for the last one."""
        self._reads["" if request.reader else request.batch, request.reader] = request
        self._read_next()

    def _read_next(self) -> None:
        if self._reads and not self._reading:
            self._reading = True
            self._pool.emit(self._reads.pop(next(iter(self._reads))))

    def outcomes_loaded(self, event: OutcomesLoaded) -> None:
        """Send outcomes read back from the store."""
        self._reading = False
        self._send_loaded(event)
        self._read_next()

    def _send_loaded(self, event: OutcomesLoaded) -> None:
        if event.reader:  # a page that a command asked for
            page = Outcomes(event.reader, event.batch, event.items)
            self._pool.emit(Reply(event.reader, page, whole=True))
            return
        batch = self._pool.batches.get(event.batch)
        if batch is None:
            return
        batch.end_reload(event.items)
        if event.items:
            self.deliver(batch)
        elif batch.client is not None:  # reading again would loop, and without an answer it would wait without end
            text = f"outcomes of batch {batch.name} from number {batch.sent + 1} on are not kept any more (--retain)"
            self._pool.refuse(Refused(batch.client.id, batch.name, 0, 0, "gone", text))

    def forget_if_done(self, batch: Batch) -> None:
        """Let go of a batch that has nothing left to do. A journal keeps it for its retention and finds it again when
        asked; memory does not. A job in quarantine may run again: its batch stays."""
        journaled = self._pool.config.journaled
        # In memory outcomes are all there is, so there the reader must have them first.
        done = batch.at_rest if journaled else batch.settled and batch.client is None
        if done and not self._pool.has_quarantined(batch):
            self.forget(batch)

    def forget(self, batch: Batch) -> None:
        """Drop the batch from memory, and without a journal from the store too."""
        del self._pool.batches[batch.name]
        if not self._pool.config.journaled:
            self._pool.commits.add(BatchForgotten(batch.name))
