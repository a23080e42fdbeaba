"""Each request as calls of NATS JetStream. Runs in the loop of `nats_connection`; times are seconds, as there.

A job is known by its place in the stream and the number of the hand-out, as the subject of an acknowledgement has them
(`$JS.ACK.<stream>.<consumer>.<delivered>.<place>.<hand-out>.<time>.<pending>`). That is enough to make the subject
again after a restart: the server reads the first three only.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import APIError, KeyNotFoundError, KeyWrongLastSequenceError, NotFoundError
from nats.js.kv import KeyValue

from taskpool.cluster.engine import (
    Acknowledge,
    Answer,
    DeadLetter,
    Delivery,
    Done,
    Extend,
    Fetch,
    Fetched,
    GiveBack,
    JobKey,
    Look,
    NoteBatch,
    OpenBatch,
    OutcomePage,
    ReadOutcomes,
    Record,
    Request,
    SubmitJob,
    Taken,
)
from taskpool.cluster.subjects import SUBJECT_TAKEN, Lane, Names

CALL_SECONDS = 5.0  # for one call: an engine that has lost its leader has another one in about four
PULL_SECONDS = 2.0  # a request for jobs lies with the engine so long when there are none

Strays = Callable[[tuple[Delivery, ...]], None]


class NatsCalls:
    """Carries out requests over one connection. `strays` gets jobs that come after their request was answered."""

    def __init__(self, client: Client, names: Names, state: KeyValue, strays: Strays) -> None:
        self._client = client
        self._js: JetStreamContext = client.jetstream(timeout=CALL_SECONDS)
        self._names = names
        self._state = state
        self._strays = strays
        self._inbox = client.new_inbox()
        self._tasks: set[asyncio.Future[None]] = set()
        self._numbers = itertools.count(1)
        self._pulls: set[str] = set()  # those under way, by the last token of where their answers go
        self._fetching = asyncio.Lock()
        self._arrived: asyncio.Queue[Msg] | None = None  # of the fetch under way, which is one at a time

    async def begin(self) -> None:
        """Listen for jobs."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._received)

    async def perform(self, request: Request) -> Answer:
        """Carry out a request. Raises nats.errors.Error, asyncio.TimeoutError, OSError."""
        match request:
            case Fetch():
                return Fetched(request, await self._fetch(request.count))
            case Look():
                return Taken(request, b"") if await self._is_settled(request) else Done(request)
            case Record():
                return await self._publish(request, self._names.outcome(*request.key), self._names.out)
            case SubmitJob():
                return await self._publish(request, request.subject, self._names.jobs, request.id)
            case OpenBatch():
                return await self._open(request)
            case ReadOutcomes():
                return OutcomePage(request, await self._read(request))
            case _:
                await self._dispose(request)
                return Done(request)

    async def _dispose(self, request: Extend | Acknowledge | GiveBack | DeadLetter | NoteBatch) -> None:
        match request:
            case NoteBatch():
                await self._state.put(self._names.note(request.batch), request.note)
            case Extend():
                # Not asked for one by one: hundreds of round trips every ten seconds would say no more than one flush.
                for token in request.tokens:
                    await self._client.publish(self._ack_subject(token), b"+WPI")
                await self._client.flush(CALL_SECONDS)  # type: ignore[arg-type]
            case Acknowledge():
                # Asked and answered: an acknowledgement that got lost is a job that is executed twice.
                await self._client.request(self._ack_subject(request.token), b"+ACK", timeout=CALL_SECONDS)
            case GiveBack():
                # First the count: the job may be handed out the moment it is given back.
                if request.crashes:
                    key = self._names.crashes(request.key.batch, request.key.seq)
                    await self._state.put(key, b"%d" % request.crashes)
                delay = json.dumps({"delay": request.delay_ns}).encode()
                await self._client.request(self._ack_subject(request.token), b"-NAK " + delay, timeout=CALL_SECONDS)
            case DeadLetter():
                if (job := await self._job(request.token)) is not None:
                    subject = self._names.dead_letter(*request.key)
                    await self._publish(request, subject, self._names.dead, data=job.data or b"")

    def _ack_subject(self, token: str) -> str:
        return f"$JS.ACK.{self._names.jobs}.{token}.0.0"

    # --- jobs -------------------------------------------------------------------------------------

    async def _fetch(self, count: int) -> tuple[Delivery, ...]:
        # One at a time: a bridge that has begun anew may ask while the one before is still asking.
        async with self._fetching:
            return await self._fetch_now(count)

    async def _fetch_now(self, count: int) -> tuple[Delivery, ...]:
        messages: list[Msg] = []
        arrived = self._arrived = asyncio.Queue()
        try:
            for lane in Lane:
                if len(messages) < count:
                    messages += await self._take(lane, count - len(messages), arrived)
            if not messages:
                messages = await self._await_one(arrived)
        finally:
            self._pulls.clear()
            self._arrived = None
            # Those of a lane beyond what was wanted, and those in hand when a call has failed: ours all the same.
            while not arrived.empty():
                self._stray(arrived.get_nowait())
        return tuple([await self._delivery(message) for message in messages])

    async def _take(self, lane: Lane, count: int, arrived: asyncio.Queue[Msg]) -> list[Msg]:
        """Return what a lane has now."""
        await self._pull(lane, {"batch": count, "no_wait": True})
        found: list[Msg] = []
        try:
            while len(found) < count:
                message = await asyncio.wait_for(arrived.get(), CALL_SECONDS)
                if _is_status(message):
                    break
                found.append(message)
        except TimeoutError:
            if not found:
                raise
        return found

    async def _await_one(self, arrived: asyncio.Queue[Msg]) -> list[Msg]:
        """Wait for a job of any lane."""
        until = time.monotonic() + PULL_SECONDS + CALL_SECONDS
        # One of each: with more, a job that comes while another lane's is taken would be fetched for no free worker.
        for lane in Lane:
            await self._pull(lane, {"batch": 1, "expires": int(PULL_SECONDS * 10**9)})
        open_pulls = len(Lane)
        while open_pulls and (left := until - time.monotonic()) > 0:
            try:
                message = await asyncio.wait_for(arrived.get(), left)
            except TimeoutError:
                break  # the connection was lost, and the requests with it; the next one tells
            if not _is_status(message):
                return [message]
            open_pulls -= 1
        return []

    async def _pull(self, lane: Lane, options: dict[str, object]) -> None:
        number = str(next(self._numbers))
        self._pulls.add(number)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._names.jobs}.{lane}"
        await self._client.publish(subject, json.dumps(options).encode(), reply=f"{self._inbox}.{number}")

    async def _received(self, message: Msg) -> None:
        # A job comes under its own subject, so it does not tell which request it answers; what ends a request does.
        is_late = _is_status(message) and message.subject.rpartition(".")[2] not in self._pulls
        if is_late:
            return
        if self._arrived is not None:
            self._arrived.put_nowait(message)
        else:
            self._stray(message)

    def _stray(self, message: Msg) -> None:
        if not _is_status(message):
            task = asyncio.ensure_future(self._pass_on(message))
            self._tasks.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, message: Msg) -> None:
        # One that fails here is handed out again after `ack_wait`.
        with suppress(Error, TimeoutError, OSError):
            self._strays((await self._delivery(message),))

    async def _delivery(self, message: Msg) -> Delivery:
        words = message.reply.split(".")
        token = ".".join(words[3:7])
        delivered = int(words[4])
        crashes = 0
        placed = self._names.parse_job(message.subject)
        if delivered > 1 and placed is not None:
            crashes = await self._crashes(placed.batch, placed.seq)
        return Delivery(token, message.subject, message.data, delivered, crashes)

    async def _crashes(self, batch: str, seq: int) -> int:
        try:
            entry = await self._state.get(self._names.crashes(batch, seq))
        except KeyNotFoundError:
            return 0
        return int(entry.value or b"0")

    # --- messages ---------------------------------------------------------------------------------

    async def _publish(
        self, request: Request, subject: str, stream: str, id: str = "", data: bytes | None = None
    ) -> Answer:
        """Publish where one message a subject is taken. Answered when a majority of the brokers has it on disk."""
        body: bytes = getattr(request, "data", b"") if data is None else data
        headers = {"Nats-Msg-Id": id} if id else None
        try:
            await self._js.publish(subject, body, timeout=CALL_SECONDS, stream=stream, headers=headers)
        except APIError as error:
            if error.err_code != SUBJECT_TAKEN:
                raise
            there = await self._message(stream, subject=subject)
            found = b"" if there is None else there.data or b""
            # Ours, when the answer to an earlier attempt was lost.
            return Done(request) if found == body else Taken(request, found)
        return Done(request)

    async def _message(
        self, stream: str, *, place: int | None = None, subject: str | None = None
    ) -> RawStreamMsg | None:
        """Return a message as the stream's leader has it: a follower may be behind."""
        with suppress(NotFoundError):
            return await self._js.get_msg(stream, seq=place, subject=subject)
        return None

    async def _job(self, token: str) -> RawStreamMsg | None:
        return await self._message(self._names.jobs, place=int(token.split(".")[2]))

    async def _is_settled(self, request: Look) -> bool:
        job = await self._job(request.token)
        placed = None if job is None else self._names.parse_job(job.subject or "")
        key: JobKey = request.key
        # A stream that was removed and made anew counts its places from one again, so another job may be there.
        if placed is None or (placed.batch, placed.seq) != key[:2]:
            return True
        return await self._message(self._names.out, subject=self._names.outcome(*key)) is not None

    async def _open(self, request: OpenBatch) -> Answer:
        key = self._names.note(request.batch)
        if request.create:
            with suppress(KeyWrongLastSequenceError):
                await self._state.create(key, request.note)
                return Done(request)
        try:
            entry = await self._state.get(key)
        except KeyNotFoundError:
            return Done(request)
        # Ours, when the answer to an earlier attempt was lost.
        return Done(request) if entry.value == request.note else Taken(request, entry.value or b"")

    async def _read(self, request: ReadOutcomes) -> tuple[tuple[int, bytes], ...]:
        found: list[tuple[int, bytes]] = []
        after = request.after
        subject = self._names.outcomes(request.batch)
        while len(found) < request.count:
            with suppress(NotFoundError):
                message = await self._js.get_msg(self._names.out, seq=after + 1, subject=subject, next=True)
                after = message.seq or 0
                found.append((after, message.data or b""))
                continue
            break
        return tuple(found)


def _is_status(message: Msg) -> bool:
    """Whether it ends a request for jobs, and is no job."""
    return bool(message.headers and "Status" in message.headers) and not message.reply
