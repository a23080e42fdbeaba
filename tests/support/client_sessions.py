"""Sessions of a client and the messages they deal with, for tests of the pure half of the client."""

from __future__ import annotations

from taskpool.client.session import Session, SessionOptions
from taskpool.codec import decode
from taskpool.messages import JobSpec, Message, Outcome, Refused, State, Submit, Welcome

ME = 77
JOB = JobSpec(kind="fib", payload=b"\x05")


def session(**options: object) -> Session:
    return Session(SessionOptions(pool="demo", client=ME, pid=1, batch="b", **options), 0)  # type: ignore[arg-type]


def welcome(**changes: object) -> Welcome:
    fields: dict[str, object] = {"client": ME, "epoch": 1, "pid": 9, "spool": "/s"}
    return Welcome(**{**fields, **changes})  # type: ignore[arg-type]


def outcome(no: int, seq: int | None = None) -> Outcome:
    return Outcome(
        no=no, seq=seq or no, run=1, kind="fib", label=None, state=State.SUCCEEDED, attempts=1, crashes=0, value=b"1"
    )


def refused(first: int, reason: str) -> Refused:
    return Refused(ME, "b", first, first, reason, "because")


def connected(jobs: int = 0, **options: object) -> Session:
    """Welcomed, with so many frames of one job sent."""
    talk = session(**options)
    talk.receive(welcome(), 0)
    for _ in range(jobs):
        talk.submissions.submit([JOB])
    intake(talk)
    return talk


def intake(talk: Session, now: int = 0) -> list[Message]:
    messages = []
    while (data := talk.next_intake(now)) is not None:
        messages.append(decode(data))
    return messages


def control(talk: Session) -> list[Message]:
    messages = []
    while (data := talk.next_control()) is not None:
        messages.append(decode(data))
    return messages


def first_seqs(messages: list[Message]) -> list[int]:
    return [message.first_seq for message in messages if isinstance(message, Submit)]


def resumed(jobs: int, *, accepted: int, cursor: int = 0, total: int | None = None) -> Session:
    """Welcomed by a dealer that has accepted so many jobs before, with so many frames of one job to be sent."""
    talk = session(resume=True, cursor=cursor)
    talk.receive(welcome(accepted=accepted, last_no=accepted, total=total), 0)
    for _ in range(jobs):
        talk.submissions.submit([JOB])
    return talk
