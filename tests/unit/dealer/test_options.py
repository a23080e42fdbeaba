"""What a dealer is configured with, and what a change of it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskpool.dealer.options import FILE_KEYS, needing_restart, parse
from taskpool.errors import UsageError

# Another value for each that a running dealer does not change.
OTHER = {
    "pool": "other",
    "spares": "7",
    "delay": "1s",
    "journal": "none",
    "journal_sync": "normal",
    "retain": "1h",
    "retain_batches": "7",
    "metrics": "127.0.0.1:1",
    "metrics_auth_file": "/a",
    "worker_exec": "/w",
    "log_format": "json",
    "chaos": "crash=0.5",
    "cluster": "nats://a:4222",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pool.toml"


def test_a_flag_comes_before_a_variable_before_the_file(file: Path) -> None:
    file.write_text("workers = 1\nspares = 1\nretain_batches = 1")
    options = parse(["--config", str(file), "--workers", "3"], {"TP_DEALER_WORKERS": "2", "TP_DEALER_SPARES": "2"})
    assert (options.workers, options.spares, options.retain_batches) == (3, 2, 1)


def test_a_wrong_value_is_told_with_its_origin(file: Path) -> None:
    file.write_text('workers = "many"')
    with pytest.raises(UsageError, match=rf"--workers many: expected N.*workers = 'many' is from {file}"):
        parse(["--config", str(file)], {})
    with pytest.raises(UsageError, match="is from TP_DEALER_METRICS"):
        parse([], {"TP_DEALER_METRICS": "x"})
    with pytest.raises(UsageError) as caught:
        parse(["--workers", "many"], {"TP_DEALER_WORKERS": "1"})
    assert "is from" not in str(caught.value)


def test_a_misspelt_variable_is_refused_and_one_of_a_cluster_is_not() -> None:
    with pytest.raises(UsageError, match=r"TP_DEALER_WORKER: no such setting; did you mean TP_DEALER_WORKERS\?"):
        parse([], {"TP_DEALER_WORKER": "1"})
    parse([], {"TP_DEALER_PORT": "tcp://10.0.0.1:9743", "TP_DEALER_SERVICE_HOST": "10.0.0.1"})


@pytest.mark.parametrize("key", sorted(OTHER))
def test_a_reload_names_what_needs_a_restart(key: str) -> None:
    then = parse(["--workers", "1"], {})
    now = parse(["--workers", "2", f"--{key.replace('_', '-')}={OTHER[key]}"], {})
    assert needing_restart(then, now) == [f"--{key.replace('_', '-')}"]


def test_a_reload_names_the_file_of_tls_that_has_changed() -> None:
    then = parse(["--metrics-tls-cert=/c", "--metrics-tls-key=/k"], {})
    now = parse(["--metrics-tls-cert=/c", "--metrics-tls-key=/other"], {})
    assert needing_restart(then, now) == ["--metrics-tls-key"]


def test_a_reload_names_the_files_of_a_cluster_that_have_changed() -> None:
    then = parse(["--cluster=nats://a", "--cluster-creds=/c", "--cluster-ca=/a"], {})
    now = parse(["--cluster=nats://a", "--cluster-creds=/other", "--cluster-ca=/other"], {})
    assert needing_restart(then, now) == ["--cluster-creds", "--cluster-ca"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--cluster=http://a"], r"--cluster http://a: .*expected nats://HOST:PORT"),
        (["--cluster=nats://a", "--journal=none"], "needs a journal"),
        (["--cluster=nats://a", "--private"], "needs a journal"),
        (["--cluster-creds=/c"], "--cluster-creds is for --cluster"),
        (["--cluster-ca=/c"], "--cluster-ca is for --cluster"),
    ],
)
def test_a_member_is_refused_what_it_cannot_be(words: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse(words, {})


def test_every_setting_is_tried() -> None:
    several = {"metrics_tls_cert", "metrics_tls_key", "cluster_creds", "cluster_ca"}
    assert {*OTHER, *several, "workers", "drain_timeout"} == set(FILE_KEYS)
