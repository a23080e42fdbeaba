"""The dealer's pages: /metrics, /-/healthy, /-/ready, /api/status.json and a landing page.

Served by a small pool of threads with read deadlines, so that half-open clients cost nothing that grows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from cheroot import wsgi
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

from taskpool.errors import ConfigurationError

THREADS = 4
REQUEST_SECONDS_MAX = 5
CONNECTIONS_WAITING_MAX = 16

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Environ = dict[str, Any]

_LANDING = b"""<!doctype html>
<html lang="en"><title>taskpool</title>
<h1>taskpool dealer</h1>
<ul><li><a href="/metrics">metrics</a><li><a href="/api/status.json">status</a>
<li><a href="/-/healthy">healthy</a><li><a href="/-/ready">ready</a></ul>
</html>
"""


class Pages:
    """The WSGI application."""

    def __init__(
        self,
        collector: Collector,
        status: Callable[[], dict[str, Any]],
        healthy: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        registry = CollectorRegistry()
        registry.register(collector)
        self._metrics = make_wsgi_app(registry)
        self._status = status
        self._healthy = healthy
        self._ready = ready

    def __call__(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answer(start, "405 Method Not Allowed", "text/plain", b"only GET and HEAD\n")
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._metrics(environ, start)  # type: ignore[no-any-return]
        if path == "/-/healthy":
            return _probe(start, self._healthy(), "the loop turns", "the loop stands still")
        if path == "/-/ready":
            return _probe(start, self._ready(), "ready", "no worker is ready, or the pool is draining")
        if path == "/api/status.json":
            return _answer(start, "200 OK", "application/json", msgspec.json.encode(self._status()))
        if path == "/":
            return _answer(start, "200 OK", "text/html; charset=utf-8", _LANDING)
        return _answer(start, "404 Not Found", "text/plain", b"no such page\n")


class Server:
    """Serves the pages until closed."""

    def __init__(self, address: tuple[str, int], app: Pages) -> None:
        """Binds at once. Raises ConfigurationError when the address is taken or not ours."""
        host, port = address
        self._server = wsgi.Server(
            address,
            app,
            numthreads=THREADS,
            max=THREADS,
            server_name="taskpool",
            timeout=REQUEST_SECONDS_MAX,
            request_queue_size=CONNECTIONS_WAITING_MAX,
        )
        try:
            self._server.prepare()
        except OSError as error:
            raise ConfigurationError(
                f"--metrics {host}:{port} cannot be served: {error.strerror or error}; give another HOST:PORT, or none"
            ) from error
        self._thread = threading.Thread(target=self._server.serve, name="pages", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.bind_addr[1])

    def close(self) -> None:
        self._server.stop()
        self._thread.join(REQUEST_SECONDS_MAX)


def _probe(start: StartResponse, good: bool, yes: str, no: str) -> Iterable[bytes]:
    status, text = ("200 OK", yes) if good else ("503 Service Unavailable", no)
    return _answer(start, status, "text/plain", f"{text}\n".encode())


def _answer(start: StartResponse, status: str, content_type: str, body: bytes) -> Iterable[bytes]:
    start(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))])
    return [body]
