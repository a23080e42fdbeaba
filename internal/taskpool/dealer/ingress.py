"""Input validation: bytes from a queue become an event that the core may trust, or are counted and dropped.

Every process of this user can open the pool's queues and write anything into them, so nothing here trusts a byte.
# R8 (docs/protocol.md, 11)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from taskpool import __version__, limits
from taskpool.codec import PROTOCOL_VERSION, HelloHead, OtherVersion, ReadyHead, decode
from taskpool.core.counters import Counters
from taskpool.core.entries import Traits
from taskpool.core.events import CheckedJob, Event, ReadyUnreadable, ReportLost, Submitted
from taskpool.errors import MessageError
from taskpool.identifiers import Incarnation
from taskpool.ipc.spool import Spool
from taskpool.kinds import KINDS
from taskpool.messages import (
    Ack,
    Bye,
    Close,
    Command,
    Hello,
    JobSpec,
    Message,
    Ping,
    Progress,
    Ready,
    Refused,
    Spilled,
    Submit,
)

# The messages of each queue. One on another queue is refused: a generator must not speak as a worker.
INTAKE = (Submit, Close)
CONTROL = (Hello, Ack, Ping, Bye, Command)
EVENTS = (Ready, Progress)

_TOLD_MAX = 64  # senders of another version that are remembered, so that each is logged once

# The traits of jobs without affinity, which most are: shared, because a batch may have millions of jobs.
_PLAIN: dict[str, Traits] = {name: Traits(kind.in_process, "") for name, kind in KINDS.items()}


class Ingress:
    """Parse and check what the pool's queues bring."""

    def __init__(
        self,
        spool: Spool,
        counters: Counters,
        refuse: Callable[[Refused], None],
        turn_away: Callable[[HelloHead], None],
        warn: Callable[[str], None],
    ):
        """`refuse` answers the generator, `turn_away` one whose hello is of another version of the protocol; `warn`
        logs, and limits its own rate: any process can send garbage."""
        self._spool = spool
        self._counters = counters
        self._refuse = refuse
        self._turn_away = turn_away
        self._warn = warn
        self._told: set[tuple[int, int]] = set()  # (pid, version) of generators that were turned away

    def parse(self, data: bytes, expected: tuple[type, ...], queue: str) -> Event | None:
        """Return the event in a message; None when it is malformed or not for this queue."""
        message: Message | None = None
        try:
            message = decode(data)
            message = self._spool.unpack(message)
        except OtherVersion as error:
            return self._take_other_version(error, expected, queue)
        except MessageError as error:
            self._drop_malformed(queue, str(error))
            if isinstance(message, Spilled) and message.sender and expected is EVENTS:
                return ReportLost(Incarnation(message.sender))
            return None
        if not isinstance(message, expected):
            self._drop_malformed(queue, f"{type(message).__name__} is no message for this queue")
            return None
        if isinstance(message, Submit):
            return self._check_jobs(message)
        return message  # type: ignore[return-value]  # every other expected message is an event as it is

    def _take_other_version(self, error: OtherVersion, expected: tuple[type, ...], queue: str) -> Event | None:
        """Answer a hello of another version, and tell the core of a worker that nothing more can be read of."""
        head = error.head
        if isinstance(head, ReadyHead) and expected is EVENTS:
            return ReadyUnreadable(
                Incarnation(head.incarnation), head.epoch, head.pid, head.version, error.version, PROTOCOL_VERSION
            )
        if not isinstance(head, HelloHead) or expected is not CONTROL:
            self._drop_malformed(queue, str(error))
            return None
        self._counters.refusals["malformed"] += 1
        self._turn_away(head)
        if (head.pid, error.version) not in self._told:
            if len(self._told) >= _TOLD_MAX:
                self._told.clear()
            self._told.add((head.pid, error.version))  # it says hello again and again, until it gives up
            self._warn(
                f"generator PID {head.pid} speaks protocol version {error.version}, and this dealer version "
                f"{PROTOCOL_VERSION} (taskpool {__version__}): it was turned away. Upgrade the older of the two"
            )
        return None

    def _check_jobs(self, submit: Submit) -> Submitted | None:
        """Check every payload as its kind does, and take from it what the core needs to know.

        A bad payload is found here, while its generator still waits for the answer, and not by a worker hours later.
        The first bad job refuses the whole frame: frames are accepted whole or not at all.
        """
        jobs: list[CheckedJob] = []
        for offset, spec in enumerate(submit.jobs):
            kind = KINDS.get(spec.kind)
            if kind is None:
                known = ", ".join(KINDS)
                self._refuse_frame(submit, offset, "unknown_kind", f"kind {spec.kind!r}; this pool knows {known}")
                return None
            try:
                kind.check(spec.payload)
            except MessageError as error:
                self._refuse_frame(submit, offset, "malformed", f"{spec.kind} job: {error}")
                return None
            affinity = kind.affinity(spec.payload)
            traits = Traits(kind.in_process, affinity) if affinity else _PLAIN[spec.kind]
            # By the digest the core tells a repeated submission from a conflicting one.
            jobs.append(CheckedJob(spec, traits, _digest(spec)))
        return Submitted(submit.client, submit.batch, submit.first_seq, jobs)

    def _refuse_frame(self, submit: Submit, offset: int, reason: str, text: str) -> None:
        """Tell the generator which job of the frame is the first bad one, so that a person finds it in the input."""
        self._counters.refusals[reason] += 1
        seq = submit.first_seq + offset
        # The text may quote the payload: megabytes, and longer still when quoted. Its receiver takes this much.
        text = text[: limits.ERROR_TEXT_BYTES_MAX]
        self._refuse(Refused(submit.client, submit.batch, submit.first_seq, seq, reason, text))

    def _drop_malformed(self, queue: str, text: str) -> None:
        # Counted and logged, never answered: what cannot be parsed has no sender to answer.
        self._counters.refusals["malformed"] += 1
        self._warn(f"message on {queue} dropped: {text}")


def _digest(spec: JobSpec) -> bytes:
    """Return what tells whether two jobs do the same: kind and payload, not limits, label or priority.

    128 bits are enough: a collision does not come by chance, and nothing is gained by making one.
    """
    return hashlib.blake2b(spec.payload, digest_size=16, person=spec.kind.encode()[:16]).digest()
