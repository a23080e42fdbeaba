"""The ingress: what comes off a queue is a message for this queue, or it is counted and dropped.

Whoever may open our queues may write anything into them, so nothing here trusts a byte.  # R8
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from taskpool import limits
from taskpool.codec import decode
from taskpool.core.counters import Counters
from taskpool.core.entries import Traits
from taskpool.core.events import CheckedJob, Event, Submitted
from taskpool.errors import MessageError
from taskpool.ipc.spool import Spool
from taskpool.kinds import KINDS
from taskpool.messages import Ack, Bye, Close, Command, Hello, JobSpec, Ping, Progress, Ready, Refused, Submit

INTAKE = (Submit, Close)
CONTROL = (Hello, Ack, Ping, Bye, Command)
EVENTS = (Ready, Progress)

_PLAIN: dict[str, Traits] = {name: Traits(kind.in_process, "") for name, kind in KINDS.items()}


class Ingress:
    """Lets in what belongs here."""

    def __init__(
        self, spool: Spool, counters: Counters, refuse: Callable[[Refused], None], warn: Callable[[str], None]
    ):
        self._spool = spool
        self._counters = counters
        self._refuse = refuse
        self._warn = warn

    def admit(self, data: bytes, expected: tuple[type, ...], queue: str) -> Event | None:
        """The event in the message, or None when there is none for us."""
        try:
            message = self._spool.unpack(decode(data))
        except MessageError as error:
            self._drop(queue, str(error))
            return None
        if not isinstance(message, expected):
            self._drop(queue, f"a {type(message).__name__} does not belong here")
            return None
        if isinstance(message, Submit):
            return self._examine(message)
        return message  # type: ignore[return-value]  # every other expected message is an event as it is

    def _examine(self, submit: Submit) -> Submitted | None:
        """Every payload must be what its kind takes: the worker need not be the first to find out."""
        jobs: list[CheckedJob] = []
        for offset, spec in enumerate(submit.jobs):
            kind = KINDS.get(spec.kind)
            if kind is None:
                known = ", ".join(KINDS)
                self._refused(submit, offset, "unknown_kind", f"kind {spec.kind!r}; this pool knows {known}")
                return None
            try:
                kind.check(spec.payload)
            except MessageError as error:
                self._refused(submit, offset, "malformed", f"{spec.kind} job: {error}")
                return None
            affinity = kind.affinity(spec.payload)
            traits = Traits(kind.in_process, affinity) if affinity else _PLAIN[spec.kind]
            jobs.append(CheckedJob(spec, traits, _digest(spec)))
        return Submitted(submit.client, submit.batch, submit.first_seq, jobs)

    def _refused(self, submit: Submit, offset: int, reason: str, text: str) -> None:
        """A text may quote the payload, which may be megabytes of what is longer still when quoted."""
        self._counters.refusals[reason] += 1
        seq = submit.first_seq + offset
        text = text[: limits.ERROR_TEXT_BYTES_MAX]
        self._refuse(Refused(submit.client, submit.batch, submit.first_seq, seq, reason, text))

    def _drop(self, queue: str, text: str) -> None:
        self._counters.refusals["malformed"] += 1
        self._warn(f"dropped a message on {queue}: {text}")


def _digest(spec: JobSpec) -> bytes:
    """Says whether two jobs do the same. 128 bits: nobody gains by finding two that collide."""
    return hashlib.blake2b(spec.payload, digest_size=16, person=spec.kind.encode()[:16]).digest()
