"""What each page answers, and to whom."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from taskpool.errors import ConfigurationError
from taskpool.metrics.access import Access, from_file
from taskpool.metrics.pages import Pages, Request, Response

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def pages(access: Access | None = None, *, good: bool = True) -> Pages:
    registry = CollectorRegistry()
    Counter("jobs", "Jobs.", registry=registry).inc(3)
    Gauge("workers", "Workers.", registry=registry).set(2)
    status = {"pool": "<demo>", "jobs": {"queued": 1}, "running": [{"slot": 0, "job": "a&b/1"}]}
    return Pages(registry, lambda: status, lambda: (good, "word"), lambda: (good, "another"), access)


def get(shown: Pages, target: str, **headers: str) -> Response:
    request = Request("GET", target, {name.replace("_", "-"): value for name, value in headers.items()})
    return shown.probe(request) or shown.answer(request)


def test_metrics_come_in_the_format_the_client_prefers() -> None:
    plain = get(pages(), "/metrics")
    assert plain.content_type.startswith("text/plain; version=")
    assert b"jobs_total 3.0" in plain.body
    better = get(pages(), "/metrics", accept=f"{OPENMETRICS},text/plain;q=0.5")
    assert better.content_type.startswith("application/openmetrics-text")
    assert better.body.endswith(b"# EOF\n")


def test_metrics_are_compressed_for_who_can_read_that() -> None:
    packed = get(pages(), "/metrics", accept_encoding="gzip, deflate")
    assert ("Content-Encoding", "gzip") in packed.headers
    assert b"jobs_total 3.0" in gzip.decompress(packed.body)


def test_some_families_can_be_asked_for() -> None:
    body = get(pages(), "/metrics?name[]=workers").body
    assert b"workers 2.0" in body
    assert b"jobs" not in body


@pytest.mark.parametrize(("path", "word"), [("/-/healthy", "word"), ("/-/ready", "another")])
def test_probes_say_yes_or_no_by_their_status(path: str, word: str) -> None:
    assert get(pages(), path) == Response(200, "text/plain; charset=utf-8", f"{word}\n".encode())
    assert get(pages(good=False), path).status == 503


def test_the_status_is_there_for_programs_and_for_people() -> None:
    assert json.loads(get(pages(), "/api/status.json").body)["jobs"] == {"queued": 1}
    page = get(pages(), "/")
    assert page.content_type.startswith("text/html")
    assert b"&lt;demo&gt;" in page.body
    assert b"job a&amp;b/1" in page.body


def test_a_pool_that_changes_all_the_time_is_no_error() -> None:
    def changes() -> dict[str, object]:
        raise RuntimeError("dictionary changed size during iteration")

    shown = Pages(CollectorRegistry(), changes, lambda: (True, ""), lambda: (True, ""))
    assert get(shown, "/api/status.json").status == 503
    assert get(shown, "/").status == 200


def test_other_paths_and_methods_are_refused() -> None:
    assert get(pages(), "/metrics/").status == 404
    refused = pages().answer(Request("POST", "/metrics", {}))
    assert (refused.status, refused.headers) == (405, (("Allow", "GET, HEAD"),))
    assert pages().probe(Request("DELETE", "/-/healthy", {})) is None


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
        assert refused.status == 401, header
        assert refused.headers[0][0] == "WWW-Authenticate"
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
