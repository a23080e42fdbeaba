"""The Celery application, for its workers and for who submits; as durable as Celery can be."""

from __future__ import annotations

import os

import celery

from bench.peers import killer, work

# The redis-server of the bench, which syncs each write to the disk before it answers.
BROKER = os.environ["TP_BENCH_REDIS"]

app = celery.Celery("bench", broker=BROKER, backend=BROKER)
app.conf.update(
    task_acks_late=True,  # taken off the queue only when its end is known
    task_reject_on_worker_lost=True,  # and back on it when its worker was killed
    broker_connection_retry_on_startup=True,
)

nothing = app.task(work.nothing, name="nothing")
die_once = app.task(killer.die_once, name="die_once")
