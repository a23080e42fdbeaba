"""The server of the pages, against clients that stall, vanish, talk nonsense or come in crowds."""

from __future__ import annotations

import http.client
import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cheroot.ssl.builtin import BuiltinSSLAdapter

from taskpool.errors import ConfigurationError
from taskpool.metrics import heads
from taskpool.metrics import server as serving
from taskpool.metrics.server import Server, tls_adapter

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

DEADLINE_SECONDS = 20.0
HALF_A_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAcc"


class Book:
    """An application that says what it was asked for, when a test lets it."""

    def __init__(self, make: Callable[[], None] = lambda: None) -> None:
        self._make = make

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        self._make()
        body = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}\n".encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@contextmanager
def served(pages: Book, tls: BuiltinSSLAdapter | None = None, log: logging.Logger | None = None) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), pages, tls, log)
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
    """All that the server says until it hangs up; what it does not read by then resets the connection."""
    said = b""
    try:
        while more := client.recv(65536):
            said += more
    except ConnectionResetError:
        pass
    return said


def complete(path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients have less time, so that the tests take less."""
    monkeypatch.setattr(heads, "REQUEST_SECONDS_MAX", 0.3)
    monkeypatch.setattr(serving, "ANSWER_SECONDS_MAX", 0.3)


def test_it_answers() -> None:
    with served(Book()) as server:
        assert get(server, "/a?b=c") == (200, b"GET /a?b=c\n")
        assert get(server, "/a", "HEAD") == (200, b"")
        assert server.url == f"http://127.0.0.1:{server.address[1]}"


def test_a_connection_is_for_one_request() -> None:
    with served(Book()) as server, connected(server, complete("/first") + complete("/second")) as client:
        said = heard(client)
        assert b"\r\nConnection: close\r\n" in said
        assert said.count(b"HTTP/1.1 200") == 1


@pytest.fixture
def stalling(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stalled stay for all of the test."""
    monkeypatch.setattr(heads, "REQUEST_SECONDS_MAX", 10 * DEADLINE_SECONDS)


@pytest.mark.usefixtures("stalling")
def test_any_number_of_stalled_clients_cost_others_nothing() -> None:
    with served(Book()) as server, ExitStack() as clients:
        for _ in range(5 * serving.THREADS):
            clients.enter_context(connected(server, HALF_A_REQUEST))
        assert get(server)[0] == 200


@pytest.mark.usefixtures("stalling")
def test_of_too_many_stalled_clients_the_oldest_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "HEADS_MAX", 3)
    with served(Book()) as server, ExitStack() as clients:
        stalled = [clients.enter_context(connected(server, HALF_A_REQUEST)) for _ in range(5)]
        assert [heard(client) for client in stalled[:2]] == [b"", b""]
        for client in stalled[2:]:
            client.sendall(b"ept: x\r\n\r\n")
            assert heard(client).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready?why"])
@pytest.mark.usefixtures("stalling")
def test_a_probe_waits_for_no_thread(path: str) -> None:
    """All threads are taken, and all places in front of them."""
    making, go_on = threading.Semaphore(0), threading.Event()

    def slowly() -> None:
        making.release()
        assert go_on.wait(DEADLINE_SECONDS)

    def pages(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        return Book(lambda: None if environ["PATH_INFO"].startswith("/-/") else slowly())(environ, start_response)

    server = Server(("127.0.0.1", 0), pages)
    try:
        with ExitStack() as clients:
            for number in range(serving.THREADS + serving.REQUESTS_WAITING_MAX + 10):
                clients.enter_context(connected(server, complete("/metrics")))
                if number < serving.THREADS:
                    assert making.acquire(timeout=DEADLINE_SECONDS)
            stalls = f"GET {path} HTTP/1.1\r\nContent-Length: 9\r\n\r\n".encode()
            clients.enter_context(connected(server, stalls))  # it would keep the next ones waiting for its body
            assert get(server, path) == (200, f"GET {path if '?' in path else path + '?'}\n".encode())
            assert get(server, path, "HEAD") == (200, b"")
            go_on.set()
    finally:
        go_on.set()
        server.close()


@pytest.mark.usefixtures("hasty")
def test_stalled_clients_cost_no_thread_more_and_others_some_of_their_time() -> None:
    with served(Book()) as server, ExitStack() as clients:
        before = threading.active_count()
        for _ in range(5 * serving.THREADS):
            clients.enter_context(connected(server, HALF_A_REQUEST))
        assert get(server)[0] == 200
        assert threading.active_count() == before


@pytest.mark.usefixtures("hasty")
def test_a_stalled_client_is_told_that_its_time_is_up() -> None:
    with served(Book()) as server, connected(server, HALF_A_REQUEST) as client:
        assert heard(client).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


@pytest.mark.usefixtures("hasty")
def test_a_client_that_drips_has_no_more_time_than_others() -> None:
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


@pytest.mark.usefixtures("hasty")
def test_a_client_that_does_not_read_its_answer_is_let_go() -> None:
    def large(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Length", str(64 * 2**20))])
        return [bytes(64 * 2**20)]

    server = Server(("127.0.0.1", 0), large)
    try:
        with ExitStack() as clients:
            asked = [clients.enter_context(connected(server, complete())) for _ in range(serving.THREADS)]
            with connected(server, complete()) as patient:
                assert patient.recv(15) == b"HTTP/1.1 200 OK"
            assert all(client.recv(15) == b"HTTP/1.1 200 OK" for client in asked)
    finally:
        server.close()


@pytest.mark.usefixtures("hasty")
def test_who_has_not_asked_keeps_no_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "THREADS", 1)
    monkeypatch.setattr(serving, "REQUESTS_WAITING_MAX", 1)
    with served(Book()) as server, ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(connected(server, HALF_A_REQUEST))
        assert get(server)[0] == 200


def test_when_there_is_no_room_clients_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "THREADS", 1)
    monkeypatch.setattr(serving, "REQUESTS_WAITING_MAX", 1)
    making, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        making.set()
        assert go_on.wait(DEADLINE_SECONDS)

    with served(Book(slowly)) as server, connected(server, complete("/first")) as first:
        assert making.wait(DEADLINE_SECONDS)
        with connected(server, complete("/second")) as second, connected(server, complete("/third")) as third:
            assert heard(third) == b""
            go_on.set()
            assert heard(first).startswith(b"HTTP/1.1 200 OK")
            assert heard(second).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nnothing\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x00\xa5\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nContent-Length: 9999\r\n\r\n", b"413"),
    ],
)
def test_nonsense_is_refused(said: bytes, answer: bytes) -> None:
    with served(Book()) as server, connected(server, said) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 " + answer)


def test_who_hangs_up_early_leaves_nothing() -> None:
    with served(Book()) as server:
        for said in (b"", HALF_A_REQUEST, complete()):
            with connected(server, said):
                pass
        assert get(server)[0] == 200


def test_errors_go_to_the_log_and_not_all_of_them(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def breaks() -> None:
        raise ValueError("no such number")

    log = logging.getLogger("test of pages")
    with caplog.at_level(logging.DEBUG, log.name), served(Book(breaks), log=log) as server:
        for _ in range(3):
            assert get(server)[0] == 500
    assert [record.levelname for record in caplog.records if record.name == log.name] == ["ERROR", "DEBUG", "DEBUG"]
    assert "pages: ValueError('no such number')" in caplog.text
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("hasty")
def test_closing_ends_what_is_under_way() -> None:
    with served(Book()) as server, ExitStack() as clients:
        stalled = [clients.enter_context(connected(server, HALF_A_REQUEST)) for _ in range(20)]
        server.close()
        # It gives up waiting for its threads after CLOSE_SECONDS_MAX: that none is left shows that it did not have to.
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("CP Server")]
        for client in stalled:
            assert heard(client)[:12] in (b"", b"HTTP/1.1 408")
        with pytest.raises(ConnectionRefusedError):
            get(server)
        server.close()


def test_closing_does_not_wait_for_a_page_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "CLOSE_SECONDS_MAX", 0.1)
    making, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        making.set()
        assert go_on.wait(DEADLINE_SECONDS)

    with served(Book(slowly)) as server, connected(server, complete()) as client:
        assert making.wait(DEADLINE_SECONDS)
        server.close()
        assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("CP Server"))
        go_on.set()
        assert heard(client).startswith(b"HTTP/1.1 200 OK")


def test_a_socket_that_systemd_gave_to_somebody_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    with served(Book()) as server:
        assert get(server)[0] == 200


def test_a_name_that_cannot_be_one_is_refused_as_an_address() -> None:
    with pytest.raises(ConfigurationError, match=r"--metrics a\.\.b:9000 cannot be served"):
        Server(("a..b", 9000), Book())


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
@pytest.mark.usefixtures("hasty")
def test_tls_and_clients_that_stall_in_the_middle_of_it(pair: tuple[Path, Path]) -> None:
    trusting = ssl.create_default_context(cafile=str(pair[0]))
    with served(Book(), tls_adapter(*pair)) as server, ExitStack() as clients:
        stalled = [clients.enter_context(connected(server, b"\x16\x03\x01")) for _ in range(10)]
        assert get(server, "/a", tls=trusting) == (200, b"GET /a?\n")
        assert server.url.startswith("https://127.0.0.1:")
        with connected(server, complete()) as plain:
            assert b"HTTP" not in heard(plain), "nothing is said in the clear"
        assert [heard(client) for client in stalled] == 10 * [b""]
        with connected(server) as slow, trusting.wrap_socket(slow, server_hostname="127.0.0.1") as secret:
            secret.sendall(HALF_A_REQUEST)
            secret.sendall(b"ept: x\r\n\r\n")
            assert heard(secret).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.needs_tool("openssl")
def test_tls_that_is_too_old_is_refused(pair: tuple[Path, Path]) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(pair[0])
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with served(Book(), tls_adapter(*pair)) as server, pytest.raises(ssl.SSLError):
        get(server, tls=old)


@pytest.mark.needs_tool("openssl")
def test_tls_files_that_cannot_be_used_are_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--metrics-tls-cert .* cannot be used: .*No such file"):
        tls_adapter(tmp_path / "none", pair[1])
    with pytest.raises(ConfigurationError, match="both are PEM files"):
        tls_adapter(pair[1], pair[0])
