"""A dealer of a few lines, over the kernel's queues and a real spool: what a client is tested against."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from taskpool.codec import decode, encode
from taskpool.errors import QueueEmpty, QueueMissing, TaskpoolError
from taskpool.ipc import names
from taskpool.ipc.mqueue import KernelNamespace
from taskpool.ipc.queue import QueueEnd
from taskpool.ipc.sizing import Shape
from taskpool.ipc.spool import Spool
from taskpool.messages import (
    Accepted,
    Answer,
    Close,
    Command,
    Hello,
    JobSpec,
    Message,
    Outcome,
    Outcomes,
    Ping,
    Pong,
    Refused,
    State,
    Submit,
    Welcome,
)

DEADLINE_S = 20.0


class FakeDealer:
    """Accepts everything and finishes it at once. Tests replace its methods to make it misbehave."""

    def __init__(self, pool: str, directory: Path) -> None:
        self.pool = pool
        self.namespace = KernelNamespace()
        self.spool = Spool(directory / "spool")
        self.spool.sweep()
        self.intake: QueueEnd = self.namespace.create(names.intake(pool), Shape(4, 512))
        self.control: QueueEnd = self.namespace.create(names.control(pool), Shape(4, 512))
        self.replaced: list[QueueEnd] = []
        self.reply: QueueEnd | None = None
        self.client = 0
        self.batch = ""
        self.epoch = 1
        self.accepted = 0
        self.total: int | None = None
        self.outcomes: list[Outcome] = []
        self.seen: list[Message] = []
        self.answer_nothing = False  # commands are heard and forgotten
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.thread.start()

    def close(self) -> None:
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join(DEADLINE_S)
        for name in (names.intake(self.pool), names.control(self.pool)):
            self.namespace.unlink(name)
        for queue in (self.intake, self.control, self.reply, *self.replaced):
            if queue is not None:
                queue.close()

    def replace_queues(self) -> None:
        """As a dealer that died and was started again: what lies in its queues is lost."""
        self.epoch += 1
        old = (self.intake, self.control)
        for queue in old:
            queue.unlink()
        self.intake = self.namespace.create(names.intake(self.pool), Shape(4, 512))
        self.control = self.namespace.create(names.control(self.pool), Shape(4, 512))
        self.replaced += old

    def hears(self, kind: type) -> None:
        """Waits until it has read such a message: its sender may have gone on, or have ended, long before."""
        deadline = time.monotonic() + DEADLINE_S
        while not any(isinstance(message, kind) for message in self.seen):
            assert time.monotonic() < deadline, f"no {kind.__name__} within {DEADLINE_S:g} s"
            time.sleep(0.001)

    def _run(self) -> None:
        while not self.stop.wait(0.002):
            for queue in (self.control, self.intake):
                with suppress(QueueEmpty):
                    while True:
                        message = self.spool.unpack(decode(queue.receive()))
                        self.seen.append(message)
                        self.hear(message)

    def hear(self, message: Message) -> None:
        match message:
            case Hello():
                self.hello(message)
            case Submit():
                self.submit(message)
            case Close():
                self.total = message.total
                self.say(Accepted(self.client, self.batch, self.accepted, closed=True))
            case Ping():
                self.say(Pong(self.client))
            case Command() if not self.answer_nothing:
                self.say(Answer(self.client, message.verb, True, self.answer(message)))
            case _:
                pass

    def hello(self, hello: Hello) -> None:
        with suppress(QueueMissing):
            queue = self.namespace.open(names.reply(self.pool, hello.slot), send=True, receive=False)
            if self.reply is not None:
                self.reply.close()
            self.reply = queue
        self.client, self.batch = hello.client, hello.batch or ""
        self.say(
            Welcome(
                client=self.client,
                epoch=self.epoch,
                pid=os.getpid(),
                spool=str(self.spool.directory),
                accepted=self.accepted,
                last_no=len(self.outcomes),
                total=self.total,
            )
        )
        self.tell(self.outcomes[hello.cursor :])

    def submit(self, message: Submit) -> None:
        if message.first_seq != self.accepted + 1:
            self.say(Refused(self.client, self.batch, message.first_seq, self.accepted + 1, "gap", "a gap"))
            return
        new = []
        for seq, job in enumerate(message.jobs, message.first_seq):
            self.accepted = seq
            if (outcome := self.finish(seq, job)) is not None:
                new.append(outcome)
        self.outcomes += new
        self.say(Accepted(self.client, self.batch, self.accepted))
        self.tell(new)

    def finish(self, seq: int, job: JobSpec) -> Outcome | None:
        return outcome(seq, seq, job.kind, value=b"%d" % seq)

    def tell(self, outcomes: list[Outcome]) -> None:
        for at in range(0, len(outcomes), 3):
            self.say(Outcomes(self.client, self.batch, outcomes[at : at + 3]))

    def answer(self, command: Command) -> bytes:
        return b'{"worker_respawns": 5, "workers_wanted": 1}'

    def say(self, message: Message) -> None:
        assert self.reply is not None
        data = self.spool.pack(encode(message), self.reply.msgsize)
        deadline = time.monotonic() + 1.0  # then it is lost, as it may be
        while not self.stop.is_set() and time.monotonic() < deadline:
            with suppress(TaskpoolError):
                self.reply.send(data)
                return
            self.stop.wait(0.001)


def outcome(no: int, seq: int, kind: str = "fib", state: State = State.SUCCEEDED, **changes: object) -> Outcome:
    fields = {"no": no, "seq": seq, "run": 1, "kind": kind, "label": None, "state": state, "attempts": 1, "crashes": 0}
    return Outcome(**{**fields, **changes})  # type: ignore[arg-type]
