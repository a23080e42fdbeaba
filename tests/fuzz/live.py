"""Hostile messages to a running dealer, through its real queues, while real generators run jobs.

    cd tests && python -m fuzz.live --messages 100000

The dealer must live and count what it drops, and every job must succeed. Left out is what is not hostile but a
wish: what may write into the queues is the pool's own user, and may drain it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random, SystemRandom
from signal import SIGTERM
from typing import Any

import posix_ipc

from fuzz.mutate import Mutator
from support.harness import DEADLINE_SECONDS, OK, Program, Stage, tell, until
from support.pages import free_port, samples
from taskpool.codec import decode, encode, encode_tasks
from taskpool.errors import MessageError
from taskpool.messages import (
    Accepted,
    Ack,
    Answer,
    Bye,
    Close,
    Command,
    End,
    Frame,
    Hello,
    JobSpec,
    Ping,
    Pong,
    Progress,
    Ready,
    Report,
    Spilled,
    Submit,
    Task,
    Welcome,
)

BELONGS: dict[str, tuple[type, ...]] = {
    "intake": (Submit, Close),
    "control": (Hello, Ack, Ping, Bye, Command),
    "events": (Ready, Progress),
}
JOBS = 40  # in each batch that runs meanwhile
FITS = 400  # bytes: the smallest of the queues
HUGE = 2**63 - 1
LINK, PIPE, FOLDER, LIAR = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)  # what lies in the spool under such a name


def honest(batch: str) -> list[Any]:
    """Whole messages with the wrong client, batch, epoch, incarnation, attempt or slot."""
    job = JobSpec("fib", b"\x05")
    reports = [Report(1, End.SUCCEEDED, b'"forged"'), Report(2, End.FAILED), Report(3, End.CRASHED)]
    from_strangers = [
        *(Hello(client, slot, 1, name) for client, slot, name in ((1, 31, None), (HUGE, 30, "x"), (7, 29, batch))),
        *(
            Submit(client, name, seq, [job])
            for client, name, seq in ((1, "x", 1), (HUGE, batch, 1), (1, batch, HUGE // 2**11))
        ),
        *(Close(client, name, total) for client, name, total in ((1, "x", 0), (HUGE, batch, 0), (1, batch, HUGE))),
        *(Ack(client, batch, upto) for client, upto in ((1, 1), (HUGE, HUGE))),
        *(Command(1, verb, batch, 1) for verb in ("status", "batch", "no-such-verb", "show")),
        *(Ping(1), Bye(1), Ping(HUGE), Bye(HUGE)),
    ]
    from_workers = [
        *(
            Ready(incarnation, epoch, 1, "0", ["fib"])
            for incarnation, epoch in ((1, 1), (1, 2), (999, 1), (HUGE, HUGE))
        ),
        *(Progress(incarnation, epoch, reports, 1) for incarnation, epoch in ((1, 0), (1, 2), (999, 1), (HUGE, HUGE))),
        Progress(1, 1, reports[:1]),  # of the right worker, on an attempt that has ended long ago
    ]
    from_dealers = [
        *(Welcome(1, 1, 1, "/"), Accepted(1, batch, HUGE), Pong(1), Answer(1, "status", True, b"{}")),
        Frame(1, 1, 1, 0, batch, encode_tasks([Task(1, 1, "fib", b"\x05")])),
    ]
    spilled = [
        Spilled(name, size, bytes(32)) for name in (LINK, PIPE, FOLDER, LIAR, "0" * 32) for size in (0, 9, 2**23)
    ]
    return [*from_strangers, *from_workers, *from_dealers, *spilled]


def evil(batch: str) -> list[bytes]:
    """No message at all, though made like one: names that lead out of the spool, numbers out of range."""
    bodies: list[list[Any]] = [
        *(
            [80, name, 9, bytes(32)]
            for name in ("../journal.db", "/etc/passwd", "a" * 31 + "/", "A" * 32, "", "0" * 31 + "\n")
        ),
        [80, "0" * 32, 2**40, bytes(32)],
        [80, "0" * 32, -1, bytes(32)],
        [2, 2**64 - 1, batch, 1, [["fib", b"\x05"]]],
        [1, 1, 32, 1, "0", batch],
        [61, 1, 1, [[1, "no-such-end"]], 1],
        [61, -1, 1, [], 1],
        [5, 2**63],
    ]
    import msgspec

    return [b"\x01" + msgspec.msgpack.encode(body) for body in bodies]


class Stream:
    """Messages for one queue after the other, the same ones for the same seed, and how many must be dropped."""

    def __init__(self, seed: int, batch: str) -> None:
        self.dropped_min: Counter[str] = Counter()
        self._random = Random(seed)
        whole = [encode(message) for message in honest(batch)]
        self._ready = [*whole, *evil(batch)]
        self._mutator = Mutator([data for data in whole if len(data) <= FITS], self._random, prefix=1)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for number in itertools.count():
            role = ("intake", "control", "events")[number % 3]
            data = self._one()[:FITS]
            if self._is_refused(role, data):
                self.dropped_min[role] += 1
            yield role, data

    def _one(self) -> bytes:
        lot = self._random.random()
        if lot < 0.3:
            return self._ready[int(self._random.random() * len(self._ready))]
        if lot < 0.85:
            return self._mutator.next()
        return b"\x01" * (lot < 0.92) + self._random.randbytes(int(self._random.random() * FITS / 2))

    def _is_refused(self, role: str, data: bytes) -> bool:
        try:
            return not isinstance(decode(data), BELONGS[role])
        except MessageError:
            return True


class Live:
    """The pool under fire."""

    def __init__(self, stage: Stage, seed: int, most: int) -> None:
        self.stage = stage
        self.most = most
        self.sent = 0
        self.batches = 0
        self._stream = Stream(seed, "fuzz1")
        self._port = free_port()

    def run(self) -> None:
        dealer = self.stage.dealer("--workers", 2, "--metrics", f"127.0.0.1:{self._port}", "-q", "-q", ready=0)
        self._next_batch().ends(OK)  # attempts 1 and 2 are long over when a report on them comes
        self._lay_traps()
        generator = self._next_batch()
        queues = {role: posix_ipc.MessageQueue(f"/tp.{self.stage.pool}.{role}", read=False) for role in BELONGS}
        try:
            for role, data in itertools.islice(self._stream, self.most):
                queues[role].send(data, timeout=DEADLINE_SECONDS)
                self.sent += 1
                if self.sent % 100 == 0 and generator.popen.poll() is not None:
                    self._check(generator)
                    generator = self._next_batch()
        finally:
            for queue in queues.values():
                queue.close()
        self._check(generator)
        self._check(self._next_batch())  # and it still serves
        wanted = self._stream.dropped_min.total()
        until(lambda: self.refused() >= wanted, f"{wanted} messages that are counted as refused")
        assert dealer.popen.poll() is None
        dealer.send(SIGTERM)
        dealer.ends(OK)

    def refused(self) -> float:
        return sum(samples(self._port, "taskpool_submissions_refused_total").values())

    def _next_batch(self) -> Program:
        self.batches += 1
        words = ["fib", "10-14", "--repeat", JOBS // 5, "--pool", self.stage.pool, "--batch", f"fuzz{self.batches}"]
        return self.stage.generator(*words, "--progress", "none", "--output", "json", "--crash-limit", "unlimited")

    def _check(self, generator: Program) -> None:
        jobs = generator.ends(OK, 4 * DEADLINE_SECONDS).objects()
        assert len(jobs) == JOBS, f"{len(jobs)} outcomes"
        assert {(job["state"], job["value"]) for job in jobs} == {("succeeded", n) for n in (55, 89, 144, 233, 377)}

    def _lay_traps(self) -> None:
        spool = Path(os.environ["XDG_STATE_HOME"], "taskpool", self.stage.pool, "spool")
        (spool / LINK).symlink_to("/etc/passwd")
        os.mkfifo(spool / PIPE)
        (spool / FOLDER).mkdir()
        (spool / LIAR).write_bytes(b"x" * 100)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32))
    args = parser.parse_args()
    tell(f"seed {args.seed}")
    with tempfile.TemporaryDirectory(prefix="tp-fuzz-live-") as name:
        os.environ["XDG_STATE_HOME"] = f"{name}/state"
        began = time.monotonic()
        with Stage(f"fuzz{os.getpid()}", Path(name)) as stage:
            live = Live(stage, args.seed, args.messages)
            live.run()
        seconds = time.monotonic() - began
    dropped = live._stream.dropped_min
    tell(
        f"{live.sent:,} messages in {seconds:.0f} s, {live.sent / seconds:,.0f} a second, to {dict(dropped)} no message"
    )
    tell(f"{live.batches} batches of {JOBS} jobs succeeded meanwhile; the dealer lived")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
