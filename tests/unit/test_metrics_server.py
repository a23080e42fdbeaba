"""The server of the pages, against clients that stall, vanish, talk nonsense or come in crowds."""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from taskpool.errors import ConfigurationError
from taskpool.metrics import server as serving
from taskpool.metrics.pages import Pages, Request, Response, text
from taskpool.metrics.server import Server, parsed, tls_context

DEADLINE_SECONDS = 20.0
HALF_A_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAcc"


class Book(Pages):
    """Pages whose making a test can hold up."""

    def __init__(self, make: Callable[[], None] = lambda: None) -> None:
        super().__init__(CollectorRegistry(), dict, lambda: (True, "alive"), lambda: (False, "not yet"))
        self._make = make

    def answer(self, request: Request) -> Response:
        self._make()
        return text(200, f"{request.method} {request.target}")


@contextmanager
def served(pages: Pages, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), pages, tls)
    try:
        yield server
    finally:
        server.close()


def get(server: Server, path: str = "/", method: str = "GET", tls: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    host, port = server.address
    if tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=DEADLINE_SECONDS)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=DEADLINE_SECONDS, context=tls)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextmanager
def connected(server: Server, said: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=DEADLINE_SECONDS) as client:
        client.sendall(said)
        yield client


def heard(client: socket.socket) -> bytes:
    """All that the server says until it hangs up."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def test_it_answers() -> None:
    with served(Book()) as server:
        assert get(server, "/a?b=c") == (200, b"GET /a?b=c\n")
        assert get(server, "/a", "HEAD") == (200, b"")
        assert get(server, "/-/healthy") == (200, b"alive\n")
        assert get(server, "/-/ready") == (503, b"not yet\n")
        assert server.url == f"http://127.0.0.1:{server.address[1]}"


def test_many_stalled_clients_cost_no_thread_and_stop_nobody() -> None:
    with served(Book()) as server, ExitStack() as clients:
        get(server)
        before = threading.active_count()
        for _ in range(25):
            clients.enter_context(connected(server, HALF_A_REQUEST))
        started = time.monotonic()
        for _ in range(25):
            assert get(server)[0] == 200
        assert time.monotonic() - started < serving.REQUEST_SECONDS_MAX, "nobody waited for a stalled one's time"
        assert threading.active_count() == before


def test_a_stalled_client_is_told_that_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_SECONDS_MAX", 0.1)
    with served(Book()) as server, connected(server, HALF_A_REQUEST) as client:
        assert heard(client).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_a_client_that_drips_has_no_more_time_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_SECONDS_MAX", 0.3)
    with served(Book()) as server, connected(server, HALF_A_REQUEST) as client:
        client.settimeout(0.02)
        deadline = time.monotonic() + DEADLINE_SECONDS
        said = b""
        while not said and time.monotonic() < deadline:
            client.sendall(b"x")
            try:
                said = client.recv(100)
            except TimeoutError:
                continue
        assert said.startswith(b"HTTP/1.1 408")


def test_when_there_is_no_room_clients_wait_until_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS_MAX", 3)
    monkeypatch.setattr(serving, "REQUEST_SECONDS_MAX", 0.3)
    with served(Book()) as server, ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(connected(server, HALF_A_REQUEST))
        assert get(server)[0] == 200


def test_who_waits_too_long_for_others_pages_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "TURN_SECONDS_MAX", 0.1)
    making, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        making.set()
        assert go_on.wait(DEADLINE_SECONDS)

    with served(Book(slowly)) as server, connected(server, b"GET /first HTTP/1.1\r\n\r\n") as first:
        assert making.wait(DEADLINE_SECONDS)
        assert get(server, "/second")[0] == 503
        assert get(server, "/-/healthy")[0] == 200, "a health check waits for no page"
        go_on.set()
        assert heard(first).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n folded\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x00\xa5\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", b"431"),
    ],
)
def test_nonsense_is_refused(said: bytes, answer: bytes) -> None:
    with served(Book()) as server, connected(server, said) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 " + answer)


def test_who_hangs_up_early_leaves_nothing() -> None:
    with served(Book()) as server:
        for said in (b"", HALF_A_REQUEST, b"GET / HTTP/1.1\r\n\r\n"):
            with connected(server, said):
                pass
        assert get(server)[0] == 200


def test_header_names_have_no_case() -> None:
    assert parsed(b"GET / HTTP/1.1\r\nACCEPT:  a/b \r\n\r\n") == Request("GET", "/", {"accept": "a/b"})


def test_closing_ends_what_is_under_way() -> None:
    with served(Book()) as server, connected(server, HALF_A_REQUEST) as client:
        get(server)  # so the stalled one is taken in, too
        server.close()
        assert client.recv(100) == b""
        with pytest.raises(ConnectionRefusedError):
            get(server)
        server.close()


def test_an_address_in_use_is_named() -> None:
    with served(Book()) as server:
        port = server.address[1]
        with pytest.raises(ConfigurationError, match=rf"--metrics 127.0.0.1:{port} cannot be served: Address already"):
            Server(("127.0.0.1", port), Book())
    with pytest.raises(ConfigurationError, match="cannot be served"):
        Server(("no-such-host.invalid", 0), Book())


# --- TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    place = tmp_path_factory.mktemp("tls")
    certificate, key = place / "cert.pem", place / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=taskpool"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.mark.needs_tool("openssl")
def test_tls_and_clients_that_stall_in_the_middle_of_it(pair: tuple[Path, Path]) -> None:
    trusting = ssl.create_default_context(cafile=str(pair[0]))
    with served(Book(), tls_context(*pair)) as server, ExitStack() as clients:
        for _ in range(10):
            clients.enter_context(connected(server, b"\x16\x03\x01"))
        assert get(server, "/a", tls=trusting) == (200, b"GET /a\n")
        assert server.url.startswith("https://127.0.0.1:")
        with connected(server, b"GET / HTTP/1.1\r\n\r\n") as plain:
            assert not heard(plain).startswith(b"HTTP"), "nothing is said in the clear"


@pytest.mark.needs_tool("openssl")
def test_tls_files_that_cannot_be_used_are_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--metrics-tls-cert .* cannot be used: .*No such file"):
        tls_context(tmp_path / "none", pair[1])
    with pytest.raises(ConfigurationError, match="both are PEM files"):
        tls_context(pair[1], pair[0])
