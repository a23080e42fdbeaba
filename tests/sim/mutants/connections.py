"""Planted bugs in what generators are told, and what is kept for them."""

from __future__ import annotations

from sim.mutants.plan import mutant

CONNECTIONS = (
    mutant(
        "one outcome too many is under way to its reader",
        "I6",
        "core/batch.py",
        "        return limits.OUTCOMES_IN_FLIGHT_MAX - (self.sent - self.acknowledged)\n",
        "        return limits.OUTCOMES_IN_FLIGHT_MAX + 1 - (self.sent - self.acknowledged)\n",
    ),
    mutant(
        "a welcome tells the end of a batch before it is stored",
        "R1",
        "core/clients.py",
        "total=batch.total if batch is not None and batch.total_stored else None,",
        "total=batch.total if batch is not None else None,",
    ),
    mutant(
        "an outcome of a job that another generator left in the queues is passed over",
        "I2",
        "client/deliveries.py",
        (
            "            if outcome.no > self.cursor + 1 or outcome.seq > seq_max:\n"
            "                self.gaps += 1\n"
            "                return outcome.no\n"
            "            self.cursor = outcome.no\n"
            "            self.gaps = 0\n"
            "            self._held_back.append(outcome)\n"
        ),
        (
            "            if outcome.no > self.cursor + 1:\n"
            "                self.gaps += 1\n"
            "                return outcome.no\n"
            "            self.cursor = outcome.no\n"
            "            if outcome.seq <= seq_max:\n"
            "                self._held_back.append(outcome)\n"
        ),
    ),
    mutant(
        "spool files of a connection that is over stay",
        "I6",
        "dealer/reply_queues.py",
        ("            for data in (*queue.sent, *queue.waiting):\n                self._spool.discard(data)\n"),
        "",
    ),
    mutant(
        "a batch that its reader leaves stays in memory",
        "I6",
        "core/clients.py",
        ("            batch.detach()\n            self._delivery.forget_if_done(batch)\n"),
        "            batch.detach()\n",
    ),
    mutant(
        "a batch that is held looks unused to the journal",
        "I1",
        "core/clients.py",
        "        elif now.mono >= self._note_held_mono_ns:\n",
        "        elif now.mono >= self._note_held_mono_ns + limits.RETAIN_NS:\n",
    ),
    mutant(
        "the spool is swept before its reports are read",
        "I7",
        "dealer/dealer.py",
        "        restored = takeover.restore(store, queues, spool)\n",
        ("        spool.sweep()\n        restored = takeover.restore(store, queues, spool)\n"),
    ),
)
