"""What each page answers, and to whom."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from taskpool.errors import ConfigurationError
from taskpool.metrics import app as making
from taskpool.metrics.app import App
from taskpool.metrics.auth import Auth, from_file

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


DEADLINE_SECONDS = 20.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def pages(access: Auth | None = None, *, good: bool = True, status: Callable[[], Any] | None = None) -> App:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", registry=registry).inc(3)
    Gauge("workers", "Workers.", registry=registry).set(2)
    found = {"pool": "<demo>", "jobs": {"queued": 1}, "running": [{"slot": 0, "job": "a&b/1"}]}
    return App(registry, status or (lambda: found), lambda: (good, "word"), lambda: (good, "another"), access)


def get(shown: App, target: str, method: str = "GET", **headers: str) -> Answer:
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query}
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    setup_testing_defaults(environ)
    said: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Callable[..., object]:
        said.append((status, headers))
        return said.append

    parts = validator(shown)(environ, start_response)
    body = b"".join(parts)
    parts.close()  # type: ignore[attr-defined]
    ((status, pairs),) = said
    assert len(dict(pairs)) == len(pairs)
    return Answer(int(status[:3]), dict(pairs), body)


def test_metrics_come_in_the_format_the_client_prefers() -> None:
    plain = get(pages(), "/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain; version=")
    assert b"jobs_total 3.0" in plain.body
    better = get(pages(), "/metrics", accept=f"{OPENMETRICS},text/plain;q=0.5")
    assert better.headers["Content-Type"].startswith("application/openmetrics-text")
    assert better.body.endswith(b"# EOF\n")


def test_metrics_are_compressed_for_clients_that_accept_it() -> None:
    packed = get(pages(), "/metrics", accept_encoding="gzip, deflate")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Content-Length"] == str(len(packed.body))
    assert b"jobs_total 3.0" in gzip.decompress(packed.body)


def test_some_families_can_be_asked_for() -> None:
    body = get(pages(), "/metrics?name[]=workers").body
    assert b"workers 2.0" in body
    assert b"jobs" not in body


@pytest.mark.parametrize(("path", "word"), [("/-/healthy", "word"), ("/-/ready", "another")])
def test_probes_say_yes_or_no_by_their_status(path: str, word: str) -> None:
    answer = get(pages(), path)
    assert (answer.status, answer.body) == (200, f"{word}\n".encode())
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert get(pages(good=False), path).status == 503


def test_the_status_is_there_for_programs_and_for_people() -> None:
    assert json.loads(get(pages(), "/api/status.json").body)["jobs"] == {"queued": 1}
    page = get(pages(), "/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert b"&lt;demo&gt;" in page.body
    assert b"job a&amp;b/1" in page.body


def test_a_pool_that_changes_all_the_time_is_no_error() -> None:
    def changes() -> dict[str, object]:
        raise RuntimeError("dictionary changed size during iteration")

    shown = pages(status=changes)
    assert get(shown, "/api/status.json").status == 503
    assert get(shown, "/").status == 200


def test_other_paths_and_methods_are_refused() -> None:
    assert get(pages(), "/metrics/").status == 404
    for path in ("/metrics", "/-/healthy"):
        refused = get(pages(), path, "POST")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/status.json", "/-/ready", "/none"])
def test_the_head_of_a_page_says_how_long_the_page_is(path: str) -> None:
    shown = pages()
    page, head = get(shown, path), get(shown, path, "HEAD")
    assert head.body == b""
    assert (head.status, head.headers) == (page.status, page.headers)
    assert int(head.headers["Content-Length"]) == len(page.body) > 0


def test_a_request_that_waits_too_long_for_other_pages_gets_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "TURN_SECONDS_MAX", 0.05)
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> dict[str, object]:
        begun.set()
        assert go_on.wait(DEADLINE_SECONDS)
        return {}

    shown = pages(status=slowly)
    first: list[Answer] = []
    thread = threading.Thread(target=lambda: first.append(get(shown, "/api/status.json")))
    thread.start()
    assert begun.wait(DEADLINE_SECONDS)
    assert get(shown, "/metrics").status == 503
    assert get(shown, "/-/healthy").status == 200, "a health check waits for no page"
    go_on.set()
    thread.join()
    assert first[0].status == 200
    assert get(shown, "/metrics").status == 200


# --- who may see them -------------------------------------------------------------------------------------


def secrets(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_secrets_open_everything_but_the_probes(tmp_path: Path) -> None:
    access = from_file(secrets(tmp_path / "auth", "# new\nbearer n3w\n\nbearer old\nbasic me:pass:word\n"))
    shown = pages(access)
    for header in ("Bearer n3w", "bearer old", "Basic bWU6cGFzczp3b3Jk"):
        assert get(shown, "/metrics", authorization=header).status == 200, header
    for header in ("", "Bearer", "Bearer n3", "Bearer n3w2", "Bearer N3W", "Basic n3w", "Basic bWU6cGFzcw=="):
        refused = get(shown, "/metrics", authorization=header)
        assert (refused.status, refused.body) == (401, b"authentication required\n"), header
        assert "WWW-Authenticate" in refused.headers
    assert get(shown, "/api/status.json").status == 401
    assert get(shown, "/no/such/page").status == 401, "not even which pages there are"
    assert get(shown, "/-/ready").status == 200


def test_secrets_that_others_can_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"mode 0640: others can read .* chmod 600"):
        from_file(secrets(tmp_path / "auth", "bearer x\n", 0o640))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("token x\n", "line 1: expected `bearer TOKEN`"), ("\nbasic nocolon\n", "line 2"), ("# only\n", "nothing in it")],
)
def test_secrets_that_make_no_sense_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        from_file(secrets(tmp_path / "auth", text))


def test_a_file_of_secrets_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        from_file(tmp_path / "none")
    with pytest.raises(ConfigurationError, match="not a file"):
        from_file(Path("/dev/null"))
    not_text = tmp_path / "bytes"
    not_text.write_bytes(b"bearer \xff\n")
    not_text.chmod(0o600)
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        from_file(not_text)
