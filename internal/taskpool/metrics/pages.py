"""The dealer's pages: a status page, /metrics, /-/healthy, /-/ready and /api/status.json. Read-only.

The two probes say one word and are open to everybody; the rest asks for the secret when there is one.
"""

from __future__ import annotations

import gzip
import html
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

from taskpool.metrics.access import Access

METHODS = ("GET", "HEAD")
TRIES_MAX = 100

Status = dict[str, Any]
Probe = tuple[bool, str]  # whether all is well, and what is the case


class Request(NamedTuple):
    """What a client asks for. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class Response(NamedTuple):
    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Pages:
    """Answers requests: `probe` at once, `answer` in its own time. The dealer's loop goes on meanwhile."""

    def __init__(
        self,
        registry: CollectorRegistry,
        status: Callable[[], Status],
        healthy: Callable[[], Probe],
        ready: Callable[[], Probe],
        access: Access | None = None,
    ) -> None:
        self._registry = registry
        self._status = status
        self._access = access
        self._probes = {"/-/healthy": healthy, "/-/ready": ready}
        self._pages: dict[str, Callable[[Request], Response]] = {
            "/metrics": self._metrics,
            "/api/status.json": self._status_json,
            "/": self._overview,
        }

    def probe(self, request: Request) -> Response | None:
        """The answer to a health check; None: this is none. Takes no time, and waits for no page."""
        probe = self._probes.get(_path(request))
        if probe is None or request.method not in METHODS:
            return None
        good, what = probe()
        return text(200 if good else 503, what)

    def answer(self, request: Request) -> Response:
        """The answer to whatever is no health check."""
        if request.method not in METHODS:
            return text(405, "only GET and HEAD", ("Allow", "GET, HEAD"))
        if self._access is not None and not self._access.allows(request.headers.get("authorization", "")):
            return text(401, "say who you are", ("WWW-Authenticate", 'Bearer, Basic realm="taskpool"'))
        page = self._pages.get(_path(request))
        return text(404, "no such page") if page is None else page(request)

    def _metrics(self, request: Request) -> Response:
        """In the format the client prefers: Prometheus text or OpenMetrics; all families or those it names."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        names = parse_qs(request.target.partition("?")[2]).get("name[]")
        registry = self._registry if names is None else self._registry.restricted_registry(names)
        body = encode(registry)
        if not gzip_accepted(request.headers.get("accept-encoding", "")):
            return Response(200, content_type, body, (("Vary", "Accept-Encoding"),))
        headers = (("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
        return Response(200, content_type, gzip.compress(body, compresslevel=1), headers)

    def _status_json(self, request: Request) -> Response:
        status = _steady(self._status)
        if status is None:
            return text(503, "the pool changes too fast to be described; ask again")
        return Response(200, "application/json", msgspec.json.encode(status))

    def _overview(self, request: Request) -> Response:
        status = _steady(self._status) or {}
        rows = "".join(f"<tr><th>{html.escape(name)}<td>{_cell(value)}" for name, value in status.items())
        body = _PAGE.replace("ROWS", rows).replace("POOL", html.escape(str(status.get("pool", ""))))
        return Response(200, "text/html; charset=utf-8", body.encode())


def text(status: int, words: str, *headers: tuple[str, str]) -> Response:
    return Response(status, "text/plain; charset=utf-8", f"{words}\n".encode(), headers)


def _path(request: Request) -> str:
    return request.target.partition("?")[0]


def _steady(read: Callable[[], Status]) -> Status | None:
    """What `read` returns, once nothing it walks is changed by the loop meanwhile; None: that never came."""
    for _ in range(TRIES_MAX):
        try:
            return read()
        except (RuntimeError, LookupError, StopIteration):  # a dictionary or a deque changed under it
            continue
    return None


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return html.escape(", ".join(f"{name} {number}" for name, number in value.items()) or "none")
    if isinstance(value, list):
        lines = (", ".join(f"{name} {word}" for name, word in line.items()) for line in value[:100])
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
