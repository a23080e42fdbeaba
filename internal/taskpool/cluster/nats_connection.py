"""The connection with NATS: an asyncio loop in a thread of its own, requests in, answers out.

**Which thread does what.** `ask`, `answers`, `fileno` and `close` are called by the thread that uses the engine; none
waits but `close` and `start`. All else happens in the loop's thread. Between the two stand a bounded number of requests
and a list of answers with an eventfd.

**What may take how long.** Every call has a deadline (`nats_calls.CALL_SECONDS`), after which its request has failed;
the caller asks again. The connection is made anew for ever: the library does that once there was one, and here until
then, for its first connection can hang (nats-py 2.16, `max_reconnect_attempts`).

**When it serves.** Once the brokers were found to keep what they accept (`profile`). Where they do not, and the address
does not allow it, every request fails and `refusal` says why.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import threading
import urllib.request
from collections import deque
from contextlib import suppress
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    KeyValueConfig,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import APIError, BadRequestError, NotFoundError, ServerError
from nats.js.kv import KeyValue

from taskpool.clock import SECOND
from taskpool.cluster import profile
from taskpool.cluster.engine import Answer, Failed, Fetched, Notice, Request
from taskpool.cluster.nats_calls import CALL_SECONDS, NatsCalls
from taskpool.cluster.profile import Finding, Kept
from taskpool.cluster.subjects import (
    DUPLICATES_NS,
    HELD_JOBS_MAX,
    REPLICAS,
    Address,
    Lane,
    Names,
    StreamSettings,
)
from taskpool.durations import human

WAITING_MAX = 512  # requests under way; more are refused, and asked again later
CONNECT_SECONDS = 10.0  # for one attempt at a first connection
RETRY_SECONDS = 1.0
PING_SECONDS = 5  # a host that is cut off without a word is found by two of these
CLOSE_SECONDS = 5.0
_HAS_OTHER_SETTINGS = 10058
_IS_ALONE = 10074  # a broker that is no member of a cluster was asked for several copies


class NatsEngine:
    """A connection with the brokers of a pool, over which any number of requests may be under way."""

    def __init__(self, address: Address, pool: str) -> None:
        self._address = address
        self._names = Names(pool)
        self._answers: deque[Answer] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._calls: NatsCalls | None = None  # set while it serves
        self._tasks: set[asyncio.Task[None]] = set()
        self._looked = threading.Event()  # the brokers have been judged
        self.refusal: str | None = None
        self.findings: tuple[Finding, ...] = ()  # what is not as it should be, once it was looked at
        self.ack_wait_ns = address.ack_wait_ns  # what the engine has, once it is known
        self._began = threading.Event()
        # A daemon: a call of the library that does not return must not keep a program from its end.
        self._thread = threading.Thread(target=self._run, name="taskpool-cluster", daemon=True)

    # --- the thread that uses it ------------------------------------------------------------------

    def start(self, seconds: float = 0.0) -> bool:
        """Begin; wait so long for the brokers to be judged, and return whether they were."""
        self._thread.start()
        self._began.wait()
        return self._looked.wait(seconds)

    def ask(self, request: Request) -> bool:
        """Take a request; False: too many are under way."""
        with self._lock:
            if self._waiting >= WAITING_MAX or self._loop is None:
                return False
            self._waiting += 1
        try:
            self._loop.call_soon_threadsafe(self._begin, request)
        except RuntimeError:  # the loop has ended
            return False
        return True

    def answers(self) -> list[Answer]:
        """Return, once, what has come."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        answers: list[Answer] = []
        while self._answers:
            answers.append(self._answers.popleft())
        return answers

    def fileno(self) -> int:
        """A descriptor that can be read while there are answers."""
        return self._event

    def close(self) -> None:
        """Leave. May be called twice."""
        if self._event < 0:
            return
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS)
        # Under the lock: a late answer must not be announced on a number that another file has by then.
        with self._lock:
            os.close(self._event)
            self._event = -1

    def _tell(self, answer: Answer) -> None:
        self._answers.append(answer)
        with self._lock:
            if self._event >= 0:
                os.eventfd_write(self._event, 1)

    # --- the loop's thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        finally:
            self._began.set()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._began.set()
        serving = asyncio.create_task(self._serve())
        await self._stop.wait()
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        # Their requests may have been carried out: the next life of the member finds that out.
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self) -> None:
        """Connect, judge the brokers, serve until cancelled."""
        client: Client | None = None
        try:
            while client is None:
                client = await self._connect()
            while not await self._prepare(client):
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.Event().wait()
        finally:
            self._calls = None
            if client is not None:
                with suppress(Error, TimeoutError, OSError):
                    await asyncio.wait_for(client.close(), CLOSE_SECONDS / 2)

    async def _connect(self) -> Client | None:
        client = Client()
        try:
            await asyncio.wait_for(
                client.connect(
                    servers=list(self._address.servers),
                    name=f"taskpool {self._names.pool} {os.uname().nodename}",
                    max_reconnect_attempts=-1,  # for ever: what runs here has outcomes to tell, whenever that is
                    reconnect_time_wait=1,
                    connect_timeout=2,
                    ping_interval=PING_SECONDS,  # a cable that is pulled sends no word of it
                    user_credentials=self._address.creds,
                    tls=ssl.create_default_context(cafile=self._address.ca) if self._address.ca else None,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                ),
                CONNECT_SECONDS,
            )
            return client
        except (Error, TimeoutError, OSError) as error:
            self._warn(f"the cluster's brokers {', '.join(self._address.servers)} cannot be reached: {_text(error)}")
            with suppress(Error, TimeoutError, OSError):
                await asyncio.wait_for(client.close(), RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)
            return None

    async def _on_error(self, error: Exception) -> None:
        pass  # of one attempt; what it means is told by the two below, and by the requests that fail

    async def _on_disconnected(self) -> None:
        self._warn("the connection with the cluster is lost; jobs that are here go on, and their outcomes wait")

    async def _on_reconnected(self) -> None:
        self._tell(Notice("the connection with the cluster is there again"))

    def _warn(self, text: str) -> None:
        self._tell(Notice(text, is_warning=True))

    async def _prepare(self, client: Client) -> bool:
        """Make what the pool needs in the engine, and judge it; return False when it has to be tried again."""
        js = client.jetstream(timeout=CALL_SECONDS)
        try:
            findings = profile.judge_version(str(client.connected_server_version))
            for settings in self._names.streams():
                findings += await self._make_stream(js, settings)
            findings += await asyncio.to_thread(self._look_at_monitors)
            self.findings = tuple(findings)
            self.refusal = profile.refusal(findings, allow_unsafe=self._address.allow_unsafe)
            calls = None if self.refusal is not None else await self._make_calls(client, js)
        except (Error, TimeoutError, OSError) as error:
            self._warn(f"the cluster's streams cannot be made or looked at: {_text(error)}")
            return False
        # Also where it is allowed: a pool that keeps less than it seems to must not do so in silence.
        for finding in findings:
            self._warn(finding.text)
        if calls is None and not self._looked.is_set():
            self._warn(f"the cluster is not used: {self.refusal}")
        self._calls = calls
        self._looked.set()
        return True

    async def _make_calls(self, client: Client, js: JetStreamContext) -> NatsCalls:
        state = await self._make_state(js)
        for lane in Lane:
            await self._make_consumer(js, lane)
        calls = NatsCalls(client, self._names, state, lambda jobs: self._tell(Fetched(None, jobs)))
        await calls.begin()
        return calls

    async def _make_stream(self, js: JetStreamContext, settings: StreamSettings) -> list[Finding]:
        """Make a stream unless it is there; return what is wrong with it."""
        config = StreamConfig(
            name=settings.name,
            subjects=list(settings.subjects),
            retention=RetentionPolicy(settings.retention),
            storage=StorageType.FILE,  # what is accepted survives all brokers being killed at once
            num_replicas=REPLICAS,
            duplicate_window=DUPLICATES_NS / SECOND,
            max_msgs_per_subject=settings.per_subject or -1,
            # The new one is refused. By default the old one would go, and the later of two outcomes would count.
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=settings.per_subject is not None,
        )
        try:
            info = await js.add_stream(config)
        except BadRequestError as error:
            if error.err_code != _HAS_OTHER_SETTINGS:
                raise
            info = await js.stream_info(settings.name)
        except (APIError, ServerError) as error:
            if self._address.allow_unsafe:
                info = await js.add_stream(config.evolve(num_replicas=1))
            elif error.err_code == _IS_ALONE:
                return profile.judge_stream(profile.alone(settings), settings)
            else:
                raise  # brokers that are just starting: with one copy now, the stream would have one for ever
        return profile.judge_stream(_kept(info), settings)

    async def _make_state(self, js: JetStreamContext) -> KeyValue:
        config = KeyValueConfig(bucket=self._names.state, replicas=REPLICAS)
        try:
            return await js.create_key_value(config)
        except BadRequestError as error:
            if error.err_code != _HAS_OTHER_SETTINGS:
                raise
            return await js.key_value(self._names.state)
        except (APIError, ServerError):
            if not self._address.allow_unsafe:
                raise
            config.replicas = 1
            return await js.create_key_value(config)

    async def _make_consumer(self, js: JetStreamContext, lane: Lane) -> None:
        """Make what hands out the jobs of a lane, unless it is there."""
        try:
            info = await js.consumer_info(self._names.jobs, lane)
        except NotFoundError:
            info = await js.add_consumer(self._names.jobs, self._consumer(lane))
        # One that is there is left as it is: a shorter time would be too short for members that do not know of it.
        ack_wait_ns = int((info.config.ack_wait or 0) * SECOND)
        if ack_wait_ns and ack_wait_ns != self.ack_wait_ns:
            self.ack_wait_ns = ack_wait_ns
            self._tell(Notice(f"ack_wait is {human(ack_wait_ns)}, as the first program that connected has set it"))

    def _consumer(self, lane: Lane) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=lane,
            filter_subject=self._names.lane(lane),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._address.ack_wait_ns / SECOND,
            max_deliver=-1,  # a job is given up for its crashes, not for its members' bad luck
            max_ack_pending=HELD_JOBS_MAX,
        )

    def _look_at_monitors(self) -> list[Finding]:
        """Ask each broker's HTTP port how it syncs: the client's protocol does not tell."""
        findings = []
        for server in self._address.servers:
            host = urlsplit(server).hostname or server
            config, reason = None, "add ?monitor=PORT to the address"
            if self._address.monitor is not None:
                try:
                    config, reason = _jetstream_config(host, self._address.monitor), ""
                except (OSError, ValueError) as error:
                    reason = _text(error)
            findings += profile.judge_sync(config, host, reason)
        return findings

    def _begin(self, request: Request) -> None:
        task = asyncio.ensure_future(self._carry_out(request))
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, request: Request) -> None:
        answer: Answer = Failed(request, self.refusal or "there is no connection with the cluster")
        try:
            if self._calls is not None:
                answer = await self._calls.perform(request)
        except (Error, TimeoutError, OSError, ValueError) as error:
            answer = Failed(request, _text(error))
        finally:
            with self._lock:
                self._waiting -= 1
            self._tell(answer)


def _jetstream_config(host: str, port: int) -> dict[str, object]:
    """Return how a broker keeps streams. Raises OSError, ValueError."""
    shown = f"[{host}]" if ":" in host else host
    with urllib.request.urlopen(f"http://{shown}:{port}/jsz?config=1", timeout=CALL_SECONDS) as response:
        told = json.loads(response.read(1 << 20))
    config = told.get("config") if isinstance(told, dict) else None
    if not isinstance(config, dict):
        raise ValueError("its /jsz tells no config")
    return config


def _kept(info: StreamInfo) -> Kept:
    config = info.config
    return Kept(
        name=config.name or "",
        replicas=config.num_replicas or 1,
        on_disk=config.storage == StorageType.FILE,
        retention=str(getattr(config.retention, "value", config.retention)),
        per_subject=config.max_msgs_per_subject,
        refuses_second=config.discard == DiscardPolicy.NEW and bool(config.discard_new_per_subject),
    )


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
