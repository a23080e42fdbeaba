"""Commands to a running pool: one request, one answer."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from taskpool import limits
from taskpool.client.connection import Connection, TurnHandler
from taskpool.clock import Clock
from taskpool.durations import human
from taskpool.errors import DealerUnreachable, UsageError
from taskpool.generator.output.formats import lay_out
from taskpool.generator.parser import VERBS
from taskpool.messages import Answer

_BATCH = re.compile(limits.BATCH_ID_PATTERN)
_SCALE = re.compile(r"[+-]\d{1,4}", re.ASCII)


class AdminRequest(NamedTuple):
    """What is asked of a pool; see `messages.Command`."""

    verb: str
    batch: str | None = None
    seq: int = 0  # 0: the whole batch
    number: int = 0


def request_from(args: Namespace) -> AdminRequest:
    """Return what the command line asks of a pool. Raises UsageError."""
    if args.subcommand == "scale":
        return AdminRequest("scale", number=_parse_scale(args.change))
    if args.subcommand == "quarantine":
        if args.action == "list" or args.target == "all":
            return AdminRequest(f"quarantine-{args.action}")
        return AdminRequest(f"quarantine-{args.action}", *parse_target(args.target, whole_batch=True))
    # The remaining verbs differ only in what they may be applied to.
    _, target_name, whole_batch = VERBS[args.subcommand]
    if target_name is None:
        return AdminRequest(args.subcommand)
    return AdminRequest(args.subcommand, *parse_target(args.target, whole_batch=whole_batch))


def ask(connection: Connection, request: AdminRequest, clock: Clock, handler: TurnHandler, timeout_ns: int) -> Answer:
    """Return the dealer's answer. Raises DealerUnreachable when none comes in time, and what the handler raises."""
    session = connection.session
    session.command(*request)
    connection.run_until(lambda: session.welcome is not None, handler)
    deadline = clock.now().mono + timeout_ns
    # A new connection ends the wait too, and the command is not sent in it again: a `scale +1` that was carried out
    # and not answered would count twice.
    connection.run_until(lambda: bool(session.answers) or session.connecting, handler, deadline)
    if not session.answers:
        raise DealerUnreachable(
            f"the dealer of pool {session.pool!r} did not answer {request.verb!r} within {human(timeout_ns)}"
        )
    connection.leave()
    return session.answers.popleft()


def parse_target(text: str, *, whole_batch: bool) -> tuple[str, int]:
    """Parse `BATCH/SEQ`, or (if allowed) `BATCH`, which is its job 0. Raises UsageError."""
    batch, slash, seq = text.rpartition("/") if "/" in text else (text, "", "")
    # Sixteen digits hold the largest number of a job; int() of a longer text takes time that grows with its square.
    number = int(seq) if seq.isascii() and seq.isdecimal() and len(seq) <= 16 else 0
    if not _BATCH.match(batch) or bool(slash) != (1 <= number <= limits.JOB_SEQ_MAX) or not (slash or whole_batch):
        expected = "BATCH or BATCH/NUMBER" if whole_batch else "a job as BATCH/NUMBER"
        raise UsageError(f"expected {expected}, got {text!r}")
    return batch, number


def render(answer: Answer, *, as_json: bool, lay_out: Callable[[object], str] = lay_out) -> tuple[bytes, str | None]:
    """Return what goes to standard output, and the error if the request was refused."""
    try:
        body = msgspec.json.decode(answer.body)
    except msgspec.MsgspecError:
        body = {"error": "the dealer's answer is not JSON"}
    # A refusal goes to standard error; with --json the answer is printed as well, for the program that asked.
    error = None if answer.ok else _error(body)
    if as_json:
        return answer.body + b"\n", error
    return (b"" if error is not None else lay_out(body).encode(errors="backslashreplace")), error


def _parse_scale(text: str) -> int:
    """Parse `+2` or `-1`. Raises UsageError."""
    # A bare number would leave it open whether it is the workers wanted or how many more.
    if not _SCALE.fullmatch(text) or int(text) == 0:
        raise UsageError(f"scale: expected +N or -N, how many workers more or fewer, got {text!r}")
    return int(text)


def _error(body: object) -> str:
    if isinstance(body, dict) and "error" in body:
        return str(body["error"])
    return "the dealer refused"
