"""Serves the pages: one thread that waits for clients, one that makes pages, however many clients there are.

A thread per request would be the simpler program, and a client that stalls in the middle of its request would
hold one of them; so would one that stalls in the middle of a TLS handshake. Here it holds a few kilobytes, until
its time is up. One page is made at a time: who waits too long for that is told so. One request a connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

from taskpool.errors import ConfigurationError
from taskpool.metrics.pages import Pages, Request, Response, text

CONNECTIONS_MAX = 64
ACCEPTS_WAITING_MAX = 16
REQUEST_BYTES_MAX = 16 * 1024
ACCEPT_AGAIN_SECONDS = 0.5
HANDSHAKE_SECONDS_MAX = 5.0
REQUEST_SECONDS_MAX = 5.0  # from then on until the request is complete
TURN_SECONDS_MAX = 2.0  # how long a request waits while pages are made for others
ANSWER_SECONDS_MAX = 10.0  # how long a client may take to read
CLOSE_SECONDS_MAX = 5.0


class Server:
    """Serves from its making until it is closed."""

    def __init__(self, address: tuple[str, int], pages: Pages, tls: ssl.SSLContext | None = None) -> None:
        """Binds at once. Raises ConfigurationError when the address is taken or not ours."""
        self._pages = pages
        self._tls = tls
        self._socket = _listen(address)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="page")
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._turn = asyncio.Lock()
        self._room = asyncio.Semaphore(CONNECTIONS_MAX)
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self.address
        return f"{'https' if self._tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def close(self) -> None:
        """End what is under way, and wait for that. May be called again."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(CLOSE_SECONDS_MAX)
        self._maker.shutdown()

    # --- in the thread that waits ---

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()
        accepting = self._loop.create_task(self._accept(connections))
        await self._stop.wait()
        for task in (accepting, *connections):
            task.cancel()
        await asyncio.gather(accepting, *connections, return_exceptions=True)
        self._socket.close()

    async def _accept(self, connections: set[asyncio.Task[None]]) -> None:
        """While there is room. Who comes when there is none waits in the kernel, which lets few wait."""

        def leave(task: asyncio.Task[None]) -> None:
            connections.discard(task)
            self._room.release()

        while True:
            await self._room.acquire()
            task = self._loop.create_task(self._meet(await self._next_client()))
            connections.add(task)
            task.add_done_callback(leave)

    async def _next_client(self) -> socket.socket:
        while True:
            try:
                return (await self._loop.sock_accept(self._socket))[0]
            except OSError:  # the client is gone already, or no descriptor is left for it
                await asyncio.sleep(ACCEPT_AGAIN_SECONDS)

    async def _meet(self, client: socket.socket) -> None:
        reader = asyncio.StreamReader(REQUEST_BYTES_MAX)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS_MAX):
                transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, client, ssl=self._tls)
        except (OSError, TimeoutError):  # it does not speak TLS, is gone, or sleeps
            client.close()
            return
        try:
            response, head_only = await self._hear(reader)
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
                writer.write(_encoded(response, head_only=head_only))
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client is gone or asleep: nobody to tell
        finally:
            transport.abort()

    async def _hear(self, reader: asyncio.StreamReader) -> tuple[Response, bool]:
        """The answer to the request that comes, and whether only its head is wanted."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            return text(408, f"a request must be complete in {REQUEST_SECONDS_MAX:g} s"), False
        except asyncio.LimitOverrunError:
            return text(431, f"a request may have {REQUEST_BYTES_MAX} bytes"), False
        request = parsed(head)
        if request is None:
            return text(400, "that is no HTTP request"), False
        return self._pages.probe(request) or await self._make(request), request.method == "HEAD"

    async def _make(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(TURN_SECONDS_MAX):
                await self._turn.acquire()
        except TimeoutError:
            return text(503, "pages are being made for others", ("Retry-After", "5"))
        try:
            return await self._loop.run_in_executor(self._maker, self._pages.answer, request)
        finally:
            self._turn.release()


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Raises ConfigurationError when the files cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError(
            f"--metrics-tls-cert {certificate} and --metrics-tls-key {key} cannot be used: {error}; "
            "both are PEM files, and the key has no passphrase"
        ) from error
    return context


def parsed(head: bytes) -> Request | None:
    """The request in these bytes, which end in an empty line; None: that is no request."""
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[1].startswith("/") or words[2][:7] != "HTTP/1.":
        return None
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            return None
        headers[name.lower()] = value.strip()
    return Request(words[0], words[1], headers)


def _encoded(response: Response, *, head_only: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
    lines += [f"Content-Type: {response.content_type}", f"Content-Length: {len(response.body)}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines += ["Cache-Control: no-store", "X-Content-Type-Options: nosniff", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + (b"" if head_only else response.body)


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(where[:2], family=family, backlog=ACCEPTS_WAITING_MAX)
        listener.setblocking(False)  # asyncio takes it as it is, and a blocking accept would stop its loop
        return listener
    except OSError as error:
        raise ConfigurationError(
            f"--metrics {host}:{port} cannot be served: {error.strerror or error}; give another HOST:PORT, or none"
        ) from error
