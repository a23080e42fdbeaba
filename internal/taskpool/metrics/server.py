"""The HTTP server: cheroot, with a deadline for everything that a client can delay.

Eight threads serve one request a connection. A client gets one when its request is there (`heads`), and holds it while
it does not read its answer, so a request that comes while S clients do not read waits for about S / 8 *
ANSWER_SECONDS_MAX. A probe waits for none of them: it needs no thread. The dealer's loop never waits for any.

What is here beside settings is what cheroot lacks (docs/adr/0009): a deadline for a whole request rather than for each
of its bytes, no thread for a request that has not come, and no TLS handshake on the thread that accepts.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from queue import Full
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from cheroot import wsgi
from cheroot.errors import FatalSSLAlert
from cheroot.makefile import StreamReader, StreamWriter
from cheroot.server import HTTPConnection
from cheroot.ssl.builtin import BuiltinSSLAdapter

from taskpool.errors import ConfigurationError
from taskpool.metrics import heads

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

THREADS = 8
# For a thread; then clients are disconnected. With THREADS, HEADS_MAX and one that is being accepted it is how many
# descriptors clients can take.
REQUESTS_WAITING_MAX = 56
ACCEPTS_WAITING_MAX = 64  # in the kernel, for an instant
BODY_BYTES_MAX = 1024  # no page has a use for one
ANSWER_SECONDS_MAX = 2  # how long a client may take to read
# Answered by a few words, which fit the kernel's buffer: that waits neither for a page nor for the client.
_PROBE = re.compile(
    rb"(?:GET|HEAD) /-/(?:healthy|ready)[ ?](?!.*\r\n(?:content-length|transfer-encoding):)", re.I | re.S
)
POLL_SECONDS = 0.2  # how often cheroot looks whether it is to stop
CLOSE_SECONDS_MAX = 5
ERROR_LOG_SECONDS = 60.0  # clients can provoke errors as often as they like: one line in this time


class Server:
    """Serve from construction until `close`."""

    def __init__(
        self,
        address: tuple[str, int],
        pages: WSGIApplication,
        tls: BuiltinSSLAdapter | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        """Bind and start to serve. Raises ConfigurationError when the address is in use or not of this machine."""
        listener = _listen(address)
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._server = _Cheroot(listener, self.address, pages, log or logging.getLogger(__name__))
        self._server.ssl_adapter = tls
        _ignore_socket_activation()
        started: Future[None] = Future()
        threading.Thread(target=self._run, args=(started,), name="pages", daemon=True).start()
        started.result()

    @property
    def url(self) -> str:
        host, port = self.address
        scheme = "http" if self._server.ssl_adapter is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def close(self) -> None:
        """Wait for requests under way, but not for long. May be called again."""
        # On a thread of its own, since cheroot's `stop` has no deadline that holds for a page that hangs.
        stopping = threading.Thread(target=self._server.stop, name="pages stop", daemon=True)
        stopping.start()
        stopping.join(CLOSE_SECONDS_MAX)

    def _run(self, started: Future[None]) -> None:
        """Serve. Threads started from a daemon are daemons: none of cheroot's keeps the process alive."""
        try:
            self._server.prepare()
        except BaseException as error:
            started.set_exception(error)
            raise
        started.set_result(None)
        self._server.serve()


class _Cheroot(wsgi.Server):
    """cheroot on a socket that is bound already, logging to the dealer's log."""

    def __init__(
        self, listener: socket.socket, address: tuple[str, int], pages: WSGIApplication, log: logging.Logger
    ) -> None:
        super().__init__(
            address,
            pages,
            numthreads=THREADS,
            max=THREADS,
            server_name="taskpool",
            request_queue_size=ACCEPTS_WAITING_MAX,
            timeout=heads.REQUEST_SECONDS_MAX,
            # In effect never: at this deadline cheroot would end the TLS of a connection whose page is being written,
            # and the rest of the page would go out unencrypted.
            shutdown_timeout=3600,
            accepted_queue_size=REQUESTS_WAITING_MAX,
            accepted_queue_timeout=0,
        )
        self.ConnectionClass = _Connection
        self.keep_alive_conn_limit = 0  # one request a connection: an idle one would hold a descriptor
        self.max_request_header_size = heads.HEAD_BYTES_MAX
        self.max_request_body_size = BODY_BYTES_MAX
        self.expiration_interval = POLL_SECONDS
        self._listener = listener
        self._log = log
        self._quiet_until = 0.0

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:
        self.socket = self._listener
        return self._listener

    def prepare(self) -> None:
        super().prepare()
        self._heads = heads.HeadReader(self._serve, self._serve_late)

    def stop(self) -> None:
        """Stop. Who has not sent a request by now is disconnected."""
        self._heads.close()
        super().stop()

    def process_conn(self, conn: HTTPConnection) -> None:
        """Wait for the request of a new connection, on another thread than this one, which accepts."""
        assert isinstance(conn, _Connection)
        self._heads.add(conn)

    def _serve(self, conn: heads.Waiting) -> None:
        """Answer a probe, queue others for a thread. What finds no room is closed here, cheroot would not do it."""
        assert isinstance(conn, _Connection)
        try:
            if not _PROBE.match(conn.head.data):
                self.requests.put(conn)
                return
            conn.communicate()
        except Full:
            pass
        except OSError as error:
            self.error_log(f"a client has left before its answer: {error}")
        heads.disconnect(conn)

    def _serve_late(self, conn: heads.Waiting) -> None:
        """Let a thread tell a client that its time is up."""
        assert isinstance(conn, _Connection)
        conn.end_input()
        self._serve(conn)

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Log an error of a page. What clients do wrong is logged for debugging only."""
        now = time.monotonic()
        if level < logging.ERROR or now < self._quiet_until:
            level = logging.DEBUG
        else:
            self._quiet_until = now + ERROR_LOG_SECONDS
        facts = {"traceback": format_exc()} if traceback else {}
        self._log.log(level, "%s", f"pages: {msg}", extra={"who": "Dealer", "facts": facts})


class _Connection(HTTPConnection):
    """A client's connection, until it has its answer or its time is up."""

    def __init__(self, server: _Cheroot, sock: socket.socket, makefile: object = None) -> None:
        self.head = heads.Head(sock)
        self._input = _Input(sock, heads.REQUEST_SECONDS_MAX, self.head)
        super().__init__(server, sock, self._file)

    def communicate(self) -> bool:
        # It waited for a thread until the server was closed, or it has stalled amid its handshake.
        if not self.server.ready or not self.head.greeted:
            return False
        return bool(super().communicate())  # type: ignore[no-untyped-call]

    def end_input(self) -> None:
        """Read no more of the request than is here."""
        self._input.end()

    def _file(self, client: socket.socket, mode: str, size: int) -> object:
        if "r" in mode:
            return StreamReader(self._input, mode, size)
        return _AnswerFile(_DeadlineSocket(client, ANSWER_SECONDS_MAX), mode, size)


class _DeadlineSocket:
    """A socket with one deadline for all that is read from it, or all that is written to it.

    A time-out of the socket itself holds for each call, so a client that sends a byte a second would never meet it.
    """

    def __init__(self, client: socket.socket, seconds: float) -> None:
        self._client = client
        self._seconds = seconds
        self._until: float | None = None  # set by the first call, not while the client waits for a thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def recv_into(self, buffer: memoryview) -> int:
        self._set_timeout()
        return self._client.recv_into(buffer)

    def send(self, data: bytes) -> int:
        self._set_timeout()
        return self._client.send(data)

    def end(self) -> None:
        """Let each further call meet its deadline."""
        self._until = 0.0

    def _set_timeout(self) -> None:
        """Limit the next call to the time that is left. Raises TimeoutError when none is."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        if now >= self._until:
            raise TimeoutError("timed out")  # cheroot compares the text
        self._client.settimeout(self._until - now)


class _Input(_DeadlineSocket):
    """A request as it is read: its head, which is here already, and what comes behind."""

    def __init__(self, client: socket.socket, seconds: float, head: heads.Head) -> None:
        super().__init__(client, seconds)
        self._head = head

    def recv_into(self, buffer: memoryview) -> int:
        return self._head.take(buffer) or super().recv_into(buffer)


class _AnswerFile(StreamWriter):
    """The answer on its way to the client; what is not sent when the connection ends is dropped."""

    def close(self) -> None:
        try:
            super().close()
        except OSError:
            # cheroot leaves this file to the garbage collector, with the rest of an answer in its buffer when the
            # client stalled or is gone. Since Python 3.13 the finalizer no longer swallows what close() raises: it
            # prints a traceback to stderr, for each such client. There is nothing left to do, the socket is closed.
            pass


class _Tls(BuiltinSSLAdapter):
    """TLS whose handshake is left to the thread that reads heads.

    cheroot makes it on the thread that accepts, so that one client amid a handshake would keep out all others.
    """

    def wrap(self, sock: socket.socket) -> tuple[socket.socket, dict[str, str]]:
        try:
            wrapped = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError as error:  # the client is gone already
            raise FatalSSLAlert(*error.args) from error
        return wrapped, {"wsgi.url_scheme": "https"}


def tls_adapter(certificate: Path, key: Path) -> BuiltinSSLAdapter:
    """Load certificate and key. Raises ConfigurationError when they cannot be used."""
    try:
        # An empty passphrase: with none OpenSSL would ask on the terminal, and a service would hang at its start.
        adapter = _Tls(str(certificate), str(key), private_key_password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigurationError(
            f"--metrics-tls-cert {certificate} and --metrics-tls-key {key} cannot be used: {error}; "
            "both are PEM files, and the key has no passphrase"
        ) from error
    adapter.context.minimum_version = ssl.TLSVersion.TLSv1_2
    return adapter


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(where[:2], family=family, backlog=ACCEPTS_WAITING_MAX)
        # Accepted sockets inherit it. With Nagle's algorithm the end of a page waits for the client's delayed ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, UnicodeError) as error:  # IDNA takes a name with an empty or an overlong part for the latter
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigurationError(
            f"--metrics {host}:{port} cannot be served: {why}; give another HOST:PORT, or none"
        ) from error


def _ignore_socket_activation() -> None:
    """Keep cheroot from serving on descriptor 3 because LISTEN_PID is set, whatever process and socket it is for."""
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
