"""The dealer's pages, as one WSGI application: a status page, /metrics, /-/healthy, /-/ready and /api/status.json.

Read-only. The two probes answer with a few words and need no secret, because the health checks of container engines
send none. The others ask for the secret when there is one, and are made one at a time: they share the interpreter with
the dealer's loop.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, make_wsgi_app

from taskpool.metrics.auth import Auth

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

METHODS = ("GET", "HEAD")
TRIES_MAX = 100  # to read a status that the loop changes meanwhile; one takes well under a millisecond
TURN_SECONDS_MAX = 2.0  # how long a request waits while other pages are made
# no-store: each page shows a moment. nosniff: a job's name in a page must not make a browser take it for a script.
ALWAYS = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))

Status = dict[str, Any]
Probe = tuple[bool, str]  # whether it passes, and why
Headers = tuple[tuple[str, str], ...]


class Response(NamedTuple):
    status: int
    headers: Headers
    body: bytes


class App:
    """The application. It runs on the server's threads, while the dealer's loop goes on."""

    def __init__(
        self,
        registry: CollectorRegistry,
        status: Callable[[], Status],
        healthy: Callable[[], Probe],
        ready: Callable[[], Probe],
        access: Auth | None = None,
    ) -> None:
        self._exposition = make_wsgi_app(registry)
        self._status = status
        self._access = access
        self._turn = threading.Lock()  # held while a page is made
        self._probes = {"/-/healthy": healthy, "/-/ready": ready}
        self._pages: dict[str, Callable[[WSGIEnvironment], Response]] = {
            "/metrics": self._metrics,
            "/api/status.json": self._status_json,
            "/": self._overview,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        status, headers, body = self._answer(environ)
        # Given, because a client could not tell a page that was cut from a whole one.
        length = ("Content-Length", str(len(body)))
        start_response(f"{status} {HTTPStatus(status).phrase}", [*headers, length, *ALWAYS])
        # HEAD makes the whole page, so that its Content-Length is true.
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: WSGIEnvironment) -> Response:
        path = environ["PATH_INFO"]
        if environ["REQUEST_METHOD"] not in METHODS:
            return _text(405, "only GET and HEAD", ("Allow", "GET, HEAD"))
        if path in self._probes:
            passes, why = self._probes[path]()
            return _text(200 if passes else 503, why)
        # Before the path is looked up: without the secret not even which pages there are can be found out.
        if self._access is not None and not self._access.allows(environ.get("HTTP_AUTHORIZATION", "")):
            return _text(401, "authentication required", ("WWW-Authenticate", 'Bearer, Basic realm="taskpool"'))
        page = self._pages.get(path)
        return _text(404, "no such page") if page is None else self._in_turn(page, environ)

    def _in_turn(self, page: Callable[[WSGIEnvironment], Response], environ: WSGIEnvironment) -> Response:
        if not self._turn.acquire(timeout=TURN_SECONDS_MAX):
            return _text(503, "busy with other requests", ("Retry-After", "5"))
        try:
            return page(environ)
        finally:
            self._turn.release()

    def _metrics(self, environ: WSGIEnvironment) -> Response:
        """Answer in the format and compression the client prefers, with all families or those named by `?name[]=`."""
        said: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]]) -> None:
            said.append((status, headers))

        # prometheus_client answers other methods than GET with another page.
        body = b"".join(self._exposition({**environ, "REQUEST_METHOD": "GET"}, start_response))
        ((status, headers),) = said
        return Response(int(status.split()[0]), (*headers, ("Vary", "Accept, Accept-Encoding")), body)

    def _status_json(self, environ: WSGIEnvironment) -> Response:
        status = _read_stable(self._status)
        if status is None:
            return _text(503, "the pool changes too fast to be described; retry")
        return Response(200, (("Content-Type", "application/json"),), msgspec.json.encode(status))

    def _overview(self, environ: WSGIEnvironment) -> Response:
        status = _read_stable(self._status) or {}
        rows = "".join(f"<tr><th>{html.escape(name)}<td>{_cell(value)}" for name, value in status.items())
        body = _PAGE.replace("ROWS", rows).replace("POOL", html.escape(str(status.get("pool", ""))))
        return Response(200, (("Content-Type", "text/html; charset=utf-8"),), body.encode())


def _text(status: int, words: str, *headers: tuple[str, str]) -> Response:
    return Response(status, (("Content-Type", "text/plain; charset=utf-8"), *headers), f"{words}\n".encode())


def _read_stable(read: Callable[[], Status]) -> Status | None:
    """Return what `read` returns, once the loop changes nothing that it walks meanwhile; None after TRIES_MAX tries.

    A lock would be simpler, but the loop would have to take it at every step for the sake of pages that are rare.
    """
    for _ in range(TRIES_MAX):
        try:
            return read()
        except (RuntimeError, LookupError, StopIteration):  # a dictionary or a deque has changed
            continue
    return None


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return html.escape(", ".join(f"{name} {number}" for name, number in value.items()) or "none")
    if isinstance(value, list):
        lines = (
            ", ".join(f"{name} {word}" for name, word in line.items()) for line in value[:100]
        )  # a person reads no more
        return "<br>".join(html.escape(line) for line in lines) or "none"
    return html.escape(str(value))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>taskpool POOL</title>
<style>body{font:16px system-ui;margin:2em}th{text-align:left;vertical-align:top;padding-right:2em}</style>
<h1>taskpool POOL</h1>
<table>ROWS</table>
<p><a href="metrics">metrics</a> <a href="api/status.json">status</a> <a href="-/healthy">healthy</a>
<a href="-/ready">ready</a>
</html>
"""
