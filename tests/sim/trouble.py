"""What comes out of the blue: kills, stops, garbage, thieves, people with wishes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.generators import Batch, Commander
from sim.host import POOL, SimHost
from sim.journal_model import ENDED_BADLY
from sim.platform import LAYOUT
from sim.queues import SimQueueEnd
from taskpool.clock import MILLISECOND, SECOND
from taskpool.codec import PROTOCOL_VERSION, encode
from taskpool.errors import MessageTooLong, QueueExists, QueueFull, QueueMissing
from taskpool.ipc import names
from taskpool.messages import (
    Accepted,
    Ack,
    Close,
    Command,
    End,
    Frame,
    Hello,
    JobSpec,
    Message,
    Ping,
    Progress,
    Ready,
    Report,
    Spilled,
    State,
    Submit,
)

if TYPE_CHECKING:
    from sim.jobs import Planned
    from sim.worker import WorkerProcess

HOUR_NS = 3600 * SECOND
QUEUES = (names.intake(POOL), names.control(POOL), names.events(POOL))


class Trouble:
    """Draws what happens, and does it."""

    def __init__(self, host: SimHost, batches: list[Batch], mean_ns: int, *, durable: bool) -> None:
        self._durable = durable
        self._host = host
        self._world = host.world
        self._batches = batches
        self._mean_ns = mean_ns
        self._deeds: dict[str, Callable[[], None]] = {
            "worker_killed": lambda: self._worker_dies(9),
            "worker_segfaults": lambda: self._worker_dies(11),
            "worker_stopped": self._stop_worker,
            "dealer_killed": self._end_dealer,
            "dealer_stalls": self._stall_dealer,
            "pool_paused": self._pause_pool,
            "dealer_told_to_drain": lambda: self._signal("TERM"),
            "dealer_told_to_stop": lambda: self._signal("QUIT"),
            "dealer_interrupted": lambda: self._signal("INT"),
            "both_killed": self._kill_both,
            "reboot": self._reboot,
            "wall_jumps": self._jump,
            "queue_unlinked": self._unlink,
            "message_stolen": self._steal,
            "garbage": self._throw_garbage,
            "stranger_says_hello": self._stranger,
            "generator_dies": self._kill_generator,
            "generator_stopped": self._stop_generator,
            "batch_cancelled": self._cancel_batch,
            "job_cancelled": self._cancel_job,
            "requeued": lambda: self._parked("quarantine-requeue"),
            "rerun": self._rerun,
            "scaled": lambda: self._command("scale", number=self._world.rng.choice((-1, 1))),
            "paused": self._pause,
            "quarantine_dropped": lambda: self._parked("quarantine-drop"),
            "signal_for_more_workers": lambda: self._signal(self._world.rng.choice(("TTIN", "TTOU", "USR1", "HUP"))),
        }
        self.may_be_paused = False
        host.cancel = self._cancel_while_it_runs

    def start(self) -> None:
        self._world.at(self._world.now_ns + self._gap_ns(), self._strike)

    def _gap_ns(self) -> int:
        return 1 + int(self._world.rng.expovariate(1.0) * self._mean_ns)

    def _strike(self) -> None:
        if self._world.faults.calm:
            return
        name = self._world.faults.draw_sudden()
        if name is not None:
            self._world.note(name)
            self._deeds[name]()
        self._world.at(self._world.now_ns + self._gap_ns(), self._strike)

    # --- workers ---

    def _any_worker(self) -> WorkerProcess | None:
        return self._world.rng.choice(self._host.workers) if self._host.workers else None

    def _worker_dies(self, signal: int) -> None:
        worker = self._any_worker()
        if worker is not None:
            worker.kill(signal, self._world.faults.amount(1_000, 200_000))

    def _stop_worker(self) -> None:
        worker = self._any_worker()
        if worker is not None:
            worker.stop(self._world.faults.amount(MILLISECOND, 30 * SECOND))

    # --- the dealer ---

    def _end_dealer(self) -> None:
        if self._host.dealer is not None:
            self._host.dealer.doomed = True

    def _kill_both(self) -> None:
        self._worker_dies(9)
        self._end_dealer()

    def _reboot(self) -> None:
        for batch in self._batches:
            if batch.process is not None:
                batch.process.end(signal=9)
        if self._host.dealer is not None:
            self._host.dealer.doomed = self._host.dealer.rebooting = True
        else:
            self._host.reboot()
        self._jump()

    def _stall_dealer(self) -> None:
        if self._host.dealer is not None:
            self._host.dealer.stall_ns = self._world.faults.amount(10 * MILLISECOND, 40 * SECOND)

    def _pause_pool(self) -> None:
        self._host.pause_pool(self._world.faults.amount(10 * MILLISECOND, 40 * SECOND))

    def _signal(self, name: str) -> None:
        if self._host.dealer is not None:
            self._host.dealer.signal(name)

    def _jump(self) -> None:
        self._world.wall_ahead_ns += self._world.between(-24 * HOUR_NS, 24 * HOUR_NS)

    # --- queues ---

    def _steal(self) -> None:
        """A second reader of intake or control: the messages are gone, and nobody is told."""
        try:
            end = self._host.namespace.open(self._world.rng.choice(QUEUES[:2]), send=False, receive=True)
        except QueueMissing:
            return
        if end.depth():
            end.receive()

    def _unlink(self) -> None:
        """Without a journal the events queue is spared: workers that find none end a private pool."""
        name = self._world.rng.choice(QUEUES)
        if self._durable or name != QUEUES[2]:
            self._host.namespace.unlink(name)

    def _throw_garbage(self) -> None:
        rng = self._world.rng
        try:
            end = self._host.namespace.open(rng.choice(QUEUES), send=True, receive=False)
        except QueueMissing:
            return
        for worker in self._host.workers:
            worker.distrusted = worker.distrusted or worker.mark[1] == 1  # some garbage is said in its name
        for _ in range(self._world.between(1, 4)):
            self._throw(end)

    def _throw(self, end: SimQueueEnd) -> None:
        data = self._garbage()
        try:
            end.send(data[: end.msgsize])
        except (QueueFull, MessageTooLong):
            return

    def _garbage(self) -> bytes:
        rng, batch = self._world.rng, self._world.rng.choice(self._batches)
        client = batch.process.client if batch.process is not None else 7
        pid = self._host.workers[0].pid if self._host.workers else 1
        epoch = self._host.disk.epoch
        incarnation, n = self._host.oracle.some_attempt(epoch)
        kept = self._host.disk.journal_model.batches.get(batch.name)
        accepted = kept.accepted if kept is not None else 0
        message: object = rng.choice(
            (
                rng.randbytes(rng.randrange(40)),
                b"",
                b"\x01" + rng.randbytes(12),
                Submit(7, "nobodys", 1, [JobSpec("fib", b"\x07")]),
                Submit(7, batch.name, 1, [JobSpec("fib", b"nonsense")]),
                Submit(7, batch.name, 1, [JobSpec("unheard_of", b"")]),
                Submit(7, batch.name, accepted + 1, [JobSpec("fib", b"\x07")]),
                Submit(client, batch.name, 2**40, [JobSpec("fib", b"\x07")]),
                Close(client, batch.name, 2**40),
                Close(7, "nobodys", 1),
                Ack(client, batch.name, 10**6),
                Ack(7, batch.name, 1),
                Ping(7),
                Command(7, "status"),
                Command(client, "no-such-verb"),
                Hello(7, 31, 7, "nobodys"),
                Accepted(client, batch.name, 10**6),
                Frame(epoch, 1, 1, 0, batch.name, b"\x90"),  # type: ignore[arg-type]
                Ready(1, epoch, pid + 50, "1", []),
                Ready(10**6, epoch, 1, "1", []),
                _of_a_later_version(Ready(1, epoch, pid + 50, "1", [])),
                _of_a_later_version(Ready(10**6, epoch, 1, "1", [])),
                _of_a_later_version(Hello(7, 31, 7)),
                Progress(incarnation, epoch + 7, [Report(n, End.SUCCEEDED)], 0),
                Progress(incarnation, epoch + 7, [], n),
                Progress(incarnation, epoch + 7, [Report(n, End.SUCCEEDED)], n),
                Progress(10**6, epoch, [Report(10**7, End.SUCCEEDED)], 1),
                Progress(1, epoch, [], 10**7),
                Spilled("0" * 32, 10, b"0" * 32),
            )
        )
        return message if isinstance(message, bytes) else encode(message)

    def _stranger(self) -> None:
        """Another generator that wants somebody's batch, or only asks; then it is silent."""
        batch = self._world.rng.choice(self._batches)
        name = batch.name if self._world.chance(0.7) else None
        slot = self._world.between(20, 29)
        client = self._host.new_pid()
        if name is not None:
            self._host.oracle.batch_of[client] = name
        try:
            control = self._host.namespace.open(names.control(POOL), send=True, receive=False)
            self._host.namespace.create(names.reply(POOL, slot), LAYOUT.reply).hold()
            control.send(encode(Hello(client, slot, client, name, batch.limits)))
        except (QueueExists, QueueMissing, QueueFull):
            self._host.namespace.unlink(names.reply(POOL, slot))

    # --- generators, and people ---

    def _any_generator(self) -> Batch:
        return self._world.rng.choice(self._batches)

    def _kill_generator(self) -> None:
        process = self._any_generator().process
        if process is not None:
            process.end(signal=9)

    def _stop_generator(self) -> None:
        process = self._any_generator().process
        if process is not None:
            process.stop(self._world.faults.amount(10 * MILLISECOND, 60 * SECOND))

    def _command(self, verb: str, batch: str | None = None, seq: int = 0, number: int = 0) -> None:
        Commander(self._host, POOL, verb, batch, seq, number)

    def _cancel_batch(self) -> None:
        batch = self._any_generator()
        for job in batch.jobs:
            job.cancel_asked = True
        self._command(self._world.rng.choice(("cancel", "cancel-waiting")), batch.name)

    def _cancel_while_it_runs(self, job: Planned) -> None:
        """A person is quick: the job, or what waits of its batch, which may be its own next try."""
        if self._world.chance(0.5):
            job.cancel_asked = True
            self._command("cancel", job.batch, job.seq)
            return
        for each in self._host.jobs_of(job.batch, 0):
            each.cancel_asked = True
        self._command("cancel-waiting", job.batch)

    def _cancel_job(self) -> None:
        job = self._world.rng.choice(self._any_generator().jobs)
        job.cancel_asked = True
        self._command("cancel", job.batch, job.seq)

    def _parked(self, verb: str) -> None:
        """Somebody decides about a job in quarantine."""
        parked = [kept.job for kept in self._host.disk.journal_model.jobs.values() if kept.state is State.QUARANTINED]
        if parked:
            job = self._world.rng.choice(parked).record
            self._host.job(job.batch, job.seq).requeue_asked = True
            self._command(verb, job.batch, job.seq)

    def _rerun(self) -> None:
        """Somebody wants jobs again that have ended badly: one, or all of its batch."""
        ended = [kept.job for kept in self._host.disk.journal_model.jobs.values() if kept.state in ENDED_BADLY]
        if ended:
            job = self._world.rng.choice(ended).record
            # Seldom the whole batch: of a job that was asked for again, less can be judged.
            seq = 0 if self._world.chance(0.2) else job.seq
            for each in self._host.jobs_of(job.batch, seq):
                each.requeue_asked = True
            self._command("rerun" if seq == 0 else self._world.rng.choice(("requeue", "rerun")), job.batch, seq)

    def _pause(self) -> None:
        self.may_be_paused = True
        self._command("pause")

    def end_of_pause(self) -> None:
        """In calm times nothing stays paused, or scaled away."""
        if self.may_be_paused:
            self._command("unpause")


def _of_a_later_version(message: Message) -> bytes:
    return bytes([PROTOCOL_VERSION + 1]) + encode(message)[1:]
