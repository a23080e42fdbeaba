"""Commands to a running pool: one question, one answer."""

from __future__ import annotations

import re
import select
from typing import NamedTuple

import msgspec

from taskpool import limits
from taskpool.client.connection import Connection
from taskpool.clock import Clock
from taskpool.durations import human
from taskpool.errors import DealerUnreachable, UsageError
from taskpool.generator.output.stream import OutputStream
from taskpool.generator.present import present
from taskpool.messages import Answer
from taskpool.procs.signals import Wakeup

_BATCH = re.compile(limits.BATCH_ID_PATTERN)
_SCALE = re.compile(r"[+-]\d{1,4}", re.ASCII)


class Wish(NamedTuple):
    """What a person wants of a pool; see `messages.Command`."""

    verb: str
    batch: str | None = None
    seq: int = 0  # 0: the whole batch
    number: int = 0


def ask(connection: Connection, wish: Wish, clock: Clock, wakeup: Wakeup, patience_ns: int) -> Answer:
    """The dealer's answer. Raises DealerUnreachable when none comes in time, and Interrupted."""
    session = connection.session
    session.command(*wish)
    give_up_at: int | None = None
    while not session.answers:
        now = clock.now().mono
        connection.receive(now)
        connection.send(now)
        if give_up_at is None and session.welcome is not None:
            give_up_at = now + patience_ns
        if give_up_at is not None and not session.answers and (session.connecting or now >= give_up_at):
            # Not asked again: a `scale +1` that was heard and not answered would count twice.
            raise DealerUnreachable(
                f"the dealer of pool {session.pool!r} did not answer {wish.verb!r} within {human(patience_ns)}"
            )
        if not session.answers:
            deadline = connection.next_deadline()
            connection.wait(wakeup, (min(deadline, give_up_at) if give_up_at else deadline) - now)
    session.leave()
    connection.send(clock.now().mono)
    return session.answers.popleft()


def parse_target(text: str, *, whole_batch: bool) -> tuple[str, int]:
    """`BATCH/SEQ`, or (if allowed) `BATCH`, which is its job 0. Raises UsageError."""
    batch, slash, seq = text.rpartition("/") if "/" in text else (text, "", "")
    number = int(seq) if seq.isascii() and seq.isdecimal() and len(seq) <= 16 else 0
    if not _BATCH.match(batch) or bool(slash) != (1 <= number <= limits.JOB_SEQ_MAX) or not (slash or whole_batch):
        expected = "BATCH or BATCH/NUMBER" if whole_batch else "a job as BATCH/NUMBER"
        raise UsageError(f"expected {expected}, got {text!r}")
    return batch, number


def parse_scale(text: str) -> int:
    """`+2` or `-1`. Raises UsageError."""
    if not _SCALE.fullmatch(text) or int(text) == 0:
        raise UsageError(f"scale: expected +N or -N, how many workers more or fewer, got {text!r}")
    return int(text)


def tell(answer: Answer, *, as_json: bool) -> tuple[bytes, str | None]:
    """What goes to standard output, and the error if the wish was not granted."""
    try:
        body = msgspec.json.decode(answer.body)
    except msgspec.MsgspecError:
        body = {"error": "the dealer's answer is not JSON"}
    error = None if answer.ok else _error(body)
    if as_json:
        return answer.body + b"\n", error
    return (b"" if error is not None else present(body).encode(errors="backslashreplace")), error


def write_all(data: bytes) -> None:
    """To standard output. Raises OutputClosed, ConfigurationError."""
    flow = OutputStream(1)
    flow.put(data)
    poll = select.poll()
    poll.register(flow.fd, select.POLLOUT)
    while not flow.idle:
        poll.poll()
        flow.pump()


def _error(body: object) -> str:
    if isinstance(body, dict) and "error" in body:
        return str(body["error"])
    return "the dealer refused"
